# SPDX-License-Identifier: Apache-2.0
"""Semaphores put into streams: the reference proves what comes out, and no wait is there for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Instruction, Opcode
from hdl.isa.asm import assemble
from scheduler.stream.prove import prove
from scheduler.stream.synchronise import SyncError, synchronise
from scheduler.stream.table import COL, Table
from sim.golden.order.ordering import row_completions
from sim.golden.order.verify import verify_stream
from tests.support.streams import CONFIGS, DEMO, END, carriers_of, drawn, model_step, plain_of

TINY = PRESETS["tiny"]
STACK = CONFIGS["stack"]
NO_MEMORY = (np.zeros(4096, np.uint8), np.zeros(4096, np.uint8))


def synchronised(text: str, config: MachineConfig = TINY) -> list[Instruction]:
    """Return a stream with semaphores, which is proved."""
    table, _ = synchronise(Table.of(assemble(text)), config, NO_MEMORY, carriers_of(config))
    stream = list(table.instructions())
    assert verify_stream([*stream, END], config, NO_MEMORY) == []
    return stream


def without_wait(stream: Sequence[Instruction], number: int, wait: int) -> list[Instruction]:
    """Return a stream without a wait and the posts that it takes, which are those of program order."""
    semaphore, count = stream[number][f"wait{wait}_sem"], stream[number][f"wait{wait}_count"]
    taken = sum(i[f"wait{n}_count"] for i in stream[:number] for n in (0, 1) if i[f"wait{n}_sem"] == semaphore)
    result, posted = list(stream), 0
    for place, instruction in enumerate(stream[:number]):
        for n in (0, 1):
            if instruction[f"post{n}_en"] and instruction[f"post{n}_sem"] == semaphore:
                if taken <= posted < taken + count:
                    result[place] = _without(result[place], f"post{n}_")
                posted += len(row_completions(instruction))
    result[number] = _without(stream[number], f"wait{wait}_")
    return result


def _without(instruction: Instruction, prefix: str) -> Instruction:
    values = {name: value for name, value in instruction.values.items() if not name.startswith(prefix)}
    return Instruction(instruction.opcode, values)


@pytest.mark.parametrize("slots", [False, True], ids=["host", "slots"])
@pytest.mark.parametrize(
    "lengths",
    [[(0, 128)], [(24 + n, 1) for n in range(32)], [(0, 40), *((10 * n, 1) for n in range(8))]],
    ids=["prefill 128", "decode 32", "mixed"],
)
def test_steps_of_a_model_are_ordered(lengths: list[tuple[int, int]], slots: bool) -> None:
    config = PRESETS["small"]
    step = model_step(config, DEMO, lengths, slots=slots)
    assert len(step.origin) > len(step.plain), "no carrier was needed"
    for n, number in enumerate(step.origin):  # a carrier comes before what it carries for
        own = plain_of([step.stream[n]])[0]
        assert own == step.plain[number] or (n + 1 < len(step.origin) and step.origin[n + 1] == number)
    assert prove(Table.of(step.stream), config, step.images, step.limits) == []


def test_drawn_streams_are_ordered_and_hardly_a_wait_is_idle() -> None:
    """The reference proves what comes out; without any one wait there is a race, unless a later one implies it."""
    seen, refused, waits, idle, carriers = Counter[str](), Counter[str](), 0, 0, 0
    for seed in range(25):
        config = CONFIGS[list(CONFIGS)[seed % len(CONFIGS)]]
        instructions, images, limits = drawn(config, seed, 40, slots=seed % 3 == 0)
        plain = plain_of(instructions)
        while True:
            try:
                table, _ = synchronise(Table.of(plain), config, images, carriers_of(config))
                break
            except SyncError as error:
                refused[str(error)[:10]] += 1
                plain = plain[: len(plain) * 3 // 4]
        stream = [*table.instructions(), END]
        assert verify_stream(stream, config, images, limits) == []
        seen.update(i.opcode.name for i in plain)
        carriers += len(table) - len(plain)
        for number, instruction in enumerate(stream):
            for wait in (0, 1):
                if instruction[f"wait{wait}_count"]:
                    found = prove(Table.of(without_wait(stream, number, wait)), config, images, limits)
                    waits, idle = waits + 1, idle + (not found)
    assert set(seen) >= {o.name for o in Opcode if o != Opcode.END} and sum(seen.values()) > 1000 and carriers > 5
    assert set(refused) == {"semaphores"}, refused
    assert waits > 800 and idle <= waits // 100, (waits, idle)


LOADS = "load dest_tiers=0..3 count=1 tag=1\n"
GANG = "gemm mapping=m tokens=1 k_slices=1 n_tiles=1 tag=1 dest_kind=combine mode=requant16 dest_stride=1"


def test_two_gangs_that_one_instruction_waits_for_get_two_semaphores() -> None:
    text = f"{LOADS}{GANG} tiers=0..1\n{GANG} tiers=2..3 dest=2\nvector vectors=1 rows=4 dest_kind=rows dest=8"
    got = synchronised(text, STACK)
    assert {got[-1]["wait0_sem"], got[-1]["wait1_sem"]} == {got[1]["post0_sem"], got[2]["post0_sem"]}
    assert got[1]["post0_sem"] != got[2]["post0_sem"]


def test_a_unit_that_posts_for_another_as_well_is_waited_for_twice() -> None:
    """Both posts of the rows' load are taken; a later GEMM posts for it, and the vector unit waits for that tier."""
    gemm = "gemm tokens=1 k_slices=1 n_tiles=1 tag=1 dest_kind=combine mode=requant16"
    text = (
        "load dest_tiers=0 count=1 tag=1 group=1\nload dest_kind=rows count=4\n"
        f"{gemm} dest=10\n{gemm} dest=1 accumulate=1\nstore rows=1\n"
        "vector op=add vectors=1 rows=1 a=10 b=2 b_rows=1 dest_kind=rows dest=20"
    )
    got = synchronised(text)
    assert got[-1]["wait0_count"] == 2 and not got[-1]["wait1_count"]
    assert got[2]["post0_sem"] == got[3]["post0_sem"] == got[-1]["wait0_sem"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("load dest_tiers=0 count=1\nend", "instruction 1 (END): a stream gets its waits, posts and END here"),
        ("nop\nstore rows=1 format=discard wait=s1", "instruction 1 (STORE): a stream gets its waits"),
        ("store rows=1 format=discard post=s0", "instruction 0 (STORE): a stream gets its waits"),
        ("load dest_tiers=0", "instruction 0: ILLEGAL_FIELD: LOAD.count: 0 is not legal"),
        ("load dest_tiers=0 count=1 dest=256", "instruction 0: RANGE: LOAD.dest_base"),
    ],
)
def test_what_cannot_be_synchronised(text: str, message: str) -> None:
    with pytest.raises(SyncError) as caught:
        synchronise(Table.of(assemble(text)), TINY, NO_MEMORY, carriers_of(TINY))
    assert str(caught.value).startswith(message)


