# SPDX-License-Identifier: Apache-2.0
"""Assembler and disassembler: one instruction per line of text, 32 bytes each in binary.

Every name comes from the field table in :mod:`hdl.isa`. A line is the opcode and ``field=value`` pairs::

    gemm tiers=0..3 mapping=n tokens=8 k_slices=8 n_tiles=4 vcache=0 tag=3 dest_kind=combine wait=s3:2 post=s5  ; up

Short forms, each by rule: ``tiers=a..b`` is tier_base and tier_count; ``x`` is the field ``x_base``; ``wait=sN:COUNT``
and ``post=sN`` (up to two of each, separated by commas) are the header's waits and posts; a field whose name ends in
``_tiers`` takes tier numbers (``0,2..3``) or a hexadecimal mask; enumerated fields take names in lower case; ``addr``
and ``addr_low`` take ``@symbol``; ``length`` may be negative. Fields left out are zero (tier_count: 1). ``;`` starts a
comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hdl.config import ADDRESS_UNIT
from hdl.errors import A3dError
from hdl.isa import BODIES, HEADER, INSTRUCTION_BITS, Field, Instruction, Opcode, decode, encode, fields_of
from hdl.isa.legality import tiers_of_mask

__all__ = ["AsmError", "assemble", "assemble_line", "disassemble", "from_binary", "to_binary", "to_text"]

WORD_BYTES = INSTRUCTION_BITS // 8

_ADDRESSES = frozenset({"addr", "addr_low"})
_SIGNED = frozenset({"length"})


class AsmError(A3dError):
    """A line of assembler text, or a binary stream, that cannot be translated."""


def assemble(text: str, symbols: Mapping[str, int] | None = None) -> list[Instruction]:
    """Translate assembler text.

    Parameters
    ----------
    text : str
        One instruction per line; blank lines and comments are skipped.
    symbols : mapping of str to int, optional
        Byte addresses for ``@symbol``.

    Raises
    ------
    AsmError
        One line naming the line number, the field and what is allowed.
    """
    instructions = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            instruction = assemble_line(line, symbols or {})
        except A3dError as error:
            raise AsmError(f"line {number}: {error}") from None
        if instruction is not None:
            instructions.append(instruction)
    return instructions


def assemble_line(line: str, symbols: Mapping[str, int]) -> Instruction | None:
    """Translate one line; None for a line without an instruction.

    Raises
    ------
    AsmError
        Unknown opcode or field, a field given twice, or a value that is not understood.
    """
    words = line.split(";", 1)[0].split()
    if not words:
        return None
    try:
        opcode = Opcode[words[0].upper()]
    except KeyError:
        raise AsmError(f"opcode {words[0]!r}; use one of {', '.join(o.name.lower() for o in Opcode)}") from None
    fields = {f.name: f for f in fields_of(opcode) if f.name != "opcode"}
    values: dict[str, int] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise AsmError(f"{word!r} is not field=value; write for example tokens=8")
        for key, number in _parse_pair(name, value, fields, symbols).items():
            if key in values:
                raise AsmError(f"{name}: the field {key} is given twice; keep one")
            values[key] = number
    if "tier_count" in fields:
        values.setdefault("tier_count", 1)
    instruction = Instruction(opcode, {k: v for k, v in values.items() if v})
    encode(instruction)  # checks every value against its field's width and names
    return instruction


def _parse_pair(name: str, value: str, fields: Mapping[str, Field], symbols: Mapping[str, int]) -> dict[str, int]:
    if name in ("wait", "post"):
        return _parse_semaphores(name, value)
    if name == "tiers" and "tier_base" in fields:
        tiers = _parse_tiers(name, value)
        if tiers != list(range(tiers[0], tiers[-1] + 1)):
            raise AsmError(f"tiers: {value!r} are not adjacent; write for example tiers=0..3")
        return {"tier_base": tiers[0], "tier_count": len(tiers)}
    full = name if name in fields else f"{name}_base"
    if full not in fields:
        short = ["tiers" if n == "tier_base" else n.removesuffix("_base") for n in fields if n in _body_names(fields)]
        raise AsmError(f"no field {name!r}; use one of wait, post, {', '.join(short)}")
    field = fields[full]
    if field.enum is not None and value.upper() in field.enum.__members__:
        return {full: int(field.enum[value.upper()])}
    if full.endswith("_tiers") and not value.lower().startswith("0x"):
        return {full: sum(1 << tier for tier in _parse_tiers(full, value))}
    if value.startswith("@") and full in _ADDRESSES:
        if value[1:] not in symbols:
            raise AsmError(f"{name}: no symbol {value[1:]!r}; known are {', '.join(sorted(symbols)) or 'none'}")
        address = symbols[value[1:]]
        if address % ADDRESS_UNIT:
            raise AsmError(f"{name}: symbol {value[1:]!r} at {address:#x} is not a multiple of {ADDRESS_UNIT} bytes")
        return {full: address // ADDRESS_UNIT}
    try:
        number = int(value, 0)
        if full in _SIGNED and -(1 << field.width - 1) <= number < 0:
            number += 1 << field.width
        return {full: number}
    except ValueError:
        names = f"one of {', '.join(v.name.lower() for v in field.enum)}" if field.enum else "a number"
        raise AsmError(f"{name}: {value!r} is not understood; use {names}") from None


def _body_names(fields: Iterable[str]) -> set[str]:
    header = {f.name for f in HEADER}
    return {name for name in fields if name not in header}


def _parse_tiers(name: str, value: str) -> list[int]:
    tiers: list[int] = []
    for part in value.split(","):
        first, dots, last = part.partition("..")
        try:
            low, high = int(first), int(last if dots else first)
        except ValueError:
            low, high = 1, 0
        if not 0 <= low <= high <= 31:
            raise AsmError(f"{name}: {value!r} is not a set of tiers; write for example 0..3 or 0,2 (or a mask: 0x5)")
        tiers += range(low, high + 1)
    if len(set(tiers)) != len(tiers):
        raise AsmError(f"{name}: {value!r} names a tier twice; name each once")
    return sorted(tiers)


def _parse_semaphores(name: str, value: str) -> dict[str, int]:
    parts = value.split(",")
    if len(parts) > 2:
        raise AsmError(f"{name}: {value!r} has {len(parts)} semaphores; an instruction has two")
    values = {}
    for n, part in enumerate(parts):
        semaphore, colon, count = part.partition(":")
        number = semaphore.removeprefix("s")
        if not semaphore.startswith("s") or not number.isdecimal() or (colon and not count.isdecimal()):
            example = "wait=s3:2,s4" if name == "wait" else "post=s5,s6"
            raise AsmError(f"{name}: {part!r} is not a semaphore; write for example {example}")
        if name == "post" and colon:
            raise AsmError(f"post: {part!r}; a post always adds 1: write post={semaphore}")
        if name == "wait" and colon and int(count) == 0:
            raise AsmError(f"wait: {part!r} waits for nothing; leave it out")
        values[f"{name}{n}_sem"] = int(number)
        values[f"post{n}_en" if name == "post" else f"wait{n}_count"] = int(count) if colon else 1
    return values


def disassemble(instruction: Instruction, symbols: Mapping[tuple[int, int], str] | None = None) -> str:
    """Return an instruction as a line of assembler text that assembles to the same value.

    Parameters
    ----------
    instruction : Instruction
        What to write.
    symbols : mapping of (group, byte address) to str, optional
        Names of memory regions, used for addresses that match exactly.
    """
    words = [instruction.opcode.name.lower()]
    body = BODIES[instruction.opcode]
    if any(f.name == "tier_base" for f in body):
        base, count = instruction["tier_base"], instruction["tier_count"]
        if count:
            words.append(f"tiers={base}..{base + count - 1}" if count > 1 else f"tiers={base}")
        else:
            words.append(f"tier_base={base} tier_count=0")
    for field in body:
        value = instruction[field.name]
        if field.name in ("tier_base", "tier_count"):
            continue
        if field.enum is not None:
            words.append(f"{field.name}={field.enum(value).name.lower()}")
        elif value:
            words.append(f"{field.name.removesuffix('_base')}={_value_text(instruction, field, symbols or {})}")
    return " ".join(words + _semaphore_words(instruction))


def _value_text(instruction: Instruction, field: Field, symbols: Mapping[tuple[int, int], str]) -> str:
    value = instruction[field.name]
    if field.name.endswith("_tiers"):
        tiers = tiers_of_mask(value)
        if len(tiers) > 1 and tiers == list(range(tiers[0], tiers[-1] + 1)):
            return f"{tiers[0]}..{tiers[-1]}"
        return ",".join(str(tier) for tier in tiers)
    if field.name in _SIGNED and value >> field.width - 1:
        return str(value - (1 << field.width))
    if field.name in _ADDRESSES:
        group = instruction["group"] ^ (field.name == "addr_low")
        name = symbols.get((group, value * ADDRESS_UNIT))
        return f"@{name}" if name else f"{value:#x}"
    return str(value)


def _semaphore_words(instruction: Instruction) -> list[str]:
    words = []
    for kind, suffix in (("wait", "count"), ("post", "en")):
        used = [n for n in (0, 1) if instruction[f"{kind}{n}_{suffix}"]]
        stray = any(instruction[f"{kind}{n}_sem"] for n in (0, 1) if n not in used)
        if used == [1] or stray:  # not what the short form makes: write the raw fields
            names = [f"{kind}{n}_{part}" for n in (0, 1) for part in ("sem", suffix)]
            words += [f"{name}={instruction[name]}" for name in names if instruction[name]]
        elif used:
            parts = []
            for n in used:
                count = instruction[f"wait{n}_count"] if kind == "wait" else 1
                parts.append(f"s{instruction[f'{kind}{n}_sem']}" + (f":{count}" if count > 1 else ""))
            words.append(f"{kind}={','.join(parts)}")
    return words


def to_text(instructions: Iterable[Instruction], symbols: Mapping[tuple[int, int], str] | None = None) -> str:
    """Return a whole stream as assembler text, one line per instruction."""
    return "".join(disassemble(i, symbols) + "\n" for i in instructions)


def to_binary(instructions: Iterable[Instruction]) -> bytes:
    """Return a stream's bytes as the machine fetches them.

    Raises
    ------
    IsaError
        A value that does not fit its field.
    """
    return b"".join(encode(i) for i in instructions)


def from_binary(stream: bytes) -> list[Instruction]:
    """Return the instructions of a binary stream.

    Raises
    ------
    AsmError
        A length that is not a multiple of 32 bytes, or a word that is not an instruction (named by its index).
    """
    if len(stream) % WORD_BYTES:
        raise AsmError(f"stream: {len(stream)} bytes; use a multiple of {WORD_BYTES}")
    instructions: list[Instruction] = []
    for pc, word in enumerate(split_words(stream)):
        try:
            instructions.append(decode(word))
        except A3dError as error:
            raise AsmError(f"instruction {pc}: {error}") from None
    return instructions


def split_words(stream: bytes) -> Sequence[bytes]:
    """Return the 32-byte words of a binary stream."""
    return [stream[i : i + WORD_BYTES] for i in range(0, len(stream), WORD_BYTES)]
