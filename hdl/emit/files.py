# SPDX-License-Identifier: Apache-2.0
"""Put a design into a directory: Verilog files, file list, lint waivers, manifest and whatever else belongs to it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hdl.emit.design import EmittedDesign
from hdl.emit.hierarchy import EmitError
from hdl.emit.manifest import MANIFEST, build_manifest, render_manifest
from hdl.emit.waivers import WAIVER_FILE, render_waivers

__all__ = ["FILE_LIST", "render_file_list", "write"]

FILE_LIST = "a3d.f"
"""Name of the file list; its paths are relative to the directory that holds it."""


def render_file_list(design: EmittedDesign) -> str:
    """Text of the file list: one path per line, children before parents."""
    return (
        "// Paths are relative to this file: verilator -F, vcs -F, xrun -F. Modules come before those that use them.\n"
        f"// Top module: {design.top}\n" + "".join(f"{path}\n" for path in design.files)
    )


def write(
    design: EmittedDesign,
    out_dir: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    registers: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write `design` into `out_dir` and return the manifest.

    Parameters
    ----------
    design : EmittedDesign
        Result of :func:`hdl.emit.verilog.emit`.
    out_dir : path
        Created when it is missing.  Files that an earlier call left there and that are no longer part of the design
        are removed; anything else in it stays.
    config, registers
        For the manifest; see :func:`hdl.emit.manifest.build_manifest`.
    extra : mapping of str to str, optional
        Further text files (``include/a3d.h``, constraints), by relative path.

    Notes
    -----
    Everything is written beside `out_dir` first and then moved into place file by file, the manifest last: an
    interruption leaves either no new manifest or a complete design.  Files whose contents do not change keep their time
    stamps, so that builds which depend on them are not repeated.
    """
    files = {path: design.text_of(path) for path in design.files}
    files[FILE_LIST] = render_file_list(design)
    files[WAIVER_FILE] = render_waivers()
    for path, text in (extra or {}).items():
        if path in files or path == MANIFEST:
            raise EmitError(f"extra file {path!r} has the name of a generated file: choose another one")
        files[path] = text
    for path in files:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise EmitError(f"file {path!r} would lie outside the output directory: use a relative path")
    manifest = build_manifest(design, files, config=config, registers=registers)

    target = Path(out_dir)
    if target.exists() and not target.is_dir():
        raise EmitError(f"output directory {os.fspath(out_dir)!r} is a file: choose another directory")
    target.mkdir(parents=True, exist_ok=True)
    stale = _generated(target) - files.keys()
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.resolve().parent) as name:
        staging = Path(name)
        for path, text in {**files, MANIFEST: render_manifest(manifest)}.items():
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).write_text(text, encoding="utf-8", newline="\n")
        for path in (*files, MANIFEST):
            _replace(staging / path, target / path)
    for path in sorted(stale):
        (target / path).unlink(missing_ok=True)
    return manifest


def _replace(source: Path, target: Path) -> None:
    if target.is_file() and target.read_bytes() == source.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)


def _generated(target: Path) -> set[str]:
    """Paths that the manifest of an earlier call lists; empty when there is none, or when it is unreadable."""
    try:
        listed = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]
        paths = {entry["path"] for entry in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {path for path in paths if not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts}
