# SPDX-License-Identifier: Apache-2.0
"""Steps of serving on the RTL by each policy of the planner: cycles beside the three bounds of the compulsory work.

What is cached is all zeros but for what earlier steps wrote: no cycle depends on data. New tokens are held-out text, so
that the routing is the model's own. The same step runs by every policy, and each time the memories of the machine and
of the executor are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hdl.errors import A3dError, CheckError
from hdl.scratch import whole_file
from scheduler.cost.model import simulate
from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import constants_of
from scheduler.ops.batch import Chunk, Routing
from scheduler.ops.graph import step_operations
from scheduler.plan.estimate import roofline
from scheduler.plan.policy import POLICIES
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import lower_step
from scheduler.stream.parts import default_key_block
from scheduler.stream.step_program import StepProgram
from scheduler.system import SystemConfig
from sim.golden.integer_model import IntegerModel, StepResult
from sim.machine.byte_model import read_byte_model
from sim.machine.engines import Outcome, RtlEngine, simulated_memory_bits
from sim.machine.generator import ROUTINGS
from sim.machine.system import SimulatedMachine
from sim.view.report import stalls_of

__all__ = ["CASES", "Case", "FusionBench", "draw"]

STEP_BYTES = 1 << 20
LAST = "fused"
"""The policy whose stalls are reported."""


@dataclass(frozen=True)
class Case:
    """A step.

    Attributes
    ----------
    prefill : int
        New tokens of a sequence that begins.
    decode : int
        Sequences that get one token.
    keys : (int, int)
        Fewest and most tokens that these have cached.
    """

    prefill: int
    decode: int
    keys: tuple[int, int]

    @property
    def name(self) -> str:
        """Such as ``96 + 16, 180-220 keys``."""
        keys = f", {self.keys[0]}-{self.keys[1]} keys" if self.decode else ""
        return f"{self.prefill} + {self.decode}{keys}"


CASES = (
    Case(96, 16, (180, 220)), Case(96, 32, (60, 100)), Case(64, 32, (180, 220)), Case(128, 0, (0, 0)),
    Case(0, 8, (24, 64)), Case(0, 32, (24, 64)),
)  # fmt: skip


class FusionBench:
    """Runs the steps.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    config : MachineConfig
        The machine.
    cases : sequence of Case
    routings : sequence of str
        Of ``sim.machine.generator.ROUTINGS``.
    policies : sequence of str
        Of ``scheduler.plan.policy.POLICIES``.
    announce : callable, optional
        Called before a simulator is compiled.

    Raises
    ------
    A3dError
        A model, or a step, that the machine cannot run.
    """

    def __init__(
        self,
        folder: Path,
        system: SystemConfig,
        *,
        cases: Sequence[Case] = CASES,
        routings: Sequence[str] = ROUTINGS,
        policies: Sequence[str],
        announce: Callable[[], None] | None = None,
    ) -> None:
        config = system.machine
        model = read_byte_model(folder, config)
        self.system, self.config = system, config
        self.model_name = model.name
        self._cases, self._routings, self._policies = cases, routings, policies
        self._announce = announce
        tiling = Tiling(config, model.model.description)
        self._constants = constants_of(model.model)
        longest = max(max(case.prefill, case.keys[1] + 1) for case in cases)
        if longest > model.model.description.context:
            raise A3dError(f"{folder}: a context of {model.model.description.context}; the steps need {longest}")
        self._memory = ModelMemory(
            plan_residence(tiling), Weights(model.model, tiling), sequences=1 + max(case.decode for case in cases),
            context=longest, step_bytes=STEP_BYTES,
        )  # fmt: skip
        self._block = default_key_block(tiling, model.model.key_block)
        self._integer = IntegerModel(model.model, key_block=self._block)
        self._caches = [self._integer.new_cache(longest) for _ in range(self._memory.sequences)]
        self._text = model.text.reshape(-1)
        self._points: list[dict[str, Any]] = []
        self._compared = self._wrong = 0

    @property
    def total(self) -> int:
        """Runs of steps."""
        return len(self._cases) * len(self._routings) * len(self._policies)

    def run(self) -> Iterator[None]:
        """Run everything; yields after each run of a step.

        Raises
        ------
        CheckError
            The machine's bytes or logits are not those expected.
        """
        bits = simulated_memory_bits(self._memory)
        machine = SimulatedMachine(self.config, memory_bits=bits, announce=self._announce)
        with RtlEngine(self.config, machine=machine, timing=self.system.memory) as engine:
            engine.start(self._memory)
            for case in self._cases:
                chunks = self._chunks(case)
                expected = self._expected(chunks)
                for routing in self._routings:
                    for policy in self._policies:
                        program = self._lower(chunks, expected.routing, routing, policy)
                        outcome = engine.run(program)
                        if not np.array_equal(outcome.logits, expected.last_logits):
                            raise CheckError(
                                f"{case.name}, {routing}, {policy}: logits differ from the integer model's"
                            )
                        self._note(case, routing, policy, chunks, expected, program, outcome)
                        yield

    def _chunks(self, case: Case) -> list[Chunk]:
        """Return the new tokens of a step: the text goes on from sequence to sequence."""
        lengths = np.linspace(case.keys[1], case.keys[0], case.decode).round().astype(int).tolist()
        chunks, used = [], 0
        for slot, (position, count) in enumerate([(0, case.prefill)] * bool(case.prefill) + [(n, 1) for n in lengths]):
            chunks.append(Chunk(slot, position, tuple(self._text[used : used + count].tolist())))
            used += count
        return chunks

    def _expected(self, chunks: Sequence[Chunk]) -> StepResult:
        for cache, chunk in zip(self._caches, chunks, strict=False):
            cache.length = chunk.position
        return self._integer.step([(self._caches[chunk.sequence], chunk.tokens) for chunk in chunks])

    def _lower(
        self, chunks: Sequence[Chunk], known: Sequence[Routing], routing: str, policy: str
    ) -> StepProgram:  # fmt: skip
        own = None if routing == "slots" else known
        chooser = Chooser(replace(POLICIES[policy], residency=False), self.system.memory)
        return lower_step(self._constants, self._memory, chunks, own, key_block=self._block, chooser=chooser)

    def _note(
        self, case: Case, routing: str, policy: str, chunks: Sequence[Chunk], expected: StepResult,
        program: StepProgram, outcome: Outcome,
    ) -> None:  # fmt: skip
        operations = step_operations(program.tiling.model, chunks, expected.routing)
        line = roofline(operations, program.places)
        counts = program.slot_counts(expected.routing) if routing == "slots" else []
        assert outcome.cycles is not None
        self._compared += outcome.compared_bytes
        self._wrong += outcome.mismatched_bytes
        self._points.append({
            "case": case.name, "prefill": case.prefill, "decode": case.decode, "keys": list(case.keys),
            "routing": routing, "policy": policy, "plan": str(program.plan), "cycles": outcome.cycles,
            "model_cycles": simulate(
                self.config, program.table, memory=self.system.memory, slot_counts=counts,
                stream_base=program.stream_base,
            ).cycles,
            "compute_cycles": line.compute, "memory_cycles": line.memory, "vector_cycles": line.vector,
            "bound": line.bound, "roofline_fraction": line.cycles / outcome.cycles,
            "instructions": len(program.table),
            "stalls": stalls_of(self.config, outcome.counters) if policy == LAST else {},
        })  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures: list ``points``, with the cycles of the sequential plan beside each."""
        first = {
            (p["case"], p["routing"]): p["cycles"] for p in self._points if p["policy"] == "sequential"
        }  # fmt: skip
        for point in self._points:
            sequential = first.get((point["case"], point["routing"]))
            point["speedup"] = None if sequential is None else sequential / point["cycles"]
        errors = [abs(p["model_cycles"] / p["cycles"] - 1) for p in self._points]
        return {
            "config": self.config.to_dict(), "memory": self.system.memory.to_dict(), "model": self.model_name,
            "points": self._points,
            "compared_bytes": self._compared, "mismatched_bytes": self._wrong,
            "mean_error": float(np.mean(errors)), "worst_error": max(errors),
        }  # fmt: skip


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the part of the roofline that each step reaches, policy beside policy."""
    from matplotlib.figure import Figure

    points = result["points"]
    routings = list(dict.fromkeys(p["routing"] for p in points))
    policies = list(dict.fromkeys(p["policy"] for p in points))
    cases = list(dict.fromkeys(p["case"] for p in points))
    figure = Figure(figsize=(1.6 * len(cases) + 3, 3.2 * len(routings) + 0.6), layout="constrained")
    width = 0.8 / len(policies)
    for place, routing in enumerate(routings):
        axis = figure.add_subplot(len(routings), 1, place + 1)
        for number, policy in enumerate(policies):
            own = {
                p["case"]: p["roofline_fraction"] for p in points if (p["routing"], p["policy"]) == (routing, policy)
            }
            at = np.arange(len(cases)) + (number - (len(policies) - 1) / 2) * width
            axis.bar(at, [own.get(case, 0.0) for case in cases], width, label=policy)
        axis.set_xticks(np.arange(len(cases)), cases, fontsize=8)
        axis.set_ylabel("roofline / cycles")
        axis.set_ylim(0, 1)
        axis.grid(axis="y", alpha=0.3)
        axis.set_title(f"routing {routing}", fontsize=10)
    axis.legend(fontsize=8, ncols=len(policies), loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.suptitle(f"Steps of the {result['model']} model on {result['config']['name']}, RTL simulation")
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
