# SPDX-License-Identifier: Apache-2.0
"""The stack in Amaranth's simulator against the NumPy model: every row, in the exact cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.array.stack import Stack
from hdl.config import PRESETS, MachineConfig
from hdl.drain.drain import Drain
from hdl.emit.hierarchy import digest, ports_of
from hdl.interfaces import result_layout
from hdl.numerics import wrap
from tests.support.array.stack_model import Cycle, Row, Wave, port_values, preload, random_traffic, run_model, silence


def config_of(tiers: int, rows: int, columns: int, **changes: Any) -> MachineConfig:
    # The row FIFO is not in the stack; its least depth depends on tiers x rows.
    return PRESETS["nano"].replace(name="test", tiers=tiers, rows=rows, columns=columns, row_fifo_depth=256, **changes)


def simulate(config: MachineConfig, traffic: list[Cycle]) -> list[list[tuple[int, list[int]]]]:
    """Return (cycle, values) of every row on each result lane."""
    stack = Stack(config)
    inputs = {port.name: port.value for port in ports_of(stack) if port.direction == "input"}
    seen: list[list[tuple[int, list[int]]]] = [[] for _ in range(config.tiers)]

    async def bench(ctx: Any) -> None:
        before: dict[str, int] = {}
        for cycle, launch in enumerate(traffic):
            values = port_values(config, launch)
            for name, value in values.items():
                if before.get(name) != value:
                    ctx.set(inputs[name], value)
            before = values
            for tier in range(config.tiers):
                result = stack.result[tier]
                if ctx.get(result.valid):
                    seen[tier].append((cycle, [ctx.get(result.data[c]) for c in range(config.columns)]))
            await ctx.tick()

    simulator = Simulator(stack)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def compare(seen: list[list[tuple[int, list[int]]]], expected: list[list[Row]]) -> None:
    for tier, (got, want) in enumerate(zip(seen, expected, strict=True)):
        assert [cycle for cycle, _ in got] == [row.cycle for row in want], f"tier {tier}: rows in other cycles"
        for index, ((cycle, values), row) in enumerate(zip(got, want, strict=True)):
            assert values == row.values.tolist(), f"tier {tier}, row {index}, cycle {cycle}"


def check(config: MachineConfig, traffic: list[Cycle]) -> list[list[Row]]:
    expected = run_model(config, traffic)
    compare(simulate(config, traffic), expected)
    return expected


@pytest.mark.parametrize(
    "config",
    [
        config_of(1, 4, 4),
        config_of(2, 8, 4),
        config_of(3, 4, 4),
        config_of(3, 4, 4, k_link_stages=3),
        config_of(2, 4, 4, vertical_links=False),
        config_of(1, 4, 4, stationary_feed="edge", vertical_links=False),
        config_of(3, 4, 4, stationary_feed="edge"),
        config_of(2, 8, 4, stationary_feed="edge", k_link_stages=2),
    ],
    ids=lambda c: f"{c.stationary_feed}-{c.tiers}x{c.rows}x{c.columns}-k{c.k_link_stages}-links{int(c.vertical_links)}",
)
def test_random_traffic(config: MachineConfig) -> None:
    """Any waves on any lanes, fills and writes at the same time, links from wherever the tier below happens to be."""
    expected = check(config, random_traffic(config, seed=1, cycles=300))
    assert all(len(rows) > 20 for rows in expected)


def issue_gemm(config: MachineConfig, mapping: str, tokens: int, slices: int, traffic: list[Cycle]) -> None:
    """Append a GEMM over all tiers as the sequencers issue it, right behind what is there."""
    lag = config.skew_k - 1 if mapping == "k" else 0
    edge = config.stationary_feed == "edge"
    period = max(tokens, config.rows) if edge else tokens
    lead = config.rows if edge else 0
    base = len(traffic)
    traffic += [Cycle() for _ in range(lead + slices * period + lag * (config.tiers - 1))]
    for tier in range(config.tiers):
        follower = tier > 0
        for k in range(slices):
            if edge:
                traffic[base + lag * tier + k * period].requests[tier] = (k, int(follower and mapping == "m"))
            for token in range(tokens):
                traffic[base + lead + lag * tier + k * period + token].waves[tier] = Wave(
                    new=int(token == 0),
                    stationary_below=int(follower and mapping == "m"),
                    activation_below=int(follower and mapping == "n"),
                    psum_below=int(follower and mapping == "k"),
                    vcache_addr=k,
                    activation_addr=token * slices + k,
                    accumulate=int(mapping != "k" or tier == config.tiers - 1),
                    first=int(k == 0),
                    last=int(k == slices - 1),
                    accumulator_addr=token,
                )


@pytest.mark.parametrize("feed", ["vertical", "edge"])
def test_gemm(feed: Any) -> None:
    """GEMMs of 1 to 2R tokens in every mapping, one behind the other, equal matrix products of what was loaded."""
    config = config_of(3, 4, 4, stationary_feed=feed)
    slices, most = 3, 2 * config.rows
    start = preload(config, np.random.default_rng(0), tiles=slices, words=most * slices, params=1)
    traffic = list(start)
    jobs = [(mapping, tokens) for tokens in range(1, most + 1) for mapping in ("alone", "m", "k", "n")]
    for mapping, tokens in jobs:
        issue_gemm(config, mapping, tokens, slices, traffic)
    got = check(config, traffic + silence(config))

    weights = np.zeros((config.tiers, slices, config.rows, config.columns), np.int64)
    inputs = np.zeros((config.tiers, most * slices, config.rows), np.int64)
    for cycle in start:
        for fill in cycle.fills.values():
            rows = slice(fill.word * config.fill_rows, (fill.word + 1) * config.fill_rows)
            weights[fill.tiers.bit_length() - 1, fill.tile, rows] = fill.data
        for write in cycle.writes.values():
            if not write.parameter:
                inputs[write.tiers.bit_length() - 1, write.addr] = write.data
    position = [0] * config.tiers
    for mapping, tokens in jobs:
        used_weights, used_inputs = weights.copy(), inputs[:, : tokens * slices].copy()
        if mapping == "m":
            used_weights[:] = weights[0]
        if mapping == "n":
            used_inputs[:] = used_inputs[0]
        products = np.einsum("gtkr,gkrc->gtc", used_inputs.reshape(config.tiers, tokens, slices, -1), used_weights)
        makers = range(config.tiers)
        if mapping == "k":
            products[-1] = products.sum(axis=0)
            makers = range(config.tiers - 1, config.tiers)
        for tier in makers:
            rows_made = got[tier][position[tier] : position[tier] + tokens]
            assert [row.accumulators.tolist() for row in rows_made] == products[tier].tolist(), (mapping, tokens, tier)
            position[tier] += tokens
    assert position == [len(rows) for rows in got]


class StubDrain(wiring.Component):
    """Shows the lower or (mode bit 0) upper half of each accumulator after the drain's latency."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        part_bits = (config.parameter_parts - 1).bit_length()
        super().__init__(
            {
                "row_valid": In(1),
                "row": In(data.ArrayLayout(signed(32), config.columns)),
                "mode": In(2),
                "param_addr": In(config.parameter_bits),
                "shift": In(6),
                "post_mult": In(16),
                "post_shift": In(6),
                "param_write": In(1),
                "param_write_addr": In(config.parameter_bits + part_bits),
                "param_write_data": In(8 * config.rows),
                "result": Out(result_layout(config)),
            }
        )

    def module_key(self) -> str:
        return f"stub_{digest(self.config.to_dict())}"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        before = Signal(self.result.shape())
        m.d.comb += before.valid.eq(self.row_valid)
        for column in range(self.config.columns):
            half = Mux(self.mode[0], self.row[column][16:].as_signed(), self.row[column][:16].as_signed())
            m.d.comb += before.data[column].eq(half)
        for index in range(Drain.LATENCY):
            after = Signal(self.result.shape(), name=f"stage_{index}")
            m.d.sync += after.eq(before)
            before = after
        m.d.comb += self.result.eq(before)
        return m


