# SPDX-License-Identifier: Apache-2.0
"""Two machines in one project: with prefixes they compile together, Verilog and C; without, they clash."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.emit import EmitError
from hdl.emit.design import EmittedDesign
from hdl.emit.files import FILE_LIST
from hdl.emit.lint import read_file_list
from hdl.emit.waivers import WAIVER_FILE, WAIVERS
from hdl.generate import generate
from hdl.regs import register_map
from sim import cli
from sim.simulator import runner, tools

NAMES = ("nano", "tiny")
AXIL = re.compile(r"s_axil_(\w+)")
BENCH = "tests.sim.machine.cocotb_two_machines"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two machines")


@pytest.fixture(scope="module")
def designs(folder: Path) -> dict[str, EmittedDesign]:
    """Return both machines, generated side by side, each with its configuration's name as prefix."""
    return {name: generate(PRESETS[name], folder / name, prefix=name)[0] for name in NAMES}


def wrapper(designs: dict[str, EmittedDesign], path: Path) -> Path:
    """Write a top with both machines: their registers are ports, what comes from memory is tied to zero."""
    ports, body = ["input wire clk", "input wire rst"], []
    for name, design in designs.items():
        pins = [".clk(clk)", ".rst(rst)"]
        for port in design.ports:
            if AXIL.match(port.name):
                ports.append(f"{port.direction} wire [{port.width - 1}:0] {name}_{port.name}")
                pins.append(f".{port.name}({name}_{port.name})")
            else:
                zero = f"{port.width}'h0" if port.direction == "input" else ""
                pins.append(f".{port.name}({zero})")
        body.append(f"  {design.top} {name} ({', '.join(pins)});\n")
    path.write_text(f"module both ({', '.join(ports)});\n{''.join(body)}endmodule\n")
    return path


def sources(folder: Path) -> list[Path]:
    return [path for name in NAMES for path in read_file_list(folder / name / FILE_LIST)]


@pytest.mark.slow
def test_every_name_begins_with_the_prefix(designs: dict[str, EmittedDesign], folder: Path) -> None:
    for name, design in designs.items():
        start = f"{name}_"
        assert design.top == f"{start}a3d_top" and all(module.startswith(start) for module in design.modules)
        manifest = json.loads((folder / name / "manifest.json").read_text())
        assert (manifest["prefix"], manifest["top"], manifest["header"]) == (name, design.top, f"include/{start}a3d.h")
        stack = {f"{design.top}.3dbv", f"{design.top}.3dbx"}
        assert {entry["path"] for entry in manifest["files"]} >= {manifest["header"], *design.files, *stack}
        modules = [die["module"] for die in manifest["dies"]]
        assert modules[0] is None and len(modules) == 1 + len(manifest["bonds"])
        assert set(modules[1:]) <= set(design.modules)
        assert all(Path(path).name.startswith(start) for path in design.files)
        assert {path.name for path in read_file_list(folder / name / FILE_LIST)} == {
            path.name for path in (folder / name / "rtl").iterdir()
        }
        declared = re.findall(r"^module (\S+)", "".join(design.modules.values()), flags=re.MULTILINE)
        assert sorted(declared) == sorted(design.modules)
        waived = re.findall(r'-file "(.*?)"', (folder / name / WAIVER_FILE).read_text())
        assert len(waived) == len(WAIVERS) and all(file.startswith(f"*{start}") for file in waived)


def test_a_prefix_changes_nothing_else(designs: dict[str, EmittedDesign], tmp_path: Path) -> None:
    plain, manifest = generate(PRESETS["nano"], tmp_path)
    assert plain.modules == {
        name.removeprefix("nano_"): re.sub(r"\bnano_", "", text) for name, text in designs["nano"].modules.items()
    }
    assert "prefix" not in manifest and (tmp_path / "include" / "a3d.h").is_file()


