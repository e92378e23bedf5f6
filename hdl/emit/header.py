# SPDX-License-Identifier: Apache-2.0
"""Render a C header of the register map, the instruction formats and the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hdl.emit.hierarchy import EmitError

__all__ = ["render_header"]

_ACCESS = ("ro", "rw", "wo", "w1c", "rc")


def render_header(
    registers: Sequence[Mapping[str, Any]],
    isa: Mapping[str, tuple[int, Sequence[Mapping[str, Any]]]],
    config: Mapping[str, Any],
    *,
    prefix: str = "A3D",
    guard: str | None = None,
) -> str:
    """Return the text of a C header (C89 and C++) that holds only preprocessor definitions.

    Parameters
    ----------
    registers : sequence of mappings
        Each with ``name``, ``offset`` (bytes), ``access`` (``ro``, ``rw``, ``wo``, ``w1c``, ``rc``), ``doc``, and
        ``fields``: each of those with ``name``, ``lsb``, ``width``, and optionally ``doc`` and ``values`` (name to
        number); optionally ``value``, where it never changes.
    isa : mapping
        From the name of an instruction to its opcode and its fields (``name``, ``lsb``, ``width``, optional ``doc`` and
        ``values``).
    config : mapping
        Numbers, booleans and strings become definitions; nested mappings are joined with ``_``; the rest (lists,
        ``None``) is left out.
    prefix : str
        First part of every name.
    guard : str, optional
        Name of the include guard; ``<prefix>_H`` if not given.

    Returns
    -------
    str
        For a register: ``<P>_REG_<NAME>`` (byte offset), and ``..._VALUE`` if it never changes; for its fields
        ``..._SHIFT``, ``..._WIDTH``, ``..._MASK`` (in place).  For an instruction ``<P>_OP_<NAME>`` and for its fields
        ``..._LSB``, ``..._WIDTH``: an instruction is wider than any C integer, so that its fields have positions
        rather than masks.

    Raises
    ------
    EmitError
        If two definitions would have the same name, registers overlap, or a field does not fit into 32 bits.
    """
    base = _name(prefix)
    guard = guard or f"{base}_H"
    out = _Definitions()
    out.section("Configuration")
    for key, value in _flatten(config):
        name = f"{base}_CFG_{_name(key)}"
        if isinstance(value, bool):
            out.define(name, str(int(value)))
        elif isinstance(value, int):
            out.define(name, _literal(value))
        elif isinstance(value, float):
            out.define(name, repr(value))
        elif isinstance(value, str):
            out.define(name, '"' + _escape(value) + '"')

    out.section("Registers: byte offsets, and the fields of their 32-bit words")
    offsets: dict[int, str] = {}
    for register in registers:
        offset, access = int(register["offset"]), str(register["access"])
        if offset % 4 or offset < 0:
            raise EmitError(f"register {register['name']} has the offset {offset}: it must be a multiple of 4")
        if offset in offsets:
            raise EmitError(f"registers {offsets[offset]} and {register['name']} share the offset {offset:#x}")
        if access not in _ACCESS:
            raise EmitError(f"register {register['name']} has the access {access!r}: use one of {', '.join(_ACCESS)}")
        offsets[offset] = str(register["name"])
        name = f"{base}_REG_{_name(register['name'])}"
        out.comment(f"{register['name']} ({access}): {register.get('doc', '')}")
        out.define(name, f"0x{offset:04x}u")
        if register.get("value") is not None:
            out.define(f"{name}_VALUE", f"0x{int(register['value']):08x}u", "what it reads as in this machine")
        for field in register.get("fields", ()):
            lsb, width = _span(field, f"register {register['name']}", limit=32)
            stem = f"{name}_{_name(field['name'])}"
            out.define(f"{stem}_SHIFT", f"{lsb}u", field.get("doc", ""))
            out.define(f"{stem}_WIDTH", f"{width}u")
            out.define(f"{stem}_MASK", f"0x{((1 << width) - 1) << lsb:08x}u")
            for value_name, value in field.get("values", {}).items():
                out.define(f"{stem}_{_name(value_name)}", f"{int(value)}u")

    out.section("Instructions: opcodes, and positions of the fields in the instruction word")
    opcodes: dict[int, str] = {}
    for mnemonic, (opcode, fields) in isa.items():
        if opcode in opcodes:
            raise EmitError(f"instructions {opcodes[opcode]} and {mnemonic} share the opcode {opcode:#x}")
        opcodes[opcode] = mnemonic
        out.comment(mnemonic)
        out.define(f"{base}_OP_{_name(mnemonic)}", f"0x{opcode:02x}u")
        for field in fields:
            lsb, width = _span(field, f"instruction {mnemonic}")
            stem = f"{base}_{_name(mnemonic)}_{_name(field['name'])}"
            out.define(f"{stem}_LSB", f"{lsb}u", field.get("doc", ""))
            out.define(f"{stem}_WIDTH", f"{width}u")
            for value_name, value in field.get("values", {}).items():
                out.define(f"{stem}_{_name(value_name)}", f"{int(value)}u")
    return (
        "/* SPDX-License-Identifier: Apache-2.0 */\n"
        "/* Generated by a3d. Do not edit. */\n"
        f"#ifndef {guard}\n#define {guard}\n{out.text()}\n#endif /* {guard} */\n"
    )


class _Definitions:
    """Lines of the header, with a check that no name is defined twice."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._seen: dict[str, str] = {}

    def section(self, title: str) -> None:
        self._lines += ["", f"/* ---- {title} ---- */"]

    def comment(self, text: str) -> None:
        self._lines += ["", f"/* {_plain(text)} */"]

    def define(self, name: str, value: str, doc: str = "") -> None:
        if name in self._seen:
            raise EmitError(f"the C header would define {name} twice: rename a register, field or instruction")
        self._seen[name] = value
        line = f"#define {name:<48} {value}"
        self._lines.append(f"{line}  /* {_plain(doc)} */" if doc else line)

    def text(self) -> str:
        return "\n".join(self._lines)


def _name(text: object) -> str:
    """Upper-case C identifier for `text`; CamelCase is split at its humps."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(text))
    name = re.sub(r"\W+", "_", parts).strip("_").upper()
    if not name or not re.fullmatch(r"[A-Z_][A-Z0-9_]*|[0-9][A-Z0-9_]*", name):
        raise EmitError(f"{text!r} gives no C identifier: use letters, digits and '_'")
    return name


def _plain(text: object) -> str:
    """Make `text` fit into one comment."""
    return " ".join(str(text).replace("*/", "* /").replace("/*", "/ *").split()).rstrip(": ")


def _escape(text: str) -> str:
    """C string contents; anything beyond printable ASCII becomes octal escapes of its UTF-8 bytes."""
    plain = {ord('"'): '\\"', ord("\\"): "\\\\", ord("?"): "\\?"}
    return "".join(plain.get(byte, chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in text.encode())


def _literal(value: int) -> str:
    if value < 0:
        return f"({value})"
    return f"{value}u" if value < 1 << 32 else f"{value}ull"


def _span(field: Mapping[str, Any], owner: str, limit: int | None = None) -> tuple[int, int]:
    lsb, width = int(field["lsb"]), int(field["width"])
    if lsb < 0 or width < 1 or (limit is not None and lsb + width > limit):
        allowed = f"within {limit} bits" if limit is not None else "with lsb >= 0 and width >= 1"
        raise EmitError(f"field {field['name']} of {owner} has lsb {lsb} and width {width}: it must lie {allowed}")
    return lsb, width


def _flatten(config: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}{key}_")
        else:
            yield f"{path}{key}", value
