# SPDX-License-Identifier: Apache-2.0
"""Constrained-random instruction streams: short, legal, free of races, and rich in corners.

A stream starts with a few instructions that fill the working set, goes on with random instructions, and ends with
operations and stores that bring every activation and combine row of the working set out to memory. Whatever two
instructions share is ordered by semaphores that the generator inserts; everything else runs as the machine pleases.
Activation buffers and combine rows outside the working set are never touched.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Dest, Instruction, LoadDest, Mode, Opcode, StoreFormat
from hdl.isa.asm import to_binary
from hdl.isa.legality import Limits
from sim.stimulus.illegal_streams import IllegalStream, illegal_streams
from sim.stimulus.slot_streams import SlotDrawer
from sim.stimulus.stream_draw import Drawer, StreamOptions
from sim.stimulus.stream_order import OrderedProgram, StuckError, instruction_of
from sim.stimulus.vector_streams import VectorDrawer

__all__ = ["IllegalStream", "RandomStream", "StreamOptions", "illegal_streams", "random_stream"]

STREAM_BASE = 0
"""Byte address in group 0 of the stream itself."""

ATTEMPTS = 50
"""Streams that are tried for one seed, the later half of them shorter and shorter."""

HARD_ATTEMPT = 10
"""From this one on, more semaphores are kept for the end."""


@dataclass(frozen=True)
class RandomStream:
    """A generated program.

    Attributes
    ----------
    config : MachineConfig
        The machine.
    seed : int
        Seed that repeats it.
    instructions : tuple of Instruction
        END included.
    images : tuple of two bytes
        Initial memories of the groups; the stream lies in group 0 at `stream_base`.
    limits : Limits
        Memory sizes and output windows for the registers.
    stream_base : int
        Byte address of the stream in group 0.
    """

    config: MachineConfig
    seed: int
    instructions: tuple[Instruction, ...]
    images: tuple[bytes, bytes]
    limits: Limits
    stream_base: int

    @property
    def stream(self) -> bytes:
        """The binary stream."""
        return to_binary(self.instructions)


def random_stream(
    config: MachineConfig, seed: int, length: int = 30, options: StreamOptions | None = None
) -> RandomStream:
    """Return a random legal stream.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    seed : int
        The same seed gives the same stream.
    length : int
        About how many random instructions to put between the first fills and the last stores; a machine with little
        memory or few semaphores gets fewer.
    options : StreamOptions, optional
        What to use beside the array's instructions; default: nothing.
    """
    for attempt in range(ATTEMPTS):
        shorter = length * min(1.0, 2 * (ATTEMPTS - 1 - attempt) / ATTEMPTS)
        try:
            return _Generator(config, seed, int(shorter), attempt, options or StreamOptions()).generate()
        except StuckError:
            continue
    raise A3dError(
        f"random_stream: seed {seed} gives no stream for {config.name}: it needs more than {config.semaphores} "
        "semaphores; raise config semaphores"
    )


class _Generator:
    def __init__(self, config: MachineConfig, seed: int, length: int, attempt: int, options: StreamOptions) -> None:
        self.config = config
        self.seed = seed
        rng = self.random = random.Random(f"{config.digest()} {seed} {attempt}")
        bits = np.random.default_rng([seed, attempt, int(config.digest()[:8], 16)])
        draws = self.draws = Drawer(config, rng, bits, length, options)
        self.length = draws.length
        program = self.program = OrderedProgram(config, rng, draws.images, draws.limits, draws.words, draws.rows)
        draws.model = program.model
        if attempt >= HARD_ATTEMPT:  # too few semaphores were left for what has to come last
            program.reserved = max(program.reserved, min(config.semaphores - 2, 3 * config.tiers + 8))
        self.vectors = VectorDrawer(config, rng, program.model, 2 * draws.words, draws.rows) if options.vector else None
        self.slots = SlotDrawer(draws, program, self._draw_one) if options.slots else None

    def generate(self) -> RandomStream:
        """Draw instructions until the length is reached."""
        program, draws = self.program, self.draws
        self._fill_working_set()
        target = len(program.instructions) + self.length
        attempts = 0
        while len(program.instructions) < target and attempts < 20 * self.length:
            attempts += 1
            if self.slots is not None and self.random.random() < 0.1:
                self.slots.emit()
            else:
                self._draw_one()
        program.finishing = True
        self._bring_out()
        instructions = (*program.instructions, Instruction(Opcode.END, {}))
        stream = to_binary(instructions)
        if len(stream) > draws.stream_bytes:
            raise StuckError
        images = [image.copy() for image in draws.images]
        images[0][STREAM_BASE : STREAM_BASE + len(stream)] = np.frombuffer(stream, dtype=np.uint8)
        both = (images[0].tobytes(), images[1].tobytes())
        return RandomStream(self.config, self.seed, instructions, both, draws.limits, STREAM_BASE)

    def _draw_one(self) -> None:
        if self.vectors is not None and self.random.random() < 0.4:
            self.program.emit(self.vectors.draw())
        else:
            self.program.emit(self.draws.draw())

    def _fill_working_set(self) -> None:
        draws, everyone = self.draws, (1 << self.config.tiers) - 1
        must = self.program.must
        must(draws.load(LoadDest.ACTIVATION, 0, 2 * draws.words, everyone))
        must(draws.load(LoadDest.PARAMETER, 0, draws.params, everyone))
        if self.config.tiers > 1 and self.random.random() < 0.5:
            for tier in range(self.config.tiers):
                must(draws.load(LoadDest.LIST, 0, draws.entries, 1 << tier))
        else:
            must(draws.load(LoadDest.LIST, 0, draws.entries, everyone))
        must(instruction_of(Opcode.STORE, {"format": int(StoreFormat.DISCARD), "clear": 1, "rows": draws.rows}))
        if self.vectors is not None:
            must(self.vectors.first())

    def _bring_out(self) -> None:
        """Add every activation word of the working set into combine rows by way of random weights, and store them."""
        draws, must = self.draws, self.program.must
        must(draws.load(LoadDest.VCACHE, 0, 1, (1 << self.config.tiers) - 1))
        tag = self.program.instructions[-1]["tag"]
        for tier in range(self.config.tiers):
            step = min(draws.tokens, draws.rows)
            for first in range(0, 2 * draws.words, step):
                count = min(step, 2 * draws.words - first)
                values = {
                    "tier_base": tier, "tier_count": 1, "tokens": count, "k_slices": 1, "n_tiles": 1, "tag": tag,
                    "act_base": first, "act_stride": 1, "mode": int(Mode.REQUANT16), "shift": 16,
                    "dest_kind": int(Dest.COMBINE), "accumulate": 1, "dest_stride": 1,
                }  # fmt: skip
                must(instruction_of(Opcode.GEMM, values))
        store = {"format": int(StoreFormat.INT32), "rows": draws.rows, "group": self.random.randrange(2)}
        must(draws.with_window(instruction_of(Opcode.STORE, store)))
        for vector in self.vectors.last() if self.vectors is not None else ():
            must(vector)
            must(draws.with_window(instruction_of(Opcode.STORE, store)))
