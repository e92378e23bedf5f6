# SPDX-License-Identifier: Apache-2.0
"""Files of steps: what is read, and that each wrong line is refused with its number and field."""

import json

import pytest

from scheduler.models.description import DenseMlp, Experts, GroupedAttention, Layer, Model
from scheduler.ops.steps_file import StepsError, parse_steps, read_steps

ATTENTION = GroupedAttention(heads=2, kv_heads=1, head_dim=8)
MODEL = Model(
    family="mixtral", name="test", hidden=16, vocabulary=32, context=64,
    layers=(
        Layer(attention=ATTENTION, mlp=DenseMlp(intermediate=8)),
        Layer(attention=ATTENTION, mlp=Experts(count=4, chosen=2, intermediate=8)),
    ),
)  # fmt: skip


def test_a_line_with_everything():
    line = {
        "sequences": [{"id": "a", "cached": 5, "new": 1}, {"id": 7, "tokens": [1, 31]}],
        "routing": [[[0, 1], [2, 3], [3, 0]]], "gates": [[[1, 0], [0.5, 0.25], [0.75, 0]]],
    }  # fmt: skip
    (step,) = parse_steps(["", json.dumps(line), "  "], MODEL)
    assert step.line == 2 and step.tokens == 3
    assert [(s.name, s.cached, s.new, s.tokens) for s in step.sequences] == [("a", 5, 1, ()), ("7", 0, 2, (1, 31))]
    assert step.experts[0].tolist() == [[0, 1], [2, 3], [3, 0]]
    assert step.gates[0].tolist() == [[32768, 0], [16384, 8192], [24576, 0]]


def test_defaults_are_the_place_in_the_line_and_equal_gates():
    (step,) = parse_steps(['{"sequences": [{"new": 1}, {"new": 1}], "routing": [[[0, 1], [1, 2]]]}'], MODEL)
    assert [s.name for s in step.sequences] == ["0", "1"]
    assert set(step.gates[0].ravel().tolist()) == {16384}


def test_a_prefix_is_that_of_another_sequence() -> None:
    prefix = {"id": "a", "tokens": 16}
    lines = [
        {"sequences": [{"id": "a", "new": 20}]},
        {"sequences": [{"id": "b", "cached": 16, "new": 2, "prefix": prefix}, {"id": "a", "cached": 20, "new": 1}]},
        {"sequences": [{"id": "b", "cached": 18, "new": 1}]},
    ]
    steps = parse_steps([json.dumps(line) for line in lines], MODEL)
    assert [(s.prefix, s.prefix_tokens) for s in steps[1].sequences] == [("a", 16), (None, 0)]
    assert [(s.prefix, s.prefix_tokens) for s in steps[2].sequences] == [("a", 16)], "later lines need not say it"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"prefix": 3}, "line 2: sequences\\[0\\].prefix: 3; use an object"),
        ({"prefix": {"id": "a"}}, "sequences\\[0\\].prefix.tokens: is missing; use an integer from 1 to 24"),
        ({"prefix": {"id": "a", "tokens": 25}}, "prefix.tokens: 25; use an integer from 1 to 24"),
        ({"prefix": {"id": "a", "tokens": 21}}, "prefix.tokens: 21; use at most 20, what 'a' has run"),
        ({"prefix": {"id": "c", "tokens": 8}}, "prefix.id: 'c'; use the id of another sequence, of this line or an"),
        ({"prefix": {"id": "b", "tokens": 8}}, "prefix.id: 'b'; use the id of another sequence"),
        ({"prefix": {"id": "a", "tokens": 8}, "cached": 0}, "prefix: .*; use it with cached tokens only"),
        ({"prefix": {"id": "a", "tokens": 8, "place": 1}}, "prefix.'place': no such field; use id, tokens"),
    ],
)  # fmt: skip
def test_prefixes_that_cannot_be(own: dict[str, object], message: str) -> None:
    lines = [{"sequences": [{"id": "a", "new": 20}]}, {"sequences": [{"id": "b", "cached": 24, "new": 1} | own]}]
    with pytest.raises(StepsError, match=message):
        parse_steps([json.dumps(line) for line in lines], MODEL)