def test_a_list_must_stay_in_its_memory() -> None:
    """Source 511 with two slices leaves the buffer of tier 0, into that of tier 1."""
    memory = np.zeros(4096, np.uint8)
    memory[:8] = np.array([511, 0, 0, 0], "<u2").view(np.uint8)
    text = (
        "load dest_kind=list dest_tiers=0 count=1\nload dest_tiers=0 count=2 tag=1\n"
        "gemm tokens=1 k_slices=2 n_tiles=1 tag=1 act_list=1 dest_kind=combine mode=requant16"
    )
    with pytest.raises(SyncError, match=r"instruction 2 \(GEMM\): it reads beyond the activation memory through"):
        synchronise(Table.of(assemble(text)), TINY, (memory, memory))


WAITS = (  # the vector unit reads what the load engines, the store unit's clearing and a tier made
    "load dest_tiers=0 count=1 tag=1\nload dest_kind=rows count=1\nload dest_kind=rows group=1 dest=1 count=1\n"
    "store format=discard clear=1 row=2 rows=1\n"
)
LAST = "vector vectors=1 rows=3 dest_kind=rows dest=9"


def test_a_carrier_takes_what_an_instruction_has_no_room_for() -> None:
    carriers = carriers_of(TINY)
    table, origin = synchronise(Table.of(assemble(WAITS + LAST)), TINY, NO_MEMORY, carriers)
    assert origin.tolist() == [0, 1, 2, 3, 4, 4]
    carrier, last = table.instructions()[-2:]
    assert carrier["op"] == carriers["vector"]["op"] and carrier["wait0_count"] and carrier["wait1_count"]
    assert last["wait0_count"] and not last["wait1_count"]
    assert prove(Table.of([*table.instructions(), END]), TINY, NO_MEMORY) == []
    with pytest.raises(SyncError, match="instruction 4 .VECTOR.: the semaphores need a carrier in queue vector"):
        synchronise(Table.of(assemble(WAITS + LAST)), TINY, NO_MEMORY)


