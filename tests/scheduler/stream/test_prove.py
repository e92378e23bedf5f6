# SPDX-License-Identifier: Apache-2.0
"""The proof against the reference that looks at one instruction at a time: the same findings in the same words."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Instruction, Opcode
from hdl.isa.asm import assemble
from hdl.isa.legality import Limits
from scheduler.stream.lists import ListError
from scheduler.stream.prove import StreamError, check, prove
from scheduler.stream.table import COL, Table
from sim.golden.order.verify import verify_stream
from tests.sim.golden.order import test_verify, test_verify_slots
from tests.support.streams import CONFIGS, DEMO, END, Images, drawn, model_step, mutant

TINY = PRESETS["tiny"]
NO_MEMORY = (np.zeros(4096, np.uint8), np.zeros(4096, np.uint8))

Found = list[tuple[str, tuple[int, ...], str]]


def both(
    stream: Sequence[Instruction],
    config: MachineConfig,
    images: Images = NO_MEMORY,
    limits: Limits | None = None,
    tags: npt.NDArray[np.int16] | None = None,
) -> tuple[Found, Found]:
    """Return what the reference finds and what the proof finds."""
    wanted = verify_stream(stream, config, images, limits, tags)
    got = prove(Table.of(stream), config, images, limits, tags)
    return [(f.kind, f.instructions, f.message) for f in wanted], [(f.kind, f.instructions, f.message) for f in got]


def spilled(found: Found) -> bool:
    """Return whether a list leaves a tier's memory: the reference takes that for the next tier's."""
    return len(found) == 1 and "through its token list" in found[0][2]


@pytest.mark.parametrize("slots", [False, True], ids=["no slots", "slots"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_drawn_streams_and_their_mutants(name: str, slots: bool) -> None:
    config, kinds, opcodes, mutants = CONFIGS[name], Counter[str](), Counter[str](), 0
    for seed in range(8):
        stream, images, limits = drawn(config, seed, 40, slots=slots)
        opcodes.update(i.opcode.name for i in stream)
        assert both(stream, config, images, limits) == ([], [])
        rng = random.Random(seed)
        for _ in range(9):
            changed = mutant(rng, stream, config)
            try:
                wanted, got = both(changed, config, images, limits)
            except IndexError:  # the reference's, where a list leads out of all memories
                assert "through its token list" in prove(Table.of(changed), config, images, limits)[0].message
                continue
            assert wanted == got or spilled(got), [i.values for i in changed]
            kinds.update({kind for kind, _, _ in got} or {"none"})
            mutants += 1
    assert set(opcodes) >= {o.name for o in Opcode} - ({"ROUTE"} if not slots else set())
    assert mutants > 60 and set(kinds) >= {"none", "race", "deadlock"}, kinds


@pytest.mark.parametrize("slots", [False, True], ids=["host", "slots"])
def test_a_model_without_some_of_its_waits(slots: bool) -> None:
    config, rng = PRESETS["small"], random.Random(4)
    step = model_step(config, DEMO, [(n, 1 + n % 3) for n in range(12)], slots=slots)
    assert prove(Table.of(step.stream), config, step.images, step.limits) == []
    places = [n for n, i in enumerate(step.stream) if i["wait0_count"]]
    for _ in range(2):
        stream = list(step.stream)
        for place in rng.sample(places, 3):
            values = {k: v for k, v in stream[place].values.items() if k != "wait0_count"}
            stream[place] = Instruction(stream[place].opcode, values)
        wanted, got = both(stream, config, step.images, step.limits)
        assert wanted == got and {kind for kind, _, _ in got} == {"race"}


def _cases(test: object) -> list[str]:
    """Return the streams that a test of the reference is given."""
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    return [case if isinstance(case, str) else case[0] for case in mark.args[1]]


@pytest.mark.parametrize(
    "text",
    _cases(test_verify.test_findings_name_the_instructions) + _cases(test_verify.test_good_streams_are_proved),
)
def test_what_the_reference_is_tested_with(text: str) -> None:
    wanted, got = both(assemble(text + "\nend"), TINY)
    assert wanted == got


@pytest.mark.parametrize("lines", _cases(test_verify_slots.test_what_is_refused))
def test_what_the_reference_is_tested_with_about_slots(lines: list[str]) -> None:
    text = "\n".join([*map(test_verify_slots._merge, lines), "end"])
    wanted, got = both(assemble(text), TINY, limits=test_verify_slots.LIMITS)
    assert wanted == got and got


@pytest.mark.parametrize("first", ["tiers=0 act=0", "tiers=0 act=1", "tiers=0..1 mapping=n act=0", "tiers=0 act=9"])
@pytest.mark.parametrize("again", ["tiers=0 act=0", "tiers=0..1 mapping=n act=0"])
@pytest.mark.parametrize("write", ["", "tiers=0 dest=1", "tiers=0 dest=3", "tiers=0 dest=8", "tiers=1 dest=1"])
def test_activations_that_are_read_again(first: str, write: str, again: str) -> None:
    """What a tier has read before is known to be there, but not what was written since."""
    gemm = "gemm tokens=2 k_slices=2 n_tiles=1 act_stride=3 tag=1 dest_kind=combine mode=requant16 dest_stride=2"
    tags = np.full((TINY.tiers, TINY.vcache_tiles), 1, np.int16)
    load = f"load dest_kind=activation dest_{write} count=1" if write else "nop"
    lines = [f"{gemm} {first} dest=0", load, f"{gemm} {again} dest=8", f"{gemm} {again} dest=16", "end"]
    wanted, got = both(assemble("\n".join(lines)), TINY, tags=tags)
    assert wanted == got
    late = [one for kind, one, _ in got if kind == "race" and one[0] == 1]
    assert len(late) == (2 if write in ("tiers=0 dest=1", "tiers=0 dest=3") else 0)
    lines[:2] = lines[1::-1]  # what others have read says nothing of what was written before
    wanted, got = both(assemble("\n".join(lines)), TINY, tags=tags)
    assert wanted == got


def test_a_route_that_leads_out_of_the_activations() -> None:
    lines = [f"{test_verify_slots.ROUTE} source_base=509 post=s0,s1", f"{test_verify_slots.LOAD} wait=s0"]
    lines += [f"{test_verify_slots.GEMM} act=1 wait=s1", "end"]
    (finding,) = prove(Table.of(assemble("\n".join(lines))), TINY, NO_MEMORY, test_verify_slots.LIMITS)
    assert "beyond the activation memory through its token list" in finding.message


def test_tags_that_an_earlier_stream_left() -> None:
    tags = np.full((TINY.tiers, TINY.vcache_tiles), -1, np.int16)
    tags[1, 7] = 9
    gemm = "gemm tiers=1 tokens=1 k_slices=1 n_tiles=1 dest_kind=combine mode=requant16"
    for text, found in ((f"{gemm} vcache=7 tag=9", 0), (f"{gemm} vcache=7 tag=8", 1), (f"{gemm} vcache=8 tag=9", 1)):
        wanted, got = both(assemble(f"{text}\nend"), TINY, tags=tags)
        assert wanted == got and len(got) == found, text


def test_a_tag_that_an_earlier_stream_left_orders_no_load() -> None:
    """Until a load with the same tag begins, a GEMM finds the tile as it was."""
    tags = np.full((TINY.tiers, TINY.vcache_tiles), -1, np.int16)
    tags[0, 0] = 9
    gemm = "gemm tokens=1 k_slices=1 n_tiles=1 tag={} dest_kind=combine mode=requant16"
    for form in ("bytes", "low"):
        for tag, wait, found in ((9, "", "race"), (9, " wait=s0", None), (8, "", None), (8, " wait=s0", None)):
            post = " post=s0" if wait else ""
            load = f"load format={form} dest_tiers=0 count=1 tag={tag}{post}"
            wanted, got = both(assemble(f"{load}\n{gemm.format(tag)}{wait}\nend"), TINY, tags=tags)
            assert wanted == got and [kind for kind, _, _ in got] == ([found] if found else []), (form, tag, wait)


@pytest.mark.parametrize("ends", ["nop", "end\nnop", "end\nend", ""])
def test_the_end_is_where_it_should_be(ends: str) -> None:
    wanted, got = both(assemble(ends), TINY)
    assert wanted == got and got[0][0] == "illegal"


def test_several_semaphores_overflow() -> None:
    config = TINY.replace(semaphore_bits=4)
    posts = [f"load group={n % 2} dest_tiers=0 count=1 dest={n % 2} post=s{5 - n % 2}" for n in range(60)]
    waits = ["store rows=1 format=discard wait=s5", "vector vectors=1 rows=1 dest_kind=rows wait=s4"]
    wanted, got = both(assemble("\n".join([*posts, *waits, "end"])), config)
    assert wanted == got and [(kind, numbers) for kind, numbers, _ in got] == [("overflow", (30,)), ("overflow", (31,))]


@pytest.mark.parametrize("turns", [2, 40])
def test_semaphores_used_in_turns_prove_each_other(turns: int) -> None:
    """Stores and two load engines hand semaphores round; that each post is the next one rests on all the others."""
    text = "load dest_tiers=0 count=1 post=s0\n"
    for turn in range(turns):
        other = 1 - turn % 2
        text += f"store rows=1 format=discard wait=s0 post=s{1 + other}\n"
        text += f"load dest_tiers=0 count=1 group={other} wait=s{1 + other} post=s0\n"
    assert both(assemble(text + "end"), TINY) == ([], [])


def test_a_list_that_leaves_a_tiers_buffer_is_found() -> None:
    """The reference takes word 512 of tier 0 for word 0 of tier 1."""
    memory = np.zeros(4096, np.uint8)
    memory[:8] = np.array([511, 0, 0, 0], "<u2").view(np.uint8)
    text = (
        "load dest_kind=list dest_tiers=0 count=1 post=s1\nload dest_tiers=0 count=2 tag=1\n"
        "gemm tokens=1 k_slices=2 n_tiles=1 tag=1 act_list=1 dest_kind=combine mode=requant16 wait=s1\nend"
    )
    wanted, got = both(assemble(text), TINY, (memory, memory))
    assert wanted == []
    assert got == [("race", (2,), "instruction 2 (GEMM): it reads beyond the activation memory through its token list")]
    memory[0] -= 1
    assert both(assemble(text), TINY, (memory, memory)) == ([], [])


def test_lists_come_from_images_or_from_their_bytes_alone() -> None:
    stream, images, limits = drawn(TINY, 5, 40)
    lists = {
        (int(row[COL.group]), int(row[COL.addr]) * 32): images[row[COL.group]].tobytes()[row[COL.addr] * 32 :][:8192]
        for row in Table.of(stream).rows
        if row[COL.opcode] == Opcode.LOAD and row[COL.dest_kind] == 2
    }
    assert lists and prove(Table.of(stream), TINY, lists, limits) == []
    (group, address), _ = lists.popitem()
    with pytest.raises(ListError, match=rf"loads a token list from group {group}, bytes {address:#x} .* has 0 of them"):
        prove(Table.of(stream), TINY, lists, limits)


def test_a_value_that_does_not_fit_its_field_is_illegal() -> None:
    table = Table.of([*assemble("store rows=1 format=discard"), END])
    for column, value, text in (
        ("row_gap", 1024, "STORE.row_gap: 1024 does not fit 10 bits; use 0 to 1023"),
        ("row_base", -1, "STORE.row_base: -1 does not fit 16 bits"),
        ("tokens", 1, "STORE: no field 'tokens'"),
        ("opcode", 9, "opcode 9 is not defined"),
    ):
        rows = table.rows.copy()
        rows[0, getattr(COL, column)] = value
        findings = prove(Table(rows), TINY, NO_MEMORY)
        assert findings[0].kind == "illegal" and findings[0].message.startswith(f"instruction 0: {text}")


def test_check_raises_the_first_finding_and_counts_the_others() -> None:
    with pytest.raises(StreamError, match=r"^stream: instruction 0: ILLEGAL_FIELD: LOAD.count: .* \(and 1 more\)$"):
        check(Table.of(assemble("load dest_tiers=0")), TINY, NO_MEMORY)
    check(Table.of([END]), TINY, NO_MEMORY)


def test_races_by_the_thousand_are_not_all_listed() -> None:
    """Every VECTOR races with every load before it."""
    config = TINY.replace(combine_rows=1 << 12)
    text = "load dest_kind=rows count=1 dest={n} group={g}\n"
    loads = "".join(text.format(n=n, g=n % 2) for n in range(2048))
    vectors = "vector op=max first=1 vectors=8 rows=256 a_stride=256\n" * 40
    findings = prove(Table.of(assemble(loads + vectors + "end")), config, NO_MEMORY)
    assert 10_000 < len(findings) < 100_000
    assert {f.kind for f in findings} == {"race"}


@pytest.mark.parametrize("again", [0, 1])
def test_two_of_many_rows_for_one_cell(again: int) -> None:
    """The first and the last of 40 listed tokens go to the same row, or to neighbours."""
    memory, tokens = np.zeros(4096, np.uint8), 40
    entries = np.zeros((tokens, 4), "<u2")
    entries[:, 1] = 2 * np.arange(tokens)
    entries[-1, 1] = 1 - again
    memory[: entries.nbytes] = entries.reshape(-1).view(np.uint8)
    text = (
        f"load dest_kind=list dest_tiers=0 count={tokens} post=s1\nload dest_tiers=0 count=1 tag=1\n"
        f"gemm tokens={tokens} k_slices=1 n_tiles=1 tag=1 dest_list=1 dest_kind=combine mode=requant16 wait=s1\nend"
    )
    wanted, got = both(assemble(text), TINY, (memory, memory))
    assert wanted == got and len(got) == again
