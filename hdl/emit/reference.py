# SPDX-License-Identifier: Apache-2.0
"""The reference page: instructions, error codes and registers, rendered from their single sources."""

from __future__ import annotations

from hdl.config import PRESETS, MachineConfig
from hdl.isa import BODIES, HEADER, Field, Opcode
from hdl.isa.error_codes import ErrorCode
from hdl.regs import COUNTER_BASE, GLOBAL_COUNTERS, TIER_COUNTERS, register_map

__all__ = ["render_reference"]


def _fields(fields: tuple[Field, ...], position: int) -> list[str]:
    lines = ["| bits | field | meaning |", "| --- | --- | --- |"]
    for field in fields:
        end = position + field.width - 1
        span = f"{end}..{position}" if field.width > 1 else str(position)
        values = ""
        if field.enum is not None and field.enum is not Opcode:
            values = " (" + ", ".join(f"{int(v)} = {v.name}" for v in field.enum) + ")"
        lines.append(f"| {span} | `{field.name}` | {field.doc}{values} |")
        position += field.width
    return lines


def _presets() -> list[str]:
    names = list(PRESETS)
    lines = ["| field | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for key in PRESETS["small"].to_dict():
        if key != "name":
            lines.append(f"| `{key}` | " + " | ".join(str(PRESETS[n].to_dict()[key]) for n in names) + " |")
    presets = [PRESETS[n] for n in names]
    derived: list[tuple[str, list[float]]] = [
        ("PEs", [c.pes for c in presets]),
        ("bytes a cycle, both groups", [c.peak_bytes for c in presets]),
        ("MACs per byte of bandwidth", [c.pes / c.peak_bytes for c in presets]),
        ("V-Cache bytes a tier", [c.vcache_tiles * c.tile_bytes for c in presets]),
    ]
    lines += [f"| {title} | " + " | ".join(f"{v:,}" for v in values) + " |" for title, values in derived]
    return lines


def render_reference(config: MachineConfig | None = None) -> str:
    """Return the Markdown text of ``docs/reference.md`` (registers of `config`, by default `small`)."""
    config = config or PRESETS["small"]
    lines = [
        "# Reference: configurations, instructions, errors, registers",
        "",
        "Generated from `hdl/config.py`, `hdl/isa/instructions.py`, `hdl/isa/error_codes.py` and `hdl/regs.py` by",
        "`a3d report --reference`; do not edit.",
        "",
        "## Configurations",
        "",
        *_presets(),
        "",
        "## Instructions",
        "",
        "256 bits, little-endian in memory. [architecture.md](architecture.md), section 3, says what they do;",
        "[vector.md](vector.md) has VECTOR, ROUTE and slots, and loads and stores with gaps.",
        "",
        "### Header (all instructions)",
        "",
        *_fields(HEADER, 0),
    ]
    start = sum(field.width for field in HEADER)
    for opcode in Opcode:
        lines += ["", f"### {opcode.name} (opcode {int(opcode)})", ""]
        lines += _fields(BODIES[opcode], start) if BODIES[opcode] else ["No fields beyond the header."]
    lines += ["", "## Error codes", "", "| code | name |", "| --- | --- |"]
    lines += [f"| {int(code)} | {code.name} |" for code in ErrorCode]
    lines += ["", f"## Registers of `{config.name}`", "", "| offset | name | access | meaning |"]
    lines.append("| --- | --- | --- | --- |")
    for register in register_map(config):
        if register.offset >= COUNTER_BASE:
            continue
        bits = "; ".join(f"bit {f.lsb} {f.name}: {f.doc}" for f in register.fields)
        text = register.doc + (f" ({bits})" if bits else "")
        lines.append(f"| {register.offset:#05x} | `{register.name}` | {register.access} | {text} |")
    lines += [
        "",
        f"## Performance counters (from {COUNTER_BASE:#x}, 8 bytes each, in this order)",
        "",
        "| name | meaning |",
        "| --- | --- |",
        *(f"| `{name}` | {doc} |" for name, doc in GLOBAL_COUNTERS),
        *(f"| `tier<i>_{name}` | {doc} |" for name, doc in TIER_COUNTERS),
        "",
    ]
    return "\n".join(lines)
