# SPDX-License-Identifier: Apache-2.0
"""The streams behind ``a3d bench utilisation`` fit any machine, and need no more memory however long they measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Mapping3D, check_instruction
from sim import cli
from sim.golden.executor import Executor
from sim.golden.order.verify import verify_stream
from sim.machine.system import Job, SimulatedMachine
from sim.measure.programs import (
    MOST_INSTRUCTIONS,
    Program,
    Residents,
    macs_of,
    memory_limits,
    mix_program,
    resident_program,
    streamed_program,
)
from sim.measure.utilisation import (
    MANY,
    MIX_SHARES,
    MOST_JOBS,
    TOKENS,
    Point,
    draw,
    measure_from_memory,
    measure_resident,
    resident_jobs,
    usable,
)
from sim.stimulus.random_config import CORNERS, random_config

ANY = [*PRESETS.values(), *CORNERS, *(random_config(seed, most_pes=1 << 16) for seed in range(4))]
SMALL = [PRESETS["nano"], *CORNERS, *(random_config(seed, most_pes=128) for seed in range(4))]


def named(config: MachineConfig) -> str:
    return config.name


def programs_of(config: MachineConfig, waves: int) -> list[Program]:
    residents = Residents.of(config)
    mappings = list(Mapping3D) if config.tiers > 1 and config.vertical_links else [Mapping3D.ALONE]
    many = min(MANY, config.accumulator_depth)
    return [
        *(resident_program(config, residents, m, t, waves) for m in mappings for t in usable(config, TOKENS)),
        *(mix_program(config, residents, share, waves, many) for share in MIX_SHARES),
    ]


@pytest.mark.parametrize("config", ANY, ids=named)
def test_every_size_fits(config: MachineConfig) -> None:
    limits = memory_limits(config)
    room, base = limits.memory_bytes[0], Residents.of(config).stream_base
    for waves in (1, 100_000):
        for program in programs_of(config, waves):
            assert program.waves * program.repeats >= waves > program.waves * (program.repeats - 1) // 2
            assert base + 32 * len(program.instructions) <= room and len(program.instructions) <= MOST_INSTRUCTIONS
            for i in program.instructions[-9:]:
                assert check_instruction(i, config, limits) is None, i
    for tokens in usable(config, TOKENS):
        for rounds in (1, 10_000):
            streamed = streamed_program(config, tokens, rounds)
            assert max(len(image) for image in streamed.images) <= room
            assert len(streamed.instructions) <= MOST_INSTRUCTIONS
            for i in streamed.instructions[-9:]:
                assert check_instruction(i, config, limits) is None, i


@pytest.mark.parametrize("config", SMALL, ids=named)
def test_they_run(config: MachineConfig) -> None:
    """In the executor, which refuses words that nothing has written and tiles that are not there."""
    setup, jobs = resident_jobs(config, Residents.of(config), programs_of(config, 100))
    assert setup.images is not None
    machine = Executor(config, setup.images, memory_limits(config), strict=True)
    machine.memory = [
        np.concatenate([m, np.zeros(memory_limits(config).memory_bytes[0] - m.size, np.uint8)]) for m in machine.memory
    ]
    for job in (setup, *(job for job, _ in jobs)):
        for group, address, data in job.patches:
            machine.memory[group][address : address + len(data)] = np.frombuffer(data, np.uint8)
        machine.run(machine.memory[0][job.stream_base :].tobytes())
    for tokens in (1, usable(config, TOKENS)[-1]):
        streamed = streamed_program(config, tokens, 6)
        images = tuple(np.frombuffer(image, np.uint8) for image in streamed.images)
        findings = verify_stream(streamed.instructions, config, cast(Any, images), memory_limits(config))
        assert {finding.kind for finding in findings} <= {"race"}  # result rows overwrite each other
        assert macs_of(config, streamed.instructions) == streamed.macs
        Executor(config, streamed.images, memory_limits(config), strict=True).run(streamed.instructions)


def test_the_presets_use_what_they_have() -> None:
    """Operations as long as the V-Cache allows: what the figures in the documents are measured with."""
    small = PRESETS["small"]
    residents = Residents.of(small)
    assert (residents.k_slices, residents.tiles) == (8, 1024)
    program = resident_program(small, residents, Mapping3D.ALONE, 1, 8192)
    assert (program.repeats, program.waves, program.instructions[0]["n_tiles"]) == (1, 8192, 128)
    assert streamed_program(small, 4, 40).repeats == 1
    assert usable(PRESETS["nano"], TOKENS) == [1, 2, 3, 4, 8, 16, 32]


@dataclass
class Fake:
    """A machine that takes 100 cycles a job, and looks at what it gets."""

    config: MachineConfig
    runs: list[list[Job]] = field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> list[SimpleNamespace]:
        self.runs.append(list(jobs))
        counters = {"first_issue": 1, "last_result": 100, "cycles": 120}
        return [SimpleNamespace(done=True, counters=counters, wall_s=0.5) for _ in jobs]


def test_repeats_are_added_up_and_handed_over_in_parts() -> None:
    config = PRESETS["nano"].replace(address_bits=12)
    fake = Fake(config)
    points = measure_resident(cast(SimulatedMachine, fake), [Mapping3D.ALONE], [1, 16], [0.5], 1_000_000)
    assert len(fake.runs) > 1
    repeats = 0
    for jobs in fake.runs:
        assert len(jobs) <= 1 + MOST_JOBS and jobs[0].images is not None and jobs[1].patches
        assert sum(bool(job.patches) for job in jobs) <= 3  # a stream is not written again for each of its runs
        repeats += len(jobs) - 1
    assert sum(point.cycles for point in points) == 100 * repeats
    for point in points:
        assert point.macs == pytest.approx(16 * 1_000_000, rel=0.02)
        assert point.utilisation == point.macs / (16 * point.cycles)
    memory = measure_from_memory(cast(SimulatedMachine, fake), [2, 64], 1000)
    assert [point.m for point in memory] == [2]  # 64 tokens are more than the accumulators
    assert memory[0].cycles >= 1000 * 100 // 60 and memory[0].bytes > 1000 * 8 * config.tile_bytes


def test_a_picture_of_one_feed_alone(tmp_path: Path) -> None:
    """The edge feed has no figures from memory."""
    point = Point("edge", "alone", 1, 1.0, 1000, 1000, 0.06)
    draw([point], [], PRESETS["nano"], tmp_path / "edge.png")
    assert (tmp_path / "edge.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["utilisation", "--waves", "0"], "--waves: 0: use a whole number from 1 to 10,000,000"),
        (["utilisation", "--waves", "10000001"], "--waves: 10000001: use a whole number from 1 to 10,000,000"),
        (["utilisation", "--rounds", "-1"], "--rounds: -1: use a whole number from 1 to 1,000,000"),
        (["simspeed", "--cycles", "0"], "--cycles: 0: use a whole number from 1 to 1,000,000,000"),
    ],
)
def test_lengths_are_checked_before_anything_is_built(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *options, "--config", "nano"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}; see a3d bench ")
