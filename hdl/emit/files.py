# SPDX-License-Identifier: Apache-2.0
"""Put a design into a directory: Verilog files, file list, lint waivers, manifest and whatever else belongs to it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hdl.emit.design import EmittedDesign
from hdl.emit.hierarchy import EmitError
from hdl.emit.manifest import MANIFEST, build_manifest, render_manifest
from hdl.emit.waivers import WAIVER_FILE, render_waivers
from hdl.scratch import probe_folder, scratch_folder

__all__ = ["FILE_LIST", "check_output", "render_file_list", "write"]

FILE_LIST = "a3d.f"
"""Name of the file list; its paths are relative to the directory that holds it."""


def render_file_list(design: EmittedDesign) -> str:
    """Text of the file list: one path per line, children before parents."""
    return (
        "// Paths are relative to this file: verilator -F, vcs -F, xrun -F. Modules come before those that use them.\n"
        f"// Top module: {design.top}\n" + "".join(f"{path}\n" for path in design.files)
    )


def check_output(out_dir: str | os.PathLike[str]) -> Path:
    """Refuse an output directory that cannot be written, before the work that a design takes.

    Raises
    ------
    EmitError
        If it is a file, cannot be made, or is not writable.
    """
    target, name = Path(out_dir), os.fspath(out_dir)
    try:
        probe_folder(target)
    except OSError as error:
        reason = "is a file" if os.path.isfile(target) else f"cannot be written: {error.strerror}"
        raise EmitError(f"output directory {name!r} {reason}: choose another directory") from None
    return target


def write(
    design: EmittedDesign,
    out_dir: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    registers: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, str] | None = None,
    header: str | None = None,
    stack: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Write `design` into `out_dir` and return the manifest.

    Parameters
    ----------
    design : EmittedDesign
        Result of :func:`hdl.emit.verilog.emit`.
    out_dir : path
        Created when it is missing.  Files that an earlier call left there, that nobody has changed since, and that are
        no longer part of the design are removed; anything else in it stays.
    config, registers, header, stack
        For the manifest; see :func:`hdl.emit.manifest.build_manifest`.
    extra : mapping of str to str, optional
        Further text files (``include/a3d.h``, constraints), by relative path.

    Raises
    ------
    EmitError
        If the files cannot be written (the disk is full, say), or a directory is where a file belongs.

    Notes
    -----
    Everything is written to a hidden folder in `out_dir` first and then moved into place file by file, the manifest
    last: an interruption leaves either no new manifest or a complete design.  Files whose contents do not change keep
    their time stamps, so that builds which depend on them are not repeated.  Calls from several processes take turns:
    one complete design is there in the end.
    """
    files = {path: design.text_of(path) for path in design.files}
    files[FILE_LIST] = render_file_list(design)
    files[WAIVER_FILE] = render_waivers(design.prefix)
    for path, text in (extra or {}).items():
        if path in files or path == MANIFEST:
            raise EmitError(f"extra file {path!r} has the name of a generated file: choose another one")
        files[path] = text
    for path in files:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise EmitError(f"file {path!r} would lie outside the output directory: use a relative path")
    manifest = build_manifest(design, files, config=config, registers=registers, header=header, stack=stack)

    target = check_output(out_dir)
    try:
        target.mkdir(parents=True, exist_ok=True)
        _put({**files, MANIFEST: render_manifest(manifest)}, target)
    except OSError as error:
        at = f" ({os.fspath(error.filename)!r})" if error.filename else ""
        raise EmitError(
            f"output directory {os.fspath(out_dir)!r} cannot be written: {error.strerror}{at}: make room, or choose "
            "another directory"
        ) from error
    return manifest


def _put(files: Mapping[str, str], target: Path) -> None:
    """Let `target` hold `files`, which end with the manifest."""
    with (
        _alone_in(target),
        # Inside, not beside: the folder around may be read-only, or another file system (a mounted output directory).
        scratch_folder(".a3d-", target) as staging,
    ):
        for path, text in files.items():
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).write_text(text, encoding="utf-8", newline="\n")
        stale = _generated(target) - files.keys()
        # All that can fail comes before the first file is moved.
        for path in files:
            _make_way(target, path)
        for path in files:
            if not _same(staging / path, target / path):
                os.replace(staging / path, target / path)
        for path in sorted(stale):
            (target / path).unlink(missing_ok=True)


def _make_way(target: Path, path: str) -> None:
    """Make the folder of a file, and refuse to write over what nobody generated: a directory may be full of work."""
    for parent in reversed(PurePosixPath(path).parents):
        place = target / parent
        if place.exists() and not place.is_dir():
            raise EmitError(
                f"{os.fspath(place)!r} is a file where a folder for generated files belongs: move it away, or choose "
                "another output directory"
            )
        place.mkdir(exist_ok=True)
    if (target / path).is_dir():
        raise EmitError(
            f"{os.fspath(target / path)!r} is a directory where a generated file belongs: move it away, or choose "
            "another output directory"
        )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that want the same from `folder` meanwhile; the lock leaves no file behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        # Closing alone would not do: a process that was forked meanwhile has the same handle.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _same(source: Path, target: Path) -> bool:
    return target.is_file() and target.read_bytes() == source.read_bytes()


def _generated(target: Path) -> set[str]:
    """Paths that an earlier call wrote into `target`, by the manifest there: files that are as it describes them."""
    try:
        listed = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]
        sums = {str(entry["path"]): entry["sha256"] for entry in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    found = set()
    for path, checksum in sums.items():
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            continue
        with contextlib.suppress(OSError, ValueError):  # gone, no file, or no name of one
            if hashlib.sha256((target / path).read_bytes()).hexdigest() == checksum:
                found.add(path)
    return found
