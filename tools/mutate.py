# SPDX-License-Identifier: Apache-2.0
"""Breaks the RTL on purpose, one place at a time, and shows which test sees it.

    python tools/mutate.py                # all of them (about twenty minutes on one core)
    python tools/mutate.py --only tags    # those whose name contains a word
    python tools/mutate.py --docs         # all, and rewrite docs/mutations.md

Works on a copy of the tree below build/mutants; the working tree is never touched. Exit status 1 when one survives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sim.net import run_program

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "mutants" / "tree"
PACKAGES = ("hdl", "scheduler", "sim", "tests")


@dataclass(frozen=True)
class Mutant:
    """One deliberate breakage.

    Attributes
    ----------
    name : str
        What is broken, in words.
    file : str
        Source that is changed.
    old, new : str
        Text that is replaced, once, and its replacement.
    tests : str
        What is run; the first test that fails has caught the mutant.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant("PE: product keeps 15 bits, so -128 x -128 is wrong", "hdl/array/pe.py",
           "stationary * self.activation)", "(stationary * self.activation)[:15].as_signed())",
           "tests/hdl/array/test_row.py"),
    Mutant("accumulators: no forwarding to the next wave", "hdl/array/accumulator.py",
           "forward_b.eq(active_b & ~last_b & (address_b == tail_a.accumulator_addr))", "forward_b.eq(0)",
           "tests/hdl/array/test_accumulator.py"),
    Mutant("fill: the word of the wrong channel group is taken", "hdl/array/fill_slice.py",
           "Mux(self.select, lanes[1], lanes[0])", "Mux(self.select, lanes[0], lanes[1])",
           "tests/hdl/array/test_hub.py"),
    Mutant("fill: two words write the same banks in a cycle", "hdl/memory/launch.py",
           "(words[0] == words[1]) | ", "", "tests/hdl/memory/test_path.py"),
    Mutant("fill: two words write tags of a tier in a cycle", "hdl/memory/launch.py",
           " | (tags[0] & tags[1])", "", "tests/hdl/memory/test_path.py"),
    Mutant("fill: both lanes write the first one's tile", "hdl/array/hub.py",
           "Mux(selects[1][i], lanes[1].tile, lanes[0].tile)", "lanes[0].tile", "tests/hdl/array/test_hub.py"),
    Mutant("fill: a row takes the other lane's word", "hdl/array/row.py",
           "Mux(self.fill_lane, self.fill_data[1], self.fill_data[0])",
           "Mux(self.fill_lane, self.fill_data[0], self.fill_data[1])", "tests/hdl/array/test_row.py"),
    Mutant("loads: a load asks for its data before those that wait", "hdl/memory/load_address.py",
           "direct.eq(splitter.range.ready & ~ranges.busy)", "direct.eq(splitter.range.ready & ~ranges.output.valid)",
           "tests/hdl/memory/test_path.py"),
    Mutant("loads: a range that waits is read where the next load's data lie", "hdl/memory/load_address.py",
           "Mux(ranges.output.valid, ranges.output.payload, own)", "own", "tests/hdl/memory/test_path.py"),
    Mutant("drain: the rounding bit is dropped", "hdl/common/requant.py",
           "(shifted.as_signed() >> 1) + shifted[0]", "shifted.as_signed() >> 1",
           "tests/hdl/drain/test_drain.py -k mixed_modes"),
    Mutant("drain: saturation gives the limit of the other sign", "hdl/common/requant.py",
           "Cat((~sign).replicate(bits - 1), sign)", "Cat(sign.replicate(bits - 1), sign)",
           "tests/hdl/drain/test_drain.py -k mixed_modes"),
    Mutant("combine: no forwarding between updates of one row", "hdl/result/combine.py",
           "Mux(self.forward, written, self.old)", "self.old",
           "tests/hdl/result/test_collector.py -k random_traffic"),
    Mutant("tags: the first word of a refill leaves the tile valid", "hdl/control/tags.py",
           "mine & (first | last)", "mine & last", "tests/hdl/control/test_tags.py"),
    Mutant("fill: a word that is offered counts before it leaves", "hdl/memory/fill_lane.py",
           "valid.eq(self.control.valid)", "valid.eq(self.offered)", "tests/hdl/memory/test_path.py"),
    Mutant("counters: a bit too few for what happens between two visits", "hdl/control/counters.py",
           "most * 2 * VISIT_CYCLES", "most * VISIT_CYCLES", "tests/hdl/control/test_csr.py"),
    Mutant("counters: totals of the stream before come back", "hdl/control/counters.py",
           "Mux(fresh.bit_select(index, 1), 0, totals.read_data)", "totals.read_data", "tests/hdl/control/test_csr.py"),
    Mutant("counters: what a visit takes is counted again", "hdl/control/counters.py",
           "counted.eq(events[name])", "counted.eq(counted + events[name])", "tests/hdl/control/test_csr.py"),
    Mutant("semaphores: a granted wait subtracts nothing", "hdl/control/semaphores.py",
           "following.eq(self.value - minus + plus)", "following.eq(self.value + plus)",
           "tests/hdl/control/test_semaphores.py"),
    Mutant("semaphores: a wait is compared with what this cycle's grant takes", "hdl/control/semaphores.py",
           "enough & ~granted & ~stale", "enough & ~stale", "tests/hdl/control/test_semaphores.py"),
    Mutant("semaphores: a wait is compared with what the last grant takes", "hdl/control/semaphores.py",
           "enough & ~granted & ~stale", "enough & ~granted", "tests/hdl/control/test_semaphores.py"),
    Mutant("wide products: the upper part of the wide factor has no sign", "hdl/common/requant.py",
           "(high.as_signed() if wide.shape().signed else high)", "high", "tests/hdl/drain/test_drain.py"),
    Mutant("vector unit: what is multiplied is that of the row before", "hdl/vector/unit.py",
           "square.eq(of(6, \"squares\"))", "square.eq(of(7, \"squares\"))", "tests/hdl/vector"),
    Mutant("K gang: the delay between neighbours is one cycle too long", "hdl/control/gangs.py",
           "line = Signal(delay,", "line = Signal(delay + 1,", "tests/hdl/control/test_sequencer_stalls.py"),
    Mutant("loop nest: N_INNER restarts the accumulator address at each tile", "hdl/control/loop_nest.py",
           "acc_reset = token_end & (~loop.n_inner | n_end)", "acc_reset = token_end",
           "tests/hdl/control/test_sequencer_stalls.py"),
    Mutant("edge feed: a tile counts as shifted in one cycle early", "hdl/control/edge.py",
           "timer.eq(config.rows - 1)", "timer.eq(config.rows - 2)",
           "tests/hdl/control/test_sequencers.py -k edge"),
    Mutant("dispatcher: a gang's last tier does not get the instruction", "hdl/common/queues.py",
           "(tier >= base) & (tier < end)", "(tier >= base) & (tier + 1 < end)",
           "tests/hdl/control/test_dispatcher.py"),
    Mutant("bursts: the split at the boundary is one beat late", "hdl/memory/bursts.py",
           "to_boundary.eq(self.longest - beat[:burst_bits])", "to_boundary.eq(self.longest - beat[:burst_bits] + 1)",
           "tests/hdl/memory"),
    Mutant("store: bytes past the end are written", "hdl/memory/store_slice.py",
           "self.strobe.eq(self.written.replicate(self.width))", "self.strobe.eq(-1)",
           "tests/hdl/memory"),
    Mutant("store: an error leaves the strobes of the rest on", "hdl/memory/store.py",
           "strobe.eq(Mux(stop, 0, packer.beats.payload.strobe))", "strobe.eq(packer.beats.payload.strobe)",
           "tests/hdl/memory"),
    Mutant("KV append: the gap between written rows is one row short", "hdl/memory/store_decode.py",
           "job.jump.eq((store.addr_gap << log2(beats)) + 1)", "job.jump.eq(store.addr_gap << log2(beats))",
           "tests/hdl/memory"),
    Mutant("keys: transposed tiles come untransposed", "hdl/memory/load_control.py",
           "self.header.columns.eq(job.kind == LoadKind.FILL_COLUMNS)", "self.header.columns.eq(0)",
           "tests/hdl/memory/test_load_kinds.py"),
    Mutant("loop nest: a held requantisation word moves on", "hdl/control/loop_nest.py",
           "param + ~loop.param_hold", "param + 1", "tests/hdl/control"),
    Mutant("vector lanes: the result is not rounded", "hdl/vector/lane.py",
           "(wide >> 1) + wide[0] + Mux(self.add", "(wide >> 1) + Mux(self.add", "tests/hdl/vector"),
    Mutant("vector lanes: a rotation takes the wrong row of its tables", "hdl/vector/issue.py",
           "row[0] & period[0], table[0]", "row[0], table[0]", "tests/hdl/vector"),
    Mutant("vector unit: rows are read before the instruction before has written them", "hdl/vector/issue.py",
           "(job.dest_kind == VectorDest.ROWS) & read)", "(job.dest_kind == VectorDest.ROWS) & 0)",
           "tests/hdl/vector"),
    Mutant("vector unit: a scalar is read one vector too early", "hdl/vector/issue.py",
           "writing & (address >= low)", "writing & (address > low)", "tests/hdl/vector"),
    Mutant("vector unit: an instruction ends before its scalars are written", "hdl/vector/issue.py",
           "+ (accepted & writes & (which == number))", "+ (self.written & (self.written_job == number))",
           "tests/hdl/vector"),
    Mutant("vector unit: an instruction's rows go where the next one's go", "hdl/vector/output.py",
           "Mux(job, self.tiers[1], self.tiers[0])", "Mux(self.job, self.tiers[1], self.tiers[0])",
           "tests/hdl/vector"),
    Mutant("softmax: the running sum is not corrected when the maximum grows", "hdl/vector/scalars.py",
           "partial_products(old, factor)", "partial_products(old, Const(32768, 17))", "tests/hdl/vector"),
    Mutant("softmax: the maximum forgets the blocks before", "hdl/vector/scalars.py",
           "above.eq(Mux(highest > before, highest, before))", "above.eq(highest)", "tests/hdl/vector"),
    Mutant("top-k: of equal values the same one is chosen again", "hdl/vector/lanes.py",
           "(number > self.choice)", "(number >= self.choice)", "tests/hdl/vector"),
    Mutant("ROUTE: experts with as many tokens share their list entries", "hdl/vector/route.py",
           "entry.eq(entry + old_low)", "entry.eq(entry + (old_low >> 1))", "tests/hdl/vector/test_route.py"),
    Mutant("ROUTE: by number, an expert without tokens takes no slot", "hdl/vector/route.py",
           "with m.If(empty | word.by_number):", "with m.If(empty ^ word.by_number):",
           "tests/hdl/vector/test_route.py"),
    Mutant("ROUTE: tokens' words are counted from the first word of all", "hdl/vector/route.py",
           "source.eq(word.source_base)", "source.eq(0)", "tests/hdl/vector/test_route.py"),
    Mutant("ROUTE: slots are not cleared after a reset", "hdl/vector/route.py",
           "| (~self.ready & ~cleared)", "", "tests/hdl/vector/test_route.py"),
    Mutant("scores: sums of gates wrap", "hdl/vector/route.py",
           "Mux(gates[-1], MAX_IMPORTANCE, gates)", "gates", "tests/hdl/vector/test_route.py"),
    Mutant("scores: only the last token's choice counts as a first one", "hdl/vector/route.py",
           "old_about.first | first3", "first3", "tests/hdl/vector/test_route.py"),
    Mutant("scores: engine 0 posts for a load that engine 1 has not finished", "hdl/memory/launch.py",
           "(~head.alone | (finished != 0))", "1", "tests/sim/machine/test_system.py -k important"),
    Mutant("scores: the high plane alone gets the parameters of both", "hdl/memory/load_address.py",
           "Mux(high_only & ~is_pair, second.stride >> 1, 0)", "0",
           "tests/sim/machine/test_system.py -k vectors_and_slots"),
    Mutant("tags: a sweep forgets the first tile behind those that stay", "hdl/control/tags.py",
           "sweep_addr.eq(self.first)", "sweep_addr.eq(self.first + 1)", "tests/hdl/control/test_tags.py"),
    Mutant("slots: an odd expert's planes are not exchanged", "hdl/memory/load_address.py",
           "swap = is_pair & table.expert[0]", "swap = is_pair & 0",
           "tests/sim/machine/test_system.py -k vectors_and_slots"),
    Mutant("slots: the table is read before an earlier gang has begun", "hdl/control/operation.py",
           "may_look & ~self.hold,", "may_look,", "tests/sim/machine/test_system.py -k ahead_of_a_gang"),
    Mutant("slots: a follower does not wait for its leader", "hdl/control/operation.py",
           "may_look & ~self.hold, self.slot_open)", "may_look & ~self.hold, held)",
           "tests/hdl/control/test_sequencer_slots.py"),
    Mutant("slots: a follower takes another leader's look-up for its own leader's", "hdl/control/sequencers.py",
           "found = opened & follower.slot_wanted", "found = opened & follower.slot_wanted.any().replicate(tier)",
           "tests/hdl/control/test_sequencer_slots.py"),
    Mutant("slots: what a leader has looked up once is open for good", "hdl/control/sequencers.py",
           "opened.eq((opened & ~found) |", "opened.eq(opened |", "tests/hdl/control/test_sequencer_slots.py"),
    Mutant("slots: a leader tells its followers before its waits are granted", "hdl/control/operation.py",
           "Mux(leads & look & (step == 0) & gemm.slot_en", "Mux(leads & held & (step == 0) & gemm.slot_en",
           "tests/hdl/control/test_sequencer_slots.py"),
    Mutant("board: a request is done whatever its checksum", "hdl/boards/host.py",
           "damaged | (crc.value != RESIDUE)", "damaged", "tests/hdl/boards/test_host.py"),
    Mutant("board: words may reach beyond the end of a memory", "hdl/boards/host.py",
           "address + (words << 2) > ends[space]", "address >= ends[space]", "tests/hdl/boards/test_host.py"),
    Mutant("board: a request that ends early is waited for without end", "hdl/boards/host.py",
           "m.d.sync += status.eq(Status.INCOMPLETE)\n                m.next = \"ANSWER\"",
           "m.d.sync += status.eq(Status.INCOMPLETE)", "tests/hdl/boards/test_host.py"),
    Mutant("board: the host's read takes the beat that the machine waits with", "hdl/boards/memory.py",
           "Mux(fresh, storage.read_data, held)", "storage.read_data", "tests/hdl/boards/test_memory.py"),
    Mutant("board: a burst goes on while the host reads", "hdl/boards/memory.py",
           "taken.eq(active & ~host & (~axi.rvalid | axi.rready))", "taken.eq(active & (~axi.rvalid | axi.rready))",
           "tests/hdl/boards/test_memory.py"),
    Mutant("board: a beat beyond the end is written where its address wraps to", "hdl/boards/memory.py",
           "host | (taken & ~beyond)", "host | taken", "tests/hdl/boards/test_memory.py"),
    Mutant("board: bits are sampled at their beginning", "hdl/boards/uart.py",
           "clocks.eq(self.divisor // 2 - 1)", "clocks.eq(0)", "tests/hdl/boards/test_uart.py"),
)  # fmt: skip


