# SPDX-License-Identifier: Apache-2.0
"""The float model against a second implementation (scalar loops), against Hugging Face, and on the demo model."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hdl.errors import A3dError
from scheduler.models.checkpoint import Checkpoint, LayerWeights, read_checkpoint
from scheduler.models.description import Experts, Model, QkNorm
from scheduler.models.float_model import FloatModel, bits_per_byte, byte_losses, expert_usage, generate
from scheduler.models.random_checkpoint import random_checkpoint as sized_checkpoint
from tests.support.checkpoints import small_model

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "models" / "demo"

TINY = dataclasses.replace(
    small_model(
        "mixtral", vocabulary=13, hidden=12, intermediate=5, heads=6, kv_heads=2, head_dim=4, experts=5, chosen=2,
        context=24,
    ),
    norm_eps=1e-3, rope_theta=100.0,
)  # fmt: skip


def random_checkpoint(model: Model, seed: int = 0) -> Checkpoint:
    """Weights large enough that every part of the model changes the result."""
    rng = np.random.default_rng(seed)
    hidden, attention, mlp = model.hidden, model.attention, model.layers[0].mlp
    assert isinstance(mlp, Experts)

    def normal(*shape: int) -> Any:
        return (rng.standard_normal(shape) * 0.6).astype(np.float32)

    q, kv = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    layers = tuple(
        LayerWeights(
            input_norm=1 + normal(hidden),
            q_proj=normal(q, hidden),
            k_proj=normal(kv, hidden),
            v_proj=normal(kv, hidden),
            o_proj=normal(hidden, q),
            post_attention_norm=1 + normal(hidden),
            router=normal(mlp.count, hidden),
            w1=normal(mlp.count, mlp.intermediate, hidden),
            w2=normal(mlp.count, hidden, mlp.intermediate),
            w3=normal(mlp.count, mlp.intermediate, hidden),
        )
        for _ in model.layers
    )
    return Checkpoint(
        description=model,
        embed=normal(model.vocabulary, hidden),
        layers=layers,
        norm=1 + normal(hidden),
        lm_head=normal(model.vocabulary, hidden),
    )


# --- the second implementation: one token after the other, lists and scalar loops, a key-value cache -----------------


def _norm(x: list[float], scale: Any, eps: float) -> list[float]:
    mean = sum(v * v for v in x) / len(x)
    return [v / math.sqrt(mean + eps) * float(s) for v, s in zip(x, scale, strict=True)]


def _matvec(w: Any, x: list[float]) -> list[float]:
    return [sum(float(a) * b for a, b in zip(row, x, strict=True)) for row in w]


def _rope(x: list[float], position: int, theta: float) -> list[float]:
    half = len(x) // 2
    out = [0.0] * len(x)
    for i in range(half):
        pair = complex(x[i], x[i + half]) * complex(math.cos(1), math.sin(1)) ** (position * theta ** (-i / half))
        out[i], out[i + half] = pair.real, pair.imag
    return out


def _head_norms(x: list[float], scale: Any, kind: QkNorm, head_dim: int, eps: float) -> list[float]:
    if kind == QkNorm.NONE:
        return x
    if kind == QkNorm.WHOLE:
        return _norm(x, scale, eps)
    return [v for first in range(0, len(x), head_dim) for v in _norm(x[first : first + head_dim], scale, eps)]


def _mlp(gate: Any, up: Any, down: Any, x: list[float]) -> list[float]:
    pairs = zip(_matvec(gate, x), _matvec(up, x), strict=True)
    return _matvec(down, [g / (1 + math.exp(-g)) * u for g, u in pairs])


def loop_logits(model: Checkpoint, tokens: list[int]) -> list[list[float]]:
    """Logits of each position."""
    c, a = model.description, model.description.attention
    keys: list[list[list[list[float]]]] = [[[] for _ in range(a.kv_heads)] for _ in model.layers]
    values: list[list[list[list[float]]]] = [[[] for _ in range(a.kv_heads)] for _ in model.layers]
    result = []
    for position, token in enumerate(tokens):
        x = [float(v) for v in model.embed[token]]
        for number, w in enumerate(model.layers):
            n = _norm(x, w.input_norm, c.norm_eps)
            q, k, v = _matvec(w.q_proj, n), _matvec(w.k_proj, n), _matvec(w.v_proj, n)
            d = a.head_dim
            q = _head_norms(q, w.q_norm, a.qk_norm, d, c.norm_eps)
            k = _head_norms(k, w.k_norm, a.qk_norm, d, c.norm_eps)
            for g in range(a.kv_heads):
                keys[number][g].append(_rope(k[g * d : (g + 1) * d], position, c.rope_theta))
                values[number][g].append(v[g * d : (g + 1) * d])
            context: list[float] = []
            for h in range(a.heads):
                g = h * a.kv_heads // a.heads
                qh = _rope(q[h * d : (h + 1) * d], position, c.rope_theta)
                e = [math.exp(sum(m * n for m, n in zip(qh, kh, strict=True)) / math.sqrt(d)) for kh in keys[number][g]]
                context += [
                    sum(p * vh[i] for p, vh in zip(e, values[number][g], strict=True)) / sum(e) for i in range(d)
                ]
            x = [m + n for m, n in zip(x, _matvec(w.o_proj, context), strict=True)]
            b = _norm(x, w.post_attention_norm, c.norm_eps)
            mlp = c.layers[number].mlp
            if not isinstance(mlp, Experts):
                assert w.common is not None
                added = _mlp(w.common.gate, w.common.up, w.common.down, b)
                x = [m + n for m, n in zip(x, added, strict=True)]
                continue
            scores = [math.exp(v) for v in _matvec(w.router, b)]
            chosen = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: mlp.chosen]
            total = sum(scores[i] for i in (chosen if mlp.router.normalised else range(len(scores))))
            for i in chosen:
                x = [m + scores[i] / total * n for m, n in zip(x, _mlp(w.w1[i], w.w3[i], w.w2[i], b), strict=True)]
        result.append(_matvec(model.lm_head, _norm(x, model.norm, c.norm_eps)))
    return result


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop_implementation(seed: int) -> None:
    checkpoint = random_checkpoint(TINY, seed)
    tokens = np.random.default_rng(seed).integers(0, TINY.vocabulary, 9)
    expected = loop_logits(checkpoint, tokens.tolist())
    got = FloatModel(checkpoint, dtype=np.float64).forward(tokens).logits[0]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "model",
    [
        small_model("qwen3_moe", head_dim=6, vocabulary=13),
        small_model("qwen3_moe", normalised=False, layers=3, dense=(0, 2), vocabulary=13),
        small_model("olmoe", vocabulary=13),
        small_model("olmoe", normalised=True, kv_heads=6, vocabulary=13),
    ],
    ids=["head", "dense", "whole", "normalised"],
)
def test_families_equal_the_loop_implementation(model: Model) -> None:
    checkpoint = sized_checkpoint(model, 1)
    tokens = np.random.default_rng(2).integers(0, 13, 9)
    got = FloatModel(checkpoint, dtype=np.float64).forward(tokens).logits[0]
    np.testing.assert_allclose(got, loop_logits(checkpoint, tokens.tolist()), rtol=1e-9, atol=1e-9)


def test_float32_is_close_to_float64() -> None:
    checkpoint = random_checkpoint(TINY)
    tokens = np.arange(24) % 13
    single = FloatModel(checkpoint).forward(tokens).logits
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, FloatModel(checkpoint, dtype=np.float64).forward(tokens).logits, atol=1e-4)


def test_batch_and_causality() -> None:
    model = FloatModel(random_checkpoint(TINY), dtype=np.float64)
    rng = np.random.default_rng(1)
    batch = rng.integers(0, 13, (3, 10))
    together = model.forward(batch).logits
    for row, tokens in zip(together, batch, strict=True):
        np.testing.assert_allclose(row, model.forward(tokens).logits[0], atol=1e-12)
    changed = batch.copy()
    changed[:, 6] = (changed[:, 6] + 1) % 13
    other = model.forward(changed).logits
    np.testing.assert_array_equal(other[:, :6], together[:, :6])
    assert (np.abs(other[:, 6:] - together[:, 6:]).max(axis=-1) > 0).all()


def test_trace_is_consistent() -> None:
    checkpoint = random_checkpoint(TINY)
    model = FloatModel(checkpoint, dtype=np.float64)
    tokens = np.arange(20).reshape(2, 10) % 13
    result = model.forward(tokens, trace=True)
    assert len(result.layers) == 2 and not model.forward(tokens).layers
    np.testing.assert_array_equal(result.layers[1].hidden_in, result.layers[0].hidden_out)
    for layer, w in zip(result.layers, checkpoint.layers, strict=True):
        assert layer.query.shape == (2, 6, 10, 4) and layer.key.shape == layer.value.shape == (2, 2, 10, 4)
        assert layer.expert_index.shape == layer.expert_weight.shape == (2, 10, 2)
        np.testing.assert_allclose(layer.router_probs.sum(-1), 1)
        np.testing.assert_allclose(layer.expert_weight.sum(-1), 1)
        np.testing.assert_array_equal(layer.expert_index[..., 0], layer.router_probs.argmax(-1))
        assert (layer.expert_weight[..., 0] >= layer.expert_weight[..., 1]).all()
        # the output of a layer can be made again from the parts of its trace
        np.testing.assert_allclose(layer.context @ w.o_proj.T, layer.attention_output, atol=1e-6)
        np.testing.assert_allclose(layer.hidden_in + layer.attention_output + layer.moe_output, layer.hidden_out)
        y = np.einsum("bskf,bskhf->bskh", layer.expert_hidden, w.w2.astype(np.float64)[layer.expert_index])
        np.testing.assert_allclose((layer.expert_weight[..., None] * y).sum(2), layer.moe_output, atol=1e-9)
        u = np.einsum("bsh,bskfh->bskf", layer.moe_input, w.w3.astype(np.float64)[layer.expert_index])
        np.testing.assert_allclose(layer.expert_up, u, atol=1e-9)


def test_equal_probabilities_go_to_the_lower_expert() -> None:
    checkpoint = random_checkpoint(TINY)
    for layer in checkpoint.layers:
        layer.router[...] = 0
    for layer in FloatModel(checkpoint).forward(np.arange(5), trace=True).layers:
        assert (layer.expert_index == [0, 1]).all()
        np.testing.assert_array_equal(layer.expert_weight, 0.5)


def test_large_logits_do_not_overflow() -> None:
    checkpoint = random_checkpoint(TINY)
    for layer in checkpoint.layers:
        layer.router[...] *= 1000
        layer.w1[...] *= 1000
        layer.q_proj[...] *= 1000
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(FloatModel(checkpoint).forward(np.arange(13)).logits).all()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(25, int), r"expected 1 to 24 tokens a sequence \(max_position_embeddings\)"),
        (np.zeros(0, int), r"expected 1 to 24 tokens"),
        (np.zeros((1, 2, 3), int), r"shape \(1, 2, 3\), expected 1 to 24 tokens"),
        (np.array([3, 13]), r"values 3 to 13, expected 0 to 12 \(vocab_size\)"),
        (np.array([-1]), r"values -1 to -1, expected 0 to 12"),
    ],
)
def test_bad_tokens(tokens: Any, message: str) -> None:
    with pytest.raises(A3dError, match=message):
        FloatModel(random_checkpoint(TINY)).forward(tokens)


def test_byte_losses() -> None:
    np.testing.assert_allclose(byte_losses(np.zeros((2, 256), np.float32), np.array([0, 255])), 8.0)
    logits = np.log(np.array([[0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(byte_losses(logits + 100, np.array([1])), 2.0)


def test_bits_per_byte_windows() -> None:
    """Windows are independent, their order does not matter, and the last byte of each is predicted too."""
    model = FloatModel(random_checkpoint(dataclasses.replace(TINY, vocabulary=256)), dtype=np.float64)
    data = np.random.default_rng(2).integers(0, 256, 3 * 8 + 5, dtype=np.uint8).tobytes()
    expected = [
        byte_losses(
            model.forward(np.frombuffer(data[i : i + 8], np.uint8)).logits[0],
            np.frombuffer(data[i + 1 : i + 9], np.uint8).astype(np.int64),
        ).mean()
        for i in (0, 8, 16)
    ]
    assert bits_per_byte(model, data, window=8, batch=2) == pytest.approx(np.mean(expected), rel=1e-12)
    assert expert_usage(model, data, window=8, batch=2).sum(axis=1).tolist() == [48, 48]
    with pytest.raises(A3dError, match="window: 29 bytes, expected 1 to 28 for 29 bytes of text"):
        bits_per_byte(model, data, window=29)


# --- the committed model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> FloatModel:
    return FloatModel(read_checkpoint(DEMO))


def test_demo_model_has_learned(demo: FloatModel) -> None:
    """A few KiB from the middle of each text of the held-out sample."""
    text = (DEMO / "heldout.txt").read_bytes()
    assert 64 * 1024 <= len(text) <= 128 * 1024
    manifest = json.loads((DEMO / "data_manifest.json").read_text())
    at, bits, weights = 0, [], []
    for source in manifest["sources"]:
        size = source["sample_bytes"]
        middle = at + size // 2
        bits.append(bits_per_byte(demo, text[middle : middle + 2049]))
        weights.append(size)
        at += size
    assert at == len(text) == manifest["sample"]["bytes"]
    assert np.average(bits, weights=weights) < 2.0


def test_demo_model_uses_all_experts(demo: FloatModel) -> None:
    text = (DEMO / "heldout.txt").read_bytes()
    pieces = b"".join(text[i : i + 512] for i in range(0, len(text) - 512, len(text) // 12))
    counts = expert_usage(demo, pieces)
    share = counts / counts.sum(axis=1, keepdims=True)
    assert (counts > 0).all()
    assert share.max() > 1.25 / 16, "routing is skewed as trained, nothing forces balance"


def test_demo_model_writes_text(demo: FloatModel) -> None:
    text = generate(demo, b"1 And the LORD said unto ", length=60, temperature=0)
    assert text == generate(demo, b"1 And the LORD said unto ", length=60, temperature=0)
    assert all(32 <= b < 127 or b == 10 for b in text)
    words = text.decode("ascii").lower().split()
    assert (
        sum(
            word.strip(".,:;?!") in {"the", "of", "and", "lord", "unto", "god", "him", "i", "he", "his", "in"}
            for word in words
        )
        >= 3
    )
    one, two = (generate(demo, b"The ", length=20, temperature=1.0, seed=seed) for seed in (1, 2))
    assert one != two


def test_float16_weights_round_trip(demo: FloatModel) -> None:
    """The float32 weights that the reader returns are float16 values: what is committed is what was evaluated."""
    for array in (demo.embed, demo.lm_head, demo.layers[0].w1, demo.layers[3].router):
        np.testing.assert_array_equal(array, array.astype(np.float16).astype(np.float32))


# --- against other people's code; only with the `train` extra ---------------------------------------------------------


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
def test_trainer_exports_the_model_it_trained(tmp_path: Path) -> None:
    """The trainer's own forward pass on float16-rounded weights against the float model on the exported files."""
    torch = pytest.importorskip("torch", reason="needs the train extra: pip install '.[train]'")
    tool = _tool("train_demo")
    torch.manual_seed(3)
    model = tool.DemoModel(tool.ModelShape(num_hidden_layers=2, num_local_experts=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    tool.export(model, tmp_path)
    tokens = np.random.default_rng(0).integers(0, 256, (2, 30))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens))[0].numpy()
    np.testing.assert_allclose(FloatModel(read_checkpoint(tmp_path)).forward(tokens).logits, expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_gradient_of_the_expert_block() -> None:
    """The trainer's hand-written backward pass against finite differences; expert 3 gets no token."""
    torch = pytest.importorskip("torch", reason="needs the train extra: pip install '.[train]'")
    tool = _tool("train_demo")
    torch.manual_seed(0)

    def random(*shape: int) -> Any:
        return torch.randn(*shape, dtype=torch.double, requires_grad=True)

    index = torch.stack([torch.randperm(3)[:2] for _ in range(6)])
    assert torch.autograd.gradcheck(
        lambda x, gate, w13, w2: tool.ExpertBlock.apply(x, index, gate, w13, w2),
        (random(6, 4), random(6, 2), random(4, 6, 4), random(4, 4, 3)),
    )
