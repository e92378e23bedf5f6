# SPDX-License-Identifier: Apache-2.0
"""Worst errors of the machine's arithmetic primitives over their whole input ranges, against float64.

What "whole" means is said with each: *every argument* (exhaustive), *every interval* (the result is constant on an
interval of arguments and the exact function monotonic, so that the interval's ends bound the error of all in it), or a
selection, where a product of two ranges is too large to visit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hdl import numerics
from hdl.numerics import vector as vector_numerics

__all__ = ["Primitive", "draw", "measure_primitives"]

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

EXP2_DEPTH = 1 << 17
"""Arguments of exp2_q15 run from minus this, beyond the difference of any two int16, to 511."""

CURVE_POINTS = 4096
"""Largest number of points that a drawn curve keeps; they are the extreme errors around them."""

FLOAT_STEPS = 509
"""Values of the one factor for which float_scale is tried with all of the other."""


@dataclass(frozen=True)
class Primitive:
    """The error of one primitive.

    Attributes
    ----------
    name : str
    what : str
        The exact function.
    covered : str
        Which arguments were tried.
    cases : int
        Their number; an interval counts twice.
    unit : str
        What the error is counted in.
    worst, at : float, str
        Largest error, and an argument that has it.
    mean : float
        Mean error over the cases, with its sign.
    bound : float
        What the function's documentation promises.
    curve : pair of arrays, or None
        Argument and error, for the picture.
    """

    name: str
    what: str
    covered: str
    cases: int
    unit: str
    worst: float
    at: str
    mean: float
    bound: float
    curve: tuple[Float, Float] | None

    @property
    def holds(self) -> bool:
        """Tell whether the worst error is within the bound."""
        return self.worst <= self.bound

    def summary(self) -> dict[str, object]:
        """Return all but the curve, as plain data."""
        return {key: value for key, value in vars(self).items() if key != "curve"} | {"holds": self.holds}


def measure_primitives() -> list[Primitive]:
    """Measure all primitives; takes some seconds."""
    return [_exp2(), _rsqrt(), _recip(), _float_scale(), _sigmoid(), _silu(), _requant()]


def _thin(x: Float, error: Float) -> tuple[Float, Float]:
    """Reduce a curve to at most `CURVE_POINTS`, keeping the smallest and the largest error of each stretch."""
    step = -(-2 * x.size // CURVE_POINTS)
    starts = range(0, x.size, step)
    chosen = [i + int(place(error[i : i + step])) for i in starts for place in (np.argmin, np.argmax)]
    return x[chosen], error[chosen]


def _exp2() -> Primitive:
    d = np.arange(-EXP2_DEPTH, 512)
    error = vector_numerics.exp2_q15(d) - 32768.0 * np.exp2(np.minimum(d, 0) / 512.0)
    worst = int(np.abs(error).argmax())
    drawn = d >= -8 * 512
    return Primitive(
        "exp2_q15", "2**(min(d, 0)/512)", "every argument", d.size, "units of Q15", float(np.abs(error[worst])),
        f"d = {d[worst]}", float(error.mean()), 2.0, _thin(d[drawn] / 512.0, error[drawn]),
    )  # fmt: skip


def _float_of(
    name: str, function: Callable[[Int], tuple[Int, Int]], exact: Callable[[Float], Float], bits: int, first: int,
    per_step: int,
) -> Primitive:  # fmt: skip
    """Measure a function whose result depends on the 16 leading bits of its argument only.

    `first` is the smallest of these 16-bit numbers, and each of the ``bits / per_step`` normalising shifts moves the
    argument by `per_step` bits.
    """
    leading = np.arange(first, 1 << 16)
    values, errors = [], []
    for shift in range(0, bits, per_step):
        down = bits - 16 - shift
        if down >= 0:
            ends = np.concatenate([leading << down, ((leading + 1) << down) - 1])
        else:
            ends = leading[leading % (1 << -down) == 0] >> -down
        mantissa, exponent = function(ends)
        truth = exact(ends.astype(np.float64))
        values.append(ends)
        errors.append(mantissa * np.exp2(-exponent.astype(np.float64)) / truth - 1.0)
    error = np.concatenate(errors)
    at = np.concatenate(values)
    worst = int(np.abs(error).argmax())
    drawn = errors[0].reshape(2, -1).T.ravel()
    return Primitive(
        name, name.replace("rsqrt", "1/sqrt(v)").replace("recip", "1/v"), "every interval", error.size, "relative",
        float(np.abs(error[worst])), f"v = {at[worst]}", float(error.mean()), 5e-5,
        _thin(np.repeat(leading / 65536.0, 2), drawn),
    )  # fmt: skip


def _rsqrt() -> Primitive:
    return _float_of("rsqrt", vector_numerics.rsqrt, lambda v: 1.0 / np.sqrt(v), vector_numerics.RSQRT_BITS, 1 << 14, 2)


def _recip() -> Primitive:
    return _float_of("recip", vector_numerics.recip, lambda v: 1.0 / v, vector_numerics.RECIP_BITS, 1 << 15, 1)


def _float_scale() -> Primitive:
    """Measure in units of the result's mantissa; all of one factor, `FLOAT_STEPS` of the other, both ways."""
    every = np.arange(1 << 16)
    some = np.unique(np.concatenate([[1, 2, 3, 32767, 32768, 32769, 65535], np.linspace(0, 65535, FLOAT_STEPS)]))
    some = some.astype(np.int64)
    worst, at, total, cases = -1.0, "", 0.0, 0
    for mults, mantissas in ((some, every), (every, some)):
        for mult in np.array_split(mults, -(-mults.size * mantissas.size // (1 << 22))):
            product = mantissas[:, None].astype(np.float64) * mult
            got, exponent = vector_numerics.float_scale(mantissas[:, None], np.int64(20), mult)
            error = got - product * np.exp2(exponent - 35.0)
            place = int(np.abs(error).argmax())
            total += float(error.sum())
            cases += error.size
            if abs(error.flat[place]) > worst:
                worst = abs(float(error.flat[place]))
                row, column = divmod(place, mult.size)
                at = f"mantissa = {mantissas[row]}, mult = {mult[column]}"
    return Primitive(
        "float_scale", "mantissa * mult", f"every value of each factor with {some.size} of the other", cases,
        "units of the result's mantissa", worst, at, total / cases, 1.0, None,
    )  # fmt: skip


def _sigmoid() -> Primitive:
    g = np.arange(-32768, 32768)
    error = numerics.sigmoid_q16(g) - 65536.0 / (1.0 + np.exp(-g / 2048.0))
    worst = int(np.abs(error).argmax())
    return Primitive(
        "sigmoid_q16", "1/(1 + exp(-g/2048))", "every argument", g.size, "units of Q0.16",
        float(np.abs(error[worst])), f"g = {g[worst]}", float(error.mean()), 7.0, _thin(g / 2048.0, error),
    )  # fmt: skip


def _silu() -> Primitive:
    g = np.arange(-32768, 32768)
    error = numerics.silu_q11(g) - g / (1.0 + np.exp(-g / 2048.0))
    worst = int(np.abs(error).argmax())
    return Primitive(
        "silu_q11", "g/(1 + exp(-g/2048))", "every argument", g.size, "units of Q4.11", float(np.abs(error[worst])),
        f"g = {g[worst]}", float(error.mean()), 1.0, _thin(g / 2048.0, error),
    )  # fmt: skip


def _requant(seed: int = 1) -> Primitive:
    """Measure the rounding to 16 bits where nothing saturates.

    Every remainder of the division by ``2**shift`` up to a shift of 16, and for larger ones as many products drawn at
    random and the ties.  Products have 47 bits, so float64 holds them and their quotients exactly.
    """
    rng = np.random.default_rng(seed)
    worst, at, total, cases = -1.0, "", 0.0, 0
    for shift in range(numerics.MAX_SHIFT + 1):
        if shift <= 16:
            acc = np.arange(-(1 << 16), 1 << 16)
            mult = np.ones_like(acc)
        else:
            acc = rng.integers(-(1 << 31), 1 << 31, 1 << 16)
            mult = rng.integers(1, 1 << 16, acc.size)
            odd = rng.integers(-(1 << 14), 1 << 14, 1 << 12) * 2 + 1
            power = min(shift - 1, 15)
            acc = np.concatenate([acc, odd << shift - 1 - power])
            mult = np.concatenate([mult, np.full(odd.size, 1 << power)])
            fits = np.abs(acc) < 1 << 31
            acc, mult = acc[fits], mult[fits]
        exact = acc.astype(np.float64) * mult / 2.0**shift
        kept = np.abs(exact) < 32767
        error = numerics.requant(acc, mult, shift, 16)[kept] - exact[kept]
        place = int(np.abs(error).argmax())
        total += float(error.sum())
        cases += error.size
        if abs(error[place]) > worst:
            worst = abs(float(error[place]))
            at = f"acc = {acc[kept][place]}, mult = {mult[kept][place]}, shift = {shift}"
    return Primitive(
        "requant", "acc * mult / 2**shift", "every shift; every remainder up to 16, above it random and ties", cases,
        "units of the result", worst, at, total / cases, 0.5, None,
    )  # fmt: skip


def draw(primitives: Sequence[Primitive], path: Path) -> None:
    """Draw the error curves with their bounds."""
    from matplotlib.figure import Figure

    labels = {
        "exp2_q15": "d / 512", "rsqrt": "v, normalised", "recip": "v, normalised", "sigmoid_q16": "g", "silu_q11": "g",
    }  # fmt: skip
    drawn = [p for p in primitives if p.curve is not None]
    figure = Figure(figsize=(3.4 * len(drawn), 3.2), layout="constrained")
    for axis, primitive in zip(np.atleast_1d(figure.subplots(1, len(drawn))), drawn, strict=True):
        assert primitive.curve is not None
        axis.plot(*primitive.curve, linewidth=0.4)
        for bound in (-primitive.bound, primitive.bound):
            axis.axhline(bound, color="C3", linestyle=":", linewidth=1)
        axis.set(title=primitive.name, xlabel=labels[primitive.name], ylabel=f"error ({primitive.unit})")
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
