# SPDX-License-Identifier: Apache-2.0
"""Random streams: reproducible, legal, and wide enough in what they cover."""

from __future__ import annotations

from collections import Counter

import pytest

from hdl.config import PRESETS
from hdl.isa import (
    REDUCTIONS,
    Dest,
    Format,
    LoadDest,
    Mapping3D,
    Mode,
    Opcode,
    Order,
    StoreFormat,
    VectorBits,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
)
from sim.golden.executor import Executor
from sim.stimulus.illegal_streams import illegal_streams
from sim.stimulus.streams import StreamOptions, random_stream


def test_a_seed_repeats_its_stream() -> None:
    config = PRESETS["tiny"]
    first, again, other = (random_stream(config, seed) for seed in (3, 3, 4))
    assert first == again and first.stream != other.stream
    assert first.images[0][: len(first.stream)] == first.stream


@pytest.mark.parametrize("length", [5, 60])
def test_lengths(length: int) -> None:
    stream = random_stream(PRESETS["nano"], 1, length)
    assert length // 2 <= len(stream.instructions) <= length + 40


def test_a_few_dozen_streams_cover_the_instruction_set() -> None:
    config = PRESETS["small"]
    seen: Counter[str] = Counter()
    for seed in range(40):
        stream = random_stream(config, seed)
        machine = Executor(config, stream.images, stream.limits, strict=True)
        assert machine.run(stream.stream).semaphores_left == {}
        assert any(machine.memory[g].tobytes() != stream.images[g] for g in (0, 1))
        for i in stream.instructions:
            seen[i.opcode.name] += 1
            if i.opcode == Opcode.LOAD:
                seen[f"{LoadDest(i['dest_kind']).name} {Format(i['format']).name}"] += 1
            if i.opcode == Opcode.STORE:
                seen[f"store {StoreFormat(i['format']).name} {i['clear']}"] += 1
            if i.opcode == Opcode.GEMM:
                seen[f"{Mapping3D(i['mapping']).name} x{i['tier_count']}"] += 1
                seen[f"{Mode(i['mode']).name} {Dest(i['dest_kind']).name} {i['accumulate']}"] += 1
                seen[f"lists {i['act_list']}{i['dest_list']}"] += 1
                seen[Order(i["order"]).name] += 1
                seen["one token" if i["tokens"] == 1 else "tokens"] += 1
                seen[f"multicast {i['dest_tiers'].bit_count() > 1}"] += 1
    expected = [o.name for o in Opcode if o not in (Opcode.VECTOR, Opcode.ROUTE)] + [
        f"{m.name} x{g}" for m in list(Mapping3D)[1:] for g in (2, 3, 4)
    ]
    expected += [f"VCACHE {f.name}" for f in Format if f not in (Format.COLUMNS, Format.LOW)]
    expected += [f"{d.name} BYTES" for d in LoadDest if d != LoadDest.ROWS]
    expected += [f"store {f.name} {c}" for f in StoreFormat for c in (0, 1)]
    expected += [f"lists {a}{b}" for a in (0, 1) for b in (0, 1)] + [o.name for o in Order]
    expected += ["REQUANT8 ACTIVATION 0", "SWIGLU ACTIVATION 0", "one token", "multicast True"]
    expected += [f"{m} COMBINE {a}" for m in ("REQUANT8", "REQUANT16") for a in (0, 1)]
    assert [name for name in expected if not seen[name]] == []
    for name in ("VECTOR", "ROWS BYTES", "VCACHE COLUMNS", "VCACHE LOW"):  # only on demand
        assert not seen[name]


