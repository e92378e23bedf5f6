# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Memories: all in modules of their own, which say what a read gets that meets a write, and keep to it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hdl.common.sram import Collision, Sram
from hdl.config import PRESETS
from hdl.emit.files import FILE_LIST, write
from hdl.emit.lint import read_file_list
from hdl.emit.verilog import emit
from hdl.generate import generate
from sim.simulator import runner
from sim.simulator.results import SimulationError

BENCH_MODULE = "tests.hdl.emit.cocotb_memory"

BENCH = """module bench;
  reg clk = 0, read_en = 0;
  reg [1:0] read_addr = 0;
  wire [7:0] read_data;
  top dut(.clk(clk), .rst(1'b0), .write_en(1'b1), .write_addr(2'd1), .write_data(8'd7), .read_en(read_en),
          .read_addr(read_addr), .read_data(read_data));
  initial begin
    read_addr = %d;
    read_en = %d;
    #1 clk = 1;
    #1 $display("read %%0d", read_data);
  end
endmodule
"""


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_every_memory_of_a_machine_has_a_module_and_a_contract(name: str, tmp_path: Path) -> None:
    design, manifest = generate(PRESETS[name], tmp_path)
    for memory in manifest["memories"]:
        module, lane = memory["module"], memory["lane"]
        shape = f"sram_w{memory['width']}_d{memory['depth']}"
        promise = {"old": "", "never": "_apart"}[memory["collision"]]
        assert module == f"{shape}{'' if lane == memory['width'] else f'_g{lane}'}{promise}"
        assert memory["width"] % lane == 0
        assert (memory["read_ports"], memory["write_ports"]) == (1, 1)
        users = [user.split(".") for user in memory["users"]]
        assert sum(design.instances[parent] for parent, _ in users) == memory["instances"] > 0
        text = (tmp_path / "rtl" / f"{module}.v").read_text()
        assert f"// Memory of {memory['depth']} words of {memory['width']} bits" in text
        assert ("OLD word" in text) == (memory["collision"] == "old")
        assert ("no_rw_check" in text) == ("$finish" in text) == (memory["collision"] == "never")
    queues = {m["module"] for m in manifest["memories"] if m["collision"] == "never"}
    instances = {user.split(".")[1] for m in manifest["memories"] if m["module"] in queues for user in m["users"]}
    assert instances == {"memory", "tail_queue", "totals"}, "FIFOs, the queue of waves, and the counters' totals"
    parents = {user.split(".")[0] for m in manifest["memories"] if m["module"] in queues for user in m["users"]}
    assert all(re.match(r"(stream|sram|direct)_fifo_|accumulators_|counter_bank_", parent) for parent in parents), (
        parents
    )


def test_no_memory_is_outside_the_wrapper() -> None:
    """What a new memory is most likely to be: one of Amaranth's own, in the middle of a block."""
    hdl = Path(__file__).resolve().parents[3] / "hdl"
    uses = re.compile(r"amaranth\.lib(?:\.memory|\.fifo)? import .*\b(?:Memory|memory|fifo|\w*FIFO\w*)\b")
    assert [path.name for path in sorted(hdl.rglob("*.py")) if uses.search(path.read_text())] == ["sram.py"]


@pytest.mark.parametrize(
    ("collision", "address", "enable", "printed"),
    [
        (Collision.OLD, 1, 1, "read 0"),
        (Collision.NEVER, 2, 1, "read 0"),
        (Collision.NEVER, 1, 0, "read "),
        (Collision.NEVER, 1, 1, "ERROR: bench.dut: address 1 is read and written in the same cycle"),
    ],
)
def test_a_broken_promise_ends_the_simulation(
    collision: Collision, address: int, enable: int, printed: str, tmp_path: Path, icarus: str
) -> None:
    write(emit(Sram(8, 4, collision=collision), "top"), tmp_path)
    bench = tmp_path / "bench.v"
    bench.write_text(BENCH % (address, enable))
    command = ["iverilog", "-g2005", "-o", "bench.vvp", "-s", "bench", bench, "-f", FILE_LIST]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run(["vvp", "bench.vvp"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith(printed)
    assert "read" not in done.stdout.removeprefix(printed)


def test_a_broken_promise_fails_a_cocotb_test(tmp_path: Path) -> None:
    """All benches of the machine so watch its queues."""
    write(emit(Sram(8, 4, collision=Collision.NEVER), "top"), tmp_path)
    model = runner.build(read_file_list(tmp_path / FILE_LIST), "top", quick=True)
    runner.run(model, BENCH_MODULE, env={"READ_ADDRESS": "2"})
    with pytest.raises(SimulationError, match="address 1 is read and written in the same cycle"):
        runner.run(model, BENCH_MODULE, env={"READ_ADDRESS": "1"})


def test_only_promises_tell_shapes_apart() -> None:
    assert Sram(16, 4, collision=Collision.NEVER).module_key() == "sram_w16_d4_apart"
    assert Sram(16, 4).module_key() == "sram_w16_d4"
