# SPDX-License-Identifier: Apache-2.0
"""The Python statement of what is legal, against the dispatcher's checker in RTL, on mutated instructions."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator

from hdl.config import PRESETS
from hdl.control.dispatcher import InstructionChecker
from hdl.isa import Opcode, fields_of
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import Limits, Violation, check_word
from sim.stimulus.illegal_streams import pack
from sim.stimulus.streams import StreamOptions, illegal_streams, random_stream

FLAT = PRESETS["tiny"].replace(name="flat", vertical_links=False)
EDGE = PRESETS["tiny"].replace(name="edge", stationary_feed="edge")
CONFIGS = {**PRESETS, "flat": FLAT, "edge": EDGE}
SEQUENCERS_CHECK = {"act_base", "vcache_base", "param_base", "list_base", "dest_base"}
"""GEMM ranges that the sequencers check, with the same code, when they take the instruction."""


def words_of(name: str) -> list[bytes]:
    """Return legal, illegal and mutated instructions."""
    config = CONFIGS[name]
    rng = random.Random(name)
    words = [case.stream[32 * (case.pc or 0) :][:32] for case in illegal_streams(config, vector=True)]
    for seed in range(3):
        for instruction in random_stream(config, seed, options=StreamOptions.everything(slots=True)).instructions:
            word = int.from_bytes(pack(instruction.opcode, instruction.values), "little")
            words += [(word ^ 1 << rng.randrange(256)).to_bytes(32, "little") for _ in range(3)]
            fields = [f.name for f in fields_of(instruction.opcode) if f.name != "opcode"]
            changed = rng.choice(fields)
            width = next(f.width for f in fields_of(instruction.opcode) if f.name == changed)
            values = {**instruction.values, changed: rng.choice((0, 1, (1 << width) - 1, rng.randrange(1 << width)))}
            words += [pack(instruction.opcode, values), word.to_bytes(32, "little")]
    return words


@pytest.mark.parametrize("name", ["nano", "tiny", "flat", "edge", "small", "large"])
def test_the_checker_agrees(name: str) -> None:
    config = CONFIGS[name]
    dut = InstructionChecker(config)
    limits = Limits.whole(config)
    seen: dict[int, int] = {}

    async def bench(ctx: object) -> None:
        for word in words_of(name):
            ctx.set(dut.word, int.from_bytes(word, "little"))  # type: ignore[attr-defined]
            code = ctx.get(dut.code)  # type: ignore[attr-defined]
            wrong = check_word(word, config, limits)
            expected = 0 if wrong is None else int(wrong.code)
            left = wrong is not None and unit_checks(word, wrong)
            assert code == (0 if left else expected), f"{wrong}: {word.hex()}"
            seen[expected] = seen.get(expected, 0) + 1

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    codes = (0, ErrorCode.ILLEGAL_OPCODE, ErrorCode.ILLEGAL_FIELD, ErrorCode.RANGE)
    assert all(seen.get(int(code), 0) >= 3 for code in codes), seen


def unit_checks(word: bytes, wrong: Violation) -> bool:
    """Return whether a violation is found not by the dispatcher but by the unit that executes the instruction."""
    opcode = word[0] & 0x3F
    if wrong.code != ErrorCode.RANGE:
        return wrong.code == ErrorCode.ADDRESS
    return opcode in (Opcode.VECTOR, Opcode.ROUTE) or (opcode == Opcode.GEMM and wrong.field in SEQUENCERS_CHECK)
