# SPDX-License-Identifier: Apache-2.0
"""NumPy model of the stack and a random traffic generator: what is launched at the base, and which rows come back when.

The model holds no pipeline.  It goes through the launches in order and knows only *when* a row of a tier reads its
banks (launch + tier + 1 + row), so contents that are overwritten while a wave is under way come out exactly as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hdl.array.stack import result_latency
from hdl.config import MachineConfig
from hdl.interfaces import dispatch_layout, fill_control_layout, write_layout
from hdl.isa import Mode
from hdl.numerics import requant, swiglu, wrap


@dataclass
class Wave:
    """One wave on one dispatch lane."""

    new: int = 0
    stationary_below: int = 0
    activation_below: int = 0
    psum_below: int = 0
    vcache_addr: int = 0
    activation_addr: int = 0
    accumulate: int = 1
    first: int = 1
    last: int = 1
    accumulator_addr: int = 0
    mode: int = int(Mode.REQUANT16)
    param_addr: int = 0
    shift: int = 0
    post_mult: int = 0
    post_shift: int = 0

    WAVE = ("new", "stationary_below", "activation_below", "psum_below", "vcache_addr", "activation_addr")
    TAIL = (
        "accumulate", "first", "last", "accumulator_addr", "mode", "param_addr", "shift", "post_mult", "post_shift"
    )  # fmt: skip


@dataclass
class Fill:
    """One V-Cache fill word; `data` is (fill_rows, columns) int8; `columns`: of a transposed tile."""

    tiers: int
    tile: int
    word: int
    data: Any
    columns: int = 0


@dataclass
class Write:
    """One write-bus word; `data` is (rows,) uint8."""

    tiers: int
    addr: int
    data: Any
    parameter: int = 0
    enable: int = 0


@dataclass
class Cycle:
    """What is launched in one cycle."""

    waves: dict[int, Wave] = field(default_factory=dict)  # by tier
    requests: dict[int, tuple[int, int]] = field(default_factory=dict)  # by tier: tile, from below
    fills: dict[int, Fill] = field(default_factory=dict)  # by lane
    writes: dict[int, Write] = field(default_factory=dict)  # by lane


def to_int(values: Any, bits: int) -> int:
    """Concatenate array elements, element 0 lowest."""
    word = 0
    for index, value in enumerate(np.asarray(values).reshape(-1).tolist()):
        word |= (int(value) & ((1 << bits) - 1)) << (bits * index)
    return word


def port_values(config: MachineConfig, cycle: Cycle) -> dict[str, int]:
    """Values of all input ports of the stack in a cycle, by flattened port name."""
    values: dict[str, int] = {}
    for tier in range(config.tiers):
        lane: dict[str, Any] = {}
        if (wave := cycle.waves.get(tier)) is not None:
            lane["wave"] = {"valid": 1} | {name: getattr(wave, name) for name in Wave.WAVE}
            lane["tail"] = {name: getattr(wave, name) for name in Wave.TAIL}
        if (request := cycle.requests.get(tier)) is not None:
            lane |= {"edge_load": 1, "edge_tile": request[0], "edge_below": request[1]}
        values[f"dispatch__{tier}"] = dispatch_layout(config).const(lane).as_bits()
    for index in range(2):
        fill = cycle.fills.get(index)
        control = {}
        if fill is not None:
            control = {"valid": 1, "columns": fill.columns}
            control |= {"tiers": fill.tiers, "tile": fill.tile, "word": fill.word}
        values[f"fill_control__{index}"] = fill_control_layout(config).const(control).as_bits()
        for part in range(config.fill_rows):
            values[f"fill_data__{index}__{part}"] = 0 if fill is None else to_int(fill.data[part], 8)
    for index in range(config.result_lanes + 1):
        write = cycle.writes.get(index)
        word: dict[str, Any] = {}
        if write is not None:
            word = {"valid": 1, "parameter": write.parameter, "tiers": write.tiers, "addr": write.addr}
            word |= {"enable": write.enable, "data": [int(v) & 255 for v in write.data]}
        values[f"write__{index}"] = write_layout(config).const(word).as_bits()
    return values


def filled_rows(config: MachineConfig, fill: Fill, old: Any) -> dict[int, Any]:
    """Return the rows that a fill word writes and their new words; `old` is the tile (rows, columns) before."""
    raw = np.asarray(fill.data, np.int64).reshape(-1)
    size = config.fill_rows * config.columns
    changed: dict[int, Any] = {}
    for number, value in enumerate(raw.tolist(), start=fill.word * size):
        if fill.columns:
            column, row = divmod(number, config.rows)
        else:
            row, column = divmod(number, config.columns)
        if row not in changed:
            changed[row] = old[row].copy()
        changed[row][column] = value
    return changed


class Log:
    """A memory that remembers when each location was written."""

    def __init__(self, zero: Any) -> None:
        self.zero = zero
        self.writes: dict[Any, list[tuple[int, Any]]] = {}

    def write(self, location: Any, launch: int, value: Any) -> None:
        self.writes.setdefault(location, []).append((launch, value))

    def read(self, location: Any, before: int) -> Any:
        """Value written by the last launch before cycle `before`."""
        for launch, value in reversed(self.writes.get(location, [])):
            if launch < before:
                return value
        return self.zero


@dataclass
class Row:
    """A finished row: cycle on the result port, accumulators, and the int16 values on the port."""

    cycle: int
    accumulators: Any
    values: Any


def run_model(
    config: MachineConfig, traffic: list[Cycle], drain: Callable[[Wave, Any, Any], Any] | None = None
) -> list[list[Row]]:
    """Return the rows that each tier's result lane must show, in order; `drain` replaces the real drain."""
    drain = drain or _drain
    rows, columns = config.rows, config.columns
    edge = config.stationary_feed == "edge"
    vcache = Log(np.zeros(columns, np.int64))  # (tier, tile, row)
    activations = Log(0)  # (tier, row, word)
    multipliers = Log(0)  # (tier, word, column)
    for launch, cycle in enumerate(traffic):
        for fill in cycle.fills.values():
            for tier in range(config.tiers):
                if fill.tiers >> tier & 1:
                    old = np.array([vcache.read((tier, fill.tile, row), launch) for row in range(rows)])
                    for row, word in filled_rows(config, fill, old).items():
                        vcache.write((tier, fill.tile, row), launch, word)
        for write in cycle.writes.values():
            for tier in range(config.tiers):
                if not write.tiers >> tier & 1:
                    continue
                if write.parameter:
                    word, part = divmod(write.addr, config.parameter_parts)
                    whole = np.asarray(write.data, np.uint8)[: rows // 2 * 2]
                    for index, value in enumerate(whole.view("<u2")):
                        column = part * rows // 2 + index
                        if column < columns:
                            multipliers.write((tier, word, column), launch, int(value))
                    continue
                for row in range(rows):
                    if write.enable >> row & 1:
                        value = int(np.asarray(write.data).astype(np.uint8).view(np.int8)[row])
                        activations.write((tier, row, write.addr), launch, value)

    stationary = np.zeros((config.tiers, rows, columns), np.int64)
    activation = np.zeros((config.tiers, rows), np.int64)
    accumulators = np.zeros((config.tiers, config.accumulator_depth, columns), np.int64)
    sent: list[list[tuple[int, Any]]] = [[] for _ in range(config.tiers)]
    tiles: list[list[tuple[int, Any]]] = [[] for _ in range(config.tiers)]
    results: list[list[Row]] = [[] for _ in range(config.tiers)]
    for launch, cycle in enumerate(traffic):
        for tier in range(config.tiers):
            if (request := cycle.requests.get(tier)) is not None:
                tile, below = request
                if below:
                    assert tiles[tier - 1][-1][0] == launch, "a request from below needs the same request below"
                    words = tiles[tier - 1][-1][1]
                else:
                    words = [vcache.read((tier, tile, row), launch + rows - 1 - row) for row in range(rows)]
                tiles[tier].append((launch, np.array(words)))
            if (wave := cycle.waves.get(tier)) is None:
                continue
            if wave.new and edge:
                stationary[tier] = next(words for at, words in reversed(tiles[tier]) if at <= launch - rows)
            elif wave.new and wave.stationary_below:
                stationary[tier] = stationary[tier - 1]
            elif wave.new:
                for row in range(rows):
                    stationary[tier, row] = vcache.read((tier, wave.vcache_addr, row), launch + row)
            if wave.activation_below:
                activation[tier] = activation[tier - 1]
            else:
                activation[tier] = [
                    activations.read((tier, row, wave.activation_addr), launch + row) for row in range(rows)
                ]
            psum = np.zeros(columns, np.int64)
            if wave.psum_below:
                reached = [value for at, value in sent[tier - 1] if at <= launch - (config.skew_k - 1)]
                psum = reached[-1] if reached else psum
            psum = wrap(psum + activation[tier] @ stationary[tier], 32)
            if not wave.accumulate:
                sent[tier].append((launch, psum))
                continue
            old = 0 if wave.first else accumulators[tier, wave.accumulator_addr]
            total = wrap(old + psum, 32)
            if not wave.last:
                accumulators[tier, wave.accumulator_addr] = total
                continue
            drained = launch + rows + 3
            word = [multipliers.read((tier, wave.param_addr, column), drained) for column in range(columns)]
            values = drain(wave, total, np.array(word, np.int64))
            results[tier].append(Row(launch + result_latency(config, tier), total, values))
    return results


def _drain(wave: Wave, row: Any, mult: Any) -> Any:
    if wave.mode == Mode.SWIGLU:
        half = len(row) // 2
        out = np.zeros(len(row), np.int64)
        out[:half] = swiglu(
            row[:half], row[half:], mult[:half], mult[half:], wave.shift, wave.post_mult, wave.post_shift
        )
        return out
    return requant(row, mult, wave.shift, 8 if wave.mode == Mode.REQUANT8 else 16)


# Traffic


def random_bytes(rng: np.random.Generator, shape: Any) -> Any:
    """int8 values with the corners over-represented."""
    values = rng.integers(-128, 128, shape)
    corner = rng.random(shape) < 0.25
    return np.where(corner, rng.choice([-128, -127, -1, 0, 1, 127], shape), values).astype(np.int8)


def preload(config: MachineConfig, rng: np.random.Generator, *, tiles: int, words: int, params: int) -> list[Cycle]:
    """Fill the first tiles, activation words and parameter words of every tier, each tier with its own data."""
    fills = [
        Fill(1 << tier, tile, word, random_bytes(rng, (config.fill_rows, config.columns)))
        for tier in range(config.tiers)
        for tile in range(tiles)
        for word in range(config.fill_words)
    ]
    writes = [
        Write(1 << tier, addr, random_bytes(rng, config.rows), enable=(1 << config.rows) - 1)
        for tier in range(config.tiers)
        for addr in range(words)
    ]
    for tier in range(config.tiers):
        for addr in range(params * config.parameter_parts):
            # Mostly small multipliers, so that most results are not saturated.
            size = int(rng.choice([2, 256, 65536]))
            data = rng.integers(0, size, (config.rows + 1) // 2).astype("<u2").view(np.uint8)[: config.rows]
            writes.append(Write(1 << tier, addr, data, parameter=1))
    cycles = [Cycle() for _ in range(max(len(fills), len(writes)))]
    for index, fill in enumerate(fills):
        cycles[index].fills[index % 2] = fill
    for index, write in enumerate(writes):
        cycles[index].writes[index % (config.result_lanes + 1)] = write
    return cycles


def random_wave(config: MachineConfig, rng: np.random.Generator, tier: int, **limits: Any) -> Wave:
    """A wave with random fields; links only where there is a tier below."""
    linked = tier > 0 and config.vertical_links
    edge = config.stationary_feed == "edge"
    return Wave(
        new=int(not edge and rng.random() < 0.5),
        stationary_below=int(linked and not edge and rng.random() < 0.4),
        activation_below=int(linked and rng.random() < 0.4),
        psum_below=int(linked and rng.random() < 0.4),
        vcache_addr=int(rng.integers(limits["tiles"])),
        activation_addr=int(rng.integers(limits["words"])),
        accumulate=int(rng.random() < 0.8),
        first=int(rng.random() < 0.3),
        last=int(rng.random() < 0.4),
        accumulator_addr=int(rng.integers(3)),
        mode=int(rng.choice([Mode.REQUANT8, Mode.REQUANT16, Mode.REQUANT16, Mode.SWIGLU])),
        param_addr=int(rng.integers(limits["params"])),
        shift=int(rng.integers(0, 20)),
        post_mult=int(rng.integers(0, 65536)),
        post_shift=int(rng.integers(10, 30)),
    )


def random_traffic(
    config: MachineConfig, seed: int, cycles: int, *, tiles: int = 6, words: int = 8, params: int = 4
) -> list[Cycle]:
    """Preloaded memories, then random waves on all lanes while memories are refilled, then silence for the pipelines.

    Densities change every 40 cycles, from a wave on every lane in every cycle to long gaps.  In the edge feed, tile
    requests keep their distance of R cycles and ``new`` waves theirs to the request.
    """
    rng = np.random.default_rng(seed)
    sizes = {"tiles": tiles, "words": words, "params": params}
    traffic = preload(config, rng, **sizes)
    edge = config.stationary_feed == "edge"
    # Words of transposed tiles exist where word and column divide one another, as they do in every machine.
    columns = not edge and not (config.tile_bytes & (config.tile_bytes - 1))
    requested: dict[int, int] = {}  # tier: launch of the last request
    pending: dict[int, bool] = dict.fromkeys(range(config.tiers), False)
    density = 1.0
    for index in range(cycles):
        if index % 40 == 0:
            density = float(rng.choice([1.0, 1.0, 0.7, 0.3, 0.05]))
        now = len(traffic)
        cycle = Cycle()
        for tier in range(config.tiers):
            if rng.random() < density:
                cycle.waves[tier] = random_wave(config, rng, tier, **sizes)
        if edge:
            ready = {t for t in range(config.tiers) if pending[t] and now - requested[t] >= config.rows}
            for tier in sorted(ready & cycle.waves.keys()):
                if rng.random() < 0.6:
                    cycle.waves[tier].new = 1
                    pending[tier] = False
            for tier in range(config.tiers):
                free = now - requested.get(tier, -1000) >= config.rows and not pending[tier]
                if free and rng.random() < 0.7:
                    # From below only when the tier below starts the same cycle.
                    below = config.vertical_links and tier - 1 in cycle.requests and rng.random() < 0.6
                    cycle.requests[tier] = (int(rng.integers(tiles)), int(below))
                    requested[tier] = now
                    pending[tier] = True
        for lane in range(2):
            if rng.random() < 0.4:
                data = random_bytes(rng, (config.fill_rows, config.columns))
                mask = int(rng.integers(1, 1 << config.tiers))
                fill = Fill(mask, int(rng.integers(tiles)), int(rng.integers(config.fill_words)), data)
                fill.columns = int(columns and rng.random() < 0.5)
                if not any(_clash(fill, other, edge) for other in cycle.fills.values()):
                    cycle.fills[lane] = fill
        free_tiers = (1 << config.tiers) - 1
        for lane in range(config.result_lanes + 1):
            mask = int(rng.integers(1, 1 << config.tiers)) & free_tiers
            if mask and rng.random() < 0.3:
                free_tiers &= ~mask
                if rng.random() < 0.2:
                    data = rng.integers(0, 256, config.rows)
                    addr = int(rng.integers(params * config.parameter_parts))
                    cycle.writes[lane] = Write(mask, addr, data, parameter=1, enable=int(rng.integers(2)))
                else:
                    enable = int(rng.integers(1 << config.rows))
                    cycle.writes[lane] = Write(
                        mask, int(rng.integers(words)), random_bytes(rng, config.rows), enable=enable
                    )
        traffic.append(cycle)
    return traffic + silence(config)


def _clash(one: Fill, other: Fill, edge: bool) -> bool:
    """Return whether two fill words cannot come in the same cycle: they would write the same bank."""
    return bool(one.tiers & other.tiers) and (edge or one.word == other.word or bool(one.columns | other.columns))


def silence(config: MachineConfig) -> list[Cycle]:
    """Idle cycles until every row has come out."""
    return [Cycle() for _ in range(result_latency(config, config.tiers - 1) + 3)]
