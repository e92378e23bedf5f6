# SPDX-License-Identifier: Apache-2.0
"""What streams with one mistake are made of: a legal beginning, and instructions that are legal but for one field."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hdl.config import ADDRESS_UNIT, INSTRUCTION_BYTES, MachineConfig
from hdl.isa import INSTRUCTION_BITS, Dest, LoadDest, Opcode, StoreFormat, fields_of
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import LIST_ENTRY_BYTES, Limits
from sim.stimulus.stream_draw import MOST_BYTES

__all__ = ["IllegalStream", "StreamBase", "pack"]

Fields = Mapping[str, int]


@dataclass(frozen=True)
class IllegalStream:
    """A stream that the machine must stop.

    Attributes
    ----------
    name : str
        What is wrong.
    stream : bytes
        The binary stream; it also lies in group 0 at `stream_base`.
    images : tuple of two bytes
        Memories of the groups.
    limits : Limits
        Memory sizes and output windows for the registers.
    stream_base : int
        Byte address of the stream in group 0.
    code : ErrorCode
        What the error register must show.
    pc : int or None
        Index of the instruction that must be reported; None where the machine does not know it.
    address : int or None
        Memory address that must be reported; None where it is not defined.
    """

    name: str
    stream: bytes
    images: tuple[bytes, bytes]
    limits: Limits
    stream_base: int
    code: ErrorCode
    pc: int | None
    address: int | None


def pack(opcode: int, values: Fields, stray_bits: int = 0) -> bytes:
    """Return 32 bytes with any values in the fields, legal or not; `stray_bits` is ORed in."""
    word, position = opcode | stray_bits, 0
    for field in fields_of(Opcode(opcode)) if opcode in list(Opcode) else ():
        if field.name != "opcode":
            value = values.get(field.name, 0)
            if value >> field.width:
                raise ValueError(f"pack: {field.name} = {value} does not fit {field.width} bits")
            word |= value << position
        position += field.width
    return word.to_bytes(INSTRUCTION_BITS // 8, "little")


class StreamBase:
    """Makes streams with one mistake: memories, a legal beginning, and legal instructions to change."""

    def __init__(self, config: MachineConfig, rng: random.Random) -> None:
        c = self.config = config
        self.random = rng
        unit = max(ADDRESS_UNIT, c.group_bytes)
        everyone = (1 << c.tiers) - 1
        self.unit = unit
        room = min(1 << c.address_bits, MOST_BYTES)
        if self._place(300, 8 * max(c.tile_bytes, 8 * c.rows), 64 * 4 * c.columns * -(-unit // (4 * c.columns))) > room:
            # What the instructions below need.
            self._place(32, max(2 * c.tile_bytes, 8 * c.rows), 2 * 4 * c.columns)
        data, total = self.data, self.window[1] + unit  # a store can miss the window and still hit memory
        self.limits = Limits((total, total), (self.window, self.window))
        rng_bytes = np.random.default_rng(rng.randrange(1 << 30))
        images = [rng_bytes.integers(0, 256, total, dtype=np.uint8) for _ in range(2)]
        entries = np.zeros((4, 4), dtype="<u2")  # entry 2: source far outside; entry 3: destination far outside
        entries[2, 0] = entries[3, 1] = 0xFFFF
        raw = entries.reshape(-1).view(np.uint8)
        images[0][self.list_at : self.list_at + 4 * LIST_ENTRY_BYTES] = raw
        self.images = images
        at = {"addr": data // ADDRESS_UNIT, "dest_tiers": everyone, "post0_en": 1}
        self.load: dict[str, int] = {"dest_kind": LoadDest.VCACHE, "count": 2, "tag": 5, **at}
        self.clear = {"format": StoreFormat.DISCARD, "clear": 1, "rows": 8, "post0_en": 1}
        self.prefix = [
            pack(Opcode.LOAD, self.load),
            pack(Opcode.LOAD, {"dest_kind": LoadDest.ACTIVATION, "count": 8, **at}),
            pack(Opcode.LOAD, {"dest_kind": LoadDest.PARAMETER, "count": 2, **at}),
            pack(Opcode.LOAD, {"dest_kind": LoadDest.LIST, "count": 4, **at, "addr": self.list_at // ADDRESS_UNIT}),
            pack(Opcode.STORE, self.clear),
        ]
        waits = {"wait0_count": len(self.prefix)}
        self.load = {k: v for k, v in self.load.items() if k != "post0_en"} | waits
        self.store = {"format": StoreFormat.INT32, "rows": 2, "addr": self.window[0] // ADDRESS_UNIT} | waits
        self.gemm: dict[str, int] = {
            "tier_count": 1, "tokens": 2, "k_slices": 1, "n_tiles": 1, "tag": 5, "act_stride": 1, "shift": 8,
            "dest_kind": Dest.COMBINE, "dest_stride": 1, **waits,
        }  # fmt: skip

    def _place(self, instructions: int, data: int, window: int) -> int:
        """Lay out the memories: stream, a list, what is loaded, output window; return their bytes."""
        unit = self.unit

        def whole(size: int) -> int:
            return -(-size // unit) * unit

        self.stream_room = whole(instructions * INSTRUCTION_BYTES)
        self.list_at = self.stream_room
        self.data = self.list_at + unit
        first = self.data + whole(data)
        self.window = (first, first + whole(window))
        return self.window[1] + unit

    def make(
        self, name: str, code: ErrorCode, wrong: bytes | list[bytes], pc: int | None = -1, address: int | None = None
    ) -> IllegalStream:
        """Build the stream: prefix, wrong instruction(s), END; pc -1: the first after the prefix."""
        words = [*self.prefix, *(wrong if isinstance(wrong, list) else [wrong]), pack(Opcode.END, {})]
        stream = b"".join(words)
        images = [image.copy() for image in self.images]
        images[0][: len(stream)] = np.frombuffer(stream, dtype=np.uint8)
        both = (images[0].tobytes(), images[1].tobytes())
        where = len(self.prefix) if pc == -1 else pc
        return IllegalStream(name, stream, both, self.limits, 0, code, where, address)

    def change(self, opcode: Opcode, base: Fields, code: ErrorCode, *names: str, **values: int) -> IllegalStream:
        """Return a stream whose instruction differs from the legal `base` in `values`."""
        text = ", ".join(f"{k}={v}" for k, v in values.items())
        address = None
        if code == ErrorCode.ADDRESS:
            wrong = [values[n] for n in ("addr", "addr_low") if n in values]
            address = wrong[-1] * ADDRESS_UNIT + values.get("offset", 0) if wrong else None
        return self.make(f"{opcode.name} {' '.join(names)} {text}", code, pack(opcode, {**base, **values}), -1, address)
