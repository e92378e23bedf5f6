# SPDX-License-Identifier: Apache-2.0
"""The comparison of the adaptive array with the plain one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdl.array.row import Row, row_wave_layout
from hdl.config import PRESETS
from hdl.emit.verilog import emit
from hdl.flow.area import LIMIT, Amount, AreaComparison, Comparison, Part, tie_low, variants
from hdl.flow.modules import Synthesis


def test_variants_differ_in_feed_and_links_only() -> None:
    config = PRESETS["tiny"].replace(stationary_feed="edge")
    found = variants(config)
    assert [(c.stationary_feed, c.vertical_links) for c in found.values()] == [
        ("vertical", True),
        ("edge", False),
        ("vertical", False),
    ]
    for variant in found.values():
        assert variant.replace(stationary_feed="edge", vertical_links=True) == config


def test_tie_low_takes_away_a_link_and_its_registers(tmp_path: Path) -> None:
    """In one row: what is left of it without the M link, with the PEs and memories as black boxes."""
    columns, tiles, words = 4, 64, 256
    texts = dict(emit(Row(columns, vcache_tiles=tiles, activation_words=words), "row").modules)
    layout = row_wave_layout(activation_words=words, vcache_tiles=tiles, links=True)
    for member in ("stationary_below", "activation_below", "vcache_addr"):
        place = layout[member]
        bits = [(place.offset, place.offset + place.width)]
        texts[f"without_{member}"] = tie_low(texts["row"], f"without_{member}", "wave_in", bits)
    synthesis = Synthesis(texts, cache=tmp_path)
    list(synthesis.run([name for name in texts if name == "row" or name.startswith("without")]))
    saved = {name: Amount.of(synthesis.reports["row"]) - Amount.of(r) for name, r in synthesis.reports.items()}
    assert saved["without_stationary_below"].registers == 1
    assert saved["without_activation_below"].registers == 1
    assert saved["without_vcache_addr"].registers == 6
    # A multiplexer per stationary bit, 12 transistors each, and little more; one per activation bit.
    assert 12 * 8 * columns <= saved["without_stationary_below"].transistors <= 12 * 8 * columns + 60
    assert 12 * 8 <= saved["without_activation_below"].transistors <= 12 * 8 + 60
    assert saved["without_vcache_addr"].transistors == 6 * 16
    assert saved["without_vcache_addr"].transistors_enable_mux == 6 * 28


def test_tie_low_wants_a_port_that_exists() -> None:
    with pytest.raises(AssertionError, match="no input port nothing"):
        tie_low("module row (\n  input wire [3:0] wave_in\n);\nendmodule\n", "cut", "nothing", [(0, 1)])


def test_overheads() -> None:
    adaptive, plain, unlinked = Amount(10, 5, 1080, 1200), Amount(9, 6, 1000, 1250), Amount(8, 4, 900, 1000)
    link = Part("link", Amount(2, 1, 130, 150), True)
    saved = Part("saved", Amount(-1, -2, -50, -200), False)
    same = (Amount(1, 1, 500, 500),) * 3
    comparison = Comparison(
        adaptive, plain, unlinked, (link, saved), {"row": (adaptive, plain, unlinked), "drain": same}
    )
    assert comparison.overhead == pytest.approx(0.08)
    assert comparison.overhead_enable_mux == pytest.approx(-0.04)
    assert comparison.overhead_registers == pytest.approx(-1 / 6)
    assert comparison.added_overhead == pytest.approx(0.13)
    assert comparison.links_overhead == pytest.approx(0.2)
    assert comparison.overhead_tier == pytest.approx(80 / 1500)
    assert comparison.difference.amount == link.amount + saved.amount == Amount(1, -1, 80, -50)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_links_and_wave_control_cost_at_most_a_tenth(name: str) -> None:
    area = AreaComparison(PRESETS[name])
    assert len(list(area.run())) == area.modules
    found = area.result()
    assert found.overhead <= LIMIT == 0.10
    assert found.overhead_enable_mux <= LIMIT
    assert found.added_overhead <= LIMIT, "with no credit for the front registers that the plain array has"
    # The balance is complete, and every link costs something: nothing was optimised away by accident.
    assert sum((part.amount for part in found.parts), Amount()) == found.difference.amount
    assert all(part.amount.transistors > 0 for part in found.parts if part.added)
    config = PRESETS[name]
    k_link = next(part.amount for part in found.parts if part.name.startswith("K link"))
    assert k_link.registers == 32 * config.columns
    # A multiplexer for each stationary bit and each activation bit.
    assert found.parts[0].amount.transistors >= 10 * 8 * config.rows * config.columns
    assert found.parts[1].amount.transistors >= 10 * 8 * config.rows
    # The plain array has a front register beside each stationary one, the adaptive one a mux per stationary bit.
    row = found.blocks["row"]
    addresses = config.rows * (config.vcache_bits + 2)
    assert row[1].registers - row[0].registers == config.rows * (8 * config.columns + 1) - addresses
    for block in ("accumulators", "drain", "fill", "result"):
        assert len(set(found.blocks[block])) == 1, f"{block} is the same in all arrays"
