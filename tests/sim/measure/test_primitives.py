# SPDX-License-Identifier: Apache-2.0
"""The errors of the arithmetic primitives against the bounds that their documentation states."""

import json
import re
from pathlib import Path

import pytest

from hdl import numerics
from hdl.numerics import vector as vector_numerics
from sim.cli import main
from sim.measure.primitives import Primitive, draw, measure_primitives


@pytest.fixture(scope="module")
def primitives() -> list[Primitive]:
    return measure_primitives()


def stated_bound(name: str) -> float:
    """Return the first "within X" of a function's documentation."""
    function = getattr(vector_numerics, name, None) or getattr(numerics, name)
    found = re.search(r"within (\d+(?:\.\d+)?(?:e-?\d+)?) ?(?:units?|of the exact)", function.__doc__)
    assert found is not None, f"{name}: no bound in its documentation"
    return float(found[1])


def test_stated_bounds_hold(primitives: list[Primitive]) -> None:
    assert {p.name for p in primitives} >= {"exp2_q15", "rsqrt", "recip", "sigmoid_q16", "float_scale", "requant"}
    for primitive in primitives:
        assert primitive.bound == stated_bound(primitive.name), primitive.name
        assert primitive.worst <= primitive.bound, f"{primitive.name} at {primitive.at}"


def test_bounds_are_tight(primitives: list[Primitive]) -> None:
    """A measurement that misses the arguments with the large errors would report too little."""
    for primitive in primitives:
        assert primitive.worst > 0.8 * primitive.bound, primitive.name


def test_a_wrong_table_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = list(vector_numerics.rsqrt_table())
    value, fall = table[77]
    table[77] = (value + 4, fall)
    monkeypatch.setattr(vector_numerics, "rsqrt_table", lambda: tuple(table))
    assert main(["bench", "primitives"]) == 1
    assert "rsqrt: error" in capsys.readouterr().out


def test_command_writes_json_and_docs(tmp_path: Path, primitives: list[Primitive]) -> None:
    page = tmp_path / "primitives.md"
    page.write_text("# Title\n")
    for _ in range(2):
        assert main(["bench", "primitives", "--docs", str(page), "--json", str(tmp_path / "p.json")]) == 0
    text = page.read_text()
    assert text.count("<!-- begin: a3d bench primitives --docs -->") == 1
    for entry in json.loads((tmp_path / "p.json").read_text())["primitives"]:
        assert f"`{entry['name']}`" in text
        assert entry["holds"]
    assert (tmp_path / "images" / "primitives.png").stat().st_size > 10_000


def test_committed_page_is_current(primitives: list[Primitive]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "primitives.md").read_text()
    for primitive in primitives:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{primitive.name}`"))
        assert f" {primitive.worst:.4g} | {primitive.bound:g} |" in row


def test_picture_without_bounds_exceeded(tmp_path: Path, primitives: list[Primitive]) -> None:
    for primitive in primitives:
        if primitive.curve is not None:
            assert abs(primitive.curve[1]).max() == pytest.approx(primitive.worst, rel=0.05)
    draw(primitives, tmp_path / "p.png")
