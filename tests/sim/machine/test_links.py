# SPDX-License-Identifier: Apache-2.0
"""Words that a stream moves, against what the executor counts and against the counters of the simulated machine."""

from collections.abc import Mapping

import pytest

from hdl.config import INSTRUCTION_BYTES, PRESETS, MachineConfig
from hdl.isa import Opcode
from scheduler.cost.links import LinkWords, count_words, link_bytes
from sim.golden.executor import Executor
from sim.machine.system import Job, SimulatedMachine
from sim.stimulus.streams import RandomStream, StreamOptions, random_stream

CONFIGS = [PRESETS["nano"], PRESETS["small"], PRESETS["tiny"].replace(name="edge", stationary_feed="edge")]
SEEDS = range(600, 612)
OPTIONS = StreamOptions.everything(slots=True)


def execute(stream: RandomStream) -> tuple[dict[str, int], list[list[int]]]:
    """Return the executor's counters, and the tokens of the slots after each ROUTE."""
    executor, counts = Executor(stream.config, stream.images, stream.limits), []
    for pc, instruction in enumerate(stream.instructions):
        start = stream.stream_base + INSTRUCTION_BYTES * pc
        executor.step(bytes(stream.images[0][start : start + INSTRUCTION_BYTES]), pc)
        if instruction.opcode == Opcode.ROUTE:
            first = instruction["slot_base"]
            counts.append(executor.slots[first : first + instruction["experts"], 0].tolist())
    return dict(executor.counters), counts


def compare(config: MachineConfig, words: LinkWords, counters: Mapping[str, int]) -> None:
    """Compare all that both count; the counters are the executor's or the machine's."""
    expected = {"fill_words": int(words.fills.sum()), "rows": int(words.rows.sum())}
    for group in range(2):
        expected[f"read_beats_{group}"] = int(words.read_beats[group])
        expected[f"write_beats_{group}"] = int(words.write_beats[group])
    for tier in range(config.tiers):
        expected |= {f"tier{tier}_wave": int(words.waves[tier])}
        expected |= {f"tier{tier}_new_own": int(words.tiles[tier] - words.link_m[tier])}
        expected |= {f"tier{tier}_{link}": int(getattr(words, link)[tier]) for link in ("link_m", "link_n", "link_k")}
    assert {name: counters.get(name, 0) for name in expected} == expected


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_random_streams_move_what_the_executor_counts(config: MachineConfig) -> None:
    routes = 0
    for seed in SEEDS:
        stream = random_stream(config, seed, options=OPTIONS)
        counters, slots = execute(stream)
        compare(config, count_words(config, stream.instructions, slot_counts=slots), counters)
        routes += len(slots)
    assert routes


def test_off_chip_bytes_are_those_of_the_machine() -> None:
    """Reads, writes and fetch on the RTL; the fetch runs ahead past END, but not further than its buffer."""
    config = PRESETS["nano"]
    streams = [random_stream(config, seed, options=OPTIONS) for seed in SEEDS[:4]]
    machine = SimulatedMachine(config, memory_bits=18)
    results = machine.run([Job(images=s.images, stream_base=s.stream_base, limits=s.limits) for s in streams])
    for stream, result in zip(streams, results, strict=True):
        assert result.done
        counters, (_, slots) = result.counters, execute(stream)
        compare(config, count_words(config, stream.instructions, slot_counts=slots), counters)
        own = link_bytes(config, stream.instructions, slot_counts=slots)
        reads, writes = (sum(counters[f"{way}_beats_{g}"] for g in range(2)) for way in ("read", "write"))
        assert own.offchip_by["read"] == reads * config.group_bytes
        assert own.offchip_by["write"] == writes * config.group_bytes
        fetched = counters["fetch_beats"]
        assert 0 <= fetched * config.group_bytes - own.offchip_by["fetch"] <= 512
        counted = link_bytes(config, stream.instructions, slot_counts=slots, fetch_beats=fetched)
        assert counted.offchip == (reads + writes + fetched) * config.group_bytes