def relaxed_config(tiers: int, rows: int, columns: int, fill_rows: int, **changes: Any) -> MachineConfig:
    """A configuration of sizes that no machine may have, for the array alone."""
    config: MachineConfig = object.__new__(MachineConfig)
    fields = PRESETS["nano"].to_dict() | {"tiers": tiers, "rows": rows, "columns": columns} | changes
    # The derived sizes are cached properties: what stands in the instance's dictionary is what they return.
    config.__dict__.update(fields | {"fill_rows": fill_rows, "parameter_parts": -(-2 * columns // rows)})
    return config


@pytest.mark.parametrize(
    "config",
    [
        relaxed_config(3, 5, 7, 1),
        relaxed_config(2, 6, 3, 3, result_lanes=2, vcache_tiles=11, activation_words=13, k_link_stages=2),
        relaxed_config(3, 6, 5, 3, stationary_feed="edge", vcache_tiles=11),
        relaxed_config(2, 5, 3, 1, stationary_feed="edge", vertical_links=False, accumulator_depth=5),
    ],
    ids=lambda c: f"{c.stationary_feed}-{c.tiers}x{c.rows}x{c.columns}",
)
def test_any_size(config: MachineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that are no powers of two, with the accumulators themselves on the result lanes."""
    monkeypatch.setattr("hdl.array.tier.Drain", StubDrain)

    def drain(wave: Wave, row: Any, mult: Any) -> Any:
        return wrap(row >> (16 if wave.mode & 1 else 0), 16)

    traffic = random_traffic(config, seed=5, cycles=250)
    expected = run_model(config, traffic, drain)
    compare(simulate(config, traffic), expected)
    assert all(len(rows) > 20 for rows in expected)
