# SPDX-License-Identifier: Apache-2.0
"""The SystemRDL of the registers, read by a compiler that nobody here wrote, against the register map."""

from __future__ import annotations

from pathlib import Path

import pytest
from systemrdl import RDLCompiler
from systemrdl.node import AddrmapNode
from systemrdl.rdltypes import AccessType, OnWriteType

from hdl.config import PRESETS
from hdl.control.csr import AXIL_ADDRESS_BITS
from hdl.emit import EmitError
from hdl.emit.rdl import RDL, WHOLE, render_rdl
from hdl.generate import generate
from hdl.isa.error_codes import ErrorCode
from hdl.regs import Register, RegisterField, register_map

CONFIG = PRESETS["tiny"]


def compiled(path: Path) -> AddrmapNode:
    compiler = RDLCompiler()
    compiler.compile_file(str(path))
    return compiler.elaborate().top


def source(tmp_path: Path, registers: list[Register]) -> Path:
    path = tmp_path / "x.rdl"
    path.write_text(render_rdl([register.to_dict() for register in registers], "x", 'a "quoted" \\ title'))
    return path


def expected(register: Register) -> list[RegisterField]:
    return list(register.fields) or [RegisterField(WHOLE, 0, 32, register.doc)]


def test_every_register_is_as_the_map_says(tmp_path: Path) -> None:
    generate(CONFIG, tmp_path, prefix="core0")
    top = compiled(tmp_path / f"core0_{RDL}")
    assert top.inst_name == "core0_a3d" and top.get_property("name") == "A3D-MoE tiny"
    assert top.size <= 1 << AXIL_ADDRESS_BITS
    registers = register_map(CONFIG)
    found = list(top.registers())
    assert [r.inst_name for r in found] == [r.name for r in registers]
    for node, register in zip(found, registers, strict=True):
        assert (node.absolute_address, node.size) == (register.offset, 4)
        assert node.get_property("desc") == register.doc
        assert node.has_sw_readable == (register.access != "wo") and node.has_sw_writable == (register.access != "ro")
        for field, one in zip(node.fields(), expected(register), strict=True):
            assert (field.inst_name, field.low, field.width) == (one.name, one.lsb, one.width)
            assert field.get_property("desc") == one.doc
            reset = None if register.reset is None else register.reset >> one.lsb & ((1 << one.width) - 1)
            assert field.get_property("reset") == reset
            assert field.is_hw_writable == (register.value is None and register.access in ("ro", "w1c"))
            cleared = OnWriteType.woclr if register.access == "w1c" else None
            assert field.get_property("onwrite") == cleared
            assert field.get_property("singlepulse") == (register.access == "wo")
            if one.enum is not None:
                assert {e.name: e.value for e in field.get_property("encode")} == {e.name: int(e) for e in ErrorCode}
    assert {field.get_property("sw") for node in found for field in node.fields()} == {
        AccessType.r, AccessType.rw, AccessType.w
    }  # fmt: skip


def test_titles_may_have_quotes(tmp_path: Path) -> None:
    register = Register("A", 0, "rw", 'says "hello" \\')
    top = compiled(source(tmp_path, [register]))
    assert top.get_property("name") == 'a "quoted" \\ title'
    assert next(iter(top.registers())).get_property("desc") == register.doc


@pytest.mark.parametrize(("name", "message"), [("0A", "'0A' is no name in SystemRDL"), ("a b", "'a b' is no name")])
def test_what_is_no_name_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EmitError, match=message):
        source(tmp_path, [Register(name, 0, "rw", "doc")])
