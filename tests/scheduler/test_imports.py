# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, hdl <- scheduler <- sim: no proof of a stream rests on the reference it is compared with."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BELOW = {"hdl": {"scheduler", "sim"}, "scheduler": {"sim"}}


@pytest.mark.parametrize("package", BELOW)
def test_imports_go_one_way(package: str) -> None:
    files, wrong = list((ROOT / package).rglob("*.py")), []
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong += [f"{file.relative_to(ROOT)} imports {n}" for n in names if n.split(".")[0] in BELOW[package]]
    assert not wrong
