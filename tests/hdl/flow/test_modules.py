# SPDX-License-Identifier: Apache-2.0
"""Synthesis of modules: known counts, hierarchy, cache, errors."""

from __future__ import annotations

import stat
import sys
import tempfile
from pathlib import Path

import pytest

from hdl.flow.gates import enabled_registers, is_register, register_bits, transistors
from hdl.flow.modules import Synthesis
from hdl.flow.store import module_texts
from hdl.flow.synth import MachineSynthesis
from hdl.flow.yosys import Job, SynthError, run_jobs
from tests.support.flow import designs


def _done(synthesis: Synthesis) -> Synthesis:
    assert set(synthesis.run()) == set(synthesis.texts)
    return synthesis


def test_seeded_module_has_its_known_counts(tmp_path: Path) -> None:
    report = _done(Synthesis(module_texts(designs.SEED), cache=tmp_path)).reports["seed"]
    assert report.multipliers == 1, "the product with a constant is no multiplier"
    assert report.registers == 10, "the output register belongs to the memory"
    assert report.memory_bits == 16 * 8
    assert report.children == {}
    # An 8 x 8 multiplier takes at least 64 AND gates and 56 adders; the memory must not have become gates.
    assert 300 < report.cells < 900
    assert 8 <= report.path.levels < 40
    assert report.path.start and report.path.end


def test_totals_are_sums_over_the_hierarchy_and_paths_cross_it(tmp_path: Path) -> None:
    machine = MachineSynthesis(module_texts(designs.CHAIN), "chain", cache=tmp_path)
    assert list(machine.run()) == ["link", "pair", "chain"]
    assert sorted(machine.find_paths()) == ["chain", "link", "pair"]
    reports = machine.synthesis.reports
    assert (reports["link"].cells, reports["link"].registers, reports["link"].transistors) == (2, 1, 12 + 16)
    assert reports["link"].path.levels == 1
    assert (reports["pair"].cells, reports["pair"].path.levels) == (0, 0), "no path leads through a black box"
    assert machine.synthesis.contents("chain") == {"chain": 1, "pair": 2, "link": 5}
    totals = machine.totals()
    assert (totals.cells, totals.registers) == (5 * 2 + 2, 5 + 2)
    assert totals.transistors == 5 * 28 + 2 * 16
    assert (totals.longest_path_levels, totals.longest_path_method) == (5, "flattened")
    assert totals.longest_path_start.startswith("held")
    assert totals.longest_path_end in ("q[1]", "last.q")
    blocks = {block.name: block for block in machine.blocks()}
    assert blocks.keys() == {"pair", "last"}
    assert (blocks["pair"].instances, blocks["pair"].total.registers) == (2, 4)
    assert blocks["pair"].total.longest_path_levels == 2


def test_paths_cross_modules_that_synthesis_keeps(tmp_path: Path) -> None:
    """A module that is not to be merged with its equals, as the resets of blocks are, is no end of a path."""
    texts = module_texts(designs.CHAIN)
    texts["pair"] = f"(* keep_hierarchy *)\n{texts['pair']}"
    machine = MachineSynthesis(texts, "chain", cache=tmp_path)
    list(machine.run())
    list(machine.find_paths())
    assert machine.totals().longest_path_levels == 5


def test_what_is_too_large_to_flatten_is_taken_out(tmp_path: Path) -> None:
    machine = MachineSynthesis(module_texts(designs.CHAIN), "chain", cache=tmp_path, flatten_cells=4)
    list(machine.run())
    assert sorted(machine.find_paths()) == ["chain", "link", "pair"]
    totals = machine.totals()
    assert totals.longest_path_levels == 2, "the pairs are cut out of the chain, and each has two levels"
    assert totals.longest_path_method == "not through pair"
    assert totals.longest_path_start.startswith("pair: ")


def test_second_run_needs_no_tool(tmp_path: Path) -> None:
    texts = module_texts(designs.CHAIN)
    first = MachineSynthesis(texts, "chain", cache=tmp_path)
    list(first.run()), list(first.find_paths())
    again = MachineSynthesis(texts, "chain", cache=tmp_path)
    again.synthesis.python = "/no/such/python"
    list(again.run()), list(again.find_paths())
    assert again.totals() == first.totals()
    assert again.blocks() == first.blocks()