A, B = {"id": "a", "new": 20}, {"id": "b", "cached": 16, "new": 8, "prefix": {"id": "a", "tokens": 16}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([[{**B, "cached": 24, "prefix": {"id": "a", "tokens": 8}}]], "use 16 tokens of 'a', as before"),
        ([[{"id": "c", "cached": 24, "new": 1, "prefix": {"id": "b", "tokens": 24}}]], "a sequence that has no prefix"),
        ([[{"id": "a", "cached": 20, "new": 1, "prefix": {"id": "b", "tokens": 8}}]], "it in a sequence's first"),
        ([[{"id": "b", "cached": 8, "new": 1}]], "cached: 8; use 0 to start again, or at least 16, the tokens of its"),
        ([[{"id": "a", "new": 2}, {"id": "b", "cached": 24, "new": 1}]], "16; use at most 0, what 'a' has run"),
        ([[{"id": "a", "new": 2}], [{"id": "b", "cached": 24, "new": 1}]], "24; use 0: 'a', whose first tokens"),
    ],
)  # fmt: skip
def test_prefixes_that_do_not_stay(more: list[list[object]], message: str) -> None:
    """Another one than before, one of a sequence that has one, one whose sequence has started again."""
    lines = [{"sequences": own} for own in ([A], [B], *more)]
    with pytest.raises(StepsError, match=message):
        parse_steps([json.dumps(line) for line in lines], MODEL)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_chains_within_a_line_are_refused(order: tuple[int, int]) -> None:
    own = [B, {"id": "c", "cached": 24, "new": 1, "prefix": {"id": "b", "tokens": 16}}]
    lines = [{"sequences": [A]}, {"sequences": [own[n] for n in order]}]
    with pytest.raises(StepsError, match="prefix.id: 'b'; use a sequence that has no prefix itself"):
        parse_steps([json.dumps(line) for line in lines], MODEL)
    circle = [{"id": x, "cached": 20, "new": 1, "prefix": {"id": y, "tokens": 16}} for x, y in ("ab", "ba")]
    with pytest.raises(StepsError, match="a sequence that has no prefix itself"):
        parse_steps([json.dumps({"sequences": circle})], MODEL)


def test_sequences_that_start_again_have_no_prefix() -> None:
    lines = [[A], [B], [{"id": "a", "new": 30}], [{"id": "b", "new": 3}], [{"id": "b", "cached": 3, "new": 1}]]
    steps = parse_steps([json.dumps({"sequences": own}) for own in lines], MODEL)
    assert [step.sequences[0].prefix for step in steps] == [None, "a", None, None, None]


