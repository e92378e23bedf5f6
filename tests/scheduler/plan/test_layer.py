# SPDX-License-Identifier: Apache-2.0
"""A layer of experts alone: whole, in pieces or on all tiers, in parts of the tokens that the buffers hold."""

from __future__ import annotations

import re

import pytest

from hdl.config import PRESETS, MachineConfig
from scheduler.models.description import Experts
from scheduler.plan.layer import LayerPlan, Way, experts_alone, plan_layer
from scheduler.plan.limits import LoweringError
from scheduler.plan.tiling import Tiling

TINY = PRESETS["tiny"]
BOTH = pytest.mark.parametrize("way", list(Way))


def plan(config: MachineConfig, way: Way = Way.ALONE, tokens: int = 40, hidden: int = 21, inner: int = 13) -> LayerPlan:
    """Return the plan of a layer whose experts are 18 tiles: up 3 x 4, down 2 x 3."""
    return plan_layer(
        Tiling(config, experts_alone(hidden, Experts(count=5, chosen=2, intermediate=inner))), tokens, way
    )


def test_it_has_no_attention_and_nothing_else() -> None:
    model = experts_alone(21, Experts(count=5, chosen=2, intermediate=13))
    tiling = Tiling(TINY, model)
    assert tiling.heads(model.layers[0]).query_words == tiling.heads(model.layers[0]).cached_rows == 0
    assert Tiling(TINY.replace(stationary_feed="edge"), model), "experts run on the control too"


def test_whole_experts_where_two_fit() -> None:
    own = plan(TINY)
    assert own.whole and own.places.piece_buffers == (0, 18, 36, 54) and own.places.expert_words == (0, 7, 14, 21)
    assert plan(TINY.replace(vcache_tiles=64)).places.piece_buffers == (0, 18, 36)
    cut = plan(TINY.replace(vcache_tiles=32))  # one and a half
    assert not cut.whole and cut.places.piece_buffers == (0, 6, 12, 18, 24)
    assert [len(unit.runs) for unit in cut.places.residence.pieces[13]] == [1, 1, 1]
    few = plan(TINY.replace(parameter_words=8))  # words of one
    assert not few.whole and few.places.expert_words == (0,)


def test_shares_of_all_tiers() -> None:
    own = plan(TINY, Way.GANG)
    up, down = own.places.residence.gangs[13]
    assert [(s.tiers, s.each) for s in (*up, *down)] == [(2, 2), (2, 1), (1, 1)]
    assert own.places.residence.piece_tiles == 2 * 3 and len(own.places.piece_buffers) == 16
    assert own.places.expert_words[1] == own.places.residence.gang_words(13) == 4


@pytest.mark.parametrize("config", [TINY.replace(vertical_links=False), PRESETS["nano"]], ids=["flat", "nano"])
def test_a_gang_needs_tiers_with_links(config: MachineConfig) -> None:
    with pytest.raises(LoweringError, match=f"gang: {config.name} has {config.tiers} tiers without vertical links"):
        plan(config, Way.GANG)


@BOTH
def test_tokens_go_in_parts_that_fit(way: Way) -> None:
    """A token takes 3 words of x, and two places of h with 2 each; 3 rows. 3 rows are spare."""
    for config in (
        TINY, TINY.replace(activation_words=64), TINY.replace(combine_rows=64), TINY.replace(list_depth=16),
        TINY.replace(accumulator_depth=8),
    ):  # fmt: skip
        own = plan(config, way)
        assert 3 * own.tokens + 4 * own.places.chunk <= config.activation_words
        assert 3 * own.tokens + 3 <= config.combine_rows
        assert own.places.chunk <= min(own.tokens, config.accumulator_depth, config.list_depth)
    assert plan(TINY, way).tokens == 40
    assert plan(TINY.replace(combine_rows=64), way).tokens == 20  # the same number in each part
    assert plan(TINY.replace(combine_rows=128), way, tokens=41).tokens == 41
    assert plan(TINY.replace(combine_rows=128), way, tokens=42).tokens == 21


def test_lists_that_are_too_long_cut_the_step_further() -> None:
    tiling = Tiling(TINY, experts_alone(21, Experts(count=5, chosen=2, intermediate=13)))
    asked: list[int] = []

    def fits(tokens: int) -> bool:
        asked.append(tokens)
        return tokens <= 1

    assert plan_layer(tiling, 5, Way.ALONE, fits).tokens == 1
    assert asked == [5, 3, 2, 1]


@BOTH
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"combine_rows": 8, "hidden": 48}, r"hidden size 48: one token takes 9 combine rows; .* has 8: at most (\d+)"),
        ({"activation_words": 16, "inner": 64}, r"takes 3 \+ 2 x 8 activation words; .* has 16: .* at least (\d+)"),
    ],
)
def test_what_does_not_fit_is_named_with_what_does(way: Way, changes: dict[str, int], message: str) -> None:
    sizes = {name: value for name, value in changes.items() if name in ("hidden", "inner")}
    machine = {name: value for name, value in changes.items() if name not in sizes}
    config = TINY.replace(vcache_tiles=4096, **machine)  # type: ignore[arg-type]
    with pytest.raises(LoweringError, match=message) as caught:
        plan(config, way, **sizes)
    found = re.search(message, str(caught.value))
    assert found
    if "hidden" in sizes:
        assert plan(config, way, hidden=int(found[1]))
        with pytest.raises(LoweringError):
            plan(config, way, hidden=int(found[1]) + 1)
    else:
        assert plan(config.replace(activation_words=int(found[1])), way, **sizes)


def test_words_of_an_expert_must_fit() -> None:
    with pytest.raises(LoweringError, match="size 13: an expert's requantisation words take 7 of tiny's 4"):
        plan(TINY.replace(parameter_words=4))
