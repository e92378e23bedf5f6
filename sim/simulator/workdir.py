# SPDX-License-Identifier: Apache-2.0
"""Temporary work directories that stay when somebody will want to look at them."""

import atexit
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hdl.scratch import keep, scratch_folder

__all__ = ["KEEP_VARIABLE", "make_work_dir"]

KEEP_VARIABLE = "A3D_KEEP"
"""Set (to anything) in the environment, it keeps every work directory."""


@contextlib.contextmanager
def make_work_dir(path: Path | None, *, prefix: str, keep_it: bool = False) -> Iterator[Path]:
    """Give a directory to work in.

    Parameters
    ----------
    path
        The directory, made when missing and never removed. None makes a fresh temporary one, which is removed when
        the process ends (so that callers can still read what lies in it), unless something asks to keep it.
    prefix
        Start of a temporary directory's name.
    keep_it
        Keep a temporary directory. One whose block raises an error is always kept; one that is interrupted is not.
    """
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path.absolute()
        return
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder(prefix))
        try:
            yield folder
        except Exception:
            keep(folder)
            raise
        if keep_it or os.environ.get(KEEP_VARIABLE):
            keep(folder)
        atexit.register(stack.pop_all().close)
