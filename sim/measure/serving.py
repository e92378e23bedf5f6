# SPDX-License-Identifier: Apache-2.0
"""A long prompt comes while other sequences decode: how long these wait for their tokens, by each way of batching.

Every case begins alike: the prompts of the sequences that decode are prefilled, all of them before any decodes. Then
its own policy takes over; some steps later the long prompt comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hdl.errors import A3dError, CheckError
from hdl.scratch import whole_file
from scheduler.models.quantised_model import QuantisedModel
from scheduler.serving.batching import check_batching
from scheduler.serving.request import Request, check_requests
from scheduler.system import SystemConfig
from sim.machine.byte_model import read_byte_model
from sim.machine.engines import RtlEngine, simulated_memory_bits
from sim.machine.generator import Generator
from sim.machine.system import SimulatedMachine
from sim.view.report import Tally, between_tokens
from sim.view.tokens import PHASE_COLOURS

__all__ = ["CASES", "Case", "ServingBench", "cases_of", "draw"]

LONG_TOKENS = 8
"""New tokens of the long prompt."""

BEFORE = 4
"""Steps by a case's own policy before the long prompt comes."""

ALONE = BEFORE + 3
"""Tokens of a sequence before it shares a step with the long prompt: in its own prompt's step, in the one from which on
all decode, in those before the long prompt comes, and in the one in which it comes."""


@dataclass(frozen=True)
class Case:
    """A way of batching.

    Attributes
    ----------
    batching : str
        One of ``scheduler.serving.batching.BATCHINGS``.
    step_tokens : int
        Most new tokens of a step.
    """

    batching: str
    step_tokens: int

    @property
    def name(self) -> str:
        """Such as ``mixed, 64 tokens a step``."""
        return f"{self.batching}, {self.step_tokens} tokens a step"


def cases_of(step_tokens: Sequence[int]) -> list[Case]:
    """Return the cases: decoding stops for the prompt, and steps are mixed with at most so many tokens."""
    return [Case("prefill-first", max(step_tokens)), *(Case("mixed", most) for most in step_tokens)]


CASES = tuple(cases_of((128, 64, 32)))


