# SPDX-License-Identifier: Apache-2.0
"""ROUTE and instructions with a slot on the executor: against routing written out, and against host-known streams."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, Limits, Opcode
from hdl.isa.asm import assemble
from hdl.isa.error_codes import ErrorCode
from sim.golden.executor import ExecutionError, Executor, UninitialisedError
from sim.golden.route import execute_route

TINY = PRESETS["tiny"]
END = Instruction(Opcode.END, {})


def routed(choice: np.ndarray, experts: int, **fields: int) -> tuple[Executor, Instruction, np.ndarray]:
    """Return an executor after a ROUTE of choices [tokens, k], the instruction, and the gates."""
    tokens, k = choice.shape
    values = {"tokens": tokens, "choices": k, "experts": experts, "a_stride": 1}
    values |= {"source_stride": 2, "dest_stride": 3, **fields}
    instruction = Instruction(Opcode.ROUTE, {n: v for n, v in values.items() if v})
    machine = Executor(TINY)
    rng = np.random.default_rng(5)
    gates = rng.integers(0, 1 << 16, choice.shape)
    for t in range(tokens):
        for j in range(k):
            machine.scalars[instruction["s_base"] + j * tokens + t] = choice[t, j] << 16 | 0x1234
        row = machine.combine[instruction["a_base"] + t * instruction["a_stride"]]
        row[:k] = gates[t] | -65536 if t % 2 else gates[t]
    execute_route(machine, instruction, 0)
    return machine, instruction, gates


def written_out(choice: np.ndarray, gates: np.ndarray, experts: int, ins: Instruction) -> tuple[list, list]:
    """Return the table and the list entries, the slow and obvious way."""
    of: dict[int, list[tuple[int, int]]] = {e: [] for e in range(experts)}
    for t, row in enumerate(choice):
        for j, e in enumerate(row):
            of[int(e)].append((t, int(gates[t, j])))
    order = sorted((e for e in of if of[e]), key=lambda e: (-len(of[e]), e))
    table, entries = [], []
    for e in order:
        table.append([len(of[e]), ins["list_base"] + len(entries), e, 0])
        entries += [[t * ins["source_stride"], ins["dest_base"] + t * ins["dest_stride"], g, 0] for t, g in of[e]]
    return table, entries


@pytest.mark.parametrize("seed", range(12))
def test_random_routing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    experts = int(rng.integers(1, 17))
    k = int(rng.integers(1, min(experts, 8) + 1))
    tokens = int(rng.integers(1, 14))
    choice = np.array([rng.permutation(experts)[:k] for _ in range(tokens)])
    fields = {"s_base": 7, "a_base": 20, "a_stride": int(rng.integers(1, 4)), "list_base": 11, "dest_base": 40}
    machine, ins, gates = routed(choice, experts, **fields)
    table, entries = written_out(choice, gates, experts, ins)
    assert machine.slots[: len(table)].tolist() == table
    assert not machine.slots[len(table) :].any()
    for tier in range(TINY.tiers):
        assert machine.lists[tier, 11 : 11 + len(entries)].tolist() == entries
        assert not machine.lists[tier, :11].any() and not machine.lists[tier, 11 + len(entries) :].any()


@pytest.mark.parametrize(
    ("choice", "experts", "order"),
    [
        ([[3], [3], [3]], 5, [3]),  # all on one
        ([[4], [0], [2]], 5, [0, 2, 4]),  # ties: by number
        ([[1], [2], [2], [0], [1], [2]], 3, [2, 1, 0]),
        ([[0, 1, 2], [2, 1, 0]], 3, [0, 1, 2]),  # k = E
        ([[0], [0]], 1, [0]),  # E = 1
        ([[6, 6], [5, 6]], 7, [6, 5]),  # a token twice on one expert
    ],
)
def test_order_of_slots(choice: list[list[int]], experts: int, order: list[int]) -> None:
    machine, ins, gates = routed(np.array(choice), experts)
    table, entries = written_out(np.array(choice), gates, experts, ins)
    assert machine.slots[: len(order), 2].tolist() == order
    assert machine.slots[: len(order)].tolist() == table and not machine.slots[len(order) :].any()
    assert machine.lists[1, : len(entries)].tolist() == entries


def test_a_choice_that_is_no_expert() -> None:
    with pytest.raises(ExecutionError, match="expert 5 is chosen; there are 5") as caught:
        routed(np.array([[1], [5]]), 5)
    assert caught.value.code == ErrorCode.RANGE


def test_the_table_is_empty_after_an_error_and_survives_a_stream() -> None:
    machine, _, _ = routed(np.array([[1], [2]]), 5)
    machine.run([END])
    assert machine.slots.any()
    with pytest.raises(ExecutionError):
        machine.run([Instruction(Opcode.NOP, {"wait0_count": 1})])
    assert not machine.slots.any()


def test_strict_mode_wants_choices_and_gates() -> None:
    machine = Executor(TINY, strict=True)
    machine.known["combine row"][:] = True
    route = assemble("route tokens=1 choices=1 experts=1\nend")
    with pytest.raises(UninitialisedError, match="scalar"):
        machine.run(route)
    machine.known["scalar"][:1], machine.known["combine row"][:] = True, False
    with pytest.raises(UninitialisedError, match="combine row"):
        machine.run(route)


def slot_machine(choice: list[list[int]], seed: int = 0) -> Executor:
    """Return a machine with random memories, routed tokens, and what experts need."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, 1 << 14, dtype=np.uint8) for _ in range(2)]
    base, _, _ = routed(np.array(choice), 6, list_base=3, dest_base=50)
    machine = Executor(TINY, images)
    machine.slots[:], machine.lists[:] = base.slots, base.lists
    machine.activation[:] = rng.integers(-128, 128, machine.activation.shape)
    machine.parameters[:] = rng.integers(0, 1 << 16, machine.parameters.shape)
    machine.vcache[:] = rng.integers(-119, 120, machine.vcache.shape)
    return machine


