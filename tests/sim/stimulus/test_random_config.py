# SPDX-License-Identifier: Apache-2.0
"""Machines of every size that the configuration allows: their streams can be drawn, they pass lint and their bench."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hdl.config import PRESETS, ConfigError, MachineConfig
from hdl.emit.files import FILE_LIST
from hdl.emit.lint import check_yosys, lint_icarus, lint_verilator
from hdl.generate import TOP, generate
from hdl.isa.error_codes import ErrorCode
from sim.golden.executor import DeadlockError, ExecutionError, Executor
from sim.machine.system import SimulatedMachine
from sim.measure.crosscheck import check_illegal, check_random, random_knobs
from sim.simulator import tools
from sim.stimulus.random_config import ADDRESS_BITS, CORNERS, INTEGERS, POWERS, random_config
from sim.stimulus.stream_draw import MOST_BYTES, StreamSizeError
from sim.stimulus.streams import StreamOptions, illegal_streams, random_stream

EVERYTHING = StreamOptions.everything(slots=True)
DRAWN = [*CORNERS, *(random_config(seed, most_pes=512) for seed in range(16))]
LINTED = [*CORNERS, *(random_config(seed) for seed in range(100, 112))]
SIMULATED = [*CORNERS[:5], CORNERS[6], *(random_config(seed, most_pes=128) for seed in (7, 14))]


def named(config: MachineConfig) -> str:
    return config.name


@pytest.mark.parametrize(("field", "ends"), [*POWERS.items(), *INTEGERS.items(), ("address_bits", ADDRESS_BITS)])
def test_the_ranges_are_those_of_the_configuration(field: str, ends: tuple[int, int]) -> None:
    nano, (low, high) = PRESETS["nano"].replace(row_fifo_depth=64), ends
    for value in ends:
        nano.replace(**{field: value})
    for value in (low // 2, low - 1, high + 1, 2 * high):
        with pytest.raises(ConfigError, match=f"config {field}: {value}; use"):
            nano.replace(**{field: value})


def test_many_draws_reach_both_ends_of_every_range() -> None:
    configs = [random_config(seed, most_pes=1024) for seed in range(600)]
    for field, ends in {**POWERS, **INTEGERS, "tiers": (1, 8), "result_lanes": (1, 8), "burst_beats": (1, 256)}.items():
        values = {getattr(config, field) for config in configs}
        assert set(ends) <= values and len(values) > 2, field
    assert {config.address_bits for config in configs} >= {12, 13, 14, 36, 37}
    assert {config.semaphores for config in configs} == {8, 16, 32, 64}
    assert {config.rows // config.columns for config in configs} == {1, 2}
    assert random_config(3) == random_config(3) != random_config(4)


@pytest.mark.parametrize("config", DRAWN, ids=named)
def test_streams_of_any_machine_can_be_drawn(config: MachineConfig) -> None:
    """They fit its memories, use what it has, and say exactly what is wrong where something is."""
    room = min(1 << config.address_bits, MOST_BYTES)
    for seed, options in enumerate((StreamOptions(), EVERYTHING)):
        stream = random_stream(config, seed, options=options)
        assert max(len(image) for image in stream.images) <= room
        assert Executor(config, stream.images, stream.limits, strict=True).run(stream.stream).semaphores_left == {}
    for case in random.Random(config.name).sample(list(illegal_streams(config, vector=True)), 40):
        assert max(len(image) for image in case.images) <= room
        machine = Executor(config, case.images, case.limits)
        with pytest.raises((ExecutionError, DeadlockError)) as caught:
            machine.run(case.stream)
        code = caught.value.code if isinstance(caught.value, ExecutionError) else ErrorCode.WATCHDOG
        assert code == case.code, case.name


def test_few_semaphores_are_kept_for_what_comes_last() -> None:
    fields = {"tiers": 4, "row_fifo_depth": 36, "semaphores": 8, "vertical_links": False}
    stream = random_stream(PRESETS["nano"].replace(name="four", **fields), 0, options=EVERYTHING)
    assert len(stream.instructions) > 40


def test_no_wait_is_for_more_than_a_semaphore_holds() -> None:
    fields = {"tiers": 8, "row_fifo_depth": 56, "semaphores": 64, "semaphore_bits": 4, "result_lanes": 2}
    for seed in (3, 4, 5):
        stream = random_stream(PRESETS["nano"].replace(name="eight", **fields), seed)
        assert max(max(i["wait0_count"], i["wait1_count"]) for i in stream.instructions) < 16


def test_small_memories_still_get_long_streams() -> None:
    """What is only pleasant to have goes first."""
    config = PRESETS["nano"].replace(name="some", address_bits=14)
    assert len(random_stream(config, 1, 30, EVERYTHING).instructions) > 40
    assert len(random_stream(config.replace(address_bits=12), 1, 30).instructions) > 30


def test_a_machine_without_room_for_a_stream_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.stimulus.stream_draw.MOST_BYTES", 1 << 9)
    with pytest.raises(StreamSizeError, match="no stream fits 512 bytes of memory in each group; raise config address"):
        random_stream(PRESETS["nano"], 0)


@pytest.mark.slow
@pytest.mark.parametrize("config", LINTED, ids=named)
def test_any_machine_passes_lint(config: MachineConfig, tmp_path: Path) -> None:
    generate(config, tmp_path)
    verilator = tools.find_verilator()
    reports = [
        lint_verilator(tmp_path / FILE_LIST, TOP, verilator=verilator.executable, env=verilator.env()),
        check_yosys(tmp_path / FILE_LIST, TOP),
    ]
    if tools.find_icarus() is not None:
        reports.append(lint_icarus(tmp_path / FILE_LIST, TOP))
    assert [message for report in reports for message in report.messages] == []


@pytest.mark.slow
@pytest.mark.parametrize("config", SIMULATED, ids=named)
def test_any_machine_passes_its_bench(config: MachineConfig, tmp_path: Path) -> None:
    """Random streams, and some of the illegal ones, leave what the executor says."""
    machine = SimulatedMachine(config, memory_bits=18, build_root=tmp_path)
    rng = random.Random(config.name)
    streams = [random_stream(config, seed) for seed in range(8)]
    streams += [random_stream(config, seed, options=EVERYTHING) for seed in range(100, 112)]
    check_random(machine, streams, [random_knobs(rng) for _ in streams])
    bad = rng.sample(list(illegal_streams(config, vector=True)), 40)
    check_illegal(machine, bad, random_stream(config, 5, 10, EVERYTHING), [random_knobs(rng) for _ in bad])
