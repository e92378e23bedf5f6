# SPDX-License-Identifier: Apache-2.0
"""Draws random VECTOR instructions on the working set of a random stream."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hdl.config import MachineConfig
from hdl.isa import (
    REDUCTIONS,
    TWO_OPERANDS,
    Instruction,
    Limits,
    Opcode,
    VectorBits,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
    check_instruction,
)
from sim.golden.executor import Executor
from sim.golden.order.vector_footprint import vector_conflict
from sim.stimulus.stream_order import instruction_of

__all__ = ["VectorDrawer"]

MOST_VECTORS = 6


class VectorDrawer:
    """Random VECTOR instructions.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    rng : random.Random
        Source of choices.
    model : Executor
        The state after the instructions so far: GATHER's indices depend on it.
    words, rows : int
        Activation words and combine rows that may be used.
    """

    def __init__(self, config: MachineConfig, rng: random.Random, model: Executor, words: int, rows: int) -> None:
        self.config = config
        self.random = rng
        self.model = model
        self.words = words
        self.rows = rows
        self.scalars = min(config.scalar_depth, 24, rows // 2)

    def first(self) -> Instruction:
        """Return the instruction that gives every scalar of the working set a value; the rows are known by then."""
        values = {"op": VectorOp.MAX, "first": 1, "vectors": self.scalars, "rows": 1, "a_stride": 1}
        return instruction_of(Opcode.VECTOR, {k: int(v) for k, v in values.items()})

    def last(self) -> Iterator[Instruction]:
        """Yield instructions after which rows show the scalars, each its own bits of them."""
        base = {"vectors": self.scalars, "rows": 1, "a_stride": 1, "dest_stride": 1, "dest_base": self.scalars}
        base |= {"bits": int(VectorBits.BITS32), "dest_kind": int(VectorDest.ROWS)}
        yield instruction_of(Opcode.VECTOR, {**base, "fn": int(VectorFn.EXP2), "mult": 0xFFFF})
        yield instruction_of(Opcode.VECTOR, {**base, "op": int(VectorOp.RESCALE), "in_shift": 8})
        yield instruction_of(Opcode.VECTOR, {**base, "op": int(VectorOp.SCALE), "in_shift": 12, "shift": 16})

    def draw(self) -> Instruction:
        """Return a legal VECTOR with a defined result."""
        limits = Limits.whole(self.config)
        while True:
            vector = instruction_of(Opcode.VECTOR, self._values())
            if check_instruction(vector, self.config, limits) is None and vector_conflict(vector, self.config) is None:
                if vector["op"] != VectorOp.GATHER or self._indices_fit(vector):
                    return vector

    def _indices_fit(self, gather: Instruction) -> bool:
        base, count = gather["s_base"], gather["length"] * gather["vectors"]
        highest = int((self.model.scalars[base : base + count] >> 16).max())
        return highest < gather["rows"] * self.config.columns

    def _values(self) -> dict[str, int]:
        choose, c = self.random, self.config
        op = choose.choice((VectorOp.MAP, VectorOp.MAP, *VectorOp))
        values = {
            "op": int(op), "vectors": choose.randint(1, min(MOST_VECTORS, self.scalars)),
            "rows": choose.choice((1, 1, 2, 3, 4, 8)), "first": int(choose.random() < 0.4),
            "in_shift": choose.choice((0, 0, 4, 8, 16, choose.randrange(32))),
            "mult": choose.choice((0, 1, 127, 32768, 65535, choose.randrange(1 << 16))),
            "shift": choose.choice((0, 7, 15, 15, 24, 32, 63, choose.randrange(64))),
            "bits": choose.choice(list(VectorBits)),
            "imm": choose.choice((0, 1, 32768, 65535, choose.randrange(1 << 16))),
        }  # fmt: skip
        if op == VectorOp.MAP:
            values |= {"fn": choose.choice(list(VectorFn)), "sum": choose.choice(list(VectorSum))}
        if op == VectorOp.SUMSQ:
            values["shift"] %= 32  # the sum stays below 2**48
        values["a_stride"] = self._stride(values["rows"])
        span = (values["vectors"] - 1) * values["a_stride"] + values["rows"]
        values["a_base"] = choose.randrange(max(1, self.rows - span + 1))
        if op == VectorOp.GATHER:
            values["length"] = choose.choice((1, 2, c.columns, choose.randint(1, c.columns)))
            values["length"] = min(values["length"], max(1, self.scalars // values["vectors"]))
        elif choose.random() < 0.4:
            self._draw_length(values)
        if op in TWO_OPERANDS:
            self._draw_second_operand(values)
        self._draw_scalars(values)
        self._draw_dest(values)
        return {name: int(value) for name, value in values.items()}

    def _stride(self, extent: int) -> int:
        return self.random.choice((extent, extent, extent + 1, 0, self.random.randrange(8)))

    def _draw_length(self, values: dict[str, int]) -> None:
        choose, columns = self.random, self.config.columns
        whole = values["rows"] * columns
        length = choose.choice((0, 1, -3, columns - 1, columns, whole - 1, whole, whole + 5, choose.randrange(whole)))
        values |= {"masked": 1, "length": length & 0xFFFF, "length_step": choose.randrange(2)}

    def _draw_second_operand(self, values: dict[str, int]) -> None:
        b_rows = self.random.choice([n for n in (1, 2, 4, 8) if values["rows"] % n == 0])
        extent = b_rows * (2 if values["op"] == VectorOp.ROTATE else 1)
        stride = self._stride(extent)
        span = (values["vectors"] - 1) * stride + extent
        values |= {
            "b_rows": b_rows,
            "b_stride": stride,
            "b_base": self.random.randrange(max(1, self.rows - span + 1)),
        }

    def _draw_scalars(self, values: dict[str, int]) -> None:
        choose = self.random
        read = values["vectors"] * values.get("length", 1) if values["op"] == VectorOp.GATHER else values["vectors"]
        values["s_base"] = choose.randrange(max(1, self.scalars - read + 1))
        if values["op"] == VectorOp.GATHER:
            self._draw_choices(values)
        values["d_scalar"] = choose.randrange(self.scalars - values["vectors"] + 1)
        if values["op"] in (VectorOp.MAX, VectorOp.ARGMAX) and choose.random() < 0.5:
            values["d_scalar"] = values["s_base"]

    def _draw_choices(self, values: dict[str, int]) -> None:
        """Point GATHER at scalars that hold indices inside the vector, if there are any."""
        good = (self.model.scalars[: self.scalars] >> 16) < values["rows"] * self.config.columns
        for length in (values["length"], 2, 1):
            read = values["vectors"] * length
            places = [n for n in range(self.scalars - read + 1) if good[n : n + read].all()]
            if places:
                values |= {"length": length, "s_base": self.random.choice(places)}
                return

    def _draw_dest(self, values: dict[str, int]) -> None:
        choose, c = self.random, self.config
        if values["op"] in REDUCTIONS or (values.get("sum") and choose.random() < 0.2):
            return
        extent = 1 if values["op"] == VectorOp.GATHER else values["rows"]
        if values["op"] != VectorOp.GATHER and choose.random() < 0.4:
            extent, room = -(-extent * c.columns // c.rows), self.words
            everyone = (1 << c.tiers) - 1
            values |= {"dest_kind": VectorDest.ACTIVATION, "dest_tiers": choose.randint(1, everyone), "bits": 0}
        else:
            room = self.rows
            values["dest_kind"] = VectorDest.ROWS
            if choose.random() < 0.4:
                values |= {"dest_base": values["a_base"], "dest_stride": values["a_stride"]}
                return
        stride = choose.choice((extent, extent, extent + 1))
        span = (values["vectors"] - 1) * stride + extent
        values |= {"dest_stride": stride, "dest_base": choose.randrange(max(1, room - span + 1))}