def copy_tree() -> None:
    """Copy the packages and the test settings to a fresh tree."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", COPY)
    if (ROOT / "models").is_dir():
        (COPY / "models").symlink_to(ROOT / "models")


def run_mutant(mutant: Mutant) -> tuple[str, float]:
    """Apply a mutant, run its tests, undo it; return the test that caught it ("" when none did) and the seconds."""
    path = COPY / mutant.file
    source = path.read_text()
    if source.count(mutant.old) < 1:
        raise SystemExit(f"error: {mutant.name}: {mutant.old!r} is not in {mutant.file}; bring the mutant up to date")
    path.write_text(source.replace(mutant.old, mutant.new, 1))
    started = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests.split()]
    try:
        env = {**os.environ, "PYTHONPATH": str(COPY), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=COPY, env=env, capture_output=True, text=True, check=False)
    finally:
        path.write_text(source)
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or (done.returncode == 1 and found is None):
        raise SystemExit(f"error: {mutant.name}: pytest ended with status {done.returncode}\n{done.stdout[-2000:]}")
    return (found.group(1) if found else ""), time.perf_counter() - started


def render(results: list[tuple[Mutant, str]]) -> str:
    """Return the text of docs/mutations.md."""
    lines = [
        "# Deliberate breakages",
        "",
        "A test that cannot fail proves nothing. Each line is one change to the RTL's source and the first test that",
        "failed. `python tools/mutate.py --docs` makes them one by one on a copy of the tree, runs the tests and",
        "rewrites this page.",
        "",
        "| what is broken | file | caught by |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {m.name} | `{m.file}` | {f'`{test}`' if test else '**survived**'} |" for m, test in results]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the mutants; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="WORD", default="", help="mutants whose name contains this")
    parser.add_argument("--docs", action="store_true", help="rewrite docs/mutations.md (with all mutants)")
    args = parser.parse_args()
    chosen = [m for m in MUTANTS if args.only.lower() in m.name.lower()]
    if not chosen or (args.docs and args.only):
        parser.error("--only: no such mutant" if not chosen else "--docs: takes all mutants")
    copy_tree()
    results = []
    for mutant in chosen:
        test, seconds = run_mutant(mutant)
        results.append((mutant, test))
        print(f"{'caught' if test else 'SURVIVED':8} {seconds:5.0f} s  {mutant.name}: {test}", flush=True)
    if args.docs:
        (ROOT / "docs" / "mutations.md").write_text(render(results))
    survived = sum(not test for _, test in results)
    print(f"{len(results) - survived} caught, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(run_program(main))
