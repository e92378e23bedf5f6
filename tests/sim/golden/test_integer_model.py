# SPDX-License-Identifier: Apache-2.0
"""The integer language model: the same bits however tokens are grouped, and close to the float model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hdl.errors import A3dError
from scheduler.models.calibration import best_range, calibrate, quantise_checkpoint, split_text
from scheduler.models.checkpoint import CheckpointError, read_checkpoint
from scheduler.models.float_model import FloatModel, byte_losses
from scheduler.models.quantised_model import QuantisedModel
from scheduler.models.random_checkpoint import random_checkpoint
from sim.golden.integer_experts import expert_rows
from sim.golden.integer_model import IntegerModel, StepResult
from tests.support.checkpoints import small_model

DEMO = Path(__file__).resolve().parents[3] / "models" / "demo"
SIZES: dict[str, int] = {"hidden": 32, "intermediate": 24, "heads": 4, "kv_heads": 2, "experts": 5, "chosen": 2}
SHAPE = small_model("mixtral", **SIZES)
CHECKPOINT = random_checkpoint(SHAPE, seed=3)
TOKENS = np.random.default_rng(4).integers(0, 50, (8, 48))


@pytest.fixture(scope="module")
def quantised() -> QuantisedModel:
    return quantise_checkpoint(CHECKPOINT, TOKENS)


def assert_same(one: StepResult, rows: slice, two: StepResult) -> None:
    """Compare tokens `rows` of a result with all tokens of another."""
    np.testing.assert_array_equal(one.logits[rows], two.logits)
    for a, b in zip(one.routing, two.routing, strict=True):
        np.testing.assert_array_equal(a.experts[rows], b.experts)
        np.testing.assert_array_equal(a.gates[rows], b.gates)


@pytest.mark.parametrize("key_block", [1, 7, 16, 128])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
def test_prefill_is_decode(quantised: QuantisedModel, length: int, key_block: int) -> None:
    model = IntegerModel(quantised, key_block=key_block)
    tokens = TOKENS[0, :length]
    whole = model.prefill(tokens)
    assert whole.logits.shape == (length, 50) and whole.logits.dtype == np.int16 and whole.counts == (length,)
    cache = model.new_cache(length)
    for position, token in enumerate(tokens):
        assert cache.length == position
        assert_same(whole, slice(position, position + 1), model.decode([cache], [token]))
    with pytest.raises(A3dError, match=r"1 new tokens after \d+; its cache has"):
        model.decode([cache], [0])


def test_tokens_do_not_depend_on_their_batch(quantised: QuantisedModel) -> None:
    model = IntegerModel(quantised, key_block=16)
    alone = [model.prefill(TOKENS[number, :30]) for number in range(4)]
    caches = [model.new_cache() for _ in range(4)]
    # Pieces of different lengths, prefill and decode together, in another order each time.
    steps = [
        [(0, 0, 16), (1, 0, 1), (2, 0, 30)],
        [(3, 0, 3), (1, 1, 2), (0, 16, 17)],
        [(1, 2, 19), (0, 17, 30), (3, 3, 4)],
        [(3, 4, 30), (1, 19, 30)],
    ]
    for step in steps:
        result = model.step([(caches[s], TOKENS[s, a:b]) for s, a, b in step])
        assert result.counts == tuple(b - a for _, a, b in step)
        first = 0
        for (number, start, end), last in zip(step, result.last_logits, strict=True):
            rows = slice(first, first + end - start)
            np.testing.assert_array_equal(result.logits[rows], alone[number].logits[start:end])
            np.testing.assert_array_equal(last, alone[number].logits[end - 1])
            for layer, routing in enumerate(result.routing):
                np.testing.assert_array_equal(routing.gates[rows], alone[number].routing[layer].gates[start:end])
            first += end - start
    assert [cache.length for cache in caches] == [30] * 4


def test_the_block_of_keys_matters_only_beyond_one_block(quantised: QuantisedModel) -> None:
    results = [IntegerModel(quantised, key_block=size).prefill(TOKENS[1]).logits for size in (8, 16, 128)]
    np.testing.assert_array_equal(results[0][:8], results[2][:8])
    np.testing.assert_array_equal(results[1][:16], results[2][:16])
    assert (results[1][16:] != results[2][16:]).any()


def test_the_future_does_not_matter(quantised: QuantisedModel) -> None:
    model = IntegerModel(quantised)
    changed = TOKENS[2].copy()
    changed[20:] = (changed[20:] + 1) % 50
    one, two = model.prefill(TOKENS[2]), model.prefill(changed)
    np.testing.assert_array_equal(one.logits[:20], two.logits[:20])
    assert (one.logits[20] != two.logits[20]).any()


def test_trace_and_residual(quantised: QuantisedModel) -> None:
    """The traces fit together: attention adds Q15 times int16, experts add gates times their rows."""
    model = IntegerModel(quantised)
    cache = model.new_cache(10)
    result = model.step([(cache, TOKENS[0, :10])], trace=True)
    assert len(result.layers) == 2 and not model.prefill(TOKENS[0, :10]).layers
    start = quantised.embedding[TOKENS[0, :10]].astype(np.int64) << quantised.embedding_shift
    for number, (seen, routing) in enumerate(zip(result.layers, result.routing, strict=True)):
        added = seen.residual_middle.astype(np.int64) - start
        assert (added % 32768 == 0).all() and np.abs(added).max() >> 15 < 32768
        expected = seen.residual_middle[4].astype(np.int64)
        for expert, gate in zip(routing.experts[4], routing.gates[4], strict=True):
            rows = expert_rows(quantised.layers[number].experts.experts[expert], seen.expert_input[4:5])
            expected += int(gate) * rows[0]
        np.testing.assert_array_equal(seen.residual_out[4], expected)
        np.testing.assert_array_equal(cache.keys[number].swapaxes(0, 1), seen.key)
        np.testing.assert_array_equal(cache.values[number].swapaxes(0, 1), seen.value)
        assert seen.query.shape == (10, 4, 8) and seen.context.shape == (10, 32) and seen.router.shape == (10, 5)
        start = seen.residual_out.astype(np.int64)


def test_close_to_the_float_model(quantised: QuantisedModel) -> None:
    exact = FloatModel(CHECKPOINT).forward(TOKENS[:4], trace=True)
    model = IntegerModel(quantised)
    result = model.step([(model.new_cache(48), row) for row in TOKENS[:4]], trace=True)
    # Random experts are far apart: where rounding sends a token to another one, nothing can be expected.
    same = np.ones((4, 48), dtype=bool)
    for trace, routing in zip(exact.layers, result.routing, strict=True):
        chosen = np.sort(routing.experts, axis=1).reshape(4, 48, 2)
        same &= (chosen == np.sort(trace.expert_index, axis=-1)).all(axis=-1)
    assert same.mean() > 0.8
    real = result.logits.reshape(4, 48, 50) * quantised.logit_scale
    assert np.sqrt(np.square(real - exact.logits)[same].mean()) < 0.15 * exact.logits.std()
    middle = exact.layers[0].hidden_in + exact.layers[0].attention_output
    found = result.layers[0].residual_middle.reshape(middle.shape) * quantised.residual_scale
    assert np.sqrt(np.square(found - middle).mean()) < 0.03 * middle.std()


def test_demo_model_within_two_percent_on_a_few_bytes() -> None:
    checkpoint = read_checkpoint(DEMO)
    text = (DEMO / "heldout.txt").read_bytes()
    seen, windows = split_text(text, window=128, calibration=16, evaluation=6)
    model = IntegerModel(quantise_checkpoint(checkpoint, seen))
    result = model.step([(model.new_cache(128), row[:-1]) for row in windows])
    logits = result.logits.reshape(6, 128, 256) * model.model.logit_scale
    integer = byte_losses(logits, windows[:, 1:]).mean()
    exact = byte_losses(FloatModel(checkpoint).forward(windows[:, :-1]).logits, windows[:, 1:]).mean()
    assert 0 < abs(integer / exact - 1) < 0.02


def test_chosen_alone_and_all() -> None:
    for chosen in (1, 5):
        shape = small_model("mixtral", **(SIZES | {"chosen": chosen, "kv_heads": 4}), tied=True)
        model = IntegerModel(quantise_checkpoint(random_checkpoint(shape), TOKENS[:2]))
        routing = model.prefill(TOKENS[0]).routing[0]
        assert routing.experts.shape == (48, chosen) and routing.gates.dtype == np.uint16
        assert np.abs(routing.gates.sum(axis=1).astype(int) - 32768).max() <= chosen


def test_what_a_step_refuses(quantised: QuantisedModel) -> None:
    model = IntegerModel(quantised)
    cache, other = model.new_cache(8), model.new_cache()
    for batch, message in (
        ([], "batch: no sequences"),
        ([(cache, [1]), (cache, [2])], "a cache is there twice"),
        ([(other, [1]), (cache, [])], "sequence 1: 0 new tokens after 0; its cache has 8 positions: give 1 to 8"),
        ([(cache, np.zeros(9))], "sequence 0: 9 new tokens"),
        ([(other, [1]), (cache, [50])], "sequence 1: tokens from 50 to 50; the vocabulary is 0 to 49"),
        ([(cache, [-1])], "tokens from -1 to -1"),
    ):
        with pytest.raises(A3dError, match=message):
            model.step(batch)
    assert cache.length == other.length == 0 and not other.keys.any()
    for size in (0, 129):
        with pytest.raises(A3dError, match=f"key_block: {size}; the model is quantised for 1 to 128"):
            IntegerModel(quantised, key_block=size)
    for positions in (0, 65):
        with pytest.raises(A3dError, match=f"positions: {positions}; the model has 1 to 64"):
            model.new_cache(positions)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(
        CheckpointError,
        match="architectures is .* and model_type None, expected one of MixtralFor",
    ):
        read_checkpoint(tmp_path)


def test_calibration_of_another_model_is_refused() -> None:
    deeper = random_checkpoint(dataclasses.replace(SHAPE, layers=SHAPE.layers[:1] * 3))
    from scheduler.models.quantise_language import quantise_language_model

    with pytest.raises(A3dError, match="ranges: of 2 layers, the model has 3"):
        quantise_language_model(deeper, calibrate(CHECKPOINT, TOKENS[:1]))
    with pytest.raises(A3dError, match="calibration: no tokens"):
        calibrate(CHECKPOINT, np.zeros((0, 4)))
    with pytest.raises(A3dError, match="vocab_size"):
        calibrate(CHECKPOINT, [[50]])


def test_one_calibration_token_is_enough() -> None:
    """Experts that no token chose get the ranges of those that some did."""
    model = IntegerModel(quantise_checkpoint(CHECKPOINT, [[7]]))
    assert np.abs(model.prefill(TOKENS[0]).logits.astype(int)).max() > 1000


def test_best_range_clips_outliers_that_do_not_count() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4))
    x[:, 3] *= 10
    largest = float(np.abs(x).max())
    assert largest <= best_range(x, clip=False) <= largest * (1 + 2**-11)
    assert best_range(x, np.array([1.0, 1.0, 1.0, 1.0])) > 0.7 * largest
    assert best_range(x, np.array([1.0, 1.0, 1.0, 0.0])) < 0.5 * largest
    assert best_range(np.zeros((3, 4))) == 0.0


def test_the_last_bits_of_the_float_model_do_not_reach_the_integers() -> None:
    """Other sums of the same products, as other numbers of threads make them, give the same ranges."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, 8)).astype(np.float32)
    for clip in (False, True):
        ranges = {best_range(x * np.float32(1 + shake), clip=clip) for shake in np.linspace(-2e-7, 2e-7, 9)}
        assert len(ranges) == 1


def test_split_text() -> None:
    text = bytes(np.arange(101, dtype=np.uint8))
    seen, windows = split_text(text, window=10, calibration=3, evaluation=7)
    assert seen.shape == (3, 10) and windows.shape == (7, 11)
    assert sorted([*seen[:, 0].tolist(), *windows[:, 0].tolist()]) == list(range(0, 100, 10))
    assert (np.diff(windows, axis=1) == 1).all()
    for options in ({"calibration": 4, "evaluation": 7}, {"calibration": 0}, {"window": 0}, {"window": 200}):
        with pytest.raises(A3dError, match="text: 101 bytes hold"):
            split_text(text, **{"window": 10, "calibration": 3, "evaluation": 7, **options})
