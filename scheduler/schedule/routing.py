# SPDX-License-Identifier: Apache-2.0
"""Where the routing of a step comes from: the file of steps, a distribution, a trace, or the machine itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError, one_line
from scheduler.models.description import Experts, Model
from scheduler.ops.batch import Routing
from scheduler.ops.draw import draw_routing
from scheduler.ops.steps_file import Q15, Step

__all__ = ["MachineRouting", "RoutingSource", "TraceRouting", "UniformRouting", "given_routing"]


class RoutingSource(Protocol):
    """Says which experts the tokens of a step go to."""

    def routing(self, step: Step) -> Sequence[Routing | None] | None:
        """Return the routing of each layer (None for one without experts); None: the machine finds it."""


def given_routing(model: Model, step: Step) -> list[Routing | None] | None:
    """Return the routing that a file of steps gives, or None."""
    if not step.experts:
        return None
    own = iter(zip(step.experts, step.gates, strict=True))
    return [Routing(*next(own)) if isinstance(layer.mlp, Experts) else None for layer in model.layers]


class MachineRouting:
    """The machine's router decides while the stream runs (slots mode)."""

    def routing(self, step: Step) -> None:
        """Return None."""


class UniformRouting:
    """All experts are equally likely, and gates are equal.

    Parameters
    ----------
    model : Model
    seed : int
    """

    def __init__(self, model: Model, seed: int) -> None:
        self._model = model
        self._rng = np.random.default_rng(seed)

    def routing(self, step: Step) -> list[Routing | None]:
        """Return what the file gives, or a draw."""
        given = given_routing(self._model, step)
        return given if given is not None else draw_routing(self._model, step.tokens, self._rng)


class TraceRouting:
    """A recorded routing whose tokens are taken in order, from the front again when it ends.

    Parameters
    ----------
    model : Model
    path : Path
        A NumPy array ``[tokens, layers, chosen]`` of expert numbers: layers with experts, best expert first. More
        layers than the model has are left out.

    Raises
    ------
    A3dError
        The file cannot be read, or does not fit the model.
    """

    def __init__(self, model: Model, path: Path) -> None:
        self._model = model
        self._experts = self._read(path)
        self._next = 0

    def _read(self, path: Path) -> npt.NDArray[np.int64]:
        name = f"routing {one_line(path)}"
        try:
            array = np.load(path, allow_pickle=False, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "is no .npy array"
            raise A3dError(f"{name}: {why}; name a .npy file of expert numbers [tokens, layers, chosen]") from error
        mlps = [layer.mlp for layer in self._model.layers if isinstance(layer.mlp, Experts)]
        chosen = mlps[0].chosen if mlps else 0
        if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[0] < 1 or array.dtype.kind not in "iu":
            raise A3dError(
                f"{name}: not an array of integers [tokens, layers, chosen] of a token or more; record it so"
            )
        if array.shape[1] < len(mlps) or array.shape[2] < chosen:
            raise A3dError(
                f"{name}: has {array.shape[1]} layers and {array.shape[2]} experts a token; {self._model.name} has "
                f"{len(mlps)} layers with experts, {chosen} a token: use a trace of this model"
            )
        own = array[:, : len(mlps), :chosen]
        most = max((mlp.count for mlp in mlps), default=1)
        wrong = np.argwhere((own < 0) | (own >= most))
        if len(wrong):
            raise A3dError(
                f"{name}: {_entry(own, wrong[0])}; {self._model.name} has experts 0 to {most - 1}: use a trace of this "
                "model"
            )
        experts = np.asarray(own, dtype=np.int64)
        ordered = np.sort(experts, axis=2)
        twice = np.argwhere(ordered[..., 1:] == ordered[..., :-1])
        if len(twice):
            token, layer, place = twice[0].tolist()
            raise A3dError(
                f"{name}: token {token}, layer {layer}: expert {ordered[token, layer, place]} is there twice; "
                f"{self._model.name} chooses {chosen} different experts: record it again"
            )
        return experts

    def routing(self, step: Step) -> list[Routing | None]:
        """Return what the file of steps gives, or the trace's next tokens."""
        given = given_routing(self._model, step)
        if given is not None:
            return given
        rows = (self._next + np.arange(step.tokens)) % len(self._experts)
        self._next = int(rows[-1] + 1) % len(self._experts)
        found: list[Routing | None] = []
        layers = iter(range(self._experts.shape[1]))
        for layer in self._model.layers:
            if isinstance(layer.mlp, Experts):
                own = self._experts[rows, next(layers)]
                found.append(Routing(own, np.full(own.shape, Q15 // layer.mlp.chosen, dtype=np.uint16)))
            else:
                found.append(None)
        return found


def _entry(array: npt.NDArray[np.integer[Any]], place: npt.NDArray[np.intp]) -> str:
    token, layer, _ = place.tolist()
    return f"token {token}, layer {layer}: expert {array[tuple(place)]}"
