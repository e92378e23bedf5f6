# SPDX-License-Identifier: Apache-2.0
"""The float model of every complete family against ``transformers``, and what that library writes and reads.

``pytest -s tests/scheduler/models/test_transformers.py`` prints the largest differences; it needs the extra ``train``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler.models.checkpoint import read_checkpoint
from scheduler.models.description import Model
from scheduler.models.float_model import FloatModel
from scheduler.models.random_checkpoint import random_checkpoint
from tests.support.checkpoints import small_model, write_model

pytestmark = pytest.mark.filterwarnings("ignore")

DEMO = Path(__file__).parents[3] / "models" / "demo"
MODELS = {
    "mixtral": small_model("mixtral", head_dim=8, layers=3),
    "qwen3_moe": small_model("qwen3_moe", head_dim=8, layers=3),
    "qwen3_moe, gates of all experts": small_model("qwen3_moe", head_dim=8, layers=3, normalised=False),
    "qwen3_moe, dense layers": small_model("qwen3_moe", layers=4, dense=(0, 2)),
    "olmoe": small_model("olmoe", layers=3),
    "olmoe, normalised, tied": small_model("olmoe", layers=3, normalised=True, tied=True),
}


def libraries() -> tuple[Any, Any]:
    reason = "needs the train extra: pip install '.[train]'"
    return pytest.importorskip("torch", reason=reason), pytest.importorskip("transformers", reason=reason)


def logits_of(folder: Path, tokens: np.ndarray) -> np.ndarray:
    torch, transformers = libraries()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found: np.ndarray = model(torch.from_numpy(tokens)).logits.numpy()
    return found


def compare(name: str, folder: Path, tokens: np.ndarray, resident: bool | None = None) -> None:
    expected = logits_of(folder, tokens)
    difference = np.abs(FloatModel(read_checkpoint(folder, resident=resident)).forward(tokens).logits - expected).max()
    print(f"{name}: largest difference of {expected.size} logits up to {np.abs(expected).max():.1f}: {difference:.1e}")
    assert np.abs(expected).max() > 1 and difference < 1e-3


def test_demo_model() -> None:
    text = np.frombuffer((DEMO / "heldout.txt").read_bytes(), np.uint8).astype(np.int64)
    compare("demo", DEMO, np.stack([text[:512], text[-512:], text[50_000:50_512]]))


@pytest.mark.parametrize(("name", "model"), MODELS.items(), ids=MODELS)
def test_families(tmp_path: Path, name: str, model: Model) -> None:
    """Random models whose norms have weights of their own, written here, read there."""
    libraries()
    folder = write_model(tmp_path / "model", random_checkpoint(model, 1))
    compare(name, folder, np.random.default_rng(0).integers(0, 50, (2, 60)))


@pytest.mark.parametrize("original", [True, False], ids=["single experts", "fused experts"])
@pytest.mark.parametrize(("name", "model"), MODELS.items(), ids=MODELS)
def test_what_transformers_saves(tmp_path: Path, name: str, model: Model, original: bool) -> None:
    """In bfloat16, in shards, with single or fused experts."""
    torch, transformers = libraries()
    folder, saved = write_model(tmp_path / "model", random_checkpoint(model, 2)), tmp_path / "saved"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    loaded.save_pretrained(saved, max_shard_size="20KB", save_original_format=original)
    assert ("gate_up_proj" in (saved / "model.safetensors.index.json").read_text()) is not original
    compare(f"{name}, saved", saved, np.random.default_rng(1).integers(0, 50, (2, 40)), resident=False)
