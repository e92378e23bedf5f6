# SPDX-License-Identifier: Apache-2.0
"""Bytes of experts against loss: what is decided from the scores, beside controls that do not look at them.

Every point runs held-out text in lockstep batches (`sim.measure.lockstep`) in the machine's integers. Its loss is
against full precision in the same integers, and with it a second figure with less noise: by how much its predictions
are further from the float model's than those of full precision are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.numerics import WEIGHT_MAX
from hdl.numerics.precision import Precision
from scheduler.models.calibration import calibrate
from scheduler.models.float_model import FloatModel
from scheduler.models.moments import expert_moments
from scheduler.models.planes import DEFAULT_REACH
from scheduler.models.quantise_language import quantise_language_model
from scheduler.ops.precision_file import PrecisionFile, write_precision_file
from sim.golden.integer_model import IntegerModel
from sim.measure.lockstep import ByThresholds, Chances, Everything, LockstepResult, Policy, lockstep
from sim.measure.quality import BATCH, byte_text
from sim.measure.thresholds import Prediction, ThresholdCalibration, divergence

__all__ = ["CONTROLS", "TARGETS", "FrontierBench"]

Float = npt.NDArray[np.floating]

TARGETS = ((25.0, 0.5), (35.0, 1.0), (45.0, 2.0))
"""Percent of the experts' bytes that are to be saved, and percent of perplexity that this may cost."""

_UNIFORM = {"uniform 6 bit": (31, 25.0), "uniform 5 bit": (15, 37.5)}
"""Controls with fewer bits in all weights: largest integer, percent of the bytes saved."""

_FREE_REACH = 16
"""Nothing but the high plane counts: the best int4 weights."""

CONTROLS = ("random", "least used", *_UNIFORM, "static int4")
"""Policies that look at no score."""

_NEARLY = 0.5
"""Percent of bytes within which two points save the same."""

_SEED = 20


@dataclass(frozen=True, eq=False)
class _Point:
    """A policy's result."""

    policy: str
    batch: int
    saved: float
    losses: Float
    further: Float
    budget: float | None = None
    threshold: Prediction | None = None


