# SPDX-License-Identifier: Apache-2.0
"""Finds each layer's thresholds from text: the least predicted error for the bytes that are to be saved.

What it costs to load less of an expert is the error of its output, weighted by the square of its gate, of all tokens of
a step that chose it. A layer's error counts as much as it moves the model's predictions away from those of the float
model, further than the integers do anyway: measured with only that layer loading less. Layers then share the bytes so
that the last byte saved costs each the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.numerics.precision import MAX_IMPORTANCE, Precision, Thresholds, importances
from scheduler.models.quantise import GATE_BITS, QuantisedExpert
from sim.golden.integer_experts import expert_rows
from sim.golden.integer_model import IntegerModel
from sim.measure.lockstep import ByThresholds, Everything, LockstepRun, Policy, chunks, lockstep, run_windows

__all__ = ["LayerLoads", "Prediction", "ThresholdCalibration", "divergence"]

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

_QUANTILES = np.linspace(0, 1, 65)
"""Of the importances that occur: thresholds that are tried."""

_MOST_SKIPPED = 0.7
"""Largest part of the loads that a `skip` which is tried leaves out."""

_MOST_PROBED = 12288
"""About as many tokens tell what a layer's error costs."""

_PROBED = 0.2
"""Part of the loads that is left out to find what a layer's skipped experts cost."""


