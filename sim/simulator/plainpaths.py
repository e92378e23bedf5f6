# SPDX-License-Identifier: Apache-2.0
"""Paths that ``make`` can use: Verilator's makefiles take no spaces, and few other special characters."""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdl.errors import A3dError
from hdl.scratch import scratch_folder

__all__ = ["Links", "is_plain", "make_word", "plain_folder"]

_PLAIN = re.compile(r"[\w./+@=,-]+")


def is_plain(path: str | os.PathLike[str]) -> bool:
    """Return whether ``make`` takes a path as it is."""
    return _PLAIN.fullmatch(os.fspath(path)) is not None


def make_word(text: str) -> str:
    """Return a text as one word of a shell command in a makefile."""
    return shlex.quote(text).replace("$", "$$").replace("#", r"\#")


@contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder with a plain path; what it holds when the block ends without an exception is in `folder`.

    It is `folder` itself if that has a plain path, else a temporary one.

    Raises
    ------
    A3dError
        The folder for temporary files has no plain path either.
    """
    if is_plain(folder):
        yield folder
        return
    place = next(
        (Path(p) for p in (tempfile.gettempdir(), "/tmp", "/var/tmp") if is_plain(p) and os.path.isdir(p)), None
    )
    if place is None:
        raise A3dError(f"TMPDIR: {tempfile.gettempdir()}: make cannot build there; name a folder without spaces")
    with scratch_folder("a3d-build-", place) as plain:
        yield plain
        shutil.copytree(plain, folder, dirs_exist_ok=True)


class Links:
    """Plain names for paths that are not plain: links in a folder.

    Parameters
    ----------
    folder : Path
        Where the links go; made when the first is needed. Its own path is plain.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def plain(self, path: Path) -> Path:
        """Return the path itself, or a link to it, with the same name if that is plain."""
        if is_plain(path):
            return path
        own = self._folder / str(self._count)
        own.mkdir(parents=True)
        self._count += 1
        link = own / (path.name if is_plain(path.name) else f"linked{path.suffix if is_plain(path.suffix) else ''}")
        link.symlink_to(path)
        return link
