# SPDX-License-Identifier: Apache-2.0
"""The generated sections of the pages in ``docs/isa/``: fields, refusals, cycles and explained examples."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from hdl.config import PRESETS, MachineConfig
from hdl.control.dispatcher import TIMING as DISPATCHER
from hdl.control.operation import TIMING as SETUP
from hdl.control.semaphores import TIMING as SEMAPHORES
from hdl.control.sequencer import TIMING as SEQUENCER
from hdl.control.supervisor import TIMING as SUPERVISOR
from hdl.emit.isa_illegal import ILLEGAL, violation_of
from hdl.emit.reference import access_lines, field_table
from hdl.isa import HEADER, OPCODES, VECTOR_OPERATIONS, Opcode
from hdl.isa.asm import assemble
from hdl.isa.error_codes import ERROR_MEANINGS
from hdl.isa.explain import explain
from hdl.isa.vector_operations import ScalarRead
from hdl.memory.axi import TIMING as MASTER
from hdl.memory.bursts import TIMING as BURSTS
from hdl.memory.fetch import TIMING as FETCH
from hdl.memory.load_address import TIMING as ADDRESSES
from hdl.memory.loads import TIMING as LOADS
from hdl.memory.store import TIMING as STORE
from hdl.memory.store_decode import TIMING as STORE_FRONT
from hdl.result.control import TIMING as COLLECTOR
from hdl.vector.route import TIMING as ROUTE
from hdl.vector.setup import TIMING as VECTOR_FRONT
from hdl.vector.unit import vector_timing

__all__ = ["EXAMPLE_CONFIG", "PAGES", "example_of", "render_sections"]

EXAMPLE_CONFIG: MachineConfig = PRESETS["tiny"]
"""The machine of the pages' examples."""

_INDEX = "index.md"

PAGES: Mapping[str, Opcode | None] = {_INDEX: None, **{f"{opcode.name.lower()}.md": opcode for opcode in Opcode}}
"""The pages, each with its opcode; the index has none."""

_BLOCKS: Mapping[Opcode | None, tuple[Any, ...]] = {
    None: (FETCH, DISPATCHER, SEMAPHORES),
    Opcode.NOP: (DISPATCHER,),
    Opcode.END: (SUPERVISOR,),
    Opcode.LOAD: (ADDRESSES, BURSTS, MASTER, LOADS),
    Opcode.STORE: (STORE_FRONT, STORE, COLLECTOR),
    Opcode.GEMM: (SETUP, SEQUENCER, COLLECTOR),
    Opcode.VECTOR: (VECTOR_FRONT, vector_timing(EXAMPLE_CONFIG.columns)),
    Opcode.ROUTE: (ROUTE,),
}
"""The blocks that an instruction goes through, by their cycles."""

_SCALAR_WORDS = {
    ScalarRead.NEVER: "no",
    ScalarRead.ALWAYS: "yes",
    ScalarRead.UNLESS_FIRST: "without `first`",
    ScalarRead.WITH_EXP2: "with EXP2",
}
_TABLE_WORDS = {0: "no", 1: "yes", 2: "two tables"}


def _code(text: str) -> str:
    """Return a table cell that shows text as it is."""
    return f"`{text}`".replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a docstring's words in Markdown."""
    return text.replace("``", "`")


def _meanings(timing: Any) -> dict[str, str]:
    """Return the words that the docstring of a block's cycles has for each of them."""
    text = (inspect.getdoc(type(timing)) or "").partition("Attributes\n----------\n")[2]
    found = re.findall(r"^(\w+) : int\n((?: +.*\n?)+)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def _timing(opcode: Opcode | None) -> list[str]:
    lines = ["| block | name | cycles (or places) | from where to where |", "| --- | --- | ---: | --- |"]
    for timing in _BLOCKS[opcode]:
        meanings, module = _meanings(timing), type(timing).__module__.replace(".", "/") + ".py"
        lines += [f"| `{module}` | `{name}` | {cycles} | {_plain(meanings[name])} |" for name, cycles in zip(
            timing._fields, timing, strict=True
        )]  # fmt: skip
    return lines


def _fields(opcode: Opcode) -> list[str]:
    about = OPCODES[opcode]
    start = sum(field.width for field in HEADER)
    body = field_table(about.body, start) if about.body else ["No fields beyond the [header](index.md#the-header)."]
    return [f"{opcode.name} (opcode {int(opcode)}) {about.summary}.", "", *access_lines(about), "", *body]


def _refusals(opcode: Opcode) -> list[str]:
    lines = ["| machine | line | code | what the machine and `a3d asm` say |", "| --- | --- | --- | --- |"]
    for machine, line in ILLEGAL[opcode]:
        wrong = violation_of(machine, line)
        lines.append(f"| {machine} | {_code(line)} | {wrong.code.name} | {wrong.message} |")
    return lines


def _operations() -> list[str]:
    lines = [
        "| `op` | number | what it does (… : its vectors) | reads scalars | reads operand B | makes |",
        "| --- | ---: | --- | --- |",
    ]
    lines[1] += " --- | --- |"
    for op, about in VECTOR_OPERATIONS.items():
        makes = "rows" if about.makes_rows else "a scalar a vector"
        scalar, tables = _SCALAR_WORDS[about.reads_scalar], _TABLE_WORDS[about.tables]
        lines.append(f"| {op.name} | {int(op)} | {about.words} … | {scalar} | {tables} | {makes} |")
    return lines


def example_of(page: str) -> str:
    """Return the assembler text of a page's example.

    Raises
    ------
    ValueError
        The page has no example, or more than one.
    """
    found = re.findall(r"^```asm\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"{len(found)} examples; a page of an instruction has one")
    return str(found[0])


def _explained(page: str) -> list[str]:
    return ["```", *explain(assemble(example_of(page)), EXAMPLE_CONFIG).rstrip().splitlines(), "```"]


def render_sections(name: str, page: str) -> dict[str, str]:
    """Return the text of each generated section of a page.

    Parameters
    ----------
    name : str
        File name, one of `PAGES`.
    page : str
        The page as it is: its example is explained.
    """
    opcode = PAGES[name]
    made: dict[str, Callable[[], list[str]]] = {"timing": lambda: _timing(opcode)}
    if opcode is None:
        errors = [f"| {int(code)} | {code.name} | {meaning} |" for code, meaning in ERROR_MEANINGS.items()]
        made["header"] = lambda: field_table(HEADER, 0)
        made["errors"] = lambda: ["| code | name | meaning |", "| --- | --- | --- |", *errors]
    else:
        made["fields"] = lambda: _fields(opcode)
        made["illegal"] = lambda: _refusals(opcode)
        made["explained"] = lambda: _explained(page)
        if opcode == Opcode.VECTOR:
            made["operations"] = _operations
    return {section: "\n".join(make()) + "\n" for section, make in made.items()}
