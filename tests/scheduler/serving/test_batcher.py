# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: who joins when, who runs how many tokens in which step, who leaves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.plan.limits import LoweringError
from scheduler.serving.batcher import PHASES, Batcher, Idle, StepWork
from scheduler.serving.batching import BATCHINGS
from scheduler.serving.request import Request


def request(number: int, prompt: int, tokens: int, arrival: int = 0) -> Request:
    return Request(number, tuple(range(100 * number, 100 * number + prompt)), tokens, arrival)


def token_of(number: int, position: int) -> int:
    """Return what the model is said to write: it depends on the sequence and the position alone."""
    return 10_000 * (number + 1) + position


def take(batcher: Batcher, now: int = 0, most: int | None = None) -> StepWork:
    work = batcher.next(now, most)
    assert isinstance(work, StepWork)
    batcher.done(work, {t.request.number: token_of(t.request.number, t.chunk.end) for t in work.turns if t.chooses})
    return work


def turns(work: StepWork) -> list[tuple[int, int, int]]:
    """Return request, position and number of tokens of each turn."""
    return [(t.request.number, t.chunk.position, len(t.chunk.tokens)) for t in work.turns]


def test_a_sequence_alone_is_prefilled_in_pieces_and_decoded() -> None:
    batcher = Batcher([request(0, 5, 3)], places=1, step_tokens=2)
    steps = [take(batcher) for _ in range(5)]
    assert [step.chunks[0].tokens for step in steps] == [(0, 1), (2, 3), (4,), (10_005,), (10_006,)]
    assert [step.phase for step in steps] == ["prefill"] * 3 + ["decode"] * 2
    assert batcher.next(0) == Idle(None)


def test_prompts_fill_what_decoding_leaves_in_order_of_arrival() -> None:
    batcher = Batcher([request(0, 1, 9), request(1, 7, 9), request(2, 3, 9)], places=3, step_tokens=4)
    assert turns(take(batcher)) == [(0, 0, 1), (1, 0, 3)]
    mixed = take(batcher)
    assert turns(mixed) == [(1, 3, 3), (0, 1, 1)] and mixed.phase == "mixed", "prompts first, then who decodes"
    assert turns(take(batcher)) == [(1, 6, 1), (2, 0, 2), (0, 2, 1)]
    assert turns(take(batcher)) == [(2, 2, 1), (0, 3, 1), (1, 7, 1)]
    assert turns(take(batcher)) == [(0, 4, 1), (1, 8, 1), (2, 3, 1)]


def test_prefill_first_stops_decoding() -> None:
    batcher = Batcher(
        [request(0, 2, 9), request(1, 6, 9, arrival=5)], places=2, step_tokens=4, batching="prefill-first"
    )
    assert [turns(take(batcher, 0)), turns(take(batcher, 1))] == [[(0, 0, 2)], [(0, 2, 1)]]
    assert [turns(take(batcher, 5)), turns(take(batcher, 6))] == [[(1, 0, 4)], [(1, 4, 2)]]
    assert turns(take(batcher, 7)) == [(0, 3, 1), (1, 6, 1)]


def test_requests_join_by_arrival_and_wait_for_a_place() -> None:
    late, early, third = request(0, 1, 2, arrival=30), request(1, 1, 3, arrival=10), request(2, 1, 1, arrival=30)
    batcher = Batcher([late, early, third], places=1)
    assert batcher.next(0) == Idle(10) == batcher.next(9)
    assert turns(take(batcher, 10)) == [(1, 0, 1)]
    assert turns(take(batcher, 30)) == [(1, 1, 1)], "its place is not free yet"
    assert turns(take(batcher, 31)) == [(1, 2, 1)]
    assert turns(take(batcher, 32)) == [(0, 0, 1)], "of two that came together the lower number"
    assert turns(take(batcher, 33)) == [(0, 1, 1)]
    assert turns(take(batcher, 34)) == [(2, 0, 1)]
    assert batcher.next(35) == Idle(None)
    batcher.add(request(3, 2, 1, arrival=50))
    assert batcher.next(35) == Idle(50)
    assert turns(take(batcher, 50)) == [(3, 0, 2)]


def test_a_place_is_free_in_the_step_after_and_is_used_again() -> None:
    batcher = Batcher([request(0, 1, 1), request(1, 1, 2), request(2, 1, 1)], places=2)
    assert [c.sequence for c in take(batcher).chunks] == [0, 1]
    step = take(batcher)
    assert turns(step) == [(2, 0, 1), (1, 1, 1)] and step.chunks[0].sequence == 0


def test_a_token_that_stops_ends_a_sequence() -> None:
    batcher = Batcher([request(0, 1, 9), request(1, 1, 9)], places=2, stop=[token_of(0, 2)])
    take(batcher)
    assert turns(take(batcher)) == [(0, 1, 1), (1, 1, 1)]
    assert turns(take(batcher)) == [(1, 2, 1)]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_step_that_does_not_fit_is_made_smaller(batching: str) -> None:
    """Asked again it is the same step; smaller ones, one after the other, leave out none for good."""
    batcher = Batcher([request(n, 4, 3) for n in range(3)], places=3, step_tokens=12, batching=batching)
    whole = batcher.next(0)
    assert isinstance(whole, StepWork) and batcher.next(0) == whole and whole.tokens == 12
    sizes = []
    while isinstance(work := batcher.next(0, 2), StepWork):
        sizes.append(work.tokens)
        take(batcher, most=2)
    assert max(sizes) <= 2 and sum(sizes) == 3 * (4 + 3 - 1)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_single_tokens_reach_everyone(batching: str) -> None:
    batcher = Batcher([request(n, 2, 40) for n in range(3)], places=3, batching=batching)
    run = Counter(take(batcher, most=1).turns[0].request.number for _ in range(60))
    assert len(run) == 3 and max(run.values()) - min(run.values()) <= 3


