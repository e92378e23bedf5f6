# SPDX-License-Identifier: Apache-2.0
"""Random streams: reproducible, legal, and wide enough in what they cover."""

from __future__ import annotations

from collections import Counter

import pytest

from hdl.config import PRESETS
from hdl.isa import Dest, Format, LoadDest, Mapping3D, Mode, Opcode, Order, StoreFormat
from sim.golden.executor import Executor
from sim.illegal_streams import illegal_streams
from sim.streams import random_stream


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
    expected = [o.name for o in Opcode] + [f"{m.name} x{g}" for m in list(Mapping3D)[1:] for g in (2, 3, 4)]
    expected += [f"VCACHE {f.name}" for f in Format] + [f"{d.name} BYTES" for d in LoadDest]
    expected += [f"store {f.name} {c}" for f in StoreFormat for c in (0, 1)]
    expected += [f"lists {a}{b}" for a in (0, 1) for b in (0, 1)] + [o.name for o in Order]
    expected += ["REQUANT8 ACTIVATION 0", "SWIGLU ACTIVATION 0", "one token", "multicast True"]
    expected += [f"{m} COMBINE {a}" for m in ("REQUANT8", "REQUANT16") for a in (0, 1)]
    assert [name for name in expected if not seen[name]] == []


def test_illegal_streams_cover_every_code_that_needs_no_bus_error() -> None:
    codes = {case.code.name for case in illegal_streams(PRESETS["tiny"])}
    assert codes == {"ILLEGAL_OPCODE", "ILLEGAL_FIELD", "RANGE", "ADDRESS", "SEMAPHORE", "VCACHE_MISS", "WATCHDOG"}
    names = [case.name for case in illegal_streams(PRESETS["large"])]
    assert len(set(names)) == len(names) > 80
