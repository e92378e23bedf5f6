# SPDX-License-Identifier: Apache-2.0
"""The instruction pages: generated sections are current, examples are legal streams, every rule has a refusal."""

from __future__ import annotations

import ast
import inspect
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import hdl.isa.checks
import hdl.isa.gemm
import hdl.isa.legality
import hdl.isa.load
import hdl.isa.route
import hdl.isa.store
import hdl.isa.vector
from hdl.emit.isa_illegal import ILLEGAL, violation_of
from hdl.emit.isa_pages import EXAMPLE_CONFIG, PAGES, example_of, render_sections
from hdl.isa import OPCODES, Limits, Opcode, check_instruction
from hdl.isa.asm import assemble, from_binary, to_binary, to_text
from hdl.isa.error_codes import ErrorCode
from scheduler.stream.prove import prove
from scheduler.stream.table import Table
from sim import cli
from sim.golden.executor import Executor

PAGE_FOLDER = Path(__file__).resolve().parents[3] / "docs" / "isa"
INSTRUCTION_PAGES = [name for name, opcode in PAGES.items() if opcode is not None]


def read(name: str) -> str:
    return (PAGE_FOLDER / name).read_text(encoding="utf-8")


def test_there_is_a_page_for_each_instruction_and_no_other() -> None:
    assert {path.name for path in PAGE_FOLDER.glob("*.md")} == set(PAGES)
    assert all(f"({name})" in read("index.md") for name in INSTRUCTION_PAGES)


def test_generated_sections_are_current(tmp_path: Path) -> None:
    """`a3d report --reference` leaves the pages as they are."""
    folder = tmp_path / "docs"
    shutil.copytree(PAGE_FOLDER, folder / "isa")
    assert cli.main(["report", "--reference", "--docs", str(folder)]) == 0
    for name in PAGES:
        text = (folder / "isa" / name).read_text(encoding="utf-8")
        assert text == read(name), f"docs/isa/{name}: run a3d report --reference"
        for section in render_sections(name, text):
            assert text.count(f"<!-- begin: {section} -->") == 1, name


@pytest.mark.parametrize("name", INSTRUCTION_PAGES)
def test_examples(name: str) -> None:
    """An example has its page's instruction, survives the round trip, is legal, has no race, and runs."""
    stream = assemble(example_of(read(name)))
    assert PAGES[name] in {each.opcode for each in stream} and stream[-1].opcode == Opcode.END
    assert assemble(to_text(stream)) == stream == from_binary(to_binary(stream))
    limits = Limits.whole(EXAMPLE_CONFIG)
    assert [check_instruction(each, EXAMPLE_CONFIG, limits) for each in stream] == [None] * len(stream)
    rng = np.random.default_rng(1)
    images = (rng.integers(0, 256, 1 << 16, dtype=np.uint8), rng.integers(0, 256, 1 << 16, dtype=np.uint8))
    assert prove(Table.of(stream), EXAMPLE_CONFIG, images, limits) == []
    report = Executor(EXAMPLE_CONFIG, images, strict=True).run(stream)
    assert report.instructions == len(stream) and not report.semaphores_left


def test_refusals_have_the_codes_of_static_checks() -> None:
    assert list(ILLEGAL) and set(ILLEGAL) == set(Opcode)
    for opcode, lines in ILLEGAL.items():
        for machine, line in lines:
            wrong = violation_of(machine, line)
            assert wrong.code in (ErrorCode.ILLEGAL_FIELD, ErrorCode.RANGE, ErrorCode.ADDRESS)
            assert wrong.field in {field.name for field in OPCODES[opcode].body} or opcode in (Opcode.NOP, Opcode.END)
    with pytest.raises(ValueError, match="legal on tiny"):
        violation_of("tiny", "nop")


MODULES = (hdl.isa.gemm, hdl.isa.load, hdl.isa.route, hdl.isa.store, hdl.isa.vector, hdl.isa.checks, hdl.isa.legality)
HEADER_RULES = 2
"""Rules of the header's semaphores, which the index page has in words."""


def rules_of(module: ModuleType) -> set[tuple[str, int]]:
    """Return the first line of each call that makes a violation of a field."""
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call))
    named = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "field_violation")
    return {(module.__name__, call.lineno) for call in named}


def test_every_rule_on_fields_has_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that is added to `hdl/isa/` without an example on the page is found here."""
    seen: set[tuple[str, int]] = set()
    for module in MODULES:
        original = module.field_violation  # type: ignore[attr-defined]

        def noted(*given: Any, _original: Any = original, _name: str = module.__name__) -> Any:
            seen.add((_name, sys._getframe(1).f_lineno))
            return _original(*given)

        monkeypatch.setattr(module, "field_violation", noted)
    for lines in ILLEGAL.values():
        for machine, line in lines:
            violation_of(machine, line)
    missing = set().union(*(rules_of(module) for module in MODULES)) - seen
    assert len([each for each in missing if each[0] == "hdl.isa.legality"]) == HEADER_RULES
    assert {each for each in missing if each[0] != "hdl.isa.legality"} == set()
