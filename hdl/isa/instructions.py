# SPDX-License-Identifier: Apache-2.0
"""The instruction set, defined once: encoder, RTL layouts, assembler, C header and reference page derive from it.

An instruction is 256 bits, little-endian in memory. All instructions share a header; the body depends on the opcode.
Bits that no field of the opcode uses are reserved and must be zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from amaranth.lib import data

from hdl.errors import A3dError

__all__ = [
    "BODIES",
    "HEADER",
    "INSTRUCTION_BITS",
    "Dest",
    "Field",
    "Format",
    "Instruction",
    "IsaError",
    "LoadDest",
    "Mapping3D",
    "Mode",
    "Opcode",
    "Order",
    "StoreFormat",
    "VectorBits",
    "VectorDest",
    "VectorFn",
    "VectorOp",
    "VectorSum",
    "body_layout",
    "decode",
    "encode",
    "fields_of",
    "instruction_layout",
    "most_of",
]  # fmt: skip

INSTRUCTION_BITS = 256


class IsaError(A3dError):
    """An instruction word or an instruction's field is not legal."""


class Opcode(IntEnum):
    """Operation codes (6 bits). Zero is illegal, so that erased memory is not a program."""

    NOP = 1
    END = 2
    LOAD = 3
    STORE = 4
    GEMM = 5
    VECTOR = 6
    ROUTE = 7


class Mapping3D(IntEnum):
    """How a gang of adjacent tiers shares one GEMM's loop nest (``alone``: a gang of one)."""

    ALONE = 0
    M = 1
    N = 2
    K = 3


class Order(IntEnum):
    """Which of the two tile loops is the inner one; tokens are always innermost."""

    K_INNER = 0
    N_INNER = 1


class Mode(IntEnum):
    """What a tier's drain does with a finished output row."""

    REQUANT8 = 0
    REQUANT16 = 1
    SWIGLU = 2


class Dest(IntEnum):
    """Where result rows go."""

    ACTIVATION = 0
    COMBINE = 1


class Format(IntEnum):
    """How a load's bytes lie in memory."""

    BYTES = 0
    PAIR = 1
    HIGH = 2
    COLUMNS = 3


class LoadDest(IntEnum):
    """Which memory of the machine a load fills."""

    VCACHE = 0
    ACTIVATION = 1
    LIST = 2
    PARAMETER = 3
    ROWS = 4


class StoreFormat(IntEnum):
    """Element type that a store writes; DISCARD writes nothing (used with ``clear``)."""

    INT8 = 0
    INT16 = 1
    INT32 = 2
    DISCARD = 3


class VectorOp(IntEnum):
    """What a VECTOR instruction does with each of its vectors (``docs/vector.md``)."""

    MAP = 0
    SCALE = 1
    RESCALE = 2
    MUL = 3
    ROTATE = 4
    ADD = 5
    MAX = 6
    SUMSQ = 7
    ARGMAX = 8
    GATHER = 9


class VectorFn(IntEnum):
    """Function that MAP applies to each element before it is scaled."""

    IDENTITY = 0
    EXP2 = 1
    SIGMOID = 2


class VectorSum(IntEnum):
    """What MAP does with the sum of its results."""

    NONE = 0
    SUM = 1
    SUM_RECIP = 2


class VectorDest(IntEnum):
    """Where a VECTOR's result rows go."""

    NONE = 0
    ROWS = 1
    ACTIVATION = 2


class VectorBits(IntEnum):
    """Width to which a VECTOR's results are saturated."""

    BITS8 = 0
    BITS16 = 1
    BITS32 = 2


@dataclass(frozen=True)
class Field:
    """One field of an instruction.

    Attributes
    ----------
    name : str
        Name in the assembler and in the RTL layout.
    width : int
        Bits.
    doc : str
        One line for the reference page, with unit and range.
    enum : type of IntEnum, optional
        Names of the legal values.
    """

    name: str
    width: int
    doc: str
    enum: type[IntEnum] | None = None


