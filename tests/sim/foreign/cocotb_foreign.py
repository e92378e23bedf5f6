# SPDX-License-Identifier: Apache-2.0
"""cocotb test that `test_foreign_axi.py` runs: random streams on the machine between parts of cocotbext-axi."""

import json
import os
import random
from pathlib import Path
from typing import Any

import cocotb

from sim.golden.executor import Executor
from sim.measure.crosscheck import compare_counters, compare_memory
from sim.stimulus.streams import StreamOptions, random_stream
from tests.support.foreign.machine import CONFIG
from tests.support.foreign.system import ForeignSystem

RATES = (0.0, 0.3, 0.6, 0.9)


@cocotb.test()
async def streams(dut: Any) -> None:
    """Run the streams of A3D_SEEDS one after the other on one machine: every byte, every exact counter."""
    system = ForeignSystem(dut, CONFIG)
    await system.reset()
    said = []
    for seed in json.loads(os.environ["A3D_SEEDS"]):
        stream = random_stream(CONFIG, seed, options=StreamOptions.everything(slots=True))
        executor = Executor(CONFIG, stream.images, stream.limits)
        executor.run(stream.instructions)
        rng = random.Random(seed)
        rates = {channel: rng.choice(RATES) for channel in ("aw", "w", "b", "ar", "r")}
        rates[rng.choice(list(rates))] = max(RATES)
        system.pause(rng, rates)
        system.put(stream.images)
        result = await system.run(stream.stream_base, stream.limits)
        lines = [] if result.done else [f"the machine stopped: {result.error!r} at instruction {result.error_pc}"]
        lines += compare_memory(executor.memory, result)
        lines += compare_counters(CONFIG, dict(executor.counters), result)
        assert not lines, f"stream seed {seed}, pauses {rates}: " + "; ".join(lines)
        counts = {name: result.counters[name] for name in ("cycles", "write_beats_0", "write_beats_1")}
        said.append({"seed": seed, "pauses": rates, **counts})
    Path(os.environ["A3D_SAID"]).write_text(json.dumps(said))