class FrontierBench:
    """Measures the frontier of a byte-level model.

    Parameters
    ----------
    folder : path
        Model directory, with ``heldout.txt``.
    batches : sequence of int
        Tokens of a decode step.
    budgets : sequence of float
        Percent of the experts' bytes that thresholds are found for.
    count, window, calibration, key_block, clip
        As for `QualityBench`.
    reach : int
        See `compensated_weights`.

    Raises
    ------
    A3dError
        A model that cannot be read or has no experts, a text that is too short, a budget out of range.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batches: Sequence[int] = (1, 8, 32),
        budgets: Sequence[float] = (25, 35, 45, 50, 55),
        count: int = 32768,
        window: int = 256,
        calibration: int = 24576,
        key_block: int = 128,
        clip: bool = True,
        reach: int = DEFAULT_REACH,
    ) -> None:
        for budget in budgets:
            if not 0 < budget < 100:
                raise A3dError(f"budget: {budget:g} percent of the experts' bytes; use more than 0 and less than 100")
        self._checkpoint, self._seen, windows = byte_text(folder, count, window, calibration)
        # Requests that decode together are not neighbours in one text.
        self._windows = windows[np.random.default_rng(_SEED).permutation(len(windows))]
        self._options: dict[str, Any] = {"key_block": key_block, "clip": clip}
        self._batches, self._budgets = sorted(set(batches)), sorted(set(budgets))
        self._reach = reach
        self._ranges = calibrate(self._checkpoint, self._seen, clip=clip)
        self._moments = expert_moments(self._checkpoint, self._seen, self._ranges)
        self._points: list[_Point] = []
        self._found: dict[tuple[int, float], Prediction] = {}

    @property
    def total(self) -> int:
        """Points that `run` measures, if thresholds reach every budget."""
        controls = 2 * sum(budget < 50 for budget in self._budgets)
        return 4 + len(_UNIFORM) + len(self._batches) * (len(self._budgets) + controls)

    def run(self) -> Iterator[None]:
        """Measure everything, and yield after each point."""
        model = self._quantised(reach=self._reach)
        self._exact = self._logits(self._windows[:, :-1])
        self._base = lockstep(model, self._windows, 1, Everything())
        self._far = divergence(self._exact, self._real(model, self._base))
        yield
        self._add("high planes", model, Everything(Precision.HIGH), self._batches)
        yield
        rounded = self._quantised()
        self._add("rounded to the nearest", rounded, Everything(), self._batches)
        yield
        for name, (levels, saved) in _UNIFORM.items():
            self._add(name, self._quantised(levels=levels), Everything(), self._batches, saved=saved / 100)
            yield
        self._add(
            "static int4", self._quantised(reach=_FREE_REACH, by_score=False), Everything(Precision.HIGH), self._batches
        )
        yield
        calibration = ThresholdCalibration(model, self._seen, self._logits(self._seen))
        for batch in self._batches:
            loads = calibration.loads(batch)
            experts = max(int(own.expert.max()) for own in loads.values()) + 1
            counts = np.zeros((len(self._checkpoint.description.layers), experts))
            for number, own in loads.items():
                counts[number] = np.bincount(own.expert, minlength=experts)
            found = calibration.find(loads, [budget / 100 for budget in self._budgets])
            for budget in self._budgets:
                if budget / 100 not in found:
                    continue
                thresholds = found[budget / 100]
                self._found[batch, budget] = thresholds
                self._by_score(model, batch, budget, thresholds)
                yield
                if budget < 50:
                    saved = self._points[-1].saved
                    for name, chances in (("random", _alike), ("least used", _least_used)):
                        policy = Chances(chances(counts, saved), np.random.default_rng(_SEED))
                        self._add(name, model, policy, [batch], budget=budget)
                        yield

    def _by_score(self, model: IntegerModel, batch: int, budget: float, found: Prediction) -> None:
        """Measure thresholds; from those of single tokens it is also known what tokens with their own cost."""
        larger = [n for n in self._batches if n > 1] if batch == 1 else []
        result = lockstep(model, self._windows, batch, ByThresholds(found.thresholds), counted=larger)
        far = divergence(self._exact, self._real(model, result))
        for name, size in (*(("tokens alone", n) for n in larger), ("score", batch)):
            self._points.append(_Point(name, size, result.saved[size], result.losses, far, budget, found))

    def _add(
        self, name: str, model: IntegerModel, policy: Policy, batches: Sequence[int], *, saved: float | None = None,
        budget: float | None = None,
    ) -> None:  # fmt: skip
        """Measure a policy that is the same in batches of some sizes."""
        result = lockstep(model, self._windows, batches[0], policy)
        far = divergence(self._exact, self._real(model, result))
        part = result.saved[batches[0]] if saved is None else saved
        self._points += [_Point(name, batch, part, result.losses, far, budget) for batch in batches]

    def _quantised(self, *, reach: int | None = None, by_score: bool = True, levels: int = WEIGHT_MAX) -> IntegerModel:
        """Quantise, with what was calibrated once."""
        moments = self._moments
        if not by_score:
            moments = tuple(tuple(own.alike() for own in layer) for layer in moments)
        model = quantise_language_model(
            self._checkpoint, self._ranges, key_block=self._options["key_block"],
            moments=None if reach is None else moments, reach=reach, levels=levels,
        )  # fmt: skip
        return IntegerModel(model)

    def _logits(self, tokens: npt.NDArray[np.int64]) -> Float:
        """Return the float model's logits."""
        model = FloatModel(self._checkpoint)
        return np.concatenate([model.forward(tokens[i : i + BATCH]).logits for i in range(0, len(tokens), BATCH)])

    def _real(self, model: IntegerModel, result: LockstepResult) -> Float:
        real: Float = result.logits * np.float64(model.model.logit_scale)
        return real

    def result(self) -> dict[str, Any]:
        """Return the figures.

        Returns
        -------
        dict
            ``points``, each with ``policy``, ``threshold`` (of every layer, for what is decided from the scores),
            ``batch``, ``budget_percent`` (asked for), ``expert_bytes_saved_percent``, ``loss_percent`` (perplexity per
            byte, against full precision in the same integers) and ``loss_percent_error`` (standard error, windows
            taken as independent), ``further_percent`` (predictions further from the float model's than full
            precision's are, as perplexity) and ``further_percent_error``; ``targets``: what was asked for and what is
            reached; and how it was measured.
        """
        points = [self._figures(point) for point in self._points]
        return {
            "points": points,
            "targets": [_target(points, batch, *target) for batch in self._batches for target in TARGETS],
            "full_bits_per_byte": float(self._base.losses.mean()),
            "full_further_percent": _perplexity(float(self._far.mean())),
            "bytes_evaluated": int(self._base.losses.size),
            "calibration_bytes": int(self._seen.size),
            "window": int(self._windows.shape[1] - 1),
            "reach": self._reach,
            **self._options,
        }

    def save_precision(self, folder: Path) -> list[Path]:
        """Write a precision file for each batch and budget, and return their paths."""
        paths = []
        for (batch, budget), found in self._found.items():
            paths.append(folder / f"batch_{batch}_save_{budget:g}.json")
            write_precision_file(paths[-1], PrecisionFile(found.thresholds, batch, self._reach))
        return paths

    def _figures(self, point: _Point) -> dict[str, Any]:
        loss, loss_error = _against(point.losses, self._base.losses)
        further, further_error = _against(point.further, self._far)
        found = point.threshold
        return {
            "policy": point.policy,
            "threshold": None if found is None else [None if own is None else asdict(own) for own in found.thresholds],
            "batch": point.batch,
            "budget_percent": point.budget,
            "expert_bytes_saved_percent": 100 * point.saved,
            "loss_percent": loss,
            "loss_percent_error": loss_error,
            "further_percent": further,
            "further_percent_error": further_error,
        }


