# SPDX-License-Identifier: Apache-2.0
"""Compiled functions: what is kept belongs to all that they are made of, and a package that cannot be written works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scheduler.stream.compiled import compiled

ROOT = Path(__file__).resolve().parents[3]

SOURCE = """
from enum import IntEnum
from typing import NamedTuple
from scheduler.stream.compiled import compiled
class Code(IntEnum):
    A = {code}
class Inner(NamedTuple):
    {inner}: int
class {pair}(NamedTuple):
    {first}: int
    {second}: int
    more: Inner
FACTOR = {factor}
@compiled
def inner(value: int) -> int:
    return value * FACTOR + {added}
@compiled
def outer(pair: {pair}) -> int:
    return inner(pair.x) + Code.A
"""
SAME = {"code": 1, "first": "x", "second": "y", "factor": 2, "added": 3, "inner": "z", "pair": "Pair"}


def name_of(changes: dict[str, object], module: str = "made") -> str:
    """Return the name under which a function is kept, given the source that it and another one are made from."""
    made = ModuleType(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module, made)
        exec(compile(SOURCE.format(**(SAME | changes)), "made.py", "exec"), vars(made))
    outer = made.outer
    return getattr(outer, "py_func", outer).__qualname__  # type: ignore[no-any-return]


def test_the_name_changes_with_everything_that_the_function_is_made_of() -> None:
    changes: list[dict[str, object]] = [
        {}, {"factor": 5}, {"added": 4}, {"code": 2}, {"first": "y", "second": "x"}, {"inner": "w"}, {"pair": "Other"},
    ]  # fmt: skip
    names = [*map(name_of, changes), name_of({}, "moved")]
    assert len(set(names)) == len(names)
    assert name_of({}) == names[0] and names[0].startswith("outer-")


def test_what_is_not_there_yet_cannot_be_used() -> None:
    def early(value: int) -> int:
        return later(value)  # type: ignore[name-defined,no-any-return]  # noqa: F821

    with pytest.raises(ValueError, match="later must be defined before"):
        compiled(early)


def test_no_function_inside() -> None:
    def around(value: int) -> int:
        def inside() -> int:
            return 1

        return inside() + value

    with pytest.raises(ValueError, match="cannot have another one inside"):
        compiled(around)


def test_a_function_is_compiled_once_for_all_integers() -> None:
    """Whatever their size, and whether they are constants of the caller or not."""
    source = """
from scheduler.stream.compiled import compiled
@compiled
def inner(value: int, more: int) -> int:
    return value + more
@compiled
def outer(narrow: object, value: int) -> int:
    return inner(narrow[0], 1) + inner(value, -1) + inner(3, value)
"""
    made = ModuleType("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "made", made)
        exec(compile(source, "made.py", "exec"), vars(made))
    assert made.outer(np.array([10], np.int32), 1 << 40) == 2 * (1 << 40) + 13
    assert len(made.inner.overloads) == 1


SCRIPT = """
import sys
import numpy as np
from hdl.isa.asm import assemble
from hdl.config import PRESETS
from scheduler.stream.legal import illegal
from scheduler.stream.table import Table
from hdl.isa.legality import Limits
config = PRESETS["tiny"]
print(illegal(Table.of(assemble("nop\\nload dest_tiers=0\\nend")), config, Limits.whole(config)).tolist())
import scheduler.stream.legal as module
print(module.__file__, module._check.stats.cache_path)
"""


@pytest.mark.slow
@pytest.mark.parametrize("home", [True, False], ids=["home", "nowhere"])
def test_a_package_that_cannot_be_written(tmp_path: Path, home: bool) -> None:
    """Compiled code goes to the user's cache, or nowhere if that cannot be written either."""
    for name in ("hdl", "scheduler"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "package" / name, ignore=ignore)
    (tmp_path / "package" / "scheduler" / "stream" / "__pycache__").write_text("no folder")
    cache = tmp_path / "home"
    cache.mkdir() if home else cache.write_text("no folder")
    environment = {
        **os.environ, "HOME": str(cache), "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(tmp_path / "package"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    environment.pop("NUMBA_CACHE_DIR", None)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == "[1]"
    file, path = second.split()
    assert file.startswith(str(tmp_path / "package"))
    assert path.startswith(str(cache)) if home else path == "None"