class ServingBench:
    """Runs the cases; every byte of every step is compared with the executor.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    system : SystemConfig
    cases : sequence of Case
    decode : int
        Sequences that decode.
    lengths : (int, int)
        Shortest and longest of their prompts, in held-out bytes.
    tokens : int
        New tokens of each.
    prompt : int
        Tokens of the long prompt.
    routing : str
        One of ``sim.machine.generator.ROUTINGS``.
    announce : callable, optional
        Called before a simulator is compiled.

    Attributes
    ----------
    total : int
        Tokens that are generated.

    Raises
    ------
    A3dError
        A model or a batch that the machine cannot run; too few tokens to decode beside the whole long prompt.
    """

    def __init__(
        self,
        folder: Path,
        system: SystemConfig,
        *,
        cases: Sequence[Case] = CASES,
        decode: int = 16,
        lengths: tuple[int, int] = (40, 60),
        tokens: int = 24,
        prompt: int = 128,
        routing: str = "slots",
        announce: Callable[[], None] | None = None,
    ) -> None:
        for case in cases:
            check_batching(case.batching, case.step_tokens, decode + 1)
            steps = 1 if case.batching == "prefill-first" else -(-prompt // (case.step_tokens - decode))
            least = ALONE + steps
            if tokens < least:
                raise A3dError(
                    f"--tokens {tokens}: {case.name}, the others would be through before the long prompt is; use "
                    f"{least} or more"
                )
        self.system, self.config = system, system.machine
        self._cases, self._tokens, self._routing = cases, tokens, routing
        self._announce = announce
        model = read_byte_model(folder, self.config)
        windows, size = model.text.shape
        if decode >= windows or max(prompt, *lengths) > size:
            raise A3dError(
                f"{folder}: {windows} held-out excerpts of {size} bytes; the bench takes {decode + 1} of up to "
                f"{max(prompt, *lengths)}: use a model with a longer heldout.txt"
            )
        self.model_name = model.name
        self._model: QuantisedModel = model.model
        self._prompts = model.excerpts(decode, *lengths)
        self._long = tuple(model.text[-1, :prompt].tolist())  # the last excerpt is none of those
        description = self._model.description
        check_requests([Request(decode, self._long, LONG_TOKENS)], description.vocabulary, description.context)
        self._generators = [self._generator() for _ in cases]
        self.total = len(cases) * (decode * tokens + LONG_TOKENS)
        self._points: list[dict[str, Any]] = []
        self._compared = self._wrong = 0

    def _generator(self) -> Generator:
        return Generator(
            self._model, self.config, self._prompts, self._tokens, batch=len(self._prompts) + 1,
            routing=self._routing, policy=self.system.policy, timing=self.system.memory,
        )  # fmt: skip

    def run(self) -> Iterator[None]:
        """Run everything; yields for every token that is generated.

        Raises
        ------
        MismatchError
            The machine and the executor differ.
        CheckError
            A sequence's tokens are not the same in all cases.
        """
        bits = max(simulated_memory_bits(generator.memory) for generator in self._generators)
        machine = SimulatedMachine(self.config, memory_bits=bits, announce=self._announce)
        for case, generator in zip(self._cases, self._generators, strict=True):
            with RtlEngine(self.config, machine=machine, timing=self.system.memory) as engine:
                engine.start(generator.memory)
                yield from self._run(case, generator, engine)

    def _run(self, case: Case, generator: Generator, engine: RtlEngine) -> Iterator[None]:
        tally = Tally(generator, engine.name)
        begin, steps, arrival = None, 0, None
        for record in generator.run(engine):
            tally.add(record)
            yield from [None] * len(record.chosen)
            end = record.start + (record.cycles or 0)
            if begin is None:
                if record.phase == "decode":  # from here on all of them decode, and got their last token in this step
                    begin = end
                    generator.batcher.change(case.batching, case.step_tokens)
            elif arrival is None:
                steps += 1
                if steps == BEFORE:  # in the middle of the next step, which is about as long as this one
                    arrival = end + (record.cycles or 0) // 2
                    generator.submit(self._long, LONG_TOKENS, arrival)
        assert begin is not None and arrival is not None
        self._note(case, tally.report(), begin, arrival)

    def _note(self, case: Case, report: dict[str, Any], begin: int, arrival: int) -> None:
        *short, long = report["sequences"]
        tokens = [own["tokens"] for own in report["sequences"]]
        if self._points and tokens != self._points[0]["tokens"]:
            raise CheckError(f"{case.name}: other tokens than {self._points[0]['case']}; batching must not change them")
        self._compared += report["compared_bytes"]
        self._wrong += report["mismatched_bytes"]
        times = [[cycle for cycle in own["token_cycles"] if cycle >= begin] for own in short]
        many = sum(len(own) - 1 for own in times) + len(long["tokens"])
        cycles = report["end_cycle"] - begin
        self._points.append({
            "case": case.name, "batching": case.batching, "step_tokens": case.step_tokens,
            "between_tokens": between_tokens(times), "ttft_cycles": long["ttft_cycles"], "cycles": cycles,
            "new_tokens": many, "tokens_per_million_cycles": 1e6 * many / cycles,
            "begin": begin, "arrival": arrival, "first_token": arrival + long["ttft_cycles"],
            "waits": [[after, after - before] for own in times for before, after in pairwise(own)],
            "steps": [
                {key: step[key] for key in ("phase", "tokens", "start", "cycles")}
                for step in report["steps"]
                if step["start"] >= begin
            ],
            "tokens": tokens,
        })  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures.

        Returns
        -------
        dict
            ``config, system, model, routing, decode`` (sequences), ``prompt`` (tokens of the long one),
            ``compared_bytes, mismatched_bytes``, and of each case in ``points``

            ``between_tokens``
                ``p50, p95, max`` of the cycles from token to token of the sequences that decode, from the step on in
                which all of them do.
            ``ttft_cycles``
                From the arrival of the long prompt to its first token.
            ``cycles, new_tokens, tokens_per_million_cycles``
                From that step's end to the end of all.
            ``begin, arrival, first_token``
                The machine's clock when that step ended, and when the long prompt came and got its first token.
            ``waits``
                When each token came, and how long after the one before.
            ``steps, tokens``
                What ran when, and the tokens of all sequences, the same in all cases.
        """
        return {
            "config": self.config.to_dict(), "system": self.system.to_dict(), "model": self.model_name,
            "routing": self._routing, "decode": len(self._prompts), "prompt": len(self._long), "points": self._points,
            "compared_bytes": self._compared, "mismatched_bytes": self._wrong,
        }  # fmt: skip


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw how long the tokens of the sequences that decode took, all cases on the same axes, and the cases' steps."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    points = result["points"]
    figure = Figure(figsize=(11, 4.6 + 0.55 * len(points)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.0, 0.5 * len(points)))
    for number, point in enumerate(points):
        # The sequences share their steps, so that their waits mostly lie on each other.
        at, cycles = zip(*sorted(point["waits"]), strict=True)
        colour, origin = f"C{number + 3}", point["arrival"]
        times = point["between_tokens"]
        above.plot(
            [cycle - origin for cycle in at], cycles, color=colour, marker="o", markersize=3.5, linewidth=1,
            label=f"{point['case']}: p50 {times['p50']:,.0f}, p95 {times['p95']:,.0f}, max {times['max']:,.0f}",
        )  # fmt: skip
        for phase, shade in PHASE_COLOURS.items():
            spans = [(s["start"] - origin, s["cycles"]) for s in point["steps"] if s["phase"] == phase]
            below.broken_barh(spans, (number + 0.1, 0.8), facecolors=shade, edgecolors="white", linewidth=0.6)
        below.plot(point["ttft_cycles"], number + 0.5, "o", color="black", markersize=5)
        below.text(point["ttft_cycles"], number + 0.5, f"  {point['ttft_cycles']:,}", fontsize=8, va="center")
    for axes in (above, below):
        axes.axvline(0, color="black", linewidth=1, linestyle=(0, (4, 3)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    above.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    above.set(ylim=(0, None), ylabel="cycles since the token before")
    above.grid(axis="y", alpha=0.3)
    above.legend(fontsize=9)
    below.set(ylim=(len(points), 0), xlabel="clock cycles from the arrival of the long prompt")
    below.set_yticks([number + 0.5 for number in range(len(points))], [point["case"] for point in points], fontsize=8)
    handles: list[Any] = [Patch(color=colour, label=f"{phase} step") for phase, colour in PHASE_COLOURS.items()]
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label="the long prompt comes"))
    handles.append(Line2D([], [], color="black", marker="o", linestyle="", label="its first token"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    figure.suptitle(
        f"Tokens of {result['decode']} sequences that decode while a prompt of {result['prompt']} tokens comes: "
        f"{result['model']} model on {result['config']['name']}, RTL simulation", fontsize=11,
    )  # fmt: skip
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
