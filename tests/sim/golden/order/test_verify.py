# SPDX-License-Identifier: Apache-2.0
"""The verifier: it proves good streams, and names the two instructions of every race, theft, deadlock and overflow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Instruction, Opcode, issue_queues
from hdl.isa.asm import assemble
from scheduler.stream.prove import Finding
from sim.golden.order.ordering import row_completions
from sim.golden.order.verify import verify_stream
from sim.stimulus.streams import StreamOptions, random_stream

TINY = PRESETS["tiny"]


def verify(text: str, config: MachineConfig = TINY, memory: bytes = bytes(4096)) -> list[Finding]:
    images = (np.frombuffer(memory, dtype=np.uint8), np.frombuffer(memory, dtype=np.uint8))
    return verify_stream(assemble(text + "\nend"), config, images)


GEMM = "gemm tokens=2 k_slices=1 n_tiles=1 act_stride=1 tag=1"
TO_COMBINE = GEMM + " dest_kind=combine dest_stride=1 accumulate=1 mode=requant16"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        # Load -> GEMM through memories without tags.
        (f"load dest_kind=activation dest_tiers=0 count=2\nload dest_tiers=0 count=1 tag=1 group=1\n{TO_COMBINE}",
         "race", "instructions 0 and 2 (LOAD and GEMM) race: 2 reads activation cell 0 after its write by 0"),
        (f"load dest_kind=parameter dest_tiers=0 count=2\nload dest_tiers=0 count=1 tag=1\n{TO_COMBINE}",
         "race", "instructions 0 and 2 (LOAD and GEMM) race: 2 reads parameter cell 0 after its write by 0"),
        (f"load dest_kind=list dest_tiers=0 count=2\nload dest_tiers=0 count=1 tag=1\n{TO_COMBINE} act_list=1",
         "race", "2 reads list cell 0"),
        # GEMM -> load: the tile, the activations, the words are overwritten too early.
        (f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE}\nload dest_tiers=0 count=1 tag=2",
         "race", "instructions 1 and 2 (GEMM and LOAD) race: 2 writes vcache cell 0 after its read by 1"),
        (f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE}\nload dest_kind=activation dest_tiers=0 count=1 group=1",
         "race", "2 writes activation cell 0 after its read by 1"),
        # GEMM -> GEMM: results are not there yet, although both are in one queue.
        (f"load dest_tiers=0 count=1 tag=1\n{GEMM} dest=4 dest_stride=1\n{TO_COMBINE} act=4",
         "race", "instructions 1 and 2 (GEMM and GEMM) race: 2 reads activation cell 8 after its write by 1"),
        # Tier 1's part of a K gang still reads when tier 0, free again, writes into tier 1's buffer.
        (f"load dest_tiers=0..1 count=1 tag=1\n{TO_COMBINE} tiers=0..1 mapping=k\n"
         f"{GEMM} act=8 dest=0 dest_stride=1 dest_tiers=1",
         "race", "instructions 1 and 2 (GEMM and GEMM) race: 2 writes activation cell 1024 after its read by 1"),
        # Two tiers overwrite a combine row; one adds while the other overwrites.
        (f"load dest_tiers=0..1 count=1 tag=1\n{TO_COMBINE.replace(' accumulate=1', '')}\n{TO_COMBINE} tiers=1",
         "race", "2 adds combine cell 0 after its write by 1"),
        # GEMM -> store, store -> GEMM, store -> load.
        (f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE}\nstore rows=2",
         "race", "2 reads combine cell 0 after its add by 1"),
        (f"load dest_tiers=0 count=1 tag=1\nstore rows=2 format=discard clear=1\n{TO_COMBINE}",
         "race", "2 adds combine cell 0 after its write by 1"),
        ("store rows=2 format=int8 addr=4\nload dest_tiers=0 count=1 tag=1 addr=4",
         "race", "1 reads memory that was stored (group 0, byte 0x80) by 0"),
        ("load dest_tiers=0 count=1 tag=1 addr=4\nstore rows=2 format=int8 addr=4",
         "race", "1 overwrites memory that is loaded"),
        # Two engines fill one tile.
        ("load dest_tiers=0 count=1 tag=1\nload dest_tiers=0 count=1 tag=2 group=1",
         "race", "instructions 0 and 1 (LOAD and LOAD) race: 1 writes vcache cell 0 after its write by 0"),
        # The tag cannot tell the new fill from the old one.
        ("load dest_tiers=0 count=1 tag=1\nload dest_tiers=0 count=1 tag=2\nload dest_tiers=0 count=1 tag=1\n"
         + TO_COMBINE, "race", "instructions 2 and 3 (LOAD and GEMM) race: 3 reads vcache cell 0"),
        # One instruction against itself.
        (f"load dest_tiers=0 count=1 tag=1\n{GEMM} dest=1 dest_stride=1",
         "race", "instruction 1 (GEMM): it writes activation words that it also reads"),
        (f"load dest_tiers=0 count=1 tag=1\n{GEMM} dest=4",
         "race", "instruction 1 (GEMM): two of its rows overwrite the same activation cell"),
        # Tiles that are not there.
        (f"load dest_tiers=0 count=1 tag=2\n{TO_COMBINE}", "miss",
         "instruction 1 (GEMM) needs tag 1 in tile 0 of tier 0, which has tag 2"),
        (TO_COMBINE, "miss", "which has no valid fill"),
        # Low planes without a high one, and one that would leave its tag behind or not.
        ("load dest_tiers=0 count=2 tag=1\nload format=low dest_tiers=0 dest=1 count=2 tag=1", "miss",
         "instruction 1 (LOAD) adds a low plane with tag 1 to tile 2 of tier 0, which has no valid fill"),
        # The vector unit against the array, loads and stores.
        ("store rows=2 format=discard clear=1\nvector op=max first=1 vectors=1 rows=2",
         "race", "instructions 0 and 1 (STORE and VECTOR) race: 1 reads combine cell 0 after its write by 0"),
        ("vector vectors=1 rows=2 dest_kind=rows dest=4\nstore row=5 rows=1",
         "race", "1 reads combine cell 5 after its write by 0"),
        ("store row=1 rows=3 row_gap=2\nvector vectors=1 rows=1 dest_kind=rows dest=7",
         "race", "1 writes combine cell 7 after its read by 0"),
        (f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE}\nvector vectors=1 rows=1 a=1 dest_kind=rows dest=9",
         "race", "2 reads combine cell 1 after its add by 1"),
        (f"load dest_tiers=0 count=1 tag=1\nvector op=mul b_rows=1 b=1 a=9 vectors=1 rows=1 dest_kind=rows dest=9\n"
         f"{TO_COMBINE}", "race", "2 adds combine cell 1 after its read by 1"),
        (f"load dest_tiers=1 count=1 tag=1\nvector vectors=1 rows=1 dest_kind=activation dest_tiers=0..1 dest=1\n"
         f"{TO_COMBINE} tiers=1", "race", "2 reads activation cell 1026 after its write by 1"),
        (f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE}\nvector vectors=1 rows=1 a=9 dest_kind=activation "
         "dest_tiers=0", "race", "2 writes activation cell 0 after its read by 1"),
        ("load dest_kind=rows count=2\nvector vectors=1 rows=1 a=1 dest_kind=rows dest=9",
         "race", "instructions 0 and 1 (LOAD and VECTOR) race: 1 reads combine cell 1 after its write by 0"),
        ("load dest_kind=rows count=2\nload dest_kind=rows group=1 dest=1 count=1",
         "race", "1 writes combine cell 1 after its write by 0"),
        # Bytes that a store with gaps writes, and none between.
        ("store rows=3 format=int8 addr=4 addr_gap=3\nload dest_tiers=0 count=1 tag=1 addr=6",
         "race", "1 reads memory that was stored (group 0, byte 0xc0) by 0"),
        ("store rows=3 format=int8 addr=4 offset=8 addr_gap=5\nload dest_kind=activation dest_tiers=0 count=1 addr=4\n"
         "load dest_kind=activation dest_tiers=0 dest=1 count=2 addr=4",
         "race", "instructions 0 and 2 (STORE and LOAD)"),
        # A vector against itself.
        ("vector vectors=2 rows=1 a_stride=1 dest_kind=rows dest=1 dest_stride=1", "race",
         "instruction 0 (VECTOR): it writes rows that it also reads, other than in place"),
        ("vector vectors=2 rows=1 a_stride=1 dest_kind=rows dest=512 dest_stride=1", "illegal",
         "instruction 0: RANGE: VECTOR.dest_base: combine rows up to 513"),
        # Semaphores.
        ("store rows=1 format=discard wait=s3:2\nload dest_tiers=0 count=1 post=s3", "deadlock",
         "instruction 0 (STORE) waits for 2 of semaphore 3; the instructions before it leave 0: deadlock"),
        ("load dest_tiers=0 count=1 post=s3\nload dest_tiers=0 count=1 tag=1 post=s3\n"
         "store rows=1 format=discard wait=s3\nload group=1 dest_tiers=1 count=1 wait=s3", "stolen",
         "instructions 2 and 3 both wait for semaphore 3 and nothing orders them"),
        # A gang's leader asks for semaphores before what precedes the gang in a follower's queue has got its own.
        (f"load dest_tiers=0..1 count=1 tag=1 post=s3\nload group=1 dest_tiers=0..1 count=1 dest=1 tag=1 post=s4\n"
         f"store rows=1 row=8 format=discard wait=s4 post=s3\n{TO_COMBINE} tiers=1 wait=s3\n"
         f"{TO_COMBINE} tiers=0..1 mapping=k wait=s3",
         "stolen", "instructions 3 and 4 both wait for semaphore 3 and nothing orders them"),
        ("\n".join(["load dest_tiers=0 count=1 post=s3"] * 256), "overflow",
         "semaphore 3 may count beyond 255 at instruction 255"),
        ("load dest_tiers=0", "illegal", "instruction 0: ILLEGAL_FIELD: LOAD.count: 0"),
    ],
)  # fmt: skip
def test_findings_name_the_instructions(text: str, kind: str, message: str) -> None:
    findings = verify(text)
    assert findings, "nothing was found"
    assert findings[0].kind == kind and message in findings[0].message, findings[0].message


@pytest.mark.parametrize(
    "text",
    [
        # Posts and waits order it.
        "load dest_kind=activation dest_tiers=0 count=2 post=s1\n"
        f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE} wait=s1",
        # One post for two loads of the same engine.
        f"load dest_kind=activation dest_tiers=0 count=2\nload dest_kind=parameter dest_tiers=0 count=1 post=s1\n"
        f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE} wait=s1",
        # The tag orders a load and its reader; the reader's post frees the tile.
        f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE} post=s1\nload dest_tiers=0 count=1 tag=2 wait=s1",
        # Additions of two tiers commute.
        f"load dest_tiers=0..1 count=1 tag=1\n{TO_COMBINE}\n{TO_COMBINE} tiers=1",
        # A gang posts once per tier, and all of it is waited for.
        f"load dest_tiers=0..1 count=1 tag=1\n{TO_COMBINE} tiers=0..1 mapping=n post=s1\nstore rows=4 wait=s1:2",
        # A semaphore is used again by the same pair of queues.
        f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE} post=s1\nstore rows=4 wait=s1 post=s2 clear=1\n"
        f"{TO_COMBINE} wait=s2 post=s1\nstore rows=4 wait=s1 clear=1",
        # Vectors run one after the other, whatever they share.
        "vector op=max first=1 vectors=2 rows=1\nvector op=max vectors=2 rows=1\nvector fn=exp2 vectors=2 rows=1 "
        "a_stride=1 dest_kind=rows dest_stride=1\nvector vectors=2 rows=1 a_stride=1 dest_kind=rows dest_stride=1",
        # Loads of rows by one engine do too; the vector unit waits for their post, the store for the unit's.
        "load dest_kind=rows count=4\nload dest_kind=rows dest=2 count=4 post=s1\nvector vectors=1 rows=6 "
        "dest_kind=rows dest=8 wait=s1 post=s2\nstore row=8 rows=3 row_gap=1 addr=4 wait=s2",
        # An operation of the array that wrote rows has read its activations.
        f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE} post=s1\nvector vectors=1 rows=2 dest_kind=activation "
        f"dest_tiers=0 wait=s1 post=s2\n{TO_COMBINE} wait=s2",
        # Between the rows of a store with gaps.
        "store rows=3 format=int8 addr=4 offset=8 addr_gap=5\nload dest_kind=activation dest_tiers=0 count=1 addr=4\n"
        "load dest_kind=activation dest_tiers=0 dest=1 count=3 addr=5",
        # A later operation of the same tier writes what an earlier one reads.
        f"load dest_tiers=0 count=1 tag=1\n{TO_COMBINE} act=4\n{GEMM} dest=4 dest_stride=1",
    ],
)
def test_good_streams_are_proved(text: str) -> None:
    assert verify(text) == []


def test_a_gang_of_two_needs_both_posts() -> None:
    text = f"load dest_tiers=0..1 count=1 tag=1\n{TO_COMBINE} tiers=0..1 mapping=n post=s1\nstore rows=4 wait=s1"
    findings = verify(text)
    assert findings and findings[0].kind == "race" and findings[0].instructions == (1, 2)


def test_the_end_is_where_it_should_be() -> None:
    images = (np.zeros(64, np.uint8), np.zeros(64, np.uint8))
    for stream, message in ((assemble("nop"), "END stands nowhere"), (assemble("end\nnop"), "END stands at 0")):
        assert message in verify_stream(stream, TINY, images)[0].message


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [StreamOptions(), StreamOptions.everything(), StreamOptions.everything(slots=True)],
    ids=["array", "everything", "slots"],
)
def test_random_streams_are_proved_and_mutants_are_not(name: str, seed: int, options: StreamOptions) -> None:
    stream = random_stream(PRESETS[name], seed, options=options)
    images = (np.frombuffer(stream.images[0], np.uint8), np.frombuffer(stream.images[1], np.uint8))
    assert verify_stream(stream.instructions, stream.config, images, stream.limits) == []
    rng = random.Random(seed)
    found = 0
    for _ in range(4):
        place = rng.choice([n for n, i in enumerate(stream.instructions) if i["wait0_count"]])
        values = {k: v for k, v in stream.instructions[place].values.items() if not k.startswith("wait0")}
        mutant = list(stream.instructions)
        mutant[place] = replace(mutant[place], values=values)
        found += bool(verify_stream(mutant, stream.config, images, stream.limits))
    assert found >= 3  # now and then a wait is implied by others


@pytest.mark.parametrize("seed", range(12))
def test_long_streams_on_few_semaphores_are_proved(seed: int) -> None:
    """Each semaphore is used again and again: that no use takes another's posts rests on all the others."""
    stream = random_stream(PRESETS["nano"], seed, 100, StreamOptions.everything())
    images = (np.frombuffer(stream.images[0], np.uint8), np.frombuffer(stream.images[1], np.uint8))
    assert verify_stream(stream.instructions, stream.config, images, stream.limits) == []


