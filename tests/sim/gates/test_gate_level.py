# SPDX-License-Identifier: Apache-2.0
"""The netlist of ECP5 cells in the machine's place: random streams against the executor.

What synthesis makes of the Verilog is so compared with what the Verilog says, memories of every kind included. It has
the timing of the clock and none of the cells.
"""

from __future__ import annotations

import random
import re

import pytest

from sim.machine.system import SimulatedMachine
from sim.measure.crosscheck import check_illegal, check_random, random_knobs
from sim.stimulus.streams import StreamOptions, illegal_streams, random_stream
from tests.support.gates.netlist import CONFIG, MEMORY_BITS, build_bench, make_netlist

EVERYTHING = StreamOptions.everything(slots=True)
STREAMS = 12


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> SimulatedMachine:
    folder = tmp_path_factory.mktemp("gates")
    netlist = make_netlist(folder)
    kinds = set(re.findall(r"^  ([A-Z]\w+) ", netlist.read_text(), flags=re.MULTILINE))
    expected = {"CCU2C", "DP16KD", "LUT4", "MULT18X18D", "TRELLIS_DPR16X4", "TRELLIS_FF"}
    assert kinds == expected, "cells only, and of every kind that the mapping makes"
    return SimulatedMachine(CONFIG, memory_bits=MEMORY_BITS, model=build_bench(netlist, folder))


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_random_streams_on_the_netlist(machine: SimulatedMachine) -> None:
    """Every byte of both memories, and every exact counter, under random stalls."""
    rng = random.Random(1)
    streams = [random_stream(CONFIG, seed, options=EVERYTHING) for seed in range(STREAMS)]
    check_random(machine, streams, [random_knobs(rng) for _ in streams])


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_netlist_stops_and_starts_again(machine: SimulatedMachine) -> None:
    """Some streams with a mistake: code, instruction and address, and the next stream is right."""
    rng = random.Random(2)
    bad = list(illegal_streams(CONFIG, vector=True))[::24]
    check_illegal(machine, bad, random_stream(CONFIG, 5, 10, EVERYTHING), [random_knobs(rng) for _ in bad])
