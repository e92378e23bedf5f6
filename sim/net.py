# SPDX-License-Identifier: Apache-2.0
"""The last net of a program: whatever goes wrong, its user sees one line, and it ends with a status.

Exit status: 0 all is well, 1 a check failed, 2 bad input or a missing tool, 3 a fault of this program (with
``A3D_DEBUG=1`` in the environment the traceback is shown), 130 interrupted, 143 terminated, 129 hung up.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

from hdl.errors import A3dError

__all__ = ["DEBUG_VARIABLE", "run_program"]

DEBUG_VARIABLE = "A3D_DEBUG"
"""Set (to anything) in the environment, it shows the traceback of every error."""

FAULT_STATUS = 3


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends everything as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        self.number = number


def run_program(
    work: Callable[[], int], *, own: bool = True, on_error: Callable[[str, int], None] | None = None
) -> int:
    """Do the work of a program and return its exit status.

    Parameters
    ----------
    work : callable
        What to do; returns an exit status.
    own : bool
        The process ends afterwards.
    on_error : callable, optional
        Called with the message and the status of an error, when it has been shown.
    """
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by who started this process
                redirect = getattr(contextlib, f"redirect_{name}")
                stack.enter_context(redirect(stack.enter_context(open(os.devnull, "w"))))
        _show_everything()
        try:
            with _signals():
                return _caught(work, on_error)
        except KeyboardInterrupt as error:
            if own:
                # What is still to be done at exit is short, and must not be interrupted again.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            _forget_components()
            number = error.number if isinstance(error, Terminated) else signal.SIGINT
            _say("interrupted" if number == signal.SIGINT else "terminated")
            return 128 + number


def _caught(work: Callable[[], int], on_error: Callable[[str, int], None] | None) -> int:
    output = sys.stdout
    try:
        status = work()
        output.flush()
        return status
    except BrokenPipeError:
        # Somebody closed the pipe (`a3d ... | head`); nothing more can be written, not even at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return 0
    except Exception as error:
        _forget_components()
        status, line = _explain(error)
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        _say(f"error: {line}")
        if on_error is not None:
            with contextlib.suppress(OSError, ValueError):
                on_error(line, status)
        return status


def _show_everything() -> None:
    """Let standard output show what its encoding lacks (text of a model, names of files) as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _forget_components() -> None:
    """Let Amaranth not complain that components were made and not used: the error says why they were not."""
    warnings.filterwarnings("ignore", message=".* created but never used")


def _explain(error: Exception) -> tuple[int, str]:
    """Return exit status and message for an error."""
    if isinstance(error, A3dError):
        return error.exit_status, str(error)
    hint = f"; {DEBUG_VARIABLE}=1 shows where"
    if isinstance(error, ModuleNotFoundError):
        return 2, f"Python package {error.name!r} is missing or broken; fix: make setup{hint}"
    if isinstance(error, MemoryError):
        return 2, f"out of memory; use a smaller model, batch or machine{hint}"
    if isinstance(error, RecursionError):
        return 2, f"the input is nested too deeply{hint}"
    if isinstance(error, UnicodeError):
        return 2, f"text that cannot be read or shown: {_first_line(error)}; use UTF-8 (PYTHONUTF8=1){hint}"
    if isinstance(error, OSError):
        files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return 2, f"{files or 'operating system'}: {error.strerror or _first_line(error)}{hint}"
    return FAULT_STATUS, f"fault of this program: {type(error).__name__}: {_first_line(error)}{hint}; please report it"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _say(line: str) -> None:
    """Print a line on standard error, with what its encoding cannot show as escapes."""
    with contextlib.suppress(OSError, ValueError):  # nobody listens
        encoding = sys.stderr.encoding or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, unless they are ignored (``nohup``)."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, end)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