def test_policies_change_between_steps() -> None:
    batcher = Batcher([request(0, 1, 9), request(1, 9, 1, arrival=1)], places=2, batching="prefill-first")
    take(batcher)
    batcher.change("mixed", 3)
    assert turns(take(batcher, 1)) == [(1, 0, 2), (0, 1, 1)]
    with pytest.raises(LoweringError, match="step_tokens: 1;"):
        batcher.change("mixed", 1)
    assert (batcher.batching, batcher.step_tokens) == ("mixed", 3)


def test_more_places_than_the_default_tokens_of_a_step() -> None:
    assert Batcher([], places=500).step_tokens == 500 and Batcher([], places=5).step_tokens == 128


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": 0}, "batch: 0; run at least 1"),
        ({"places": 1, "step_tokens": 0}, "step_tokens: 0; use at least 1"),
        ({"places": 1, "batching": "greedy"}, "batching: 'greedy'; use mixed or prefill-first"),
        (
            {"places": 9, "step_tokens": 8},
            "step_tokens: 8; batching mixed gives each of 9 sequences a token in every step: use 9 or more, a batch of "
            "at most 8, or batching prefill-first",
        ),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        Batcher([request(0, 1, 1)], **options)  # type: ignore[arg-type]
    Batcher([request(0, 1, 1)], places=9, step_tokens=8, batching="prefill-first")


def test_steps_of_somebody_else_are_refused() -> None:
    batcher = Batcher([request(0, 2, 2)], places=1, step_tokens=1)
    work = batcher.next(0)
    assert isinstance(work, StepWork)
    with pytest.raises(ValueError, match="for no other"):
        batcher.done(work, {0: 1})
    batcher.done(work, {})
    with pytest.raises(ValueError, match="request 0: not its next step"):
        batcher.done(work, {})


@st.composite
def servers(draw: st.DrawFn) -> tuple[list[Request], dict[str, int | str]]:
    places = draw(st.integers(1, 4))
    batching = draw(st.sampled_from(sorted(BATCHINGS)))
    least = places if batching == "mixed" else 1
    requests = [
        request(n, draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(0, 40)))
        for n in range(draw(st.integers(1, 7)))
    ]
    return requests, {"places": places, "step_tokens": draw(st.integers(least, least + 9)), "batching": batching}


@given(servers(), st.randoms(use_true_random=False))
def test_everyone_is_served_once_and_in_full(server: tuple[list[Request], dict[str, int | str]], random) -> None:  # type: ignore[no-untyped-def]
    """Drawn requests: no token runs twice or out of order, places are never shared, no step is too large."""
    requests, options = server
    batcher = Batcher(requests, **options)  # type: ignore[arg-type]
    now, ran = 0, {r.number: [] for r in requests}
    places: dict[int, int] = {}
    joined: list[tuple[int, int]] = []
    finished: list[int] = []
    while True:
        work = batcher.next(now, random.choice([None, None, 1, 2, 3]))
        if isinstance(work, Idle):
            if work.until is None:
                break
            assert work.until > now and not places
            now = work.until
            continue
        assert 1 <= work.tokens <= batcher.step_tokens and work.phase in PHASES
        if options["batching"] == "prefill-first":
            assert work.phase != "mixed"
        for turn in work.turns:
            own = turn.request
            assert own.arrival <= now and turn.chunk.position == len(ran[own.number])
            if turn.chunk.position == 0:
                assert turn.chunk.sequence not in places.values() and own.number not in places
                places[own.number] = turn.chunk.sequence
                joined.append((own.arrival, own.number))
            assert places[own.number] == turn.chunk.sequence < batcher.places
            ran[own.number] += turn.chunk.tokens
        chosen = {t.request.number: token_of(t.request.number, t.chunk.end) for t in work.turns if t.chooses}
        for own in batcher.done(work, chosen):
            finished.append(own.number)
            del places[own.number]
        now += random.randint(1, 9)
    assert sorted(finished) == [r.number for r in requests] and not places
    for own in requests:
        size = len(own.prompt)
        assert ran[own.number] == [*own.prompt, *(token_of(own.number, size + n) for n in range(own.tokens - 1))]
    if options["places"] == 1:
        assert [n for _, n in joined] == finished


@given(servers())
def test_mixed_steps_let_nobody_wait(server: tuple[list[Request], dict[str, int | str]]) -> None:
    """Who decodes has a token in every step; a step is only smaller than it may be when no prompt is left."""
    requests, options = server
    batcher = Batcher(requests, **options | {"batching": "mixed", "step_tokens": int(options["step_tokens"]) + 4})  # type: ignore[arg-type]
    now, ran, decoding = 0, Counter[int](), set[int]()
    here: set[int] = set()
    while not (isinstance(work := batcher.next(now), Idle) and work.until is None):
        if isinstance(work, Idle):
            now = work.until
            continue
        assert decoding <= {t.request.number for t in work.turns}
        here |= {t.request.number for t in work.turns}
        for turn in work.turns:
            ran[turn.request.number] += len(turn.chunk.tokens)
        if any(ran[n] < len(requests[n].prompt) for n in here):
            assert work.tokens == batcher.step_tokens
        chosen = {t.request.number: 1 for t in work.turns if t.chooses}
        gone = {own.number for own in batcher.done(work, chosen)}
        decoding = (decoding | set(chosen)) - gone
        here -= gone
        now += 3