def test_everything_is_covered_on_demand() -> None:
    config = PRESETS["tiny"]
    seen: Counter[str] = Counter()
    for seed in range(40):
        stream = random_stream(config, seed, 40, StreamOptions.everything())
        machine = Executor(config, stream.images, stream.limits, strict=True)
        assert machine.run(stream.stream).semaphores_left == {}
        for i in stream.instructions:
            if i.opcode == Opcode.LOAD:
                seen[f"{LoadDest(i['dest_kind']).name} {Format(i['format']).name}"] += 1
                seen[f"shifted {bool(i['shift'])}"] += 1
            if i.opcode == Opcode.STORE:
                gaps = f"gaps {bool(i['row_gap'])} {bool(i['addr_gap'])}"
                seen[gaps] += 1
                seen[f"offset {bool(i['offset'])}"] += 1
            if i.opcode == Opcode.GEMM:
                seen[f"hold {i['param_hold']}"] += 1
            if i.opcode == Opcode.VECTOR:
                op, to = VectorOp(i["op"]).name, VectorDest(i["dest_kind"]).name
                seen[f"{op} {to}"] += 1
                seen[f"{op} masked {i['masked']}"] += 1
                seen[f"{op} first {i['first']}"] += 1
                seen[f"{VectorFn(i['fn']).name} {VectorSum(i['sum']).name}"] += 1
                seen[VectorBits(i["bits"]).name] += 1
                seen[f"b_rows {i['b_rows']}"] += 1
                seen[f"in place {i['dest_base'] == i['a_base'] and i['dest_kind'] == VectorDest.ROWS}"] += 1
                seen[f"step {i['length_step']}"] += 1
                seen[f"negative {i['length'] >> 15}"] += 1
    rows = [op.name for op in VectorOp if op not in REDUCTIONS]
    expected = [f"{op} ROWS" for op in rows] + [f"{op} ACTIVATION" for op in rows if op != "GATHER"]
    expected += [f"{op.name} NONE" for op in (*REDUCTIONS, VectorOp.MAP)]
    expected += [f"{op.name} masked {m}" for op in VectorOp for m in (0, 1) if (op, m) != (VectorOp.GATHER, 1)]
    expected += [f"{op.name} first {first}" for op in (VectorOp.MAX, VectorOp.ARGMAX, VectorOp.MAP) for first in (0, 1)]
    expected += [f"{fn.name} {total.name}" for fn in VectorFn for total in VectorSum] + [b.name for b in VectorBits]
    expected += [f"b_rows {n}" for n in (1, 2, 4, 8)] + ["in place True", "in place False", "step 1", "negative 1"]
    expected += ["ROWS BYTES", "VCACHE COLUMNS", "VCACHE LOW", "shifted True", "offset True", "hold 0", "hold 1"]
    expected += [f"gaps {a} {b}" for a in (True, False) for b in (True, False)]
    assert [name for name in expected if not seen[name]] == []


def test_slots_are_covered_on_demand() -> None:
    config = PRESETS["tiny"]
    seen: Counter[str] = Counter()
    for seed in range(60):
        stream = random_stream(config, seed, 40, StreamOptions.everything(slots=True))
        machine = Executor(config, stream.images, stream.limits, strict=True)
        for pc, i in enumerate(stream.instructions):
            count, _, expert, high = machine.slots[i["slot"]].tolist() if i["slot_en"] else (0, 0, 0, 0)
            if i.opcode == Opcode.ROUTE:
                seen[f"ROUTE choices {i['choices']}"] += 1
            if i.opcode == Opcode.LOAD and i["slot_en"]:
                seen[f"{LoadDest(i['dest_kind']).name} {Format(i['format']).name} {bool(count)} odd {expert & 1}"] += 1
            if i["scored"]:
                what = f"{LoadDest(i['dest_kind']).name} {Format(i['format']).name}"
                seen[f"scored {what} high {high} odd {expert & 1}"] += bool(count)
            if i.opcode == Opcode.GEMM and i["slot_en"]:
                left = count - i["list_base"]
                what = "skipped" if left <= 0 else "part" if left < i["tokens"] else "whole"
                seen[f"{what} {Dest(i['dest_kind']).name}"] += 1
            machine.step(stream.stream[32 * pc :][:32], pc)
            if i.opcode == Opcode.ROUTE:
                seen[f"slots {min(4, int((machine.slots[:, 0] > 0).sum()))}"] += 1
    expected = [f"ROUTE choices {n}" for n in (1, 2, 3)] + [f"slots {n}" for n in (1, 2, 3, 4)]
    expected += [f"{what} {dest.name}" for what in ("skipped", "part", "whole") for dest in Dest]
    for name in ("VCACHE PAIR", "VCACHE BYTES", "VCACHE HIGH", "VCACHE COLUMNS", "VCACHE LOW", "PARAMETER BYTES"):
        expected += [f"{name} False odd 0", f"{name} True odd 0", f"{name} True odd 1"]
    for name in ("VCACHE PAIR", "VCACHE LOW", "PARAMETER BYTES"):
        expected += [f"scored {name} high {high} odd {odd}" for high in (0, 1) for odd in (0, 1)]
    assert [name for name in expected if not seen[name]] == []


def test_options_change_nothing_else() -> None:
    """A stream's array instructions do not depend on options that are off."""
    config = PRESETS["nano"]
    assert random_stream(config, 5) == random_stream(config, 5, options=StreamOptions())
    kinds = {i.opcode for i in random_stream(config, 5, options=StreamOptions(rows=True)).instructions}
    assert Opcode.VECTOR not in kinds


def test_illegal_streams_cover_every_code_that_needs_no_bus_error() -> None:
    codes = {case.code.name for case in illegal_streams(PRESETS["tiny"], vector=True)}
    assert codes == {"ILLEGAL_OPCODE", "ILLEGAL_FIELD", "RANGE", "ADDRESS", "SEMAPHORE", "VCACHE_MISS", "WATCHDOG"}
    names = [case.name for case in illegal_streams(PRESETS["large"])]
    assert len(set(names)) == len(names) > 80
    more = [case.name for case in illegal_streams(PRESETS["large"], vector=True)]
    assert more[: len(names)] == names and len(set(more)) == len(more) > 200
