# SPDX-License-Identifier: Apache-2.0
"""Any machine with any model: the text is the integer model's, or what does not fit is named before anything runs."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import fields

import pytest

from hdl.config import PRESETS, ConfigError, MachineConfig
from hdl.errors import A3dError
from hdl.isa import Opcode, VectorOp
from scheduler.models.description import Model
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.prove import Finding, prove
from scheduler.stream.synchronise import SyncError
from sim.machine.engines import IsaEngine
from sim.machine.generator import ROUTINGS, Generator
from tests.support.checkpoints import small_model
from tests.support.language import LanguageRun, varied

TINY = PRESETS["tiny"]


def shape(**changes: int) -> Model:
    """Return a small model with some dimensions changed."""
    dimensions = {
        "vocabulary": 32, "hidden": 32, "intermediate": 16, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8,
        "experts": 4, "chosen": 2,
    }  # fmt: skip
    return small_model("mixtral", **{**dimensions, **changes})  # type: ignore[arg-type]


SHAPE = shape()

NAMES = {f.name for f in fields(MachineConfig)} | {
    "hidden", "intermediate", "head_dim", "heads", "vocabulary", "context", "chosen", "experts", "batch", "prompt",
}  # fmt: skip
"""What a refusal may name: a field of the configuration, a dimension of the model, or what was asked for."""


def run(config: MachineConfig, model: Model, seed: int, prompts: list[list[int]], routing: str) -> None:
    """Generate two tokens for each prompt; the generator compares every step's logits with the integer model's."""
    generator = Generator(varied(model, seed), config, prompts, 2, routing=routing)
    with IsaEngine(config, verify=True) as engine:
        engine.start(generator.memory)
        assert sum(len(record.chosen) for record in generator.run(engine)) == 2 * len(prompts)


def draw_config(rng: random.Random) -> MachineConfig:
    """Return any configuration with a small array, most of them with memories that hold a small model."""
    generous = rng.random() < 0.8

    def power(low: int, high: int, usual: int) -> int:
        if generous:
            low, high = usual, min(high, 8 * usual)
        return 1 << rng.randint(low.bit_length() - 1, high.bit_length() - 1)

    while True:
        tiers, columns = rng.randint(1, 8), rng.choice((4, 4, 8, 8, 16))
        rows, stages = columns * rng.choice((1, 2)), rng.choice((1, 1, 2, 16))
        try:
            return MachineConfig(
                name="drawn", tiers=tiers, rows=rows, columns=columns, k_link_stages=stages,
                stationary_feed=rng.choice(("vertical",) * 19 + ("edge",)),  # type: ignore[arg-type]
                vertical_links=rng.random() < 0.7,
                vcache_tiles=power(4, 1 << 16, 1024), activation_words=power(16, 1 << 16, 256),
                accumulator_depth=power(4, 1 << 10, 32), list_depth=power(4, 1 << 12, 64),
                parameter_words=power(4, 1 << 12, 256), combine_rows=power(8, 1 << 16, 512),
                scalar_depth=power(16, 1 << 12, 128), expert_slots=power(2, 1 << 8, 4),
                result_lanes=1 << rng.randint(0, tiers.bit_length() - 1),
                row_fifo_depth=tiers * (rows + stages) + 16 + rng.choice((0, 0, 7)),
                channels_per_group=power(1, 16, 1), channel_bytes=power(4, 128, 4),
                address_bits=rng.randint(22 if generous else 12, 37), burst_beats=power(1, 256, 1),
                outstanding_bursts=rng.randint(1, 64), skew_fifo_beats=power(4, 4096, 16),
                queue_depth=power(2, 64, 2), semaphores=power(4, 64, 32), semaphore_bits=rng.randint(4, 16),
            )  # fmt: skip
        except ConfigError:
            continue


def draw_model(rng: random.Random, config: MachineConfig) -> Model:
    """Return any small model; half of them have dimensions that are no multiples of what the machine works in."""
    experts = rng.choice((1, 2, 3, 4, 5, 8, 17))
    kv_heads = rng.choice((1, 1, 2, 3, 4))
    odd = rng.choice((1, 3))  # dimensions that are no multiples
    return small_model(
        "mixtral",
        vocabulary=config.columns * rng.choice((1, 2, 3, 5, 16)) - odd + 1,
        hidden=max(16, config.rows) * rng.choice((1, 2, 3, 4)) // odd,
        intermediate=config.rows * rng.choice((1, 2, 3, 5)) - odd + 1,
        layers=rng.choice((1, 1, 2, 3)), heads=kv_heads * rng.choice((1, 1, 2, 3, 8)), kv_heads=kv_heads,
        head_dim=max(8, config.rows) * rng.choice((1, 1, 2, 4)) - (odd - 1), experts=experts,
        chosen=rng.randint(1, min(experts, 4)), context=rng.choice((24, 33, 64, 100)),
    )  # fmt: skip


def check_draw(seed: int) -> str:
    """Run a machine and a model drawn from a seed; return ``ok``, or the beginning of the refusal."""
    rng = random.Random(seed)
    config = draw_config(rng)
    model = draw_model(rng, config)
    lengths = [rng.choice((1, 2, 5, 9, 20)) for _ in range(rng.choice((1, 1, 2, 3)))]
    prompts = [[rng.randrange(model.vocabulary) for _ in range(length)] for length in lengths]
    try:
        run(config, model, seed, prompts, rng.choice(ROUTINGS))
    except A3dError as error:
        message = str(error)
        assert "\n" not in message and not re.search(r"instructions? \d", message), f"seed {seed}: {message}"
        assert set(re.findall(r"\w+", message)) & NAMES, f"seed {seed}: {message}"
        assert error.exit_status == 2, f"seed {seed}: {message}"
        return " ".join(message.split()[:3])
    return "ok"


def test_any_machine_with_any_model() -> None:
    outcomes = Counter(check_draw(seed) for seed in (*range(11, 29), 1031, 1152, 1185))
    assert outcomes["ok"] >= 4 and len(outcomes) > 2, outcomes


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_machine_with_any_model_many_times() -> None:
    outcomes = Counter(check_draw(seed) for seed in range(1000, 1200))
    assert outcomes["ok"] > 70, outcomes


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_machine_without_vertical_links(routing: str) -> None:
    config = TINY.replace(vertical_links=False, vcache_tiles=512)
    run(config, SHAPE, 3, [[1, 2, 3, 4, 5, 6, 7], [8, 9]], routing)
    residence = plan_residence(Tiling(config, SHAPE))
    shares = [share for own in residence.shares.values() for each in own.values() for share in each]
    assert {share.tiers for share in [*shares, *residence.head]} == {1}


def test_the_edge_feed_is_refused_by_its_field() -> None:
    with pytest.raises(LoweringError, match="^config stationary_feed: 'edge' .*; set it to 'vertical'"):
        Generator(varied(SHAPE, 1), TINY.replace(stationary_feed="edge"), [[1]], 1)


def test_gangs_share_a_matrix_only_where_loads_can_begin() -> None:
    """With 16 bytes in a tile's plane, every other tile of a matrix begins where no address does."""
    config = TINY.replace(
        tiers=8, columns=4, result_lanes=8, row_fifo_depth=96, combine_rows=1024, vcache_tiles=1024, semaphores=64
    )
    model = shape(heads=1, kv_heads=1)
    residence = plan_residence(Tiling(config, model))
    (shares,) = residence.shares.values()
    assert config.plane_bytes == 16 and residence.resident
    for name, own in shares.items():
        matrix = residence.matrices[model.layers[0]][name]
        for share in own:
            starts = [(share.first + tier * share.each) * matrix.k_slices for tier in range(share.tiers)]
            assert all(start * config.plane_bytes % 32 == 0 for start in starts), name
    assert {name: max(share.tiers for share in own) for name, own in shares.items()} == {
        "qkv": 6, "output": 4, "router": 1
    }  # fmt: skip
    run(config, model, 5, [[1, 2, 3]], "slots")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 4096}, "model hidden: 4096; instructions count up to 511 rows of 8, and this takes 512: .*4088"),
        ({"intermediate": 8192}, "model intermediate: 8192; .* up to 1023 rows of 8, .* takes 1024: .* most 8184,"),
        ({"heads": 512}, "model heads x head_dim: 4096; .* up to 511 rows"),
        ({"heads": 400, "kv_heads": 400}, "2 kv_heads x head_dim: 6400; .* up to 511 rows"),
        ({"chosen": 9, "experts": 16}, "model chosen experts: 9 of 16; at most 8 here"),
        (
            {"head_dim": 72},
            "model head_dim: 72; the rotation's tables take 1, 2, 4 or 8 rows of 8: use at most 64, or .* 16 columns",
        ),
        ({"heads": 3}, "model heads: 3 with 2 kv_heads; use a multiple of kv_heads"),
    ],
)
def test_what_an_instruction_cannot_say_is_refused_by_dimension(changes: dict[str, int], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        Tiling(TINY, shape(**changes))


def test_the_largest_dimensions_that_an_instruction_can_say_are_lowered() -> None:
    config = PRESETS["nano"].replace(
        vcache_tiles=1 << 16, activation_words=1 << 16, accumulator_depth=1024, parameter_words=4096,
        combine_rows=1 << 16, scalar_depth=4096, semaphores=64, address_bits=34,
    )  # fmt: skip
    for changes in (
        {"hidden": 4 * 511}, {"intermediate": 4 * 1023}, {"heads": 255, "kv_heads": 1}, {"vocabulary": 4 * 1023 + 5},
    ):  # fmt: skip
        model = {"layers": 1, "experts": 2, "heads": 2, "kv_heads": 1, "hidden": 16, "intermediate": 4}
        run(config, shape(**{**model, **changes}), 1, [[1, 2]], "slots")


def test_more_than_32767_keys_are_all_valid() -> None:
    """The number of valid elements has 16 bits with a sign: more keys than that must not look like none."""
    config = PRESETS["nano"].replace(
        vcache_tiles=1 << 16, activation_words=1024, accumulator_depth=64, parameter_words=256, combine_rows=1024,
        scalar_depth=256, semaphores=64, address_bits=30,
    )  # fmt: skip
    model = varied(shape(heads=1, kv_heads=1, layers=1, experts=2, hidden=16, intermediate=4, context=50_000), 1)
    program = LanguageRun(config, model, sequences=1, step_bytes=1 << 22).lower([Chunk(0, 40_000, (1,))], None)
    maxima = [i for i in program.instructions if i.opcode == Opcode.VECTOR and i["op"] == VectorOp.MAX and i["masked"]]
    scores = [i for i in maxima if i["rows"] == 8]  # blocks of 32 keys; the choice of experts has a row
    assert len(scores) == 40_001 // 32
    assert all(32 <= i["length"] < 1 << 15 for i in scores)
    assert min(i["length"] for i in maxima if i not in scores) >= 1


def test_too_narrow_a_semaphore_is_refused_by_its_field() -> None:
    """The lowering refuses what the verifier finds in the same stream of a machine with wider counters."""
    narrow = TINY.replace(
        tiers=7, result_lanes=2, row_fifo_depth=135, vcache_tiles=2048, accumulator_depth=128, parameter_words=256,
        combine_rows=2048, scalar_depth=128, semaphores=64, semaphore_bits=4,
    )  # fmt: skip
    model = varied(shape(layers=1, heads=6, kv_heads=3, experts=3, chosen=3), 1)

    def lowered(config: MachineConfig) -> list[Finding]:
        one = LanguageRun(config, model, sequences=5)
        chunks = [Chunk(slot, position, (1,)) for slot, position in enumerate((41, 5, 5, 1, 2))]
        return prove(one.lower(chunks, None).table, narrow, one.memory.images)

    assert {finding.kind for finding in lowered(narrow.replace(semaphore_bits=5))} == {"overflow"}
    with pytest.raises(SyncError, match="may count beyond 15, the most that semaphore_bits of 4 can hold; raise"):
        lowered(narrow)
    prompts = [[1, 2, 3]] * 5
    with pytest.raises(
        LoweringError, match="^batch: 5 sequences of up to 4 tokens; run fewer with --batch .*raise sem"
    ):
        Generator(model, narrow, prompts, 2, routing="slots")
    Generator(model, narrow, prompts, 2, routing="slots", batch=2)
