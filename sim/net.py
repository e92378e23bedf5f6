# SPDX-License-Identifier: Apache-2.0
"""The last net of a program: whatever goes wrong, its user sees one line, and it ends with a status.

Exit status: 0 all is well, 1 a check failed, 2 bad input or a missing tool, 3 a fault of this program (with
``A3D_DEBUG=1`` in the environment the traceback is shown), 130 interrupted, 143 terminated, 129 hung up, 141
nobody reads standard output any more.
"""

import contextlib
import io
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

from hdl.errors import A3dError

__all__ = ["DEBUG_VARIABLE", "run_program"]

DEBUG_VARIABLE = "A3D_DEBUG"
"""Set (to anything) in the environment, it shows the traceback of every error."""

FAULT_STATUS = 3

PATIENCE_S = 2.0
"""Time in which a second Ctrl-C is taken for the first one."""


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
        stack.enter_context(contextlib.redirect_stderr(_Unheard(sys.stderr)))
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
            word = "interrupted" if number == signal.SIGINT else "terminated"
            _say(word)
            if on_error is not None:
                with contextlib.suppress(OSError, ValueError):
                    on_error(word, 128 + number)
            return 128 + number


class _Unheard(io.TextIOBase):
    """Standard error that nobody may read any more, or that has no room: the work goes on without a word."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


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
        return 128 + signal.SIGPIPE
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
    if isinstance(error, FileNotFoundError) and error.filename is None and not os.path.isdir(os.curdir):
        return 2, f"the current directory is gone; change to one that exists{hint}"
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
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, unless they are ignored (``nohup``).

    What comes soon after the first is not heard: the first one's tidying up goes on.
    """
    heard = -math.inf

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if time.monotonic() - heard < PATIENCE_S:
            return
        heard = time.monotonic()
        raise Terminated(number)

    def again(lost: Any) -> None:
        """Send a signal again whose exception Python dropped, as it does in destructors."""
        nonlocal heard
        if isinstance(lost.exc_value, Terminated):
            heard = -math.inf
            threading.Timer(0.05, os.kill, (os.getpid(), lost.exc_value.number)).start()
        else:
            sys.__unraisablehook__(lost)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {
        signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL,
    }  # fmt: skip
    before = {number: own for number, own in usual.items() if signal.getsignal(number) == own}
    hook = sys.unraisablehook
    try:
        sys.unraisablehook = again
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
        sys.unraisablehook = hook
