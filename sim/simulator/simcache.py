# SPDX-License-Identifier: Apache-2.0
"""A cache of compiled simulators, addressed by content and safe for several processes at once."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hdl.scratch import scratch_folder

__all__ = ["CACHE_VARIABLE", "cache_root", "content_key", "lookup_or_build"]

CACHE_VARIABLE = "A3D_SIM_CACHE"
"""Environment variable that moves the cache away from ``build/simcache``."""

# Where a line of Verilog came from in Python. It changes with every edited comment, and no simulation depends on it.
_SRC_ATTRIBUTE = re.compile(rb'\(\* *src *= *"[^"]*" *\*\)')
_DONE = ".complete"
"""File with the key of a complete entry, and mode and hash of each of its files."""


def cache_root() -> Path:
    """Return the cache directory: ``$A3D_SIM_CACHE``, or ``build/simcache`` below the current directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path("build") / "simcache").absolute()


def content_key(files: Sequence[Path], settings: Iterable[object]) -> str:
    """Return the key of a build: a hash over the files' contents, in order, and everything else that matters."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.suffix.encode() + b"\0")
        digest.update(hashlib.sha256(_SRC_ATTRIBUTE.sub(b"", file.read_bytes())).digest())
    for setting in settings:
        digest.update(repr(setting).encode() + b"\0")
    return digest.hexdigest()[:32]


def lookup_or_build(folder: Path, key: str, build: Callable[[Path], None]) -> bool:
    """Make sure that `folder` holds the build of `key`.

    Parameters
    ----------
    folder
        Where the build belongs. Whatever it holds under another key, or that is no longer what was built (a file is
        missing, or another one), is replaced.
    key
        The content key.
    build
        Called with an empty folder beside `folder` to build in. What it leaves there is moved into place, so that
        an interrupted build is never taken for a complete one.

    Returns
    -------
    bool
        True when the build was there already.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if _holds(folder, key):
        return True
    # Two processes that want the same model: the second waits for the first one's result.
    with _locked(folder.with_name(folder.name + ".lock")):
        if _holds(folder, key):
            return True
        with scratch_folder(".build-", folder.parent) as scratch:
            build(scratch)
            files = {path.name: _state(path) for path in scratch.iterdir() if path.is_file()}
            (scratch / _DONE).write_text(json.dumps({"key": key, "files": files}))
            _remove(folder)
            scratch.rename(folder)
    return False


def _holds(folder: Path, key: str) -> bool:
    """Return whether a folder has all that a build of `key` left, unchanged."""
    try:
        done = json.loads((folder / _DONE).read_text())
        if done["key"] != key:
            return False
        return bool(all(_state(folder / name) == built for name, built in done["files"].items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _state(path: Path) -> dict[str, Any]:
    """Return a file's mode and hash, which takes hundredths of a second for a large simulator."""
    with path.open("rb") as file:
        return {"mode": path.stat().st_mode, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock goes when the process ends, however it ends. The file itself stays: removing it would be a race.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
