# SPDX-License-Identifier: Apache-2.0
"""Spans of memory: what meets what, against the bytes themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.golden.order.spans import Span, SpanLog, whole_span


@st.composite
def spans(draw: st.DrawFn) -> Span:
    group, start, width = draw(st.integers(0, 1)), draw(st.integers(0, 60)), draw(st.integers(1, 8))
    rows, gap = draw(st.integers(1, 5)), draw(st.integers(0, 12))
    step = width + gap
    if gap == 0 or draw(st.booleans()):
        return whole_span(group, start, start + width)
    return Span(group, start, start + (rows - 1) * step + width, step, width)


def bytes_of(span: Span) -> set[tuple[int, int]]:
    return {(span.group, byte) for byte in range(200) if span.covers(byte)}


@given(st.lists(spans(), max_size=80), spans())
def test_overlaps_are_those_of_the_bytes(noted: list[Span], span: Span) -> None:
    log = SpanLog()
    for number, other in enumerate(noted):
        log.add(number, other)
    last = log.last_overlap(span)
    latest = -1 if last is None else last[0]
    for number, other in enumerate(noted):
        meets = bool(bytes_of(other) & bytes_of(span))
        exact = other.step == other.width or span.step == span.width
        if meets:
            assert latest >= number, (other, span)
        if number == latest:  # of two with gaps, one that only might meet it may be named
            assert meets or not exact, (other, span)


def test_a_span_with_gaps_covers_its_rows() -> None:
    span = Span(1, 8, 30, 10, 2)
    assert [b for b in range(40) if span.covers(b)] == [8, 9, 18, 19, 28, 29]
    log = SpanLog()
    log.add(5, span)
    assert log.last_overlap(whole_span(1, 10, 18)) is None and log.last_overlap(whole_span(0, 0, 40)) is None
    assert log.last_overlap(whole_span(1, 29, 40)) == (5, 29)
    assert log.last_overlap(whole_span(1, 30, 40)) is None
    log.add(6, Span(1, 9, 20, 10, 1))
    assert log.last_overlap(whole_span(1, 9, 10)) == (6, 9) and log.last_overlap(whole_span(1, 8, 9)) == (5, 8)
