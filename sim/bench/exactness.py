# SPDX-License-Identifier: Apache-2.0
"""The RTL against the executor over a long run of the language model: each byte after each step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from sim.text.engines import RtlEngine
from sim.text.generator import Generator, StepRecord
from sim.text.model import read_byte_model
from sim.text.report import PHASES

__all__ = ["ExactnessBench"]


class ExactnessBench:
    """Runs a batch of excerpts of different lengths and compares both memories after every step.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    config : MachineConfig
        The machine.
    batch : int
        Sequences.
    prefill : int
        Least number of held-out tokens in all prompts together.
    steps : int
        Decode steps.
    routing : str
        One of ``sim.text.generator.ROUTINGS``.

    Attributes
    ----------
    total : int
        Tokens that will run: those of the prompts, and one of each sequence in each decode step.

    Raises
    ------
    A3dError
        A model, a batch or a length that the machine cannot run.
    """

    def __init__(
        self, folder: Path, config: MachineConfig, *, batch: int, prefill: int, steps: int, routing: str = "slots"
    ) -> None:
        model = read_byte_model(folder, config)
        mean = -(-prefill // max(1, batch))
        prompts = model.excerpts(batch, max(1, mean // 2), mean + mean // 2 + 1)
        self.config = config
        self.model_name = model.name
        self.prefill = sum(len(prompt) for prompt in prompts)
        # The step that ends a prompt gives the first token; the others take a decode step each.
        self.generator = Generator(model.model, config, prompts, steps + 1, routing=routing)
        self.total = self.prefill + steps * batch
        self._records: list[StepRecord] = []

    def run(self) -> Iterator[None]:
        """Run everything; yields once for every token that ran, `total` times.

        Raises
        ------
        MismatchError
            The first differing byte or counter, with the instruction that should have written it.
        """
        with RtlEngine(self.config) as engine:
            engine.start(self.generator.memory)
            for record in self.generator.run(engine):
                self._records.append(record)
                yield from itertools.repeat(None, record.tokens)

    def result(self) -> dict[str, Any]:
        """Return the figures.

        Returns
        -------
        dict
            ``mismatched_bytes, compared_bytes`` (both memories after every step), ``batch, prefill_tokens,
            prefill_steps, decode_tokens, decode_steps, lengths`` (of the sequences at the end), ``instructions,
            cycles, simulated_s, wall_s``.
        """
        records = self._records
        steps = {phase: [r for r in records if r.phase == phase] for phase in PHASES}
        lengths = {number: length for r in records for number, length in zip(r.sequences, r.lengths, strict=True)}
        return {
            "config": self.config.to_dict(),
            "model": self.model_name,
            "routing": self.generator.routing,
            "batch": self.generator.batch,
            "mismatched_bytes": sum(r.mismatched_bytes for r in records),
            "compared_bytes": sum(r.compared_bytes for r in records),
            **{f"{phase}_tokens": sum(r.tokens for r in own) for phase, own in steps.items()},
            **{f"{phase}_steps": len(own) for phase, own in steps.items()},
            "lengths": [lengths[number] for number in sorted(lengths)],
            "instructions": sum(r.instructions for r in records),
            "cycles": sum(r.cycles or 0 for r in records),
            "simulated_s": sum(r.simulated_s for r in records),
            "wall_s": sum(r.host_s + r.run_s for r in records),
        }
