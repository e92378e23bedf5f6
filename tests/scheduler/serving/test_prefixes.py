# SPDX-License-Identifier: Apache-2.0
"""Prompts that begin as others: which tokens need not run, whose keys are used, and how long they are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.ops.batch import Prefix
from scheduler.serving.batcher import Batcher, Idle, StepWork
from scheduler.serving.prefixes import common_tokens
from scheduler.serving.request import Request

BLOCK = 4
COMMON = tuple(range(10))


def request(number: int, own: int, tokens: int = 3, arrival: int = 0, common: int = 10) -> Request:
    """Return a request whose prompt begins with what is common."""
    return Request(number, COMMON[:common] + tuple(range(100 * number, 100 * number + own)), tokens, arrival)


def batcher(*requests: Request, places: int = 4, step_tokens: int = 16, block: int = BLOCK) -> Batcher:
    return Batcher(requests, places=places, step_tokens=step_tokens, prefix_block=block)


def take(one: Batcher, now: int = 0) -> list[tuple[int, int, int, Prefix | None]]:
    """Run a step; return request, position, number of tokens and prefix of each turn."""
    work = one.next(now)
    assert isinstance(work, StepWork)
    one.done(work, {t.request.number: 50_000 + t.chunk.end for t in work.turns if t.chooses})
    return [(t.request.number, t.chunk.position, len(t.chunk.tokens), t.chunk.prefix) for t in work.turns]


def test_a_prompt_waits_for_what_it_has_in_common_with_one_before_it() -> None:
    one = batcher(request(1, 2), request(2, 3), request(3, 1, common=5))
    assert take(one) == [(1, 0, 12, None)], "the others would run the same tokens beside it"
    eight, four = Prefix(0, 8), Prefix(0, 4)
    assert take(one) == [(2, 8, 5, eight), (3, 4, 2, four), (1, 12, 1, eight)], "of equally many the longer"
    assert one.shared_tokens == 12


def test_sequences_with_the_same_prefix_come_one_behind_the_other() -> None:
    one = batcher(request(1, 2), request(2, 3, common=0), request(3, 1), request(4, 2), step_tokens=40)
    take(one)
    take(one)
    prefix = Prefix(0, 8)
    assert [(number, own) for number, _, _, own in take(one)] == [(1, prefix), (3, prefix), (4, prefix), (2, None)]


def test_without_blocks_every_prompt_runs_all_its_tokens() -> None:
    one = batcher(request(1, 2), request(2, 3), block=0, step_tokens=40)
    assert take(one) == [(1, 0, 12, None), (2, 0, 13, None)]


def test_the_last_token_of_a_prompt_always_runs() -> None:
    one = batcher(request(1, 0, common=8), request(2, 0, common=8))
    assert take(one) == [(1, 0, 8, None)]
    assert take(one) == [(2, 4, 4, Prefix(0, 4)), (1, 8, 1, Prefix(0, 4))]


def test_a_place_is_kept_while_others_use_it() -> None:
    one = batcher(request(1, 2, 1), request(2, 3, 4), request(3, 3, 1, arrival=1, common=0), places=2)
    assert take(one) == [(1, 0, 12, None)]
    assert take(one, 1) == [(2, 8, 5, Prefix(0, 8))], "the third has no place: one runs, what it uses is in the other"
    for _ in range(3):
        assert [number for number, *_ in take(one, 1)] == [2]
    assert take(one, 1) == [(3, 0, 3, None)]


def test_what_lies_in_free_places_is_used() -> None:
    one = batcher(request(1, 2, 1), request(2, 3, 1, arrival=5), request(3, 3, 1, arrival=9), places=3)
    assert take(one) == [(1, 0, 12, None)]
    assert one.next(1) == Idle(5)
    assert take(one, 5) == [(2, 8, 5, Prefix(0, 8))]
    assert take(one, 9) == [(3, 8, 5, Prefix(0, 8))], "not in the place of the second: it has only what follows"


def test_with_a_single_place_a_request_goes_on_in_it() -> None:
    one = batcher(request(1, 2, 1), request(2, 3, 2), request(3, 4, 1, common=0), places=1)
    assert take(one) == [(1, 0, 12, None)]
    assert take(one) == [(2, 8, 5, None)] and one.shared_tokens == 8
    assert take(one) == [(2, 13, 1, None)]
    assert take(one) == [(3, 0, 4, None)]


def test_what_was_written_counts_too() -> None:
    """A conversation goes on: the next prompt is the one before with its answer."""
    first = request(1, 0, 7)
    one = batcher(first)
    while not isinstance(one.next(0), Idle):
        take(one)
    answer = tuple(50_000 + n for n in range(10, 16))
    one.add(Request(2, first.prompt + answer + (7, 8), 1))
    assert take(one) == [(2, 16, 2, Prefix(0, 16))]


@pytest.mark.parametrize(("one", "other", "many"), [("", "a", 0), ("abc", "abd", 2), ("ab", "abc", 2), ("ab", "ab", 2)])
def test_common_tokens(one: str, other: str, many: int) -> None:
    assert common_tokens([*map(ord, one)], [*map(ord, other)]) == many


@given(data=st.data())
def test_keys_are_where_they_are_said_to_be(data: st.DataObject) -> None:
    """Whoever uses a prefix finds the tokens of its own prompt there, and nobody writes over them."""
    block = data.draw(st.integers(1, 3))
    requests = [
        Request(n, tuple(prompt), data.draw(st.integers(1, 4)), n)
        for n, prompt in enumerate(data.draw(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), max_size=7)))
    ]
    one = batcher(*requests, places=data.draw(st.integers(1, 3)), step_tokens=4, block=block)
    memory: dict[int, list[int | None]] = {place: [None] * 20 for place in range(3)}
    outputs: dict[int, list[int]] = {own.number: [] for own in requests}
    now = 0
    while True:
        work = one.next(now)
        now += 1
        if isinstance(work, Idle):
            if work.until is None:
                break
            continue
        for turn in work.turns:
            chunk, text = turn.chunk, (*turn.request.prompt, *outputs[turn.request.number])
            assert tuple(chunk.tokens) == text[chunk.position : chunk.end]
            memory[chunk.sequence][chunk.position : chunk.end] = chunk.tokens
            border = 0 if chunk.prefix is None else chunk.prefix.tokens
            assert border <= chunk.position and border % block == 0
            seen = [] if chunk.prefix is None else memory[chunk.prefix.sequence][:border]
            assert (*seen, *memory[chunk.sequence][border : chunk.end]) == text[: chunk.end]
        chosen = {t.request.number: data.draw(st.integers(0, 1)) for t in work.turns if t.chooses}
        for number, token in chosen.items():
            outputs[number].append(token)
        one.done(work, chosen)
    assert all(len(outputs[own.number]) == own.tokens for own in requests)
