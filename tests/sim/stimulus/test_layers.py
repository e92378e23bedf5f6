# SPDX-License-Identifier: Apache-2.0
"""Programs for other models' layers: against float64 in the executor, bit for bit on the RTL of the vector unit."""

import json
from pathlib import Path

import numpy as np
import pytest

from hdl.isa import Instruction, Limits, Opcode, check_instruction
from sim.cli import main
from sim.stimulus.layers import EXAMPLES, Example, LayerError, measure_layers, play
from sim.stimulus.layers.examples import CONFIG
from tests.support.vector.unit_bench import VectorBench

BY_NAME = [pytest.param(example, id=example.name) for example in EXAMPLES]


@pytest.fixture(scope="module")
def results() -> list[LayerError]:
    return measure_layers()


def test_errors_are_within_their_bounds(results: list[LayerError]) -> None:
    assert {r.name for r in results} == {example.name for example in EXAMPLES}
    for result in results:
        assert result.worst <= result.bound, result
        assert result.rms > 0, f"{result.name}: {result.result}: is anything compared?"


@pytest.mark.parametrize("example", BY_NAME)
def test_programs_are_legal(example: Example) -> None:
    for instruction in example.program():
        assert check_instruction(instruction, CONFIG, Limits.whole(CONFIG)) is None


@pytest.mark.slow
@pytest.mark.parametrize("example", BY_NAME)
def test_the_vector_unit_runs_them(example: Example) -> None:
    """Every combine row and activation byte; of ROUTE also the table and the lists."""
    rows = example.inputs(np.random.default_rng(7))
    expected = play(example, rows)
    combine = np.zeros((CONFIG.combine_rows, CONFIG.columns), np.int32)
    combine[: len(rows)] = rows
    activation = np.zeros((CONFIG.tiers, CONFIG.activation_words, CONFIG.rows), np.int8)
    bench = VectorBench(CONFIG, combine, activation, stall=0.3, seed=3)
    bench.run(example.program())
    assert bench.error is None
    assert np.array_equal(bench.combine, expected.rows)
    assert np.array_equal(bench.activation[0], expected.activation)
    assert not bench.activation[1:].any()
    used = {slot: own for slot, own in bench.table.items() if own[0]}
    assert used == {slot: tuple(own) for slot, own in enumerate(expected.slots.tolist()) if own[0]}
    assert bench.lists == {place: tuple(expected.lists[place]) for place in range(expected.slots[:, 0].sum())}
    assert bool(used) == (example.name == "sigmoid_routing")


def test_a_wrong_constant_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = Example.program

    def wrong(self: Example) -> list:
        program = right(self)
        if self.name == "qk_norm":
            program[1] = Instruction(Opcode.VECTOR, {**program[1].values, "shift": 18})
        return program

    monkeypatch.setattr(Example, "program", wrong)
    assert main(["bench", "layers", "--draws", "5"]) == 1
    assert "qk_norm: queries after RoPE: error" in capsys.readouterr().out


def test_the_command_and_its_page(tmp_path: Path) -> None:
    page, out = tmp_path / "layers.md", tmp_path / "layers.json"
    page.write_text("# Title\n")
    assert main(["bench", "layers", "--draws", "3", "--docs", str(page), "--json", str(out)]) == 0
    for entry in json.loads(out.read_text())["layers"]:
        assert entry["holds"] and f"`{entry['name']}.asm`" in page.read_text()
    for arguments in (["--draws", "0"], ["--docs", str(tmp_path / "none.md")]):
        assert main(["bench", "layers", *arguments]) != 0


def test_the_committed_page_is_current(results: list[LayerError]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "layers.md").read_text()
    for result in results:
        row = next(line for line in page.splitlines() if f"| `{result.name}.asm` |" in line and result.result in line)
        assert f" {result.cases:,} | {result.worst:.3g} | {result.rms:.3g} | {result.bound:g} |" in row