def finishes(instructions: Sequence[Instruction], config: MachineConfig, rng: random.Random) -> bool:
    """Run the queues in a random order, without data: dispatch, waits, posts, tags; return whether END is reached."""
    queues: dict[str, list[int]] = {}
    semaphores = [0] * config.semaphores
    done: set[int] = set()
    pc = 0
    loads = [n for n, i in enumerate(instructions) if i.opcode == Opcode.LOAD]
    while True:
        moves: list[int] = []
        targets = issue_queues(instructions[pc])
        if instructions[pc].opcode == Opcode.END and not any(queues.values()):
            return True
        if instructions[pc].opcode != Opcode.END and all(
            len(queues.setdefault(q, [])) < config.queue_depth for q in targets
        ):
            moves.append(-1)
        for number in {queue[0] for queue in queues.values() if queue}:
            instruction = instructions[number]
            waits = [(instruction[f"wait{n}_sem"], instruction[f"wait{n}_count"]) for n in (0, 1)]
            heads = all(queues[q][0] == number for q in issue_queues(instruction))
            filled = instruction.opcode != Opcode.GEMM or all(n in done for n in loads if n < number)
            if heads and filled and all(semaphores[s] >= count for s, count in waits):
                moves.append(number)
        if not moves:
            return False
        move = rng.choice(moves)
        if move < 0:
            for queue in targets:
                queues[queue].append(pc)
            pc += 1
            continue
        instruction = instructions[move]
        for n in (0, 1):
            semaphores[instruction[f"wait{n}_sem"]] -= instruction[f"wait{n}_count"]
            if instruction[f"post{n}_en"]:
                semaphores[instruction[f"post{n}_sem"]] += len(row_completions(instruction))
        for queue in issue_queues(instruction):
            queues[queue].pop(0)
        done.add(move)


@pytest.mark.parametrize("seed", range(6))
def test_proved_streams_finish_in_any_order_with_short_queues(seed: int) -> None:
    config = TINY.replace(queue_depth=2)
    stream = random_stream(config, seed, options=StreamOptions.everything())
    rng = random.Random(seed)
    assert all(finishes(stream.instructions, config, rng) for _ in range(20))
