# SPDX-License-Identifier: Apache-2.0
"""A cache of compiled simulators, addressed by content and safe for several processes at once."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_root", "content_key", "lookup_or_build"]

CACHE_VARIABLE = "A3D_SIM_CACHE"
"""Environment variable that moves the cache away from ``build/simcache``."""

# Where a line of Verilog came from in Python. It changes with every edited comment, and no simulation depends on it.
_SRC_ATTRIBUTE = re.compile(rb'\(\* *src *= *"[^"]*" *\*\)')
_DONE = ".complete"


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
        Where the build belongs. Whatever it holds under another key is replaced.
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
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            build(scratch)
            (scratch / _DONE).write_text(key)
            shutil.rmtree(folder, ignore_errors=True)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return False


def _holds(folder: Path, key: str) -> bool:
    try:
        return (folder / _DONE).read_text() == key
    except OSError:
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock goes when the process ends, however it ends. The file itself stays: removing it would be a race.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
