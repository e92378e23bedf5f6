# SPDX-License-Identifier: Apache-2.0
"""`sim/rtl/hbm_channel.v` gives the commands of its specification, in the same cycles, in both simulators."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from scheduler.cost.hbm.channel import DEPTH, LEAD, WINDOW
from scheduler.cost.hbm.timing import FIELDS, HBM2, HBM3, MAPPINGS, parameters_of
from sim.simulator.runner import build, run
from tests.scheduler.cost.hbm.rules import commands_of, drawn

HERE = Path(__file__).parent
RTL = HERE.parents[2] / "sim" / "rtl"


def replayed(simulator, parameters, requests, folder, cycles):
    """Return the commands of the Verilog."""
    model = build(
        [HERE / "hbm_replay.v", RTL / "hbm_channel.v"], "hbm_replay", sim=simulator, parameters={"FIELDS": len(FIELDS)}
    )
    words = [r.cycle << 64 | r.stream << 62 | r.beats << 53 | r.first for r in requests]
    (folder / "requests.hex").write_text("\n".join(f"{word:032x}" for word in words) + "\n", encoding="ascii")
    run(
        model, "tests.sim.rtl.bench_hbm",
        env={
            "HBM_TIMING": str(sum(int(value) << 16 * at for at, value in enumerate(parameters))),
            "HBM_COUNT": str(len(requests)), "HBM_CYCLES": str(cycles),
        },
        plusargs=[f"+requests={folder / 'requests.hex'}", f"+commands={folder / 'commands.txt'}"],
        seed=1, timeout_s=200,
    )  # fmt: skip
    lines = (folder / "commands.txt").read_text(encoding="ascii").splitlines()
    return [tuple(int(word) if word.isdigit() else -1 for word in line.split()) for line in lines]


def test_both_have_the_same_sizes():
    """What the Verilog cannot import."""
    channel = (RTL / "hbm_channel.v").read_text(encoding="ascii")
    for name, value in (
        ("FIELDS", len(FIELDS)), ("WINDOW", WINDOW), ("LEAD", LEAD), ("QUEUE_BITS", DEPTH.bit_length() - 1),
    ):  # fmt: skip
        assert f"parameter {name} = {value}" in channel
    assert f"[16*{len(FIELDS)}-1:0]" in (RTL / "axi_memory.v").read_text(encoding="ascii")


def shown(commands):
    """Return what says something of each cycle: fields of a command that is not given mean nothing."""
    return [(one[0], one[1:6] if one[1] else None, one[6:] if one[6] else None) for one in commands]


@pytest.mark.parametrize(
    ("kind", "timing", "mhz", "mapping"),
    [
        ("random", HBM3, 800.0, MAPPINGS[0]), ("random", HBM3, 1600.0, MAPPINGS[1]),
        ("random", HBM2, 1000.0, MAPPINGS[2]),
        ("stream", HBM3, 800.0, MAPPINGS[0]), ("stream", HBM3, 800.0, MAPPINGS[1]),
    ],
)  # fmt: skip
def test_the_commands_are_those_of_the_specification(kind, timing, mhz, mapping, tmp_path, simulator):
    parameters = parameters_of(dataclasses.replace(timing, mapping=mapping), mhz)
    requests = drawn(random.Random(f"{kind} {mapping} {mhz}"), kind, 200 if kind == "random" else 300)
    wanted = list(commands_of(parameters, requests, 300))
    found = replayed(simulator, parameters, requests, tmp_path, wanted[-1][0] + 2)
    assert len(wanted) > 1000
    assert shown(found[: len(wanted)]) == shown(wanted)