def divergence(exact: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> Float:
    """Return by how many bits predictions differ from exact ones: Kullback-Leibler, [...].

    Parameters
    ----------
    exact, other : float arrays [..., vocab]
        Logits in natural units.
    """
    p, q = _log_shares(exact), _log_shares(other)
    bits: Float = (np.exp(p) * (p - q)).sum(axis=-1) / math.log(2)
    return bits


def _log_shares(logits: npt.NDArray[np.floating]) -> Float:
    real = logits.astype(np.float64)
    real -= real.max(axis=-1, keepdims=True)
    shares: Float = real - np.log(np.exp(real).sum(axis=-1, keepdims=True))
    return shares


@dataclass(frozen=True, eq=False)
class LayerLoads:
    """All loads of a layer in a text: one for each expert that a step's tokens chose.

    Attributes
    ----------
    expert : int64 array [loads]
    importance : int64 array [loads]
        Sum of the gates.
    first : bool array [loads]
        First choice of any token.
    high, skip : float64 arrays [loads]
        Gate-weighted squared error of the outputs without the low plane, and without the expert.
    """

    expert: Int
    importance: Int
    first: npt.NDArray[np.bool_]
    high: Float
    skip: Float


@dataclass(frozen=True)
class Prediction:
    """Thresholds that were found.

    Attributes
    ----------
    thresholds : tuple of Thresholds or None
        One for each layer; None: it has no experts.
    saved : float
        Part of the experts' weights that is not read, on the calibration text.
    bits : float
        Predicted divergence, bits a token.
    """

    thresholds: tuple[Thresholds | None, ...]
    saved: float
    bits: float


@dataclass(frozen=True, eq=False)
class _Options:
    """Thresholds of one layer that may be chosen: none saves more for less error."""

    thresholds: list[Thresholds]
    planes: Float
    error: Float


class ThresholdCalibration:
    """Finds thresholds for one model.

    Parameters
    ----------
    model : IntegerModel
    tokens : int array [windows, length]
        Calibration text.
    exact : float array [windows, length, vocab]
        The float model's logits for it.

    Raises
    ------
    A3dError
        No tokens, or a model without experts.
    """

    def __init__(self, model: IntegerModel, tokens: npt.ArrayLike, exact: npt.NDArray[np.floating]) -> None:
        self._model = model
        self._tokens = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
        if not self._tokens.size:
            raise A3dError("calibration: no tokens; give at least one sequence")
        self._routed = [n for n, layer in enumerate(model.model.layers) if layer.experts.experts]
        if not self._routed:
            raise A3dError("precision: the model has no experts; thresholds are for mixtures of experts")
        self._stride = max(1, self._tokens.size // _MOST_PROBED)  # between windows that probes run
        self._text = np.concatenate([self._tokens, self._tokens[:, :1]], axis=1)  # what is predicted last is not used
        self._exact = exact
        self._weights = self._sensitivities()

    def find(self, loads: dict[int, LayerLoads], budgets: Sequence[float]) -> dict[float, Prediction]:
        """Return thresholds for each budget, without those for budgets that no thresholds reach.

        Parameters
        ----------
        loads : dict of LayerLoads
            What `loads` returned for the batch.
        budgets : sequence of float
            Least part of the experts' weights that is not read, 0 to 1.

        Returns
        -------
        dict of Prediction by budget
        """
        options = {
            n: _options(own, own.high * self._weights[n][0], own.skip * self._weights[n][1]) for n, own in loads.items()
        }
        total = int(Precision.FULL) * sum(own.importance.size for own in loads.values())
        most = sum(own.planes.max() for own in options.values()) / total
        return {budget: self._spend(options, total, budget) for budget in budgets if budget <= most}

    def _spend(self, options: dict[int, _Options], total: int, budget: float) -> Prediction:
        def choose(price: float) -> dict[int, int]:
            return {n: int(np.argmin(own.error - price * own.planes)) for n, own in options.items()}

        def saved(chosen: dict[int, int]) -> float:
            return float(sum(own.planes[chosen[n]] for n, own in options.items()))

        low, high = 0.0, 1e-12
        while saved(choose(high)) < budget * total and high < 1e12:
            high *= 4
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if saved(choose(middle)) >= budget * total else (middle, high)
        chosen = self._nearer(options, choose(low), choose(high), budget * total)
        layers = range(len(self._model.model.layers))
        found = tuple(options[n].thresholds[chosen[n]] if n in options else None for n in layers)
        error = sum(float(own.error[chosen[n]]) for n, own in options.items())
        return Prediction(found, saved(chosen) / total, error / self._tokens.size)

    def _nearer(
        self, options: dict[int, _Options], below: dict[int, int], above: dict[int, int], needed: float
    ) -> dict[int, int]:
        """Return what saves just enough, between two prices: the cheapest move of one layer, or `above`."""

        def error(chosen: dict[int, int]) -> float:
            return float(sum(own.error[chosen[n]] for n, own in options.items()))

        best = above
        planes = sum(options[n].planes[i] for n, i in below.items())
        for n, own in options.items():
            enough = np.flatnonzero(own.planes + planes - own.planes[below[n]] >= needed)
            if enough.size:
                moved = {**below, n: int(enough[np.argmin(own.error[enough])])}
                best = min(best, moved, key=error)
        return best

    def _sensitivities(self) -> dict[int, tuple[float, float]]:
        """Return the bits of divergence for one unit of error of a layer, without low planes and without experts."""
        anyway = self._divergence(Everything())
        found = {}
        for number, own in self.loads(1, self._stride).items():
            least = int(np.quantile(own.importance, _PROBED))
            skipped = own.importance < least
            probes = (
                (Thresholds(full=MAX_IMPORTANCE), float(own.high.sum())),
                (Thresholds(full=least, skip=least), float(own.skip[skipped].sum())),
            )
            moved = [self._divergence(self._in_one(number, probe)) - anyway for probe, _ in probes]
            bits = [max(m, 0.0) / error if error > 0 else 0.0 for m, (_, error) in zip(moved, probes, strict=True)]
            found[number] = (bits[0], bits[1])
        return found

    def _in_one(self, number: int, thresholds: Thresholds) -> ByThresholds:
        layers = range(len(self._model.model.layers))
        return ByThresholds(tuple(thresholds if n == number else None for n in layers))

    def _divergence(self, policy: Policy) -> float:
        """Return the bits by which the text's predictions differ from the float model's, over all tokens."""
        found = lockstep(self._model, self._text[:: self._stride], 1, policy).logits
        return float(divergence(self._exact[:: self._stride], found * np.float64(self._model.model.logit_scale)).sum())

    def loads(self, batch: int, stride: int = 1) -> dict[int, LayerLoads]:
        """Return the loads of every layer with experts, in steps of `batch` tokens; of each `stride`-th window."""
        parts: dict[int, list[LayerLoads]] = {number: [] for number in self._routed}
        for tokens in chunks(self._tokens[::stride], batch):
            run = run_windows(self._model, tokens, batch, Everything(), trace=True)
            for number in self._routed:
                parts[number].append(_loads_of(run, number, self._model.model.layers[number].experts.experts))
        return {
            number: LayerLoads(*(np.concatenate([getattr(p, f) for p in own]) for f in LayerLoads.__dataclass_fields__))
            for number, own in parts.items()
        }


def _loads_of(run: LockstepRun, number: int, experts: Sequence[QuantisedExpert]) -> LayerLoads:
    """Return the loads of one layer in some windows."""
    routing, x = run.result.routing[number], run.result.layers[number].expert_input
    keys = routing.experts + len(experts) * run.step[:, None]
    count = (int(run.step.max()) + 1) * len(experts)
    high, skip = np.zeros(count), np.zeros(count)
    for expert, own in enumerate(experts):
        tokens, places = np.nonzero(routing.experts == expert)
        if tokens.size:
            rows = expert_rows(own, x[tokens]).astype(np.float64)
            lost = rows - expert_rows(own, x[tokens], high_only=True)
            squared = (routing.gates[tokens, places] / 2.0**GATE_BITS) ** 2
            for sums, error in ((high, lost), (skip, rows)):
                np.add.at(sums, keys[tokens, places], squared * np.square(error).sum(axis=1))
    first = np.zeros(count, dtype=np.bool_)
    first[keys[:, 0]] = True
    chosen = np.bincount(keys.reshape(-1), minlength=count) > 0
    return LayerLoads(
        expert=np.flatnonzero(chosen) % len(experts),
        importance=importances(keys, routing.gates, count)[chosen],
        first=first[chosen],
        high=high[chosen],
        skip=skip[chosen],
    )


def _options(loads: LayerLoads, high: Float, skip: Float) -> _Options:
    """Return the thresholds of a layer that may be chosen, by their planes saved and their errors.

    Loads are sorted once; sums over those below a threshold are then differences of running sums.
    """
    order = np.argsort(loads.importance, kind="stable")
    importance, first = loads.importance[order], loads.first[order]

    def running(values: Float) -> Float:
        return np.concatenate([[0.0], np.cumsum(values[order])])

    tried = np.unique(np.quantile(importance, _QUANTILES, method="higher"))
    fulls = np.minimum(np.concatenate([[0], tried, [importance[-1] + 1, MAX_IMPORTANCE]]), MAX_IMPORTANCE)
    skips = np.concatenate([[0], tried[tried <= np.quantile(importance, _MOST_SKIPPED)]])
    found: list[tuple[Thresholds, float, float]] = []
    for first_full in (False, True):
        counted = np.ones(importance.size) if not first_full else (~first).astype(np.float64)
        back = np.empty_like(counted)
        back[order] = counted
        counts, highs, skipped = running(back), running(high * back), running(skip * back)
        for full in np.unique(fulls):
            end = int(np.searchsorted(importance, full))
            for least in skips[skips <= full]:
                begin = int(np.searchsorted(importance, least))
                planes = counts[end] - counts[begin] + 2 * counts[begin]
                error = highs[end] - highs[begin] + skipped[begin]
                found.append((Thresholds(int(full), int(least), first_full), float(planes), float(error)))
    found.sort(key=lambda option: (-option[1], option[2]))
    best, least_error = [], math.inf
    for option in found:
        if option[2] < least_error:
            best.append(option)
            least_error = option[2]
    thresholds, planes_of, errors = zip(*best, strict=True)
    return _Options(list(thresholds), np.array(planes_of), np.array(errors))