ONE = [{"new": 1}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: no JSON object"),
        ("[1]", "line 1: \\[1\\]; write an object with sequences"),
        ({}, "sequences: is missing; use a list"),
        ('{"sequences": [{"new": 1, "new": 2}]}', "line 1: new: is there twice in an object"),
        ({"sequences": []}, "sequences: \\[\\]; use a list"),
        ({"sequences": ONE, "batch": 1}, "'batch': no such field; use sequences, routing, gates"),
        ({"sequences": [3]}, "sequences\\[0\\]: 3; use an object"),
        ({"sequences": [{"new": 1, "neww": 1}]}, "sequences\\[0\\].'neww': no such field"),
        ({"sequences": [{}]}, "sequences\\[0\\].new: is missing; use an integer from 1 to 64"),
        ({"sequences": [{"new": 0}]}, "sequences\\[0\\].new: 0; use an integer from 1 to 64"),
        ({"sequences": [{"new": 1.0}]}, "sequences\\[0\\].new: 1.0; use an integer"),
        ({"sequences": [{"new": True}]}, "sequences\\[0\\].new: True; use an integer"),
        ({"sequences": [{"cached": 60, "new": 5}]}, "sequences\\[0\\].new: 5; use an integer from 1 to 4"),
        ({"sequences": [{"cached": 64, "new": 1}]}, "sequences\\[0\\].cached: 64; use an integer from 0 to 63"),
        ({"sequences": [{"cached": -1, "new": 1}]}, "sequences\\[0\\].cached: -1; use an integer from 0 to 63"),
        ({"sequences": [{"tokens": []}]}, "sequences\\[0\\].tokens: \\[\\]; use a list of token numbers"),
        ({"sequences": [{"tokens": [32]}]}, "sequences\\[0\\].tokens: 32; use an integer from 0 to 31"),
        ({"sequences": [{"tokens": [1], "new": 2}]}, "sequences\\[0\\].new: 2; use 1, as many as tokens"),
        ({"sequences": [{"tokens": [1] * 65}]}, "tokens: 65; use at most 64 tokens"),
        ({"sequences": [{"id": [1], "new": 1}]}, "sequences\\[0\\].id: \\[1\\]; use a text or an integer"),
        ({"sequences": [{"id": "a", "new": 1}, {"id": "a", "new": 1}]}, "id: 'a'; use each id once in a step"),
        ({"sequences": [{"id": 0, "new": 1}, {"id": "0", "new": 1}]}, "id: '0'; use each id once"),
        ({"sequences": ONE, "gates": [[[1, 0]]]}, "gates: .*; use them with routing only"),
        ({"sequences": ONE, "routing": []}, "routing: 0; use a list of 1, one for each layer with experts"),
        ({"sequences": ONE, "routing": 5}, "routing: 5; use a list of 1"),
        ({"sequences": ONE, "routing": [[]]}, "routing\\[0\\]: 0; use 1 lists, one for each new token, of 2"),
        ({"sequences": ONE, "routing": [[[0, 1, 2]]]}, "routing\\[0\\]: 1; use 1 lists"),
        ({"sequences": ONE, "routing": [[[0, 4]]]}, "routing\\[0\\]\\[0\\]: \\[0, 4\\]; use experts from 0 to 3"),
        ({"sequences": ONE, "routing": [[[0, "1"]]]}, "routing\\[0\\]\\[0\\]: .*; use experts from 0 to 3"),
        ({"sequences": ONE, "routing": [[[1, 1]]]}, "routing\\[0\\]\\[0\\]: \\[1, 1\\]; use 2 different experts"),
        ({"sequences": ONE, "routing": [[[0, 1]]], "gates": [[[2, 0]]]}, "gates\\[0\\]\\[0\\]: \\[2, 0\\]; use"),
        ({"sequences": [{"new": 2}], "routing": [[[0, 1], [4, 0]]]}, "routing\\[0\\]\\[1\\]: \\[4, 0\\]; use experts"),
        ({"sequences": ONE, "routing": [[[True, 0]]]}, "routing\\[0\\]\\[0\\]: \\[True, 0\\]; use experts"),
        ('{"sequences": [{"new": 1}], "routing": [[[0, 1]]], "gates": [[[NaN, 0]]]}', "gates\\[0\\]\\[0\\]: .*; use"),
        ({"sequences": ONE, "routing": [[[0, 1]]], "gates": []}, "gates: \\[\\]; use a list of 1"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(line, message):
    text = line if isinstance(line, str) else json.dumps(line)
    with pytest.raises(StepsError, match=message) as caught:
        parse_steps([text], MODEL)
    assert "\n" not in str(caught.value) and "line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "No such file"),
        (b"", "no steps; write at least one"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b"\n\n{}", "line 3: sequences"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, data, message):
    path = tmp_path / "steps.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(StepsError, match=message):
        read_steps(path, MODEL)


def test_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"sequences": [{"new": 3}]}\r\n')
    assert read_steps(path, MODEL)[0].tokens == 3


def test_no_more_tokens_are_cached_than_the_file_has_run():
    first, more = (
        '{"sequences": [{"id": "a", "cached": 9, "new": 5}]}',
        '{"sequences": [{"id": "a", "cached": %d, "new": 1}]}',
    )
    assert len(parse_steps([first, more % 14, more % 3, more % 4], MODEL)) == 4  # tokens may be taken back
    with pytest.raises(StepsError, match="line 2: sequences\\[0\\].cached: 15; use at most 14, the tokens of 'a'"):
        parse_steps([first, more % 15], MODEL)
    with pytest.raises(StepsError, match="line 3: sequences\\[0\\].cached: 14; use at most 4"):
        parse_steps([first, more % 3, more % 14], MODEL)