def test_another_queue_waits_for_a_gemm_that_has_no_room() -> None:
    text = WAITS + "gemm tokens=3 k_slices=1 n_tiles=1 tag=1 dest_kind=combine mode=requant16 dest_stride=1"
    plain = list(assemble(text))
    table, origin = synchronise(Table.of(plain), TINY, NO_MEMORY, carriers_of(TINY))
    assert origin.tolist() == [0, 1, 2, 3, 4, 4]
    relay, last = table.instructions()[-2:]
    assert relay.opcode == Opcode.STORE and relay["post0_en"]
    assert relay["post0_sem"] in (last["wait0_sem"], last["wait1_sem"])
    assert prove(Table.of([*table.instructions(), END]), TINY, NO_MEMORY) == []
    with pytest.raises(SyncError, match="instruction 4 .GEMM.: the semaphores need a carrier in queue store"):
        synchronise(Table.of(plain), TINY, NO_MEMORY)


def test_too_few_semaphores_are_named() -> None:
    config = PRESETS["nano"].replace(semaphores=8)
    instructions, images, _ = drawn(config, 3, 60)
    with pytest.raises(SyncError, match="semaphores: 8 are not enough .* needs another one.; raise semaphores"):
        synchronise(Table.of(plain_of(instructions)), config, images, carriers_of(config))


def test_a_counter_that_may_overflow_is_refused() -> None:
    """A load engine may run ahead of the stores by more than a counter of 4 bits holds."""
    config = TINY.replace(semaphore_bits=4)
    text = "".join(f"load dest_kind=rows dest={n} count=1\nstore row={n} rows=1 addr={n}\n" for n in range(100))
    with pytest.raises(SyncError, match="semaphores: one may count beyond 15, the most that semaphore_bits of 4"):
        synchronise(Table.of(assemble(text)), config, NO_MEMORY)
    table, _ = synchronise(Table.of(assemble(text)), TINY, NO_MEMORY)
    assert len(table) == 200


def test_an_empty_stream_stays_empty() -> None:
    table, origin = synchronise(Table.of([]), TINY, NO_MEMORY)
    assert len(table) == len(origin) == 0


def test_nothing_but_waits_posts_and_carriers_is_added() -> None:
    plain = Table.of(assemble(WAITS + LAST))
    table, origin = synchronise(plain, TINY, NO_MEMORY, carriers_of(TINY))
    own = np.append(np.diff(origin), 1) > 0  # the last of each
    rows = table.rows[own]
    for name in COL._fields:
        if name[:4] in ("wait", "post") and name[4].isdigit():
            rows[:, getattr(COL, name)] = 0
    assert np.array_equal(rows, plain.rows)
