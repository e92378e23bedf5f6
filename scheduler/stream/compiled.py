# SPDX-License-Identifier: Apache-2.0
"""Loops over instructions, compiled by numba; what was compiled is kept between runs where a folder can be written."""

from __future__ import annotations

import builtins
import dis
import functools
import hashlib
import logging
import sys
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType
from typing import Any, TypeVar, cast

from numba import njit, types
from numba.core import event

__all__ = ["compiled", "inlined", "numbered"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return a function that is compiled when it is first called with some types of arguments.

    It may use arguments, local variables, constants (numbers, enumerations, named tuples of numbers) and functions that
    are compiled as well and defined before it; no other state, and no function inside it.

    numba keeps compiled code beside the source file or, where that cannot be written, in the user's cache folder, and
    looks for changes in that file alone. So the name under which it is kept has a digest of all that the function is
    made of: other compiled functions, constants such as the numbers of columns, fields of its arguments. With no folder
    to write to, functions are compiled anew in each process.
    """
    _name(function)
    _announce()
    try:
        made = njit(cache=True, _nrt=False, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep it
        made = njit(_nrt=False, error_model="numpy")(function)
    return cast(F, _of_any_integer(made))


@functools.cache
def _announce() -> None:
    """Let a first line of the log say that something is compiled."""
    event.register("numba:compile", _Announcement())


class _Announcement(event.Listener):
    """Says once what the user is waiting for."""

    said = False

    def on_start(self, event: event.Event) -> None:
        """Say it, if this was not done yet."""
        if not self.said:
            self.said = True
            logging.getLogger(__name__).warning("compiling the scheduler's loops: up to a minute, once")

    def on_end(self, event: event.Event) -> None:
        """Say nothing."""


def _of_any_integer(made: Any) -> Any:
    """Return a compiled function that others call as Python does: with any integer, whatever its size or value.

    By itself numba compiles it again for each constant that a caller gives, and for each size.
    """
    template = made.get_call_template
    made.get_call_template = lambda args, kws: template(
        tuple(map(_any_integer, args)), {name: _any_integer(kind) for name, kind in kws.items()}
    )
    return made


def _any_integer(kind: Any) -> Any:
    kind = types.unliteral(kind)
    return types.int64 if isinstance(kind, types.Integer) else kind


def inlined(function: F) -> F:
    """Return a compiled function whose body takes the place of its calls in others: for what is short and called often.

    What is said of :func:`compiled` holds for it as well.
    """
    _name(function)
    return cast(F, njit(inline="always", _nrt=False)(function))


def numbered(name: str, fields: str, numbers: Iterable[int] | None = None) -> Any:
    """Return numbers by their names, which have spaces between, as constants for compiled functions.

    Default: 0, 1, 2 ...
    """
    kind: Any = namedtuple(name, fields.split())  # type: ignore[misc]
    return kind(*(range(len(kind._fields)) if numbers is None else numbers))


def _name(function: Callable[..., Any]) -> None:
    """Add a digest of all that a function is made of to its name."""
    text = "\n".join(_parts(function))
    function.__qualname__ += f"-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _parts(function: Callable[..., Any]) -> Iterator[str]:
    """Yield texts that change when anything that the function is made of does."""
    code = function.__code__
    if any(isinstance(constant, CodeType) for constant in code.co_consts):
        raise ValueError(f"{function.__qualname__}: a compiled function cannot have another one inside")
    yield code.co_code.hex()
    yield repr((code.co_consts, code.co_names, code.co_varnames))
    used = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    for name in sorted(used | set(function.__annotations__.values())):
        value: Any = function.__globals__.get(name)
        if name in used and name not in function.__globals__ and not hasattr(builtins, name):
            raise ValueError(f"{function.__qualname__}: {name} must be defined before a compiled function that uses it")
        if hasattr(value, "__globals__") or hasattr(value, "py_func"):
            yield f"{name}: {getattr(value, 'py_func', value).__qualname__}"  # which has its own digest
        elif hasattr(value, "__members__"):
            yield f"{name}: {list(value)!r}"
        elif isinstance(value, type):
            yield f"{name}: {_structure(value)}"
        else:
            yield f"{name}: {value!r}"


def _structure(kind: Any) -> str:
    """Return a text for a class; of a named tuple, one that changes with its name and with its fields and theirs."""
    fields = getattr(kind, "__annotations__", {}) if hasattr(kind, "_fields") else {}
    names = vars(sys.modules[kind.__module__])
    own = (f"{n} {_structure(names[t])}" for n, t in _texts(fields) if isinstance(names.get(t), type))
    return f"{kind.__module__}.{kind.__qualname__}({', '.join([*fields, *own])})"


def _texts(annotations: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and the texts of their annotations."""
    for name, annotation in annotations.items():
        yield name, getattr(annotation, "__forward_arg__", annotation)
