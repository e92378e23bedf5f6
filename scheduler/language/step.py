# SPDX-License-Identifier: Apache-2.0
"""Lowers one step of a language model, prefill or decode, for a batch of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hdl.isa import Instruction, LoadDest, StoreFormat
from hdl.isa.asm import to_binary
from scheduler.language.attention import append_cycles, lower_attention
from scheduler.language.dense import load_dense, load_head, load_parameters, lower_norm, project_head
from scheduler.language.experts import ExpertQueues, lower_choices, lower_router
from scheduler.language.slots import SlotQueues
from scheduler.language.work import Work
from scheduler.memory.image import Symbol
from scheduler.memory.model import ModelMemory
from scheduler.models.quantised_model import QuantisedModel
from scheduler.ops.batch import Chunk, Routing, blocks_of
from scheduler.plan.chip import Chip, StepSize, plan_chip
from scheduler.plan.shape import LoweringError, ModelShape
from scheduler.stream.emitter import Label

__all__ = ["StepProgram", "check_smallest_step", "default_key_block", "lower_step", "step_size"]

MOST_JOB_TOKENS = 16
"""Queries of one head that attention handles at once in prefill."""


@dataclass(frozen=True, eq=False)
class StepProgram:
    """A step's stream and what it needs in memory.

    Attributes
    ----------
    chip : Chip
        Where data lie on the chip.
    chunks : tuple of Chunk
        What the step works on.
    instructions : tuple of Instruction
        The stream, END included.
    labels : tuple of Label
        What each instruction is for.
    stream_base : int
        Byte address of the stream in group 0.
    patch : Symbol
        The part of memory that the host writes for this step (stream and token lists).
    window : tuple of two (int, int)
        Output windows of the groups: first byte and end.
    logits : Symbol
        Where the logits appear: int16 [sequences, vocabulary].
    """

    chip: Chip
    chunks: tuple[Chunk, ...]
    instructions: tuple[Instruction, ...]
    labels: tuple[Label, ...]
    stream_base: int
    patch: Symbol
    window: tuple[tuple[int, int], tuple[int, int]]
    logits: Symbol

    def read_logits(self, memory: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int16]:
        """Return the logits [sequences, vocabulary] from the groups' memories after the step."""
        shape = self.chip.shape
        raw = np.asarray(memory[self.logits.group])[self.logits.address : self.logits.address + self.logits.size]
        return raw.copy().view("<i2").reshape(len(self.chunks), shape.vocabulary).astype(np.int16)


def check_batch(shape: ModelShape, memory: ModelMemory, chunks: Sequence[Chunk]) -> None:
    """Refuse a batch that the model or its memory has no place for.

    Raises
    ------
    LoweringError
        Names the sequence, its value and the limit.
    """
    if not chunks:
        raise LoweringError("batch: no sequences; give at least one")
    if len({chunk.slot for chunk in chunks}) != len(chunks):
        raise LoweringError("batch: two sequences have the same slot; give each its own")
    for chunk in chunks:
        if not 0 <= chunk.slot < memory.slots:
            raise LoweringError(f"batch: slot {chunk.slot}; the memory has slots 0 to {memory.slots - 1}")
        if not chunk.tokens:
            raise LoweringError(f"sequence {chunk.slot}: no new tokens; give at least one")
        if chunk.end > shape.context:
            raise LoweringError(
                f"sequence {chunk.slot}: {chunk.end} tokens; the context is {shape.context}: shorten the prompt or "
                "generate fewer tokens"
            )
        wrong = [token for token in chunk.tokens if not 0 <= token < shape.vocabulary]
        if wrong:
            raise LoweringError(
                f"sequence {chunk.slot}: token {wrong[0]}; the vocabulary is 0 to {shape.vocabulary - 1}"
            )


def lower_step(
    model: QuantisedModel,
    memory: ModelMemory,
    chunks: Sequence[Chunk],
    routing: Sequence[Routing] | None,
    *,
    key_block: int | None = None,
) -> StepProgram:
    """Return the stream of a step.

    The step area of `memory` is written anew: stream and token lists.

    Parameters
    ----------
    model : QuantisedModel
        The model.
    memory : ModelMemory
        Where it lies.
    chunks : sequence of Chunk
        New tokens of each sequence.
    routing : sequence of Routing, or None
        Experts of all tokens, for each layer. None: slots mode, the stream does not depend on the routing, which the
        machine finds (:mod:`scheduler.language.slots`).
    key_block : int, optional
        Keys that are scored at once; default: :func:`default_key_block`.

    Raises
    ------
    LoweringError
        A batch that does not fit, or a model that cannot run in slots mode.
    """
    shape = memory.shape
    check_batch(shape, memory, chunks)
    block = key_block or default_key_block(shape, model)
    if block % shape.key_unit:
        raise LoweringError(f"key_block: {block}; use a multiple of {shape.key_unit}")
    if block > model.key_block:
        raise LoweringError(
            f"key_block: {block}; the model was quantised for blocks of up to {model.key_block} keys: use a smaller "
            "block, or quantise with a larger one"
        )
    size = step_size(shape, chunks, block)
    chip = plan_chip(shape, size)
    if chip.block > memory.block:
        raise LoweringError(f"token block: {chip.block} tokens; the memory's list has {memory.block}: raise block")
    memory.begin_step()
    work = Work(model, memory, chip)
    blocks = blocks_of(chunks, chip.block)
    queues = SlotQueues(work) if routing is None else ExpertQueues(work, routing, append_cycles(shape, blocks[0]))

    _embed(work, chunks)
    _load_rotations(work, chunks)
    load_parameters(work)
    load_dense(work, 0)
    queues.prime()
    for layer in range(shape.layers):
        work.emitter.layer = layer
        queues.load_lists(layer)
        lower_attention(work, layer, blocks, partial(lower_router, work, layer))
        if layer + 1 < shape.layers:
            load_dense(work, layer + 1)
        else:
            load_head(work)
        lower_choices(work, size.tokens)
        queues.run(layer)
    work.emitter.layer = -1
    _head(work, chunks)
    instructions = work.emitter.finish()
    stream = memory.add(to_binary(instructions))
    return StepProgram(
        chip=chip, chunks=tuple(chunks), instructions=instructions, labels=tuple(work.emitter.labels),
        stream_base=stream.address, patch=memory.step, window=_window(memory),
        logits=Symbol(memory.logits.group, memory.logits.address, size.outputs * shape.vocabulary * 2),
    )  # fmt: skip


