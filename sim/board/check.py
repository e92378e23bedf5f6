# SPDX-License-Identifier: Apache-2.0
"""The check of a board: a layer of experts, then a small language model that writes tokens, every byte compared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hdl.config import MachineConfig
from hdl.errors import CheckError
from scheduler.models.description import Experts, GroupedAttention, Layer, Model, QkNorm, Router
from scheduler.models.quantised_model import QuantisedModel
from scheduler.models.random_model import random_model
from scheduler.stream.lower_layer import lower_layer
from sim.board.engine import BoardEngine
from sim.board.session import BoardSession
from sim.golden.executor import Executor
from sim.machine.generator import Generator
from sim.machine.system import Job
from sim.stimulus.moe_demo import layer_works

__all__ = ["CheckResult", "check_board", "check_layer", "small_shape"]

PROMPT, TOKENS = (1, 2, 3, 4, 5), 3
BIG_MEMORY = 128 << 10
"""From so many bytes a group on, the model has a second layer."""


@dataclass(frozen=True)
class CheckResult:
    """What was run, and that every byte was right.

    Attributes
    ----------
    what : str
    cycles : int
        Of the machine, all streams together.
    compared_bytes : int
    seconds : float
        With all that goes over the line.
    """

    what: str
    cycles: int
    compared_bytes: int
    seconds: float


def small_shape(config: MachineConfig, layers: int) -> Model:
    """Return a language model that fits a small machine."""
    attention = GroupedAttention(heads=2, kv_heads=1, head_dim=max(8, config.rows), qk_norm=QkNorm.NONE)
    experts = Experts(count=4, chosen=2, intermediate=2 * config.rows, router=Router(normalised=True))
    return Model(
        family="mixtral", name="small", hidden=max(16, config.rows), vocabulary=4 * config.columns, context=32,
        tied=False, layers=tuple(Layer(attention=attention, mlp=experts) for _ in range(layers)), norm_eps=1e-5,
        rope_theta=10000.0,
    )  # fmt: skip


def check_board(session: BoardSession, config: MachineConfig, seed: int) -> Iterator[CheckResult]:
    """Run the checks; yields each when it is through.

    Raises
    ------
    CheckError
        A byte is wrong, or the machine stopped with an error.
    A3dError
        The board is gone, or the models do not fit its memory or its machine.
    """
    layers = 2 if session.memory_bytes >= BIG_MEMORY else 1
    model = random_model(small_shape(config, layers), seed)
    yield check_layer(session, config, model)
    begin = time.perf_counter()
    generator = Generator(model, config, [PROMPT], TOKENS, routing="slots")
    with BoardEngine(config, session) as engine:
        engine.start(generator.memory)
        records = list(generator.run(engine))
    yield CheckResult(
        f"{layers} layers of a language model, {TOKENS} tokens", sum(record.cycles or 0 for record in records),
        sum(record.compared_bytes for record in records), time.perf_counter() - begin,
    )  # fmt: skip


def check_layer(session: BoardSession, config: MachineConfig, model: QuantisedModel) -> CheckResult:
    """Run the experts of a model's first layer, and compare both memories with the executor's.

    Raises
    ------
    CheckError
        A byte is wrong, or the machine stopped with an error.
    """
    begin = time.perf_counter()
    work = layer_works(model, PROMPT)[0]
    program = lower_layer(config, work.layer, work.x, work.experts, work.gates)
    executor = Executor(config, program.images, program.limits)
    executor.run(program.stream)
    images = tuple(image.tobytes() for image in program.images)
    result = session.run(
        Job(images=(images[0], images[1]), stream_base=program.stream_base, limits=program.limits)
    )  # fmt: skip
    if not result.done:
        error = "no error code" if result.error is None else result.error.name
        raise CheckError(f"layer of experts: the machine stopped with {error} at instruction {result.error_pc}")
    assert result.memory is not None
    for group, (want, got) in enumerate(zip(executor.memory, result.memory, strict=True)):
        wrong = np.flatnonzero(want != got[: want.size])
        if wrong.size:
            at = int(wrong[0])
            raise CheckError(
                f"layer of experts: group {group}, address {at:#x}: expected {want[at]:#04x}, got {got[at]:#04x}; "
                f"{wrong.size} bytes differ from the executor's"
            )
    compared = sum(image.size for image in executor.memory)
    return CheckResult("a layer of experts", result.counters["cycles"], compared, time.perf_counter() - begin)
