# SPDX-License-Identifier: Apache-2.0
"""The reference page: instructions, error codes and registers, rendered from their single sources."""

from __future__ import annotations

from hdl.config import PRESETS, MachineConfig, field_words
from hdl.isa import HEADER, MEMORIES, OPCODES, Access, Field, Opcode
from hdl.isa.description import OpcodeDescription
from hdl.isa.error_codes import ERROR_MEANINGS
from hdl.regs import COUNTER_BASE, GLOBAL_COUNTERS, TIER_COUNTERS, RegisterField, register_map

__all__ = ["access_lines", "field_table", "render_reference"]


def field_table(fields: tuple[Field, ...], position: int) -> list[str]:
    """Return a table of fields that begin at a bit."""
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


def _bits(field: RegisterField) -> str:
    return f"bit {field.lsb}" if field.width == 1 else f"bits {field.lsb + field.width - 1}..{field.lsb}"


def _memory(access: Access) -> str:
    return f"the {MEMORIES[access.memory].name}" if access.memory in MEMORIES else "external memory"


def access_lines(about: OpcodeDescription) -> list[str]:
    """Return a list of the queue and the memories of an opcode."""
    lines = [f"- queue: {about.queue_words}"]
    for kind, verb in (("read", "reads"), ("write", "writes"), ("add", "adds to")):
        lines += [f"- {verb} {_memory(a)}: {a.what}" for a in about.accesses if a.kind == kind]
    return lines


def _presets() -> list[str]:
    names = list(PRESETS)
    lines = ["| field | meaning | " + " | ".join(names) + " |", "| --- | --- |" + " --- |" * len(names)]
    for key, words in field_words().items():
        if key != "name":
            lines.append(f"| `{key}` | {words} | " + " | ".join(str(PRESETS[n].to_dict()[key]) for n in names) + " |")
    presets = [PRESETS[n] for n in names]
    derived: list[tuple[str, list[float]]] = [
        ("PEs", [c.pes for c in presets]),
        ("bytes a cycle, both groups", [c.peak_bytes for c in presets]),
        ("MACs per byte of bandwidth", [c.pes / c.peak_bytes for c in presets]),
        ("V-Cache bytes a tier", [c.vcache_tiles * c.tile_bytes for c in presets]),
    ]
    lines += [f"| {title} | | " + " | ".join(f"{v:,}" for v in values) + " |" for title, values in derived]
    return lines


def render_reference(config: MachineConfig | None = None) -> str:
    """Return the Markdown text of ``docs/reference.md`` (registers of `config`, by default `small`)."""
    config = config or PRESETS["small"]
    lines = [
        "# Reference: configurations, instructions, errors, registers",
        "",
        "Generated from `hdl/config.py`, `hdl/isa/` and `hdl/regs.py` by",
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
        "[isa/](isa/index.md) has a page for each, with pseudo-code, refusals, cycles and an example.",
        "",
        "### Header (all instructions)",
        "",
        *field_table(HEADER, 0),
    ]
    start = sum(field.width for field in HEADER)
    for opcode, about in OPCODES.items():
        lines += ["", f"### {opcode.name} (opcode {int(opcode)})", "", f"{opcode.name} {about.summary}.", ""]
        lines += access_lines(about)
        lines += ["", *field_table(about.body, start)] if about.body else ["", "No fields beyond the header."]
    lines += ["", "## Error codes", "", "| code | name | meaning |", "| --- | --- | --- |"]
    lines += [f"| {int(code)} | {code.name} | {meaning} |" for code, meaning in ERROR_MEANINGS.items()]
    lines += ["", f"## Registers of `{config.name}`", "", "| offset | name | access | meaning |"]
    lines.append("| --- | --- | --- | --- |")
    for register in register_map(config):
        if register.offset >= COUNTER_BASE:
            continue
        bits = "; ".join(f"{_bits(f)} {f.name}: {f.doc}" for f in register.fields)
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