HEADER: tuple[Field, ...] = (
    Field("opcode", 6, "operation", Opcode),
    Field("wait0_sem", 6, "semaphore of the first wait"),
    Field("wait0_count", 5, "amount that the first wait subtracts; 0 = no wait"),
    Field("wait1_sem", 6, "semaphore of the second wait; must differ from the first when both wait"),
    Field("wait1_count", 5, "amount that the second wait subtracts; 0 = no wait"),
    Field("post0_en", 1, "1 = post the first semaphore when the result is readable"),
    Field("post0_sem", 6, "semaphore of the first post (adds 1)"),
    Field("post1_en", 1, "1 = post the second semaphore"),
    Field("post1_sem", 6, "semaphore of the second post (adds 1)"),
    Field("reserved", 6, "must be zero"),
)

BODIES: Mapping[Opcode, tuple[Field, ...]] = {
    Opcode.NOP: (),
    Opcode.END: (),
    Opcode.LOAD: (
        Field("format", 2, "byte order in memory", Format),
        Field("group", 1, "channel group (PAIR: of the high plane; the low plane lies in the other group)"),
        Field("dest_kind", 3, "memory that is filled", LoadDest),
        Field("dest_tiers", 8, "tier mask, at least one bit; every named tier gets the same data (ROWS: zero)"),
        Field("dest_base", 16, "first tile / word / entry / requantisation word"),
        Field("count", 16, "tiles / activation words / list entries / requantisation words / rows, 1 or more"),
        Field("tag", 6, "fill tag that the tiles get (V-Cache only)"),
        Field("shift", 5, "left shift of the int16 elements (ROWS only), 0 to 16"),
        Field("addr", 32, "memory address in units of 32 bytes (PAIR: of the high plane)"),
        Field("addr_low", 32, "address of the low plane in units of 32 bytes (PAIR only)"),
        Field("slot_en", 1, "1 = load what the expert of a slot needs: `addr` and `addr_low` are expert 0's"),
        Field("slot", 8, "slot of the routing table, below expert_slots"),
        Field("slot_stride", 24, "from one expert to the next (PAIR: of the same parity), in units of 32 bytes"),
    ),
    Opcode.STORE: (
        Field("format", 2, "element type written", StoreFormat),
        Field("group", 1, "channel group"),
        Field("shift", 5, "rounding right shift before saturation"),
        Field("clear", 1, "1 = set the rows to zero after they were read"),
        Field("row_base", 16, "first combine-buffer row"),
        Field("rows", 16, "rows, 1 or more"),
        Field("addr", 32, "memory address in units of 32 bytes"),
        Field("offset", 5, "bytes added to the address, a multiple of a row's bytes or of group_bytes"),
        Field("row_gap", 10, "combine rows skipped after each row that is read"),
        Field("addr_gap", 16, "memory skipped after each row that is written, in rows' bytes"),
    ),
    Opcode.GEMM: (
        Field("tier_base", 3, "lowest tier of the gang (the leader)"),
        Field("tier_count", 4, "tiers in the gang, 1 to 8"),
        Field("mapping", 2, "mapping of the loop nest to the gang", Mapping3D),
        Field("order", 1, "inner tile loop", Order),
        Field("act_list", 1, "1 = activation rows through the token list"),
        Field("dest_list", 1, "1 = result rows (and gates) through the token list"),
        Field("tokens", 10, "tokens per tier, 1 or more"),
        Field("k_slices", 10, "reduction slices of R per tier, 1 or more"),
        Field("n_tiles", 10, "output tiles of C columns per tier, 1 or more"),
        Field(
            "vcache_base",
            16,
            "first V-Cache tile, the same in each tier of the gang; tiles follow in loop order",
        ),
        Field("tag", 6, "fill tag that the tiles must have"),
        Field("act_base", 16, "first activation word"),
        Field("act_stride", 10, "activation words from one token to the next (no list)"),
        Field("list_base", 12, "first token-list entry"),
        Field("param_base", 12, "requantisation word of the tier's first output tile; one word a tile"),
        Field("mode", 2, "drain operation", Mode),
        Field("shift", 6, "requantisation shift, 0 to 47"),
        Field("post_mult", 16, "SWIGLU: multiplier of the product, 0 to 65535"),
        Field("post_shift", 6, "SWIGLU: shift of the product, 0 to 47"),
        Field("dest_kind", 1, "where result rows go", Dest),
        Field("accumulate", 1, "COMBINE: 1 = add to the row, 0 = overwrite it"),
        Field("dest_tiers", 8, "ACTIVATION: tier mask that gets the rows; 0 = the tier that made the row"),
        Field("dest_base", 16, "first activation word / combine row"),
        Field("dest_stride", 10, "words / rows from one token to the next (no list)"),
        Field("param_hold", 1, "1 = every output tile uses the requantisation word param_base"),
        Field("slot_en", 1, "1 = the tokens of a slot: `tokens` is the most, `list_base` the first in the slot's list"),
        Field("slot", 8, "slot of the routing table, below expert_slots"),
    ),
    Opcode.VECTOR: (
        Field("op", 4, "operation", VectorOp),
        Field("fn", 2, "MAP: function of the elements", VectorFn),
        Field("sum", 2, "MAP: what is done with the sum of the results", VectorSum),
        Field("first", 1, "MAX, MAP with a sum, ARGMAX: 1 = start the recurrence, do not read what came before"),
        Field("vectors", 10, "vectors, 1 or more"),
        Field("rows", 9, "combine rows of a vector, 1 or more"),
        Field("a_base", 16, "first row of operand A"),
        Field("a_stride", 10, "rows of operand A from one vector to the next"),
        Field("b_base", 16, "first row of operand B (MUL, ROTATE, ADD)"),
        Field("b_stride", 10, "rows of operand B from one vector to the next"),
        Field("b_rows", 4, "period of operand B in rows; divides `rows` (ROTATE: its second table follows)"),
        Field("s_base", 12, "scalar of vector 0 that is read"),
        Field("d_scalar", 12, "scalar of vector 0 that is written"),
        Field("dest_kind", 2, "where result rows go", VectorDest),
        Field("dest_tiers", 8, "ACTIVATION: tier mask, at least one bit"),
        Field("dest_base", 16, "first activation word / combine row"),
        Field("dest_stride", 10, "words / rows from one vector to the next"),
        Field("in_shift", 5, "rounding right shift of operand A"),
        Field("mult", 16, "multiplier, 0 to 65535"),
        Field("shift", 6, "right shift of the result, 0 to 63"),
        Field("bits", 2, "width of the results", VectorBits),
        Field("masked", 1, "1 = only the first elements of a vector are valid"),
        Field("length", 16, "masked: valid elements of vector 0 (signed); GATHER: elements, 1 to columns"),
        Field("length_step", 1, "masked: 1 = each vector has one valid element more than the one before"),
        Field("imm", 16, "SUMSQ: added to the sum, shifted left by `shift`"),
    ),
    Opcode.ROUTE: (
        Field("tokens", 10, "tokens, 1 or more"),
        Field("choices", 4, "experts of each token, 1 to 15 and at most columns"),
        Field("experts", 9, "experts, 1 to expert_slots: a choice is below it"),
        Field("s_base", 12, "first scalar: choice j of token t at s_base + j*tokens + t, as ARGMAX writes them"),
        Field("a_base", 16, "combine row with the gates of token 0: lane j of a row is that of choice j (low 16 bits)"),
        Field("a_stride", 10, "combine rows from one token's gates to the next"),
        Field("list_base", 12, "first token-list entry that is written, in every tier"),
        Field("source_stride", 10, "activation words from one token to the next: source is t*source_stride"),
        Field("dest_base", 16, "dest of token 0"),
        Field("dest_stride", 10, "combine rows from one token to the next: dest is dest_base + t*dest_stride"),
    ),
}