@pytest.mark.parametrize("suffix", [".json", ".il"])
@pytest.mark.parametrize("harm", ["", "{}", "half", "other"])
def test_a_damaged_entry_is_synthesised_again(tmp_path: Path, suffix: str, harm: str) -> None:
    texts = module_texts(designs.CHAIN)
    before = _done(Synthesis(texts, cache=tmp_path))
    entry = tmp_path / f"{before.keys['link']}{suffix}"
    good = entry.read_text()
    entry.write_text({"half": good[: len(good) // 2], "other": good.replace("1", "2")}.get(harm, harm))
    again = _done(Synthesis(texts, cache=tmp_path))
    assert again.reports == before.reports
    assert entry.read_text() == good


def test_an_edit_is_synthesised_again_and_nothing_else(tmp_path: Path) -> None:
    texts = module_texts(designs.CHAIN)
    before = _done(Synthesis(texts, cache=tmp_path))
    texts["link"] = texts["link"].replace("a ^ b", "a & b")
    after = Synthesis(texts, cache=tmp_path)
    changed = [name for name in texts if after.keys[name] != before.keys[name]]
    assert changed == ["link"], "the inside of a module is no affair of those that use it"
    _done(after)
    assert after.reports["link"].transistors < before.reports["link"].transistors
    assert dict(after.run_paths([("chain", frozenset())]))["chain"].levels > 0
    texts["link"] = texts["link"].replace("input wire b,\n", "input wire b,\n  input wire unused,\n")
    wider = Synthesis(texts, cache=tmp_path)
    changed = [name for name in texts if wider.keys[name] != after.keys[name]]
    assert changed == ["link", "pair", "chain"], "its ports are"


def test_missing_interpreter(tmp_path: Path) -> None:
    synthesis = Synthesis(module_texts(designs.CHAIN), cache=tmp_path, python="/no/such/python")
    with pytest.raises(
        SynthError, match=r"^Python '/no/such/python' for Yosys cannot be run: no such program"
    ) as caught:
        list(synthesis.run())
    assert "\n" not in str(caught.value)


def test_missing_yosys(tmp_path: Path) -> None:
    # A Python without site-packages has no pyosys.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    synthesis = Synthesis(module_texts(designs.CHAIN), cache=tmp_path / "cache", python=python)
    with pytest.raises(SynthError, match=r"^Yosys not found: .* has no package 'pyosys'; fix: make setup") as caught:
        list(synthesis.run())
    assert "\n" not in str(caught.value)


def test_what_yosys_refuses_is_one_line(tmp_path: Path) -> None:
    texts = {
        "good": "module good (\n  input wire a\n);\nendmodule\n",
        "bad": "module bad (\n  input wire a\n);\n  ?\nendmodule\n",
    }
    with pytest.raises(SynthError, match=r"^synthesis of 'bad' failed: Yosys says .*syntax error") as caught:
        list(Synthesis(texts, cache=tmp_path).run())
    assert "\n" not in str(caught.value)


def test_latches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"_DLATCH_P_.* latch"):
        list(Synthesis(module_texts(designs.LATCH), cache=tmp_path).run())


def test_unknown_module(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"^module 'other' is not in the design: its modules are link, pair, chain$"):
        list(Synthesis(module_texts(designs.CHAIN), cache=tmp_path).run(["other"]))


def test_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SynthError, match=r"^synthesis cache .*file.* cannot be made"):
        list(Synthesis(module_texts(designs.CHAIN), cache=tmp_path / "file" / "cache").run())


def test_a_temporary_folder_that_a_shell_would_take_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "t m p; #'x"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what Python found out before
    _done(Synthesis(module_texts(designs.CHAIN), cache=tmp_path / "c a c h e"))
    assert not list(folder.iterdir())


def test_timeout(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"^synthesis of 'slow' was not finished after 2 s"):
        list(run_jobs([Job("slow", ("exec -q -- sleep 60",))], tmp_path, timeout=2))


def test_gate_library() -> None:
    gates = {"$_NAND_": 3, "$_MUX_": 1, "$_DFF_P_": 2, "$_DFFE_PP_": 4, "$_SDFF_PP0_": 5, "$_SDFFE_PP0P_": 6}
    assert transistors(gates) == 3 * 4 + 12 + 6 * 16 + 11 * 22
    assert register_bits(gates) == 17
    assert enabled_registers(gates) == 10
    assert not is_register("$_DLATCH_P_")
    assert not is_register("$_DFF_PP0_x")
    with pytest.raises(SynthError, match=r"\$_DLATCH_P_"):
        transistors({"$_DLATCH_P_": 1})
