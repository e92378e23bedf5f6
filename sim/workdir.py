# SPDX-License-Identifier: Apache-2.0
"""Temporary work directories that stay when somebody will want to look at them."""

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["KEEP_VARIABLE", "make_work_dir"]

KEEP_VARIABLE = "A3D_KEEP"
"""Set (to anything) in the environment, it keeps every work directory."""


@contextlib.contextmanager
def make_work_dir(path: Path | None, *, prefix: str, keep: bool = False) -> Iterator[Path]:
    """Give a directory to work in.

    Parameters
    ----------
    path
        The directory, made when missing and never removed. None makes a fresh temporary one, which is removed when
        the process ends (so that callers can still read what lies in it), unless something asks to keep it.
    prefix
        Start of a temporary directory's name.
    keep
        Keep a temporary directory. One whose block raises is always kept.
    """
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    yield folder  # an exception in the block leaves here, and the folder stays
    if not keep and not os.environ.get(KEEP_VARIABLE):
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