def _perplexity(bits: float) -> float:
    """Return by how many percent some bits a token raise the perplexity."""
    return 100 * (2**bits - 1)


def _against(own: Float, base: Float) -> tuple[float, float]:
    """Return the percent of perplexity between bits [windows, length] and others, and its standard error."""
    windows = (own - base).mean(axis=1)
    error = float(windows.std(ddof=1)) / math.sqrt(windows.size) if windows.size > 1 else math.nan
    return _perplexity(float(windows.mean())), 100 * math.log(2) * error


def _target(points: Sequence[dict[str, Any]], batch: int, saved: float, allowed: float) -> dict[str, Any]:
    """Return what was reached of a target: the point that was calibrated for it, beside the controls that save as much.

    A control that saves more is asked only whether it loses less even so.
    """
    own = [p for p in points if p["policy"] == "score" and p["batch"] == batch and p["budget_percent"] == saved]
    if not own:
        return {"batch": batch, "saved_percent": saved, "allowed_percent": allowed, "reached": None}
    point = own[0]
    least = point["expert_bytes_saved_percent"] - _NEARLY
    others = [
        p for p in points
        if p["batch"] == batch and p["policy"] in CONTROLS and p["expert_bytes_saved_percent"] >= least
        and (p["budget_percent"] in (None, saved))
    ]  # fmt: skip
    return {
        "batch": batch,
        "saved_percent": saved,
        "allowed_percent": allowed,
        "reached": bool(point["loss_percent"] <= allowed and point["expert_bytes_saved_percent"] >= saved - _NEARLY),
        "loss_percent": point["loss_percent"],
        "controls_that_lose_less": [p["policy"] for p in others if p["loss_percent"] < point["loss_percent"]],
        "controls_that_are_nearer": [p["policy"] for p in others if p["further_percent"] < point["further_percent"]],
    }


def _alike(counts: npt.NDArray[np.float64], saved: float) -> npt.NDArray[np.float64]:
    """Return chances [layers, experts] with which all experts lack their low plane alike."""
    return np.full(counts.shape, min(1.0, 2 * saved))


def _least_used(counts: npt.NDArray[np.float64], saved: float) -> npt.NDArray[np.float64]:
    """Return chances [layers, experts] with which those that are loaded least often always lack their low plane.

    Parameters
    ----------
    counts : float array [layers, experts]
        Loads in the calibration text.
    saved : float
        Part of the experts' bytes, at most a half; the last expert of a layer lacks its low plane now and then.
    """
    chance = np.zeros_like(counts)
    for layer, own in enumerate(counts):
        order = np.argsort(own, kind="stable")
        before = np.concatenate([[0.0], np.cumsum(own[order])[:-1]])
        chance[layer, order] = np.clip((2 * saved * own.sum() - before) / np.maximum(own[order], 1), 0, 1)
    return chance
