# SPDX-License-Identifier: Apache-2.0
"""Held-out text in the batches that a machine decodes: windows run in lockstep and share each expert's precision.

Position t of `batch` windows is one decode step. Given the text, all steps are known, so that they are computed side by
side, layer by layer: only the decision about the experts looks at each step alone. Results are those of
`IntegerModel.step`, one step after the other.
"""

from __future__ import annotations

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
    """The decision about some windows, and what it loads."""

    def __init__(self, policy: Policy, windows: int, length: int, batch: int) -> None:
        sequence, position = np.divmod(np.arange(windows * length), length)
        self.step = sequence // batch * length + position
        self.steps = -(-windows // batch) * length
        self.policy, self.planes, self.all_planes = policy, 0, 0

    def __call__(self, layer: int, routing: Routing, experts: int) -> Int:
        keyed = Routing(experts=routing.experts + experts * self.step[:, None], gates=routing.gates)
        found = self.policy(layer, keyed, experts, self.steps * experts)
        loaded = np.bincount(keyed.experts.reshape(-1), minlength=found.size) > 0
        self.planes += int(found[loaded].sum())  # a number of `Precision` is the planes that are loaded
        self.all_planes += int(Precision.FULL) * int(loaded.sum())
        chosen: Int = found[keyed.experts]
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
    steps : int
    planes, all_planes : int
        Planes of experts that were loaded, and that there are of all experts that a token of a step chose.
    """

    result: StepResult
    step: Int
    steps: int
    planes: int
    all_planes: int


@dataclass(frozen=True, eq=False)
class LockstepResult:
    """What a policy costs and saves.

    Attributes
    ----------
    losses : float array [windows, length]
        Bits of each byte.
    logits : int16 array [windows, length, vocab]
    saved : float
        Part of the experts' weights that was not read: of what both planes of every chosen expert are, once a step.
    """

    losses: npt.NDArray[np.float64]
    logits: npt.NDArray[np.int16]
    saved: float


def run_windows(model: IntegerModel, tokens: Int, batch: int, policy: Policy, *, trace: bool = False) -> LockstepRun:
    """Run windows [windows, length]; the first `batch` of them decode together, then the next."""
    length = tokens.shape[1]
    groups = _Groups(policy, len(tokens), length, batch)
    result = model.run([(model.new_cache(length), own) for own in tokens], groups, trace=trace)
    return LockstepRun(result, groups.step, groups.steps, groups.planes, groups.all_planes)


def chunks(windows: Int, batch: int) -> list[Int]:
    """Return windows in parts that are computed side by side."""
    size = max(1, SEQUENCES // batch) * batch
    return [windows[i : i + size] for i in range(0, len(windows), size)]


def lockstep(model: IntegerModel, windows: Int, batch: int, policy: Policy) -> LockstepResult:
    """Return what a policy makes of text.

    Parameters
    ----------
    model : IntegerModel
    windows : int array [windows, length + 1]
        Text; the last token is predicted only.
    batch : int
        Windows that decode together; the last batch may have fewer.
    policy : Policy
    """
    losses, logits, planes, everything = [], [], 0, 0
    for part in chunks(windows, batch):
        run = run_windows(model, part[:, :-1], batch, policy)
        own = run.result.logits.reshape(*part[:, 1:].shape, -1)
        logits.append(own)
        losses.append(byte_losses(own * np.float64(model.model.logit_scale), part[:, 1:]))
        planes, everything = planes + run.planes, everything + run.all_planes
    saved = 1 - planes / everything if everything else 0.0
    return LockstepResult(np.concatenate(losses).astype(np.float64), np.concatenate(logits), saved)
