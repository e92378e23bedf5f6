# SPDX-License-Identifier: Apache-2.0
"""The allocator: regions in order, aligned, apart, filled late, and refused where memory ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdl.config import PRESETS, MachineConfig
from scheduler.memory.image import ImageBuilder, ImageError
from scheduler.memory.layout import REGION_BEATS

TINY = PRESETS["tiny"]
WIDE = PRESETS["small"].replace(name="wide", channel_bytes=64)  # beats of 64 bytes

REGIONS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 300)), max_size=12)


@given(st.sampled_from([(TINY, 32), (WIDE, 64)]), REGIONS)
def test_regions_are_aligned_and_apart_and_hold_their_bytes(
    machine: tuple[MachineConfig, int], regions: list[tuple[int, int]]
) -> None:
    config, unit = machine
    builder = ImageBuilder(config)
    data = [bytes([n + 1]) * size for n, (_, size) in enumerate(regions)]
    symbols = [
        builder.add(f"r{n}", group, own) if n % 2 else builder.add_later(f"r{n}", group, len(own), lambda own=own: own)
        for n, ((group, _), own) in enumerate(zip(regions, data, strict=True))
    ]
    images = builder.build()
    assert builder.sizes == tuple(image.size for image in images)
    for symbol, own in zip(symbols, data, strict=True):
        assert symbol.address % unit == 0 and symbol.addr * 32 == symbol.address
        assert images[symbol.group][symbol.address : symbol.address + symbol.size].tobytes() == own
    for group, image in enumerate(images):
        own = [s for s in symbols if s.group == group]
        assert all(a.address + a.size <= b.address for a, b in pairwise(own))
        assert int((image != 0).sum()) == sum(s.size for s in own)  # all else is zero


def test_a_region_may_be_filled_in_part_and_reserved() -> None:
    builder = ImageBuilder(TINY)
    builder.add_later("part", 1, 40, lambda: b"abc")
    assert builder.reserve("zeros", 1, 5).address == 64
    images = builder.build()
    assert images[0].size == 0 and images[1].tobytes() == b"abc".ljust(96, b"\0")


def test_levelled_groups_go_on_at_the_same_address() -> None:
    builder = ImageBuilder(TINY)
    builder.reserve("a", 0, 100)
    builder.level(1)
    assert builder.reserve("b", 1, 1).address == builder.reserve("c", 0, 1).address == 128


def test_large_regions_begin_in_the_same_bank() -> None:
    """Those of half of REGION_BEATS beats and more, in both groups, also where one of a pair is smaller."""
    beats = REGION_BEATS * TINY.group_bytes
    builder = ImageBuilder(TINY)
    builder.reserve("a", 0, 100)
    assert builder.reserve("small", 0, beats // 2 - 1).address == 128
    assert builder.reserve("large", 0, beats // 2).address == beats
    builder.level(beats)
    assert builder.reserve("one", 0, beats).address == builder.reserve("other", 1, 100).address == 2 * beats


def test_a_name_is_used_once() -> None:
    builder = ImageBuilder(TINY)
    builder.reserve("a", 0, 1)
    with pytest.raises(ValueError, match="symbol 'a' exists already"):
        builder.reserve("a", 1, 1)


def test_the_last_byte_of_memory_can_be_had_and_no_more() -> None:
    config = TINY.replace(address_bits=12)
    builder = ImageBuilder(config)
    builder.reserve("a", 0, 4096)
    builder.reserve("b", 1, 4065)
    message = "memory of group 0: c ends at byte 4128; address_bits = 12 gives 4096: raise address_bits"
    with pytest.raises(ImageError, match=message):
        builder.reserve("c", 0, 1)
