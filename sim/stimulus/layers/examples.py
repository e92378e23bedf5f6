# SPDX-License-Identifier: Apache-2.0
"""The example programs: their inputs, and float64 references of what they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Instruction, Opcode
from hdl.isa.asm import assemble
from sim.golden.executor import Executor
from sim.golden.route import execute_route
from sim.golden.vector import execute_vector

__all__ = ["EXAMPLES", "Example", "LayerError", "Outcome", "measure_layers", "play"]

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

CONFIG: MachineConfig = PRESETS["small"]
"""The machine that the programs are written for: 16 columns, 16 PE rows."""

TOKENS = 4
EXPERTS, CHOICES = 32, 4
HEADS, HEAD_DIM = 2, 32
CHANNELS = 64
LAST_KEYS = 11
CLAMP = 7.0


@dataclass(frozen=True)
class Outcome:
    """What a program left.

    Attributes
    ----------
    rows : array [combine_rows, 16]
    scalars : uint32 array [scalar_depth]
    activation : array [activation_words, 16]
        Of tier 0.
    slots : array [expert_slots, 3]
        Tokens, first list entry and expert of each slot of the routing table.
    lists : array [list_depth, 4]
        Token list of tier 0.
    """

    rows: Int
    scalars: npt.NDArray[np.uint32]
    activation: Int
    slots: Int
    lists: Int


@dataclass(frozen=True)
class Example:
    """A program and its reference.

    Attributes
    ----------
    name : str
        The program is ``name.asm``.
    origin : str
        Model that has the layer.
    results : tuple of (str, str, float)
        What is compared, in which unit, and the bound on the error.
    inputs : callable
        Combine rows [n, 16] from a random generator, written from row 0 on.
    errors : callable
        Errors of each result from the input rows and the outcome, in its unit.
    """

    name: str
    origin: str
    results: tuple[tuple[str, str, float], ...]
    inputs: Callable[[np.random.Generator], Int]
    errors: Callable[[Int, Outcome], tuple[Float, ...]]

    def program(self) -> list[Instruction]:
        """Return the instructions."""
        return assemble(files("sim.stimulus.layers").joinpath(f"{self.name}.asm").read_text())


@dataclass(frozen=True)
class LayerError:
    """Error of one result of a program over all that was tried, in `unit`s."""

    name: str
    origin: str
    instructions: int
    result: str
    unit: str
    cases: int
    worst: float
    rms: float
    bound: float

    @property
    def holds(self) -> bool:
        """Tell whether the worst error is within the bound."""
        return self.worst <= self.bound


def play(example: Example, rows: Int) -> Outcome:
    """Run a program in the executor on combine rows [n, 16]."""
    machine = Executor(CONFIG)
    machine.combine[:] = 0
    machine.combine[: len(rows)] = rows
    for place, instruction in enumerate(example.program()):
        if instruction.opcode == Opcode.ROUTE:
            execute_route(machine, instruction, place)
        else:
            execute_vector(instruction, CONFIG, machine.combine, machine.scalars, machine.activation)
    rows, activation, slots, lists = (
        array.astype(np.int64) for array in (machine.combine, machine.activation[0], machine.slots, machine.lists[0])
    )
    return Outcome(rows, machine.scalars.copy(), activation, slots, lists)


def measure_layers(draws: int = 500, seed: int = 1) -> list[LayerError]:
    """Run every program on `draws` random inputs and return the errors of its results."""
    found = []
    for example in EXAMPLES:
        rng = np.random.default_rng(seed)
        per_draw = []
        for _ in range(draws):
            rows = example.inputs(rng)
            per_draw.append(example.errors(rows, play(example, rows)))
        length = len(example.program())
        for place, (result, unit, bound) in enumerate(example.results):
            error = np.concatenate([e[place].ravel() for e in per_draw])
            worst, rms = float(np.abs(error).max()), float(np.sqrt((error**2).mean()))
            found.append(LayerError(example.name, example.origin, length, result, unit, error.size, worst, rms, bound))
    return found


def _int16(values: Float) -> Int:
    return np.clip(np.rint(values), -32768, 32767).astype(np.int64)


def _sigmoid(x: Float) -> Float:
    return 1.0 / (1.0 + np.exp(-x))


def _qk_inputs(rng: np.random.Generator) -> Int:
    sizes = np.exp(rng.normal(0.0, 1.5, (TOKENS, HEADS, 1)))
    queries = _int16(rng.normal(0.0, 1.0, (TOKENS, HEADS, HEAD_DIM)) * sizes * 2**11)
    queries[0, 0], queries[0, 1] = 0, np.where(queries[0, 1] < 0, -32768, 32767)
    weights = _int16(rng.uniform(0.3, 1.8, HEAD_DIM) * 2**13)
    angle = rng.uniform(0.0, 2 * np.pi, (TOKENS, HEAD_DIM // 2))
    cosines = np.repeat(np.cos(angle), 2, axis=1)
    sines = np.stack([-np.sin(angle), np.sin(angle)], axis=2).reshape(TOKENS, HEAD_DIM)
    tables = _int16(np.concatenate([cosines, sines], axis=1) * 2**14)
    gap = np.zeros(2 * 16, dtype=np.int64)
    return np.concatenate([queries.ravel(), weights, gap, tables.ravel()]).reshape(-1, 16)


def _qk_errors(rows: Int, outcome: Outcome) -> tuple[Float, ...]:
    queries = rows[:16].reshape(TOKENS, HEADS, HEAD_DIM) / 2**11
    weights = rows[16:18].ravel() / 2**13
    cosines, sines = np.split(rows[20:36].reshape(TOKENS, 1, 2 * HEAD_DIM) / 2**14, 2, axis=2)
    normed = queries / np.sqrt((queries**2).mean(axis=2, keepdims=True) + 1e-6) * weights
    swapped = normed.reshape(-1, 2)[:, ::-1].reshape(normed.shape)
    exact = np.clip((normed * cosines + swapped * sines) * 16, -128, 127)
    return (outcome.activation[:16].reshape(exact.shape) - exact,)


def _routing_inputs(rng: np.random.Generator) -> Int:
    logits = _int16(rng.normal(0.0, 2.0, (TOKENS, EXPERTS)) * 2**11)
    logits[0], logits[1, ::2] = logits[0, 0], rng.choice([-32768, 32767], EXPERTS // 2)
    bias = _int16(rng.normal(0.0, 0.1, EXPERTS) * 2**14)
    return np.concatenate([logits.ravel(), bias]).reshape(-1, 16)


def _routing_errors(rows: Int, outcome: Outcome) -> tuple[Float, ...]:
    scores = _sigmoid(rows[:8].reshape(TOKENS, EXPERTS) / 2**11)
    biased = scores + rows[8:10].ravel() / 2**14
    chosen = (outcome.scalars[: TOKENS * CHOICES] >> 16).astype(np.int64).reshape(CHOICES, TOKENS).T
    mine = np.take_along_axis(biased, chosen, axis=1)
    best = -np.sort(-biased, axis=1)[:, :CHOICES]
    gates = np.take_along_axis(scores, chosen, axis=1)
    gates = gates / gates.sum(axis=1, keepdims=True)
    return ((best - mine) * 2**14, outcome.rows[26:30, :CHOICES] - gates * 2**15)


def _swiglu_inputs(rng: np.random.Generator) -> Int:
    gate, up = _int16(rng.normal(0.0, 4.0, (2, TOKENS, CHANNELS)) * 2**10)
    gate[0, :4] = up[0, :4] = 32767, -32768, 0, 7 << 10
    gate_bias, up_bias = rng.normal(0.0, 0.3, (2, CHANNELS))
    per_unit = 32767 / CLAMP
    tables = [np.rint(gate_bias * per_unit), np.rint(gate_bias * 1.702 * 2**11), np.rint(up_bias * per_unit)]
    constant = np.full(16, 2340)  # 1.0 is 2340.5
    return np.concatenate([gate.ravel(), up.ravel(), *tables, constant]).astype(np.int64).reshape(-1, 16)


def _swiglu_errors(rows: Int, outcome: Outcome) -> tuple[Float, ...]:
    per_unit = 32767 / CLAMP
    gate_bias, up_bias = rows[32:36].ravel() / per_unit, rows[40:44].ravel() / per_unit
    gate = np.minimum(rows[:16].reshape(TOKENS, CHANNELS) / 2**10 + gate_bias, CLAMP)
    up = np.clip(rows[16:32].reshape(TOKENS, CHANNELS) / 2**10 + up_bias, -CLAMP, CLAMP)
    exact = gate * _sigmoid(1.702 * gate) * (up + 1.0) * (per_unit * per_unit / 2 / 2**21)
    exact = np.clip(exact, -128.0, 127.0)
    return (outcome.activation[:16].reshape(exact.shape) - exact,)


def _sink_inputs(rng: np.random.Generator) -> Int:
    scores = _int16(rng.normal(0.0, 4.0, (8, 16)) * 2**9)
    sinks = np.zeros((4, 16), dtype=np.int64)
    sinks[:, 0] = _int16(rng.normal(4.0, 4.0, 4) * 2**9)
    scores[0], sinks[1:3, 0] = -32768, (-32768, 32767)
    return np.concatenate([scores, sinks])


def _sink_errors(rows: Int, outcome: Outcome) -> tuple[Float, ...]:
    scores = np.concatenate([rows[0:4], rows[4:8, :LAST_KEYS], rows[8:12, :1]], axis=1) / 2**9
    weight = np.exp2(scores - scores.max(axis=1, keepdims=True))
    exact = (weight / weight.sum(axis=1, keepdims=True))[:, :-1] * 2**15
    got = np.concatenate([outcome.rows[16:20], outcome.rows[20:24, :LAST_KEYS]], axis=1)
    return (got - exact,)


EXAMPLES = (
    Example("qk_norm", "Qwen3-MoE", (("queries after RoPE", "1/16, int8", 0.55),), _qk_inputs, _qk_errors),
    Example(
        "sigmoid_routing", "DeepSeek-V3",
        (("score that the choice misses", "2^-14", 3.0), ("gates", "2^-15", 2.0)), _routing_inputs, _routing_errors,
    ),
    Example("clamped_swiglu", "gpt-oss", (("activations", "0.19, int8", 0.55),), _swiglu_inputs, _swiglu_errors),
    Example("attention_sink", "gpt-oss", (("probabilities", "2^-15", 5.0),), _sink_inputs, _sink_errors),
)  # fmt: skip
