# SPDX-License-Identifier: Apache-2.0
"""Published clocks in cycles of the machine, and what is no HBM."""

from __future__ import annotations

import dataclasses

import pytest

from hdl.config import ConfigError
from scheduler.cost.hbm.timing import FIELDS, HBM2, HBM3, MAPPINGS, PRESETS, T, parameters_of


def test_at_half_the_clock_a_beat_a_cycle():
    """HBM3-6400 has 1.6 GHz: 819 GB/s over 32 pseudo-channels are 32 bytes every two clocks."""
    own = parameters_of(HBM3, 800.0)
    assert (own[T.ccd_s], own[T.ccd_l], own[T.cl], own[T.rcd_rd], own[T.rp], own[T.faw]) == (1, 2, 10, 16, 13, 12)
    assert own[T.path] == 16 and own[T.refresh] == 3120 // 16 and own[T.rfc_pb] == 160
    assert 32 * 32 / (HBM3.ccd_s * HBM3.tck_ps) * 1000 == pytest.approx(819.2)


def test_a_faster_machine_waits_longer_and_a_slower_one_a_cycle_at_least():
    assert parameters_of(HBM3, 1600.0)[T.ccd_s] == 2 and parameters_of(HBM3, 100.0)[T.ccd_s] == 1
    assert parameters_of(HBM2, 1000.0)[T.rfc_pb] == HBM2.rfc_pb


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_mapping_gives_each_bit_one_meaning(mapping):
    own = parameters_of(dataclasses.replace(HBM3, mapping=mapping), 800.0)
    bits = {what: int(own[getattr(T, f"{what}_bits")]) for what in ("group", "high", "bank", "column")}
    bits["group"] -= bits["high"]
    taken = sum(((1 << many) - 1) << int(own[getattr(T, f"{what}_at")]) for what, many in bits.items())
    assert taken == (1 << 9) - 1 and len(own) == len(FIELDS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cl": 0}, r"config hbm.cl: 0; use a whole number from 1 to 60,000"),
        ({"rp": 2.5}, r"config hbm.rp: 2.5; use a whole number"),
        ({"groups": 3}, r"config hbm.groups: 3; use a power of two"),
        ({"mapping": "bank-row"}, r"config hbm.mapping: 'bank-row'; use one of row-group-bank-column-group, "),
        ({"ccd_s": 5}, r"config hbm.ccd_s: 5 is more than ccd_l, 4; use at most 4"),
        (
            {"refi": 1000},
            r"config hbm.refi: in 1000 clocks 16 banks cannot be closed .*; use at least 14",
        ),
        ({"postponed": 9}, r"config hbm.postponed: 9; use a whole number from 0 to 8"),
    ],
)
def test_what_is_no_timing_is_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        dataclasses.replace(HBM3, **change)


def test_presets_have_sources():
    assert all(timing.source and timing.name == name for name, timing in PRESETS.items())