@pytest.mark.parametrize("form", ["pair", "high", "bytes", "columns"])
def test_loads_and_gemms_of_slots_equal_host_known_ones(form: str) -> None:
    """Slots 0 to 3 of experts 4, 1, 5 and none: a load, and a GEMM in chunks of two tokens."""
    choice = [[4, 1], [4, 5], [1, 4], [4, 1]]
    by_slot, by_host = slot_machine(choice), slot_machine(choice)
    for slot, (expert, count, first) in enumerate([(4, 4, 3), (1, 3, 7), (5, 1, 10), (0, 0, 0)]):
        place = f"dest_tiers=1 dest={10 * slot} count=3 tag={slot + 1} format={form}"
        load = f"load {place} slot_en=1 slot={slot} slot_stride=6 addr=64 addr_low=32 post=s3"
        group, at = (expert & 1, expert >> 1) if form == "pair" else (0, expert)
        known = f"load {place} group={group} addr={64 + 6 * at}" + (
            f" addr_low={32 + 6 * at}" if form == "pair" else ""
        )
        gemm = f"gemm tier_base=1 k_slices=1 n_tiles=3 vcache={10 * slot} tag={slot + 1} act_list=1 dest_list=1"
        gemm += " mode=requant16 shift=20 dest_kind=combine accumulate=1 act=1 dest=2"
        program = [load, *(f"{gemm} tokens=2 slot_en=1 slot={slot} list={n}" for n in (0, 2, 4))]
        report = by_slot.run(assemble("\n".join([*program, "end"])))
        assert report.semaphores_left == {3: 1}
        if count:
            program = [known]
            program += [f"{gemm} tokens={min(2, count - n)} list={first + n}" for n in range(0, count, 2)]
            by_host.run(assemble("\n".join([*program, "end"])))
    assert np.array_equal(by_slot.combine, by_host.combine) and by_slot.combine.any()
    assert np.array_equal(by_slot.vcache, by_host.vcache)
    assert np.array_equal(by_slot.tags, by_host.tags)
    for name in ("read_beats_0", "read_beats_1", "fill_words", "rows_combine"):
        assert by_slot.counters[name] == by_host.counters[name], name
    # Of 12 GEMMs 5 do something: the others take one wave and one row each.
    for name in ("tier1_wave", "tier1_new_own", "rows"):
        assert by_slot.counters[name] == by_host.counters[name] + 7, name


@pytest.mark.parametrize("dest", ["combine accumulate=1 dest_list=1 mode=requant16", "activation mode=swiglu dest=40"])
def test_a_gang_with_a_slot_equals_a_host_known_one(dest: str) -> None:
    """Slots of 4, 3 and 1 tokens and an empty one on both tiers, each with half the output tiles, up to 3 tokens."""
    choice = [[4, 1], [4, 5], [1, 4], [4, 1]]
    by_slot, by_host = slot_machine(choice), slot_machine(choice)
    gemm = f"gemm tier_count=2 mapping=n k_slices=2 n_tiles=2 act_list=1 shift=20 post_mult=9 dest_kind={dest}"
    for machine in (by_slot, by_host):
        machine.tags[:, :4] = 0
    for slot, (count, first) in enumerate([(4, 3), (3, 7), (1, 10), (0, 0)]):
        report = by_slot.run(assemble(f"{gemm} tokens=3 slot_en=1 slot={slot} list=1 post=s3\nend"))
        assert report.semaphores_left == {3: 2}
        if count > 1:
            by_host.run(assemble(f"{gemm} tokens={min(3, count - 1)} list={first + 1}\nend"))
    assert np.array_equal(by_slot.combine, by_host.combine) and np.array_equal(by_slot.activation, by_host.activation)
    # Two of the four do nothing but one wave and one row in each tier.
    for name, more in (("tier0_wave", 2), ("tier1_wave", 2), ("tier1_link_n", 2), ("tier1_new_own", 2), ("rows", 4)):
        assert by_slot.counters[name] == by_host.counters[name] + more, name
    assert by_slot.counters["macs"] == by_host.counters["macs"] + 4 * TINY.tile_bytes


def test_an_expert_outside_memory() -> None:
    machine = slot_machine([[5], [2]])
    machine.limits = Limits((1 << 14, 1 << 14), ((0, 0), (0, 0)))
    line = "load dest_tiers=1 count=1 slot_en=1 slot={} slot_stride=128\nend"
    machine.run(assemble(line.format(0)))  # expert 2
    with pytest.raises(ExecutionError, match="ADDRESS") as caught:
        machine.run(assemble(line.format(1)))
    assert caught.value.address == 5 * 128 * 32
