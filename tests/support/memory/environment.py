# SPDX-License-Identifier: Apache-2.0
"""What surrounds the memory path in a test: queues, semaphores, tiers' memories, combine buffer; and what must come.

An :class:`Environment` knows no simulator: :meth:`drive` says what the inputs are in a cycle, :meth:`observe` looks at
the outputs of that cycle.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.interfaces import (
    error_layout,
    fill_control_layout,
    post_layout,
    queue_entry_layout,
    row_write_layout,
    wait_layout,
    write_layout,
)
from hdl.isa import (
    Format,
    Instruction,
    LoadDest,
    Opcode,
    StoreFormat,
    element_bytes,
    encode,
    load_groups,
    load_item_bytes,
    store_bytes,
)

Get = Callable[[str], int]
Words = dict[tuple[int, int, int], bytes]  # (memory kind, tier, item) -> bytes


def entry(instruction: Instruction, pc: int) -> int:
    """Return the bits of a queue entry."""
    word = int.from_bytes(encode(instruction), "little")
    return int(queue_entry_layout().const({"word": word, "pc": pc}).as_value().value)


def nibbles(plane: np.ndarray) -> np.ndarray:
    """Return the nibbles of bytes, low nibble first."""
    return np.stack([plane & 15, plane >> 4], axis=-1).reshape(-1).astype(np.int64)


def loaded(config: MachineConfig, load: Instruction, memory: Sequence[np.ndarray]) -> list[bytes]:
    """Return the items (tiles, words, entries, requantisation words, rows of int32) that a LOAD brings."""
    size = load_item_bytes(load, config)
    planes = [memory[g].reshape(-1)[a : a + size * load["count"]] for g, a in load_groups(load)]
    if load["dest_kind"] == LoadDest.ROWS:
        raw = (planes[0].copy().view("<i2").astype("<i4") << load["shift"]).astype("<i4").tobytes()
        size *= 2
    elif load["format"] == Format.COLUMNS:
        tiles = planes[0].reshape(load["count"], config.columns, config.rows)
        raw = np.ascontiguousarray(tiles.transpose(0, 2, 1)).tobytes()
    elif load["dest_kind"] == LoadDest.VCACHE and load["format"] != Format.BYTES:
        weights = nibbles(planes[0])  # LOW: what it adds to nothing
        if load["format"] != Format.LOW:
            weights = 16 * weights + (nibbles(planes[1]) if load["format"] == Format.PAIR else 8)
        raw = weights.astype(np.uint8).tobytes()
        size *= 2
    else:
        raw = planes[0].tobytes()
    return [raw[i : i + size] for i in range(0, len(raw), size)]


def _tiers(load: Instruction) -> int:
    """Return the tiers that a LOAD writes; rows belong to no tier and are kept as tier 0's."""
    return 1 if load["dest_kind"] == LoadDest.ROWS else load["dest_tiers"]