def fields_of(opcode: Opcode) -> tuple[Field, ...]:
    """Return header and body fields of an opcode in bit order from bit 0."""
    return HEADER + BODIES[opcode]


def body_layout(opcode: Opcode) -> data.StructLayout:
    """Return the Amaranth layout of an opcode's body (bits 48 and up), without trailing reserved bits."""
    return data.StructLayout({f.name: f.width for f in BODIES[opcode]})


def header_layout() -> data.StructLayout:
    """Return the Amaranth layout of the header."""
    return data.StructLayout({f.name: f.width for f in HEADER})


def instruction_layout(opcode: Opcode) -> data.StructLayout:
    """Return the Amaranth layout of a whole 256-bit instruction of one opcode (``_pad`` is reserved)."""
    members = {f.name: f.width for f in fields_of(opcode)}
    used = sum(members.values())
    return data.StructLayout({**members, "_pad": INSTRUCTION_BITS - used})


@dataclass(frozen=True)
class Instruction:
    """One instruction: its opcode and every field's value (absent fields are zero)."""

    opcode: Opcode
    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        if name == "opcode":
            return int(self.opcode)
        return self.values.get(name, 0)


def encode(instruction: Instruction) -> bytes:
    """Return the 32 bytes of an instruction, little-endian.

    Raises
    ------
    IsaError
        A field that the opcode does not have, or a value that does not fit its width or enumeration.
    """
    fields = fields_of(instruction.opcode)
    known = {f.name for f in fields}
    for name in instruction.values:
        if name not in known:
            raise IsaError(f"{instruction.opcode.name}: no field {name!r}; use one of {', '.join(sorted(known))}")
    word = 0
    position = 0
    for field in fields:
        value = int(instruction[field.name])
        if not 0 <= value < 1 << field.width:
            raise IsaError(
                f"{instruction.opcode.name}.{field.name}: {value} does not fit {field.width} bits; "
                f"use 0 to {(1 << field.width) - 1}"
            )
        if field.enum is not None and value not in [int(v) for v in field.enum]:
            names = ", ".join(f"{v.name}={int(v)}" for v in field.enum)
            raise IsaError(f"{instruction.opcode.name}.{field.name}: {value} is not defined; use {names}")
        word |= value << position
        position += field.width
    return word.to_bytes(INSTRUCTION_BITS // 8, "little")


def most_of(opcode: Opcode, *names: str) -> int:
    """Return the largest number that all these fields of an opcode can hold, without a sign."""
    widths = {field.name: field.width for field in fields_of(opcode)}
    return min((1 << widths[name]) - 1 for name in names)


def decode(word: bytes) -> Instruction:
    """Return the instruction that 32 bytes encode.

    Raises
    ------
    IsaError
        Wrong length, unknown opcode, undefined enumeration value, or a reserved bit that is set.
    """
    if len(word) != INSTRUCTION_BITS // 8:
        raise IsaError(f"instruction: {len(word)} bytes; an instruction has {INSTRUCTION_BITS // 8}")
    bits = int.from_bytes(word, "little")
    code = bits & 0x3F
    try:
        opcode = Opcode(code)
    except ValueError:
        names = ", ".join(f"{v.name}={int(v)}" for v in Opcode)
        raise IsaError(f"opcode: {code} is not defined; use {names}") from None
    values: dict[str, int] = {}
    position = 0
    for field in fields_of(opcode):
        value = (bits >> position) & ((1 << field.width) - 1)
        position += field.width
        if field.enum is not None and value not in [int(v) for v in field.enum]:
            names = ", ".join(f"{v.name}={int(v)}" for v in field.enum)
            raise IsaError(f"{opcode.name}.{field.name}: {value} is not defined; use {names}")
        if field.name != "opcode":
            values[field.name] = value
    if bits >> position or values.get("reserved"):
        raise IsaError(f"{opcode.name}: reserved bits are set; they must be zero")
    return Instruction(opcode, {k: v for k, v in values.items() if v})
