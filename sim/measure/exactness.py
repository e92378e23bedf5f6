# SPDX-License-Identifier: Apache-2.0
"""The RTL against the executor over a long run of the language model: each byte after each step."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hdl.errors import A3dError
from scheduler.system import SystemConfig
from sim.machine.byte_model import read_byte_model
from sim.machine.engines import RtlEngine
from sim.machine.generator import Generator, StepRecord

__all__ = ["ExactnessBench"]

PHASES = ("prefill", "decode")
"""Kinds of steps that occur: prompts come first, so that no step has both."""


class ExactnessBench:
    """Runs a batch of excerpts of different lengths and compares both memories after every step.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    system : SystemConfig
    batch : int
        Sequences.
    prefill : int
        Least number of held-out tokens in all prompts together.
    steps : int
        Decode steps.
    routing : str
        One of ``sim.machine.generator.ROUTINGS``.
    announce : callable, optional
        Called before a simulator is compiled.

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
        self,
        folder: Path,
        system: SystemConfig,
        *,
        batch: int,
        prefill: int,
        steps: int,
        routing: str = "slots",
        announce: Callable[[], None] | None = None,
    ) -> None:
        config = system.machine
        model = read_byte_model(folder, config)
        mean = -(-prefill // max(1, batch))
        longest = mean + mean // 2 + 1
        windows, size = model.text.shape
        if batch > windows:
            raise A3dError(
                f"--batch {batch}: the held-out text of {folder} has {windows} excerpts; use at most {windows}"
            )
        if longest > size:
            raise A3dError(
                f"--prefill {prefill}: prompts of up to {longest} bytes in a batch of {batch}; excerpts of the held-out"
                f" text have at most {size}: use a smaller number, or a larger --batch"
            )
        prompts = model.excerpts(batch, max(1, mean // 2), longest)
        self.system, self.config = system, config
        self.model_name = model.name
        self._announce = announce
        self.prefill = sum(len(prompt) for prompt in prompts)
        # The step that ends a prompt gives the first token; the others take a decode step each.
        self.generator = Generator(
            model.model, config, prompts, steps + 1, routing=routing, policy=system.policy, timing=system.memory
        )
        self.total = self.prefill + steps * batch
        self._sums: Counter[str] = Counter()
        self._lengths: dict[int, int] = {}
        self._simulated_s = self._wall_s = 0.0

    def run(self) -> Iterator[None]:
        """Run everything; yields once for every token that ran, `total` times.

        Raises
        ------
        MismatchError
            The first differing byte or counter, with the instruction that should have written it.
        """
        with RtlEngine(self.config, announce=self._announce, timing=self.system.memory) as engine:
            engine.start(self.generator.memory)
            for record in self.generator.run(engine):
                self._add(record)
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
        return {
            "config": self.config.to_dict(),
            "system": self.system.to_dict(),
            "model": self.model_name,
            "routing": self.generator.routing,
            "batch": self.generator.batch,
            "mismatched_bytes": self._sums["mismatched_bytes"],
            "compared_bytes": self._sums["compared_bytes"],
            **{f"{phase}_{what}": self._sums[f"{phase}_{what}"] for what in ("tokens", "steps") for phase in PHASES},
            "lengths": [self._lengths[number] for number in sorted(self._lengths)],
            "instructions": self._sums["instructions"],
            "cycles": self._sums["cycles"],
            "simulated_s": self._simulated_s,
            "wall_s": self._wall_s,
        }

    def _add(self, record: StepRecord) -> None:
        self._sums.update(
            {
                "mismatched_bytes": record.mismatched_bytes, "compared_bytes": record.compared_bytes,
                f"{record.phase}_tokens": record.tokens, f"{record.phase}_steps": 1,
                "instructions": record.instructions, "cycles": record.cycles or 0,
            }
        )  # fmt: skip
        self._lengths.update(zip(record.sequences, record.lengths, strict=True))
        self._simulated_s += record.simulated_s
        self._wall_s += record.host_s + record.run_s