def step_size(shape: ModelShape, chunks: Sequence[Chunk], key_block: int) -> StepSize:
    """Return what a step of these chunks needs room for; `plan_chip` says whether there is."""
    most = max(1, min(MOST_JOB_TOKENS, shape.config.accumulator_depth // shape.head_rows))
    return StepSize(
        tokens=sum(len(c.tokens) for c in chunks),
        outputs=len(chunks),
        job_tokens=max(shape.group, min(most, max(len(c.tokens) for c in chunks))),
        keys=max(c.end for c in chunks),
        key_block=key_block,
    )


def default_key_block(shape: ModelShape, model: QuantisedModel) -> int:
    """Return the keys that are scored at once unless something else is asked for."""
    return _key_block(shape, model.key_block)


def _key_block(shape: ModelShape, most: int) -> int:
    return min(8 * shape.config.columns, max(shape.key_unit, most // shape.key_unit * shape.key_unit))


def check_smallest_step(shape: ModelShape, key_block: int) -> None:
    """Check that the machine has room for a step of one token, before there is a model.

    Parameters
    ----------
    shape : ModelShape
        The model's dimensions.
    key_block : int
        What the model will be quantised for.

    Raises
    ------
    LoweringError
        It has not; names the memory, the need and the remedy.
    """
    plan_chip(shape, step_size(shape, [Chunk(0, 0, (0,))], _key_block(shape, key_block)))


def _window(memory: ModelMemory) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the span of each group that a step may write: caches and logits."""
    spans: list[tuple[int, int]] = []
    for group in (0, 1):
        written = [s for n, s in memory.symbols.items() if s.group == group and (".keys." in n or ".values." in n)]
        written += [memory.logits] if memory.logits.group == group else []
        if not written:
            spans.append((0, 0))
            continue
        spans.append((min(s.address for s in written), max(s.address + s.size for s in written)))
    return spans[0], spans[1]


def _embed(work: Work, chunks: Sequence[Chunk]) -> None:
    """Load each token's embedding into the residual."""
    shape, row = work.shape, 0
    for chunk in chunks:
        for token in chunk.tokens:
            symbol = work.memory.embedding(token)
            work.emitter.load(
                "embedding", dest_kind=LoadDest.ROWS, group=symbol.group, dest_base=row, count=shape.hidden_rows,
                shift=work.model.embedding_shift, addr=symbol.units,
            )  # fmt: skip
            row += shape.hidden_rows


def _load_rotations(work: Work, chunks: Sequence[Chunk]) -> None:
    """Load the rotation tables of all tokens' positions; every layer uses them."""
    shape, row = work.shape, work.chip.rows["attention"]["rope"]
    for chunk in chunks:
        table = work.memory.rope(chunk.position)
        count = len(chunk.tokens) * shape.rope_rows
        work.emitter.load(
            "rope", dest_kind=LoadDest.ROWS, dest_base=row, group=table.group, count=count, addr=table.units
        )
        row += count


def _head(work: Work, chunks: Sequence[Chunk]) -> None:
    """Emit the last norm, the head and the store of the logits of each sequence's last token."""
    shape, chip = work.shape, work.chip
    words, rows = chip.words["head"]["x"], chip.rows["head"]["logits"]
    scalars = chip.scalars["head"]["norm"]
    last = np.cumsum([len(chunk.tokens) for chunk in chunks]) - 1
    decode = all(len(chunk.tokens) == 1 for chunk in chunks)
    groups = [(0, 0, len(chunks))] if decode else [(n, int(token), 1) for n, token in enumerate(last)]
    for number, token, count in groups:
        lower_norm(
            work, "norm", work.model.final_norm, row=token * shape.hidden_rows, stride=shape.hidden_rows, count=count,
            scalar=scalars + number, word=words + number * shape.hidden_words, tiers=1,
        )  # fmt: skip
    project_head(work, tokens=len(chunks), act=words, row=rows)
    work.emitter.store(
        "logits", format=StoreFormat.INT16, group=work.memory.logits.group, row_base=rows,
        rows=len(chunks) * shape.logit_rows, addr=work.memory.logits.units,
    )  # fmt: skip