def test_without_prefixes_they_clash(designs: dict[str, EmittedDesign]) -> None:
    """Modules of one name and two texts: a simulator takes one of them for both machines."""
    nano, tiny = (
        {module.removeprefix(f"{name}_"): re.sub(rf"\b{name}_", "", text) for module, text in design.modules.items()}
        for name, design in designs.items()
    )
    assert "a3d_top" in [module for module in nano.keys() & tiny.keys() if nano[module] != tiny[module]]
    assert not designs["nano"].modules.keys() & designs["tiny"].modules.keys()


def test_both_compile_together(designs: dict[str, EmittedDesign], folder: Path) -> None:
    """Verilator with all warnings and the waivers of both; the wrapper is not theirs to waive."""
    verilator = tools.find_verilator()
    waivers = [folder / name / WAIVER_FILE for name in designs]
    command = [verilator.executable, "--lint-only", "-Wall", "-Wno-PINCONNECTEMPTY", "--top-module", "both", *waivers]
    command += [wrapper(designs, folder / "both.v"), *sources(folder)]
    done = subprocess.run(command, env=verilator.env(), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_no_prefix_continues_another_one(designs: dict[str, EmittedDesign]) -> None:
    """Modules of the prefixes ``a`` and ``a_b`` have the same name only if one of the module keys ends with another."""
    keys = {module.removeprefix(f"{name}_") for name, design in designs.items() for module in design.modules}
    assert not [(long, short) for long in keys for short in keys if long.endswith(f"_{short}")]


def test_both_headers_in_one_translation_unit(designs: dict[str, EmittedDesign], folder: Path) -> None:
    main = folder / "main.c"
    main.write_text(
        '#include "nano_a3d.h"\n#include "tiny_a3d.h"\n#include <stdio.h>\n'
        "int main(void) {\n"
        "  int values[] = {NANO_A3D_CFG_ROWS, TINY_A3D_CFG_ROWS, NANO_A3D_REG_ID, TINY_A3D_REG_CONFIG_HASH};\n"
        '  printf("%d %d %d %d %s %s", values[0], values[1], values[2], values[3],\n'
        "         NANO_A3D_CFG_NAME, TINY_A3D_CFG_NAME);\n  return 0;\n}\n"
    )
    includes = [f"-I{folder / name / 'include'}" for name in designs]
    command = ["g++", "-x", "c", "-Wall", "-Wextra", "-Werror", "-pedantic", *includes, "-o", folder / "main", main]
    subprocess.run(command, check=True, timeout=60)
    printed = subprocess.run([folder / "main"], capture_output=True, text=True, check=True, timeout=60).stdout
    offset = next(register.offset for register in register_map(PRESETS["tiny"]) if register.name == "CONFIG_HASH")
    assert printed == f"{PRESETS['nano'].rows} {PRESETS['tiny'].rows} 0 {offset} nano tiny"
    text = (folder / "nano" / "include" / "nano_a3d.h").read_text()
    assert not re.findall(r"^#(?:define|ifndef) (?!NANO_A3D_)\w+", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "prefix", ["Core", "0core", "_core", "core_", "a__b", "a b", "a-b", "a.b", "a/b", "café", "x" * 33, "a\n"]
)
def test_what_is_no_prefix_is_refused_first(
    prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "--config", "nano", f"--prefix={prefix}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: prefix = {prefix!r}: use lower-case letters") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(EmitError, match="prefix = "):
        generate(PRESETS["nano"], tmp_path, prefix=prefix)


@pytest.mark.slow
def test_both_run_in_one_simulation(designs: dict[str, EmittedDesign], folder: Path) -> None:
    model = runner.build([wrapper(designs, folder / "both.v"), *sources(folder)], "both", quick=True)
    axil = [found[1] for port in designs["nano"].ports if (found := AXIL.match(port.name))]
    runner.run(model, BENCH, env={"MACHINES": " ".join(NAMES), "AXIL_PORTS": " ".join(axil)})
