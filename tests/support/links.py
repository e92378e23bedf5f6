# SPDX-License-Identifier: Apache-2.0
"""Words that a stream moves beside counters: the executor's, or those of the simulated machine."""

from collections.abc import Mapping

from hdl.config import INSTRUCTION_BYTES, MachineConfig
from hdl.isa import Opcode
from scheduler.cost.links import LinkWords
from scheduler.cost.slots import EXPERT, HIGH_ONLY
from sim.golden.executor import Executor
from sim.stimulus.streams import RandomStream

__all__ = ["compare_words", "counted"]


def counted(stream: RandomStream) -> tuple[dict[str, int], list[list[int]]]:
    """Return the executor's counters, and what the slots hold after each ROUTE."""
    executor, counts = Executor(stream.config, stream.images, stream.limits), []
    for pc, instruction in enumerate(stream.instructions):
        start = stream.stream_base + INSTRUCTION_BYTES * pc
        executor.step(bytes(stream.images[0][start : start + INSTRUCTION_BYTES]), pc)
        if instruction.opcode == Opcode.ROUTE:
            first = instruction["slot_base"]
            slots = executor.slots[first : first + instruction["experts"]]
            counts.append((slots[:, 0] + slots[:, 3] * HIGH_ONLY + slots[:, 2] * EXPERT).tolist())
    return dict(executor.counters), counts


def compare_words(config: MachineConfig, words: LinkWords, counters: Mapping[str, int]) -> None:
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