def stored(config: MachineConfig, store: Instruction, combine: np.ndarray) -> bytes:
    """Return the bytes that a STORE writes."""
    rows = combine[store["row_base"] : store["row_base"] + store["rows"]].astype(np.int64)
    shift = store["shift"]
    if shift:
        rows = (rows + (1 << (shift - 1))) >> shift
    size = element_bytes(store["format"])
    if size < 4:
        rows = np.clip(rows, -(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1)
    return rows.astype(f"<i{size}").tobytes()


class Source:
    """Offers items on a stream, with random pauses."""

    def __init__(self, name: str, items: Sequence[int], rng: random.Random, stall: float) -> None:
        self.name, self.items, self.rng, self.stall = name, deque(items), rng, stall
        self.valid = False

    def drive(self) -> dict[str, int]:
        self.valid = bool(self.items) and (self.valid or self.rng.random() >= self.stall)
        return {f"{self.name}__valid": self.valid, f"{self.name}__payload": self.items[0] if self.valid else 0}

    def observe(self, get: Get) -> int | None:
        if not (self.valid and get(f"{self.name}__ready")):
            return None
        self.valid = False
        return self.items.popleft()


class Sink:
    """Takes items from a stream, with random pauses; checks that an offer stays until it is taken."""

    def __init__(self, name: str, rng: random.Random, stall: float) -> None:
        self.name, self.rng, self.stall = name, rng, stall
        self.ready = False
        self.offer: int | None = None
        self.check = True

    def drive(self) -> dict[str, int]:
        self.ready = self.rng.random() >= self.stall
        return {f"{self.name}__ready": self.ready}

    def observe(self, get: Get) -> int | None:
        valid, payload = get(f"{self.name}__valid"), get(f"{self.name}__payload")
        if self.offer is not None and self.check:
            assert valid and payload == self.offer, f"{self.name}: an offer changed before it was taken"
        self.offer = payload if valid and not self.ready else None
        return payload if valid and self.ready else None


@dataclass
class Log:
    """What happened, with cycles."""

    granted: dict[int, int] = field(default_factory=dict)  # wait port -> number of grants
    posts: list[tuple[int, int, int]] = field(default_factory=list)  # (cycle, port, sem0)
    fills: list[tuple[int, int]] = field(default_factory=list)  # (cycle, lane)
    bus_words: list[int] = field(default_factory=list)  # cycles
    rows: list[int] = field(default_factory=list)  # cycles
    entries: list[int] = field(default_factory=list)
    tags: dict[tuple[int, int], int] = field(default_factory=dict)  # (tier, tile) -> tag
    instructions: list[tuple[int, int, int]] = field(default_factory=list)  # (cycle, pc, word)
    errors: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # unit -> (code, pc, address)


class Environment:
    """Drives and observes a :class:`~tests.support.memory.path.MemoryPath`, all but its AXI ports."""

    def __init__(
        self,
        config: MachineConfig,
        memory: Sequence[np.ndarray],
        loads: Sequence[Instruction] = (),
        stores: Sequence[Instruction] = (),
        *,
        combine: np.ndarray | None = None,
        seed: int = 0,
        stall: float = 0.0,
        limit: Sequence[int] | None = None,
        window: Sequence[tuple[int, int]] | None = None,
        wait_delay: int = 0,
    ) -> None:
        self.config = config
        self.memory = memory
        self.rng = rng = random.Random(seed)
        self.loads, self.stores = list(loads), list(stores)
        self.log = Log()
        self.cycle = 0
        self.combine = np.zeros((config.combine_rows, config.columns), np.int32) if combine is None else combine
        self.limit = list(limit or (memory[0].size, memory[1].size))
        self.window = list(window or ((0, memory[0].size), (0, memory[1].size)))
        self.words: Words = {}
        self.partial: dict[tuple[int, int], dict[int, int]] = {}  # (tier, row of V-Cache) -> column -> byte
        self.halt = False
        self.start: int | None = None
        self.stop = False
        self.wait_delay = wait_delay
        self.waiting: dict[str, int] = {}
        order: list[list[tuple[Instruction, int]]] = [[], []]
        self.expected_posts: dict[str, deque[Instruction]] = {}
        for pc, load in enumerate(self.loads):
            for group in (0, 1):
                if group == load["group"] or load["format"] == Format.PAIR:
                    order[group].append((load, pc))
        self.sources = [
            Source(f"load_queue__{g}", [entry(i, pc) for i, pc in order[g]], rng, stall) for g in range(2)
        ] + [Source("store_queue", [entry(i, pc) for pc, i in enumerate(self.stores)], rng, stall)]
        for g in range(2):
            self.expected_posts[f"load_post__{g}"] = deque(
                i for i, _ in order[g] if i["post0_en"] and (g == 0 or i["format"] != Format.PAIR)
            )
        self.expected_posts["store_post"] = deque(i for i in self.stores if i["post0_en"])
        self.post_sinks = [Sink(name, rng, stall) for name in self.expected_posts]
        self.bus_sink = Sink("load_bus_write", rng, stall)
        self.row_sink = Sink("load_row_write", rng, stall)
        self.read_sink = Sink("store_store_read", rng, stall)
        self.data_source = Source("store_store_data", [], rng, stall)
        self.fetch_sink = Sink("fetch_instructions", rng, stall)
        self.waits = ("load_wait__0", "load_wait__1", "store_wait")

    def drive(self) -> dict[str, int]:
        """Return the inputs of this cycle."""
        values: dict[str, int] = {
            "load_halt": self.halt, "store_halt": self.halt, "fetch_halt": self.halt, "fetch_stop": self.stop,
            "fetch_start": self.start is not None, "fetch_limit": self.limit[0],
        }  # fmt: skip
        if self.start is not None:
            values["fetch_base"] = self.start
            self.start = None
        for g in range(2):
            values[f"load_limit__{g}"] = self.limit[g]
            values[f"store_window_base__{g}"], values[f"store_window_limit__{g}"] = self.window[g]
        for stream in (
            *self.sources,
            *self.post_sinks,
            self.bus_sink,
            self.row_sink,
            self.read_sink,
            self.data_source,
            self.fetch_sink,
        ):
            values |= stream.drive()
        for name in self.waits:
            values[f"{name}__ready"] = self.waiting.get(name, 0) > self.wait_delay
        return values

    def observe(self, get: Get) -> None:
        """Look at the outputs of this cycle."""
        for source in self.sources:
            source.observe(get)
        for number, name in enumerate(self.waits):
            if not get(f"{name}__valid"):
                continue
            wait = wait_layout(self.config).from_bits(get(f"{name}__payload"))
            assert wait["count0"] or wait["count1"], "a wait for nothing"
            if self.waiting.get(name, 0) > self.wait_delay:
                self.log.granted[number] = self.log.granted.get(number, 0) + 1
                self.waiting[name] = 0
            else:
                self.waiting[name] = self.waiting.get(name, 0) + 1
        self._fills(get)
        self._bus_words(get)
        self._posts(get)
        self._rows(get)
        taken = self.fetch_sink.observe(get)
        if taken is not None:
            item = queue_entry_layout().from_bits(taken)
            self.log.instructions.append((self.cycle, item["pc"], item["word"]))
        for unit in ("load", "store", "fetch"):
            error = error_layout().from_bits(get(f"{unit}_error"))
            if error["valid"]:
                report = (error["code"], error["pc"], error["address"])
                assert self.log.errors.setdefault(unit, report) == report, "a latched error changed"
        self.cycle += 1

    def _fills(self, get: Get) -> None:
        config = self.config
        others: list[Any] = []
        for lane in range(2):
            control = fill_control_layout(config).from_bits(get(f"load_fill_control__{lane}"))
            if not control["valid"]:
                continue
            assert not any(self._clash(control, other) for other in others), "two fill words clash at a tier"
            others.append(control)
            self.log.fills.append((self.cycle, lane))
            if control["columns"]:
                self._columns(control, b"".join(self._fill_rows(get, lane)), get(f"load_fill_tag__{lane}"))
                continue
            for piece, row in enumerate(self._fill_rows(get, lane)):
                for tier in range(config.tiers):
                    if control["tiers"] >> tier & 1:
                        index = (control["tile"] * config.rows) + control["word"] * config.fill_rows + piece
                        if control["low"]:
                            old = self.words.get((LoadDest.VCACHE, tier, index), bytes(config.columns))
                            row = bytes(a & 0xF0 | b & 15 for a, b in zip(old, row, strict=True))
                        self.words[LoadDest.VCACHE, tier, index] = row
                        self.log.tags[tier, control["tile"]] = get(f"load_fill_tag__{lane}")

    def _clash(self, one: Any, other: Any) -> bool:
        """Return whether two fill words of a cycle write the same V-Cache bank, or two tags of a tier."""
        if not one["tiers"] & other["tiers"]:
            return False
        if self.config.stationary_feed == "edge" or one["columns"] or other["columns"] or one["word"] == other["word"]:
            return True
        return {one["word"], other["word"]} <= {0, self.config.fill_words - 1}

    def _fill_rows(self, get: Get, lane: int) -> list[bytes]:
        config = self.config
        return [
            get(f"load_fill_data__{lane}__{piece}").to_bytes(config.columns, "little")
            for piece in range(config.fill_rows)
        ]

    def _columns(self, control: Any, raw: bytes, tag: int) -> None:
        """Take a word of a transposed tile; a row enters `words` when its last byte came."""
        config = self.config
        for number, value in enumerate(raw, start=control["word"] * len(raw)):
            column, row = divmod(number, config.rows)
            for tier in range(config.tiers):
                if not control["tiers"] >> tier & 1:
                    continue
                index = control["tile"] * config.rows + row
                self.log.tags[tier, control["tile"]] = tag
                got = self.partial.setdefault((tier, index), {})
                assert column not in got, "a byte of a transposed tile came twice"
                got[column] = value
                if len(got) == config.columns:
                    self.words[LoadDest.VCACHE, tier, index] = bytes(got[c] for c in range(config.columns))

    def _bus_words(self, get: Get) -> None:
        config = self.config
        taken = self.bus_sink.observe(get)
        if taken is not None:
            word = write_layout(config).from_bits(taken)
            self.log.bus_words.append(self.cycle)
            assert word["valid"] and word["enable"] == (1 << config.rows) - 1
            kind = LoadDest.PARAMETER if word["parameter"] else LoadDest.ACTIVATION
            for tier in range(config.tiers):
                if word["tiers"] >> tier & 1:
                    self.words[kind, tier, word["addr"]] = bytes(word["data"][i] for i in range(config.rows))
        taken = self.row_sink.observe(get)
        if taken is not None:
            row = row_write_layout(config).from_bits(taken)
            self.log.rows.append(self.cycle)
            data = np.array([row["data"][i] for i in range(config.columns)], "<i4").tobytes()
            self.words[LoadDest.ROWS, 0, row["row"]] = data
        if get("load_list_write_valid"):
            self.log.entries.append(self.cycle)
            for tier in range(config.tiers):
                if get("load_list_write_tiers") >> tier & 1:
                    raw = get("load_list_write_entry").to_bytes(8, "little")
                    self.words[LoadDest.LIST, tier, get("load_list_write_addr")] = raw

    def _posts(self, get: Get) -> None:
        for sink in self.post_sinks:
            if get(f"{sink.name}__valid") and sink.offer is None:
                # When a post is offered, what it promises must be there.
                waiting = self.expected_posts[sink.name]
                assert waiting, f"{sink.name}: a post that no instruction asks for"
                self.check_done(waiting[0])
            taken = sink.observe(get)
            if taken is not None:
                instruction = self.expected_posts[sink.name].popleft()
                post = post_layout(self.config).from_bits(taken)
                for n in (0, 1):
                    assert (
                        post[f"en{n}"] == instruction[f"post{n}_en"] and post[f"sem{n}"] == instruction[f"post{n}_sem"]
                    )
                self.log.posts.append((self.cycle, self.post_sinks.index(sink), post["sem0"]))

    def _rows(self, get: Get) -> None:
        taken = self.read_sink.observe(get)
        if taken is not None:
            row = taken & 0xFFFF
            self.data_source.items.append(int.from_bytes(self.combine[row].tobytes(), "little"))
            if taken >> 16:
                self.combine[row] = 0
        self.data_source.observe(get)

    def check_done(self, instruction: Instruction) -> None:
        """Assert that what a LOAD brings is in its destination (memory of stores is checked at the end)."""
        if instruction.opcode != Opcode.LOAD:
            return
        config = self.config
        kind = LoadDest(instruction["dest_kind"])
        pieces = {LoadDest.VCACHE: config.rows, LoadDest.PARAMETER: config.parameter_parts}.get(kind, 1)
        tiers = _tiers(instruction)
        for item, raw in enumerate(loaded(config, instruction, self.memory)):
            size = len(raw) // pieces
            for tier in range(config.tiers):
                if tiers >> tier & 1:
                    for piece in range(pieces):
                        index = (instruction["dest_base"] + item) * pieces + piece
                        assert self.words.get((kind, tier, index)) == raw[piece * size : (piece + 1) * size], (
                            f"{kind.name} tier {tier} index {index} of {instruction}"
                        )
                    if kind == LoadDest.VCACHE:
                        assert self.log.tags[tier, instruction["dest_base"] + item] == instruction["tag"]

    def expected_words(self) -> int:
        """Return how many destination words all loads write, counting a tier's copy each."""
        config = self.config
        pieces = {LoadDest.VCACHE: config.rows, LoadDest.PARAMETER: config.parameter_parts}
        return sum(i["count"] * pieces.get(LoadDest(i["dest_kind"]), 1) * _tiers(i).bit_count() for i in self.loads)

    def finished(self, get: Get) -> bool:
        """Whether every queue is empty and both units are idle and quiet."""
        return (
            not any(source.items for source in self.sources)
            and not any(self.expected_posts.values())
            and not get("load_pending")
            and not get("store_busy")
            and bool(get("load_quiet") and get("store_quiet"))
        )

    def check_loads(self) -> None:
        """Assert that all loads arrived, and nothing else (their destinations must not overlap)."""
        for load in self.loads:
            self.check_done(load)
        assert len(self.words) == self.expected_words()


def apply_stores(
    config: MachineConfig, stores: Sequence[Instruction], combine: np.ndarray, memory: Sequence[np.ndarray]
) -> None:
    """Do what STORE instructions do to the combine buffer and the groups' memories (flat bytes)."""
    for store in stores:
        raw = b"" if store["format"] == StoreFormat.DISCARD else stored(config, store, combine)
        assert len(raw) == store_bytes(store, config)
        start = store["addr"] * ADDRESS_UNIT
        memory[store["group"]].reshape(-1)[start : start + len(raw)] = np.frombuffer(raw, np.uint8)
        if store["clear"]:
            combine[store["row_base"] : store["row_base"] + store["rows"]] = 0
