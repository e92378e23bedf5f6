# SPDX-License-Identifier: Apache-2.0
"""Every table that has something for each opcode has it for all of them, and nothing else."""

from __future__ import annotations

import pytest

from hdl import isa
from hdl.config import PRESETS
from hdl.control.checker import SCANS, TARGETS
from hdl.emit.reference import render_reference
from hdl.generate import c_header
from hdl.isa import (
    LOAD_TARGETS,
    MEMORIES,
    OPCODES,
    VECTOR_OPERATIONS,
    Instruction,
    LoadDest,
    Memory,
    Opcode,
    VectorOp,
    issue_queues,
    queue_names,
)
from hdl.isa.asm import assemble
from hdl.isa.explain import describe

SMALL = PRESETS["small"]


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        (OPCODES, Opcode),
        (SCANS, Opcode),
        (TARGETS, Opcode),
        (VECTOR_OPERATIONS, VectorOp),
        (LOAD_TARGETS, LoadDest),
        (MEMORIES, [memory for memory in Memory if memory != Memory.EXTERNAL]),
    ],
)
def test_tables_are_complete(table: dict[object, object], keys: list[object]) -> None:
    assert list(table) == list(keys)


def test_descriptions_are_of_their_opcode_and_public_names_exist() -> None:
    for opcode, about in OPCODES.items():
        assert about.opcode == opcode
        # Only what the dispatcher executes itself reads and writes nothing.
        assert about.immediate == (not about.accesses) == (opcode in (Opcode.NOP, Opcode.END))
    assert all(hasattr(isa, name) for name in isa.__all__)


def test_header_and_page_have_every_opcode() -> None:
    header, page = c_header(SMALL), render_reference()
    for opcode, about in OPCODES.items():
        assert f"A3D_OP_{opcode.name} " in header
        assert f"### {opcode.name} (opcode {int(opcode)})" in page and about.summary in page
        assert all(f"A3D_{opcode.name}_{field.name.upper()}_LSB " in header for field in about.body)
        assert all(access.what in page for access in about.accesses)


@pytest.mark.parametrize(
    ("line", "queues"),
    [
        ("nop", ()),
        ("end", ()),
        ("load dest_tiers=0 count=1", ("load0",)),
        ("load dest_tiers=0 count=1 group=1", ("load1",)),
        ("load dest_tiers=0 count=1 format=pair group=1", ("load0", "load1")),
        ("store rows=1", ("store",)),
        ("gemm tiers=1..3 mapping=k tokens=1 k_slices=1 n_tiles=1", ("tier1", "tier2", "tier3")),
        ("vector vectors=1 rows=1 dest_kind=rows", ("vector",)),
        ("route tokens=1 choices=1 experts=1", ("vector",)),
    ],
)
def test_queues(line: str, queues: tuple[str, ...]) -> None:
    (instruction,) = assemble(line)
    assert issue_queues(instruction) == queues
    assert set(queues) <= set(queue_names(SMALL))


def test_immediate_instructions_say_what_they_do() -> None:
    assert describe(Instruction(Opcode.NOP, {}), SMALL) == "does nothing"
    assert describe(Instruction(Opcode.END, {}), SMALL) == "ends the stream when everything is idle"


@pytest.mark.parametrize("name", PRESETS)
def test_cells_of_memories(name: str) -> None:
    config = PRESETS[name]
    cells = {memory.value: about.cells(config) for memory, about in MEMORIES.items()}
    assert cells == {
        "vcache": config.tiers * config.vcache_tiles,
        "activation": config.tiers * config.activation_words * 2 * config.rows // config.columns,
        "list": config.tiers * config.list_depth,
        "parameter": config.tiers * config.parameter_words,
        "combine": config.combine_rows,
        "scalar": config.scalar_depth,
        "slots": config.expert_slots,
    }
