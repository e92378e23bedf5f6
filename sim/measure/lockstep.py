# SPDX-License-Identifier: Apache-2.0
"""Held-out text in the batches that a machine decodes: windows run in lockstep and share each expert's precision.

Position t of `batch` windows is one decode step. Given the text, all steps are known, so that they are computed side by
side, layer by layer: only the decision about the experts looks at each step alone. Results are those of
`IntegerModel.step`, one step after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hdl.numerics.precision import ALL_FULL, Precision, Thresholds, precisions
from scheduler.models.float_model import byte_losses
from scheduler.ops.batch import Routing
from sim.golden.integer_model import IntegerModel, StepResult

__all__ = [
    "ByThresholds", "Chances", "Everything", "LockstepResult", "LockstepRun", "Policy", "chunks", "lockstep",
    "run_windows",
]  # fmt: skip

Int = npt.NDArray[np.int64]
SEQUENCES = 16
"""Windows that are computed side by side, or one batch if that is more; results do not depend on it."""


class Policy(Protocol):
    """Decides what is loaded."""

    def __call__(self, layer: int, routing: Routing, experts: int, keys: int) -> Int:
        """Return numbers of `Precision` [keys].

        Parameters
        ----------
        layer : int
        routing : Routing
            Of many steps: expert e of step s is called ``s * experts + e``.
        experts : int
            Experts of the layer.
        keys : int
            Steps times experts.
        """


@dataclass(frozen=True)
class Everything:
    """All experts at one precision."""

    precision: Precision = Precision.FULL

    def __call__(self, layer: int, routing: Routing, experts: int, keys: int) -> Int:
        """Return numbers of `Precision`."""
        return np.full(keys, self.precision, dtype=np.int64)


@dataclass(frozen=True)
class ByThresholds:
    """From the scores, as the machine decides."""

    thresholds: tuple[Thresholds | None, ...]

    def __call__(self, layer: int, routing: Routing, experts: int, keys: int) -> Int:
        """Return numbers of `Precision`."""
        return precisions(routing.experts, routing.gates, keys, self.thresholds[layer] or ALL_FULL)


@dataclass(frozen=True, eq=False)
class Chances:
    """Without the scores: each expert is loaded without its low plane with a chance of its own.

    Attributes
    ----------
    chance : float array [layers, experts]
        0 to 1.
    generator : numpy Generator
    """

    chance: npt.NDArray[np.float64]
    generator: np.random.Generator

    def __call__(self, layer: int, routing: Routing, experts: int, keys: int) -> Int:
        """Return numbers of `Precision`."""
        high = self.generator.random((keys // experts, experts)) < self.chance[layer, :experts]
        return np.where(high, Precision.HIGH, Precision.FULL).astype(np.int64).reshape(-1)


class _Groups:
    """The decision about some windows, and what it loads in batches of some sizes."""

    def __init__(self, policy: Policy, windows: int, length: int, batch: int, counted: Sequence[int]) -> None:
        self.policy, self.length = policy, length
        self.sequence, self.position = np.divmod(np.arange(windows * length), length)
        self.step = self.step_of(batch)
        self.planes, self.loads = dict.fromkeys(counted, 0), dict.fromkeys(counted, 0)

    def step_of(self, batch: int) -> Int:
        """Return the step of each token."""
        steps: Int = self.sequence // batch * self.length + self.position
        return steps

    def __call__(self, layer: int, routing: Routing, experts: int) -> Int:
        keyed = Routing(experts=routing.experts + experts * self.step[:, None], gates=routing.gates)
        keys = experts * (int(self.step.max()) + 1)
        chosen: Int = self.policy(layer, keyed, experts, keys)[keyed.experts]
        for batch in self.planes:
            # A number of `Precision` is the planes that are loaded; a load serves all tokens of its step.
            own = routing.experts + experts * self.step_of(batch)[:, None]
            planes = np.zeros(int(own.max()) + 1, dtype=np.int64)
            np.maximum.at(planes, own, chosen)
            self.planes[batch] += int(planes.sum())
            self.loads[batch] += int((np.bincount(own.reshape(-1)) > 0).sum())
        return chosen


@dataclass(frozen=True, eq=False)
class LockstepRun:
    """Some windows side by side.

    Attributes
    ----------
    result : StepResult
        Tokens of the first window, then of the second, and so on; `precision` is the most that any step loads.
    step : int array [tokens]
        Which step each token is of.
    planes, loads : dict of int by batch
        Planes of experts that were loaded, and experts that a token of a step chose, in batches of each size.
    """

    result: StepResult
    step: Int
    planes: dict[int, int]
    loads: dict[int, int]


@dataclass(frozen=True, eq=False)
class LockstepResult:
    """What a policy costs and saves.

    Attributes
    ----------
    losses : float array [windows, length]
        Bits of each byte.
    logits : int16 array [windows, length, vocab]
    saved : dict of float by batch
        Part of the experts' weights that was not read: of what both planes of every chosen expert are, once a step. In
        batches of other sizes than the one that decides, a load is as large as the token needs that needs most.
    """

    losses: npt.NDArray[np.float64]
    logits: npt.NDArray[np.int16]
    saved: dict[int, float]


def run_windows(
    model: IntegerModel, tokens: Int, batch: int, policy: Policy, *, counted: Sequence[int] = (), trace: bool = False
) -> LockstepRun:
    """Run windows [windows, length]; the first `batch` of them decode together, then the next."""
    length = tokens.shape[1]
    groups = _Groups(policy, len(tokens), length, batch, counted)
    result = model.run([(model.new_cache(length), own) for own in tokens], groups, trace=trace)
    return LockstepRun(result, groups.step, groups.planes, groups.loads)


def chunks(windows: Int, batch: int) -> list[Int]:
    """Return windows in parts that are computed side by side: whole batches, but for the last."""
    size = -(-SEQUENCES // batch) * batch
    return [windows[i : i + size] for i in range(0, len(windows), size)]


def lockstep(
    model: IntegerModel, windows: Int, batch: int, policy: Policy, *, counted: Sequence[int] = ()
) -> LockstepResult:
    """Return what a policy makes of text.

    Parameters
    ----------
    model : IntegerModel
    windows : int array [windows, length + 1]
        Text; the last token is predicted only.
    batch : int
        Windows that decode together and share each expert's precision; the last batch may have fewer.
    policy : Policy
    counted : sequence of int, optional
        Other sizes of batches for which the loads are counted.
    """
    counted = sorted({batch, *counted})
    losses, logits, planes, loads = [], [], dict.fromkeys(counted, 0), dict.fromkeys(counted, 0)
    for part in chunks(windows, math.lcm(*counted)):
        run = run_windows(model, part[:, :-1], batch, policy, counted=counted)
        own = run.result.logits.reshape(*part[:, 1:].shape, -1)
        logits.append(own)
        losses.append(byte_losses(own * np.float64(model.model.logit_scale), part[:, 1:]))
        for size in counted:
            planes[size] += run.planes[size]
            loads[size] += run.loads[size]
    saved = {n: 1 - planes[n] / (int(Precision.FULL) * loads[n]) if loads[n] else 0.0 for n in counted}
    return LockstepResult(np.concatenate(losses).astype(np.float64), np.concatenate(logits), saved)
