# SPDX-License-Identifier: Apache-2.0
"""``a3d bench quality``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hdl.errors import A3dError
from scheduler.models.random_checkpoint import random_checkpoint
from scheduler.ops.precision_file import read_precision_file
from sim import cli
from sim.golden.integer_attention import normalise
from sim.measure.quality import PerTokenNormModel, QualityBench
from sim.measure.results_frontier import frontier_lines
from tests.sim.golden.test_integer_model import CHECKPOINT, DEMO, TOKENS, quantise_checkpoint
from tests.support.checkpoints import small_model, write_model

BYTES = small_model("mixtral", vocabulary=256, hidden=32, intermediate=16, heads=4, kv_heads=2, experts=4, chosen=2)
needs_demo = pytest.mark.skipif(not (DEMO / "model.safetensors").is_file(), reason="models/demo has no weights")


@needs_demo
def test_the_command_reports_all_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "quality.json"
    options = ["--bytes", "1100", "--window", "64", "--calibration", "1024", "--key-block", "32"]
    status = cli.main(["bench", "quality", *options, "--json", str(file)])
    result = json.loads(file.read_text())
    assert result["bytes_evaluated"] == 18 * 64 and result["calibration_bytes"] == 1024
    assert result["window"] == 64 and result["key_block"] == 32 and result["clip"] is True
    assert 1.0 < result["float_bits_per_byte"] < 3.0
    loss = 100 * (result["integer_bits_per_byte"] / result["float_bits_per_byte"] - 1)
    assert result["loss_percent"] == pytest.approx(loss) and -2 < loss < 2
    assert result["loss_percent_error"] > 0 and 0.8 < result["same_experts"] <= 1
    assert abs(result["per_token_norm_bits_per_byte"] / result["float_bits_per_byte"] - 1) < 0.02
    assert status == int(loss > 1)
    assert "integer_bits_per_byte" in capsys.readouterr().out


@needs_demo
@pytest.mark.slow
def test_the_whole_measurement_is_within_one_percent() -> None:
    bench = QualityBench(DEMO, count=16384)
    for batch in range(bench.batches):
        bench.run(batch)
    assert bench.result()["bytes_evaluated"] == 16384
    assert bench.result()["loss_percent"] < 1


def test_per_token_norms_are_rmsnorms_too() -> None:
    model = PerTokenNormModel(quantise_checkpoint(CHECKPOINT, TOKENS[:2]))
    norm = model.model.final_norm
    rows = (np.random.default_rng(1).normal(size=(20, 32)) * 2.0**28).astype(np.int64)
    fine = model._normalise(rows, norm)
    assert np.abs(fine - normalise(rows, norm)).max() < 1.1
    largest = np.abs(fine).max(axis=1, keepdims=True)
    np.testing.assert_allclose(fine / largest * 127, np.rint(fine / largest * 127), atol=1e-6)


@needs_demo
def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(A3dError, match="window: 513 bytes; use 1 to 512"):
        QualityBench(DEMO, window=513)
    with pytest.raises(A3dError, match="text: 98304 bytes hold 383 windows"):
        QualityBench(DEMO, count=98304)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO / name, tmp_path)
    with pytest.raises(A3dError, match="held-out text .*: No such file"):
        QualityBench(tmp_path)
    with pytest.raises(A3dError, match="not found"):
        QualityBench(tmp_path / "absent")


def test_the_frontier_measures_policies_beside_controls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    write_model(model, random_checkpoint(BYTES, seed=5))
    text = np.random.default_rng(2).integers(32, 127, 700).astype(np.uint8)
    (model / "heldout.txt").write_bytes(text.tobytes())
    names = ("frontier.json", "frontier.png", "precision")
    file, picture, folder = (tmp_path / name for name in names)
    options = ["--model", str(model), *"--bytes 256 --window 32 --calibration 256 --batches 1 4 --budgets 25".split()]
    outputs = ["--json", str(file), "--picture", str(picture), "--save-precision", str(folder)]
    status = cli.main(["bench", "quality", "--frontier", *options, *outputs])
    result = json.loads(file.read_text())
    points = {(p["policy"], p["batch"]): p for p in result["points"]}
    fixed = {"high planes", "static int4", "uniform 6 bit", "uniform 5 bit", "rounded to the nearest"}
    both = {"score", "random", "least used", *fixed}
    assert set(points) == {(name, batch) for name in both for batch in (1, 4)} | {("tokens alone", 4)}
    for (name, _), p in points.items():
        saved, asked = p["expert_bytes_saved_percent"], p["budget_percent"]
        assert (p["threshold"] is not None) == (name in ("score", "tokens alone")) == (len(p["threshold"] or ()) == 2)
        if name in ("score", "random", "least used"):
            assert asked == 25 and abs(saved - 25) < 6
    assert points["static int4", 1]["expert_bytes_saved_percent"] == 50
    assert points["static int4", 4]["loss_percent"] == points["static int4", 1]["loss_percent"]
    assert points["tokens alone", 4]["loss_percent"] == points["score", 1]["loss_percent"]
    assert status == int(any(t["reached"] is False for t in result["targets"]))
    assert picture.stat().st_size > 10000 and "least used" in capsys.readouterr().out
    found = read_precision_file(folder / "batch_4_save_25.json", 2)
    assert found.batch == 4 and found.reach == result["reach"] == 3
    assert [own and own.full for own in found.layers] == [own["full"] for own in points["score", 4]["threshold"]]
    assert any("| 4 | score | 25 % |" in line for line in frontier_lines(result))
    assert cli.main(["bench", "quality", "--picture", str(picture)]) == 2
    assert "add --frontier" in capsys.readouterr().err
