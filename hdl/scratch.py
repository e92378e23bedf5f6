# SPDX-License-Identifier: Apache-2.0
"""Scratch folders and scratch files that do not outlive their process, and files that appear whole or not at all.

What a killed process (SIGKILL, power, memory) could not remove is removed by the next one that makes a scratch folder
or file of the same kind in the same place: a name holds the process that made it, and a lock on it tells whether that
process lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["KEEP_MARK", "keep", "probe_folder", "scratch_folder", "sweep_temporary", "whole_file"]

KEEP_MARK = ".a3d-keep"
"""File in a scratch folder that says: somebody will look at this folder, leave it."""

UNLOCKED_S = 60.0
"""Age from which a scratch folder without a lock is dead, even if a process of its number lives: numbers come again."""


@contextlib.contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Give a fresh folder, which is gone when the block ends, however it ends.

    Parameters
    ----------
    prefix : str
        Start of its name, in the folder for temporary files ``a3d-...-``. Dead folders in the same place whose names
        start so are removed first.
    parent : path, optional
        Where it lies; default: the folder for temporary files.

    Notes
    -----
    The block may move the folder elsewhere, and `keep` lets it stay.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    _sweep(place, re.escape(prefix))
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=place))
    with _locked(folder):
        try:
            yield folder
        finally:
            if not (folder / KEEP_MARK).exists():
                shutil.rmtree(folder, ignore_errors=True)


def keep(folder: Path) -> None:
    """Let a scratch folder stay for somebody to look at."""
    (folder / KEEP_MARK).touch()


def probe_folder(folder: Path) -> None:
    """Write something into a folder, or into the one that it would be made in: rights alone do not tell.

    Raises
    ------
    OSError, ValueError
        The folder cannot be made or written; nothing is left of the attempt.
    """
    with contextlib.suppress(FileNotFoundError):
        os.stat(folder)  # raises where the name itself is impossible
    while not folder.exists():
        if folder.is_symlink():
            raise FileNotFoundError(errno.ENOENT, "is a link to nowhere")
        folder = folder.absolute().parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"a3d")
        file.flush()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a scratch file beside `path`, which takes its place when the block ends without an exception.

    An interrupted block leaves neither half a file nor the scratch file nor a new folder. The scratch file's name ends
    as `path` does, for writers that choose a format by it. Missing folders are made. Symbolic links are followed.
    Something that is no regular file (``/dev/stdout``, a named pipe) is not replaced: the contents are written into it.
    """
    path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        with scratch_folder("a3d-file-") as folder:
            yield folder / path.name
            with path.open("wb") as special:
                special.write((folder / path.name).read_bytes())
        return
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.stem[:64]}-"
    _sweep(path.parent, re.escape(prefix))
    handle, name = tempfile.mkstemp(prefix=f"{prefix}{os.getpid()}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    with _locked(Path(name)):
        try:
            yield Path(name)
            # mkstemp makes files private; results are as readable as any other file.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            for folder in made:
                with contextlib.suppress(OSError):  # somebody else has put something there
                    folder.rmdir()
            raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that says that this process lives."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the process number must do
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def sweep_temporary() -> None:
    """Remove what killed processes of this user left in the folder for temporary files."""
    _sweep(Path(tempfile.gettempdir()), r"a3d-(?:[a-z_]+-)+")


def _sweep(place: Path, prefix: str) -> None:
    """Remove what dead processes of this user left in a folder under names that begin with a pattern."""
    pattern = re.compile(prefix + r"(\d+)-")
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            match = pattern.match(entry.name)
            if match:
                with contextlib.suppress(OSError):
                    _remove_dead(Path(entry.path), int(match[1]))


def _remove_dead(path: Path, process: int) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or (path / KEEP_MARK).exists():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its process lives
        if _exists(process) and time.time() - found.st_mtime < UNLOCKED_S:
            return  # made a moment ago, and not locked yet
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
