# SPDX-License-Identifier: Apache-2.0
"""Draws single random instructions on a small working set: loads, stores and operations of the array."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT, INSTRUCTION_BYTES, MachineConfig
from hdl.errors import A3dError
from hdl.isa import (
    LIST_ENTRY_BYTES,
    MAX_ROW_SHIFT,
    Dest,
    Format,
    Instruction,
    Limits,
    LoadDest,
    Mapping3D,
    Mode,
    Opcode,
    Order,
    StoreFormat,
    beats,
    load_item_bytes,
    store_span,
    store_step,
    tiers_of_mask,
)
from sim.golden.executor import Executor
from sim.stimulus.stream_order import instruction_of

__all__ = ["MOST_BYTES", "Drawer", "StreamOptions", "StreamSizeError"]

CORNERS = (-128, -127, -1, 0, 1, 127)

MOST_BYTES = 1 << 18
"""Most memory of a group that a stream uses: as much as the benches simulate."""

SPARE = 32
"""Instructions by which a stream is let become longer than asked for: those of the last routing."""


class StreamSizeError(A3dError):
    """No random stream fits the machine's memory."""


@dataclass(frozen=True)
class StreamOptions:
    """Which parts of the instruction set random streams use beside the array's.

    Attributes
    ----------
    vector : bool
        VECTOR instructions.
    rows : bool
        LOAD ROWS.
    columns : bool
        LOAD with format COLUMNS.
    gaps : bool
        STORE with row_gap, addr_gap and starts inside a unit of 32 bytes.
    hold : bool
        GEMM with param_hold.
    slots : bool
        ROUTE, and LOAD and GEMM with a slot; needs `vector` and `rows`.
    """

    vector: bool = False
    rows: bool = False
    columns: bool = False
    gaps: bool = False
    hold: bool = False
    slots: bool = False

    @staticmethod
    def everything(*, slots: bool = False) -> StreamOptions:
        """Return options with all of it, slots only if asked for."""
        return StreamOptions(vector=True, rows=True, columns=True, gaps=True, hold=True, slots=slots)


class Drawer:
    """Sizes of the working set, where it lies in memory, and random instructions on it.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    rng : random.Random
        Source of choices.
    bits : numpy Generator
        Source of memory contents.
    length : int
        About how many instructions are drawn; fewer where memory is too small.
    options : StreamOptions
        What is used.

    Attributes
    ----------
    images : list of two uint8 arrays
        Memories at the start.
    limits : Limits
        Memory sizes and output windows.
    model : Executor
        The state after the instructions so far: set it before the first draw.
    """

    model: Executor

    def __init__(
        self, config: MachineConfig, rng: random.Random, bits: np.random.Generator, length: int, options: StreamOptions
    ) -> None:
        c = self.config = config
        self.random = rng
        self.bits = bits
        self.length = length
        self.options = options
        # Small, so that operations meet.
        self.tiles = min(c.vcache_tiles, 48)
        if options.slots and c.vcache_tiles < self.tiles + 2:
            self.tiles = c.vcache_tiles // 2  # loads with a slot need tiles of their own
        self.words = min(c.activation_words // 2, 24)  # words of each half of the activation working set
        self.entries = min(c.list_depth, 24)
        self.params = min(c.parameter_words, 16)
        self.rows = min(c.combine_rows, 48)
        self.tokens = min(c.accumulator_depth, 12)
        # Room for what is loaded, for token lists, and for stores beside those that bring everything out.
        self._load_bytes = 32 * c.tile_bytes + 64 * 2 * c.columns + 64 * c.rows + 512 * LIST_ENTRY_BYTES
        self._list_bytes = (length + 8) * 64 * LIST_ENTRY_BYTES
        self._stores = 11
        self._spare = SPARE if options.slots else 0
        self._place_memory()

    def _shrink(self) -> bool:
        """Use less: first of the room that is only pleasant to have, then of everything; return whether anything is."""
        c = self.config
        needed = max(c.tile_bytes, 2 * self.words * c.rows, self.params * 2 * c.columns, 8 * 2 * c.columns)
        lists = self.entries * LIST_ENTRY_BYTES
        spare = max(8, self._spare // 2) if self.options.slots else 0
        room = (max(needed, self._load_bytes // 2), max(lists, self._list_bytes // 4), self._stores // 2, spare)
        if room != (self._load_bytes, self._list_bytes, self._stores, self._spare):
            self._load_bytes, self._list_bytes, self._stores, self._spare = room
            return True
        sizes = (self.tiles, self.words, self.entries, self.params, self.rows, self.length)
        smallest = (min(4, self.tiles), 4, 4, 1, 8, min(4, self.length))
        smaller = [max(least, size // 2) for least, size in zip(smallest, sizes, strict=True)]
        smaller[-1] = max(smallest[-1], self.length * 3 // 4)
        self.tiles, self.words, self.entries, self.params, self.rows, self.length = smaller
        return tuple(smaller) != sizes

    def _place_memory(self) -> None:
        room = min(1 << self.config.address_bits, MOST_BYTES)
        while self._place() > room:
            if not self._shrink():
                raise StreamSizeError(
                    f"random_stream: no stream fits {room} bytes of memory in each group; raise config address_bits "
                    f"(now {self.config.address_bits})"
                )
        size = self.limits.memory_bytes[0]
        images = []
        for _ in range(2):
            image = self.bits.integers(0, 256, size, dtype=np.uint8)
            corners = self.bits.choice(np.array(CORNERS, dtype=np.int8), size).view(np.uint8)
            images.append(np.where(self.bits.random(size) < 0.25, corners, image).astype(np.uint8))
        self.images: list[npt.NDArray[np.uint8]] = images

    def _place(self) -> int:
        """Lay out both groups' memories: stream, token lists, what is loaded, output window; return their bytes."""
        c = self.config
        unit = self.unit = max(ADDRESS_UNIT, c.group_bytes)

        def whole(size: int) -> int:
            return -(-size // unit) * unit

        self.stream_bytes = whole((self.length + self.ends + self._spare) * INSTRUCTION_BYTES)
        self.list_next = self.stream_bytes
        self.list_end = self.list_next + whole(self._list_bytes)
        start = self.list_end + whole(self._load_bytes) + 4 * unit
        last = self.rows * c.columns * 4
        self.last_bytes = last * (4 if self.options.vector else 1)  # for the stores that bring everything out
        size = start + whole(last * self._stores + self.last_bytes) + (unit if self.options.gaps else 0)
        self.data = (self.list_end, start)
        self.window_next = [start, start]
        self.limits = Limits((size, size), ((start, size), (start, size)))
        self._lists: list[tuple[int, int, int]] = []
        return size

    @property
    def ends(self) -> int:
        """Most instructions that fill the working set, bring it out and end the stream."""
        gemms = self.config.tiers * -(-2 * self.words // min(self.tokens, self.rows))
        return 5 + self.config.tiers + 1 + gemms + 1 + (6 if self.options.vector else 0) + 1

    def draw(self) -> Instruction:
        """Return a random instruction; it may turn out not to be legal or not to be orderable."""
        if self.options.rows and self.random.random() < 0.06:
            count = self.random.randint(1, min(8, self.rows))
            return self.load(LoadDest.ROWS, self.random.randrange(self.rows - count + 1), count, 0)
        kind = self.random.choices(
            ("gemm", "vcache", "activation", "list", "parameter", "store", "nop"), (46, 24, 7, 7, 4, 10, 2)
        )[0]
        if kind == "nop":
            return Instruction(Opcode.NOP, {})
        if kind == "store":
            return self._draw_store()
        if kind == "gemm":
            gemm = self._draw_gemm()
            if gemm is not None:
                return gemm
            kind = "vcache"
        if kind == "vcache":
            most = min(self.tiles, (self.data[1] - self.data[0]) // self.config.tile_bytes)
            count = min(self.random.choice((1, 1, 2, 3, 4, 6, 8)), most)
            return self.load(LoadDest.VCACHE, self.random.randrange(self.tiles - count + 1), count, self._mask())
        dest, size = {
            "activation": (LoadDest.ACTIVATION, 2 * self.words),
            "list": (LoadDest.LIST, self.entries),
            "parameter": (LoadDest.PARAMETER, self.params),
        }[kind]
        count = self.random.randint(1, min(7, size))
        return self.load(dest, self.random.randrange(size - count + 1), count, self._mask())

    def _mask(self) -> int:
        everyone = (1 << self.config.tiers) - 1
        return everyone if self.random.random() < 0.3 else self.random.randint(1, everyone)

    def load(self, dest: LoadDest, base: int, count: int, mask: int) -> Instruction:
        """Return a LOAD from random places; list entries are made up and written to the image."""
        form = Format.BYTES
        if dest == LoadDest.VCACHE:
            columns = (Format.COLUMNS,) if self.options.columns and self.config.stationary_feed == "vertical" else ()
            form = self.random.choice((Format.BYTES, Format.PAIR, Format.PAIR, Format.HIGH, *columns))
            if columns and self._filled(base, count, mask) and self.random.random() < 0.25:
                form = Format.LOW
        values = {"format": int(form), "group": self.random.randrange(2), "dest_kind": int(dest), "dest_tiers": mask,
                  "dest_base": base, "count": count}  # fmt: skip
        if dest == LoadDest.VCACHE:
            values["tag"] = self.random.choice((0, 1, 2, 3, 62, 63, self.random.randrange(64)))
        if dest == LoadDest.ROWS:
            values["shift"] = self.random.choice((0, 0, 1, 8, MAX_ROW_SHIFT, self.random.randint(0, MAX_ROW_SHIFT)))
        load = instruction_of(Opcode.LOAD, values)
        size = beats(count * load_item_bytes(load, self.config), self.config) * self.config.group_bytes
        if dest == LoadDest.LIST:
            values |= self._place_list(values["group"], count, size)
        else:
            for name in ("addr", "addr_low")[: 2 if form == Format.PAIR else 1]:
                low, high = self.data
                if self.random.random() < 0.1:  # what stores wrote: a hazard through memory
                    low, high = self.limits.window[0]
                    high = max(high, low + size)
                slots = max(1, (high - low - size) // self.unit)
                values[name] = (low + self.random.randrange(slots) * self.unit) // ADDRESS_UNIT
        return instruction_of(Opcode.LOAD, values)

    def _filled(self, base: int, count: int, mask: int) -> bool:
        """Return whether tiles have something in all tiers of a mask: low planes alone may be loaded."""
        return bool((self.model.tags[tiers_of_mask(mask), base : base + count] >= 0).all())

    def _place_list(self, group: int, count: int, size: int) -> dict[str, int]:
        """Write list entries into the memory image and return where; without room, where an earlier list lies."""
        if self.list_next + size > self.list_end:
            group, start, most = self.random.choice(self._lists)
            return {"group": group, "addr": start // ADDRESS_UNIT, "count": min(count, most)}
        start = self.list_next
        self.list_next += -(-size // self.unit) * self.unit
        self._lists.append((group, start, count))
        spacing = self.random.choice((1, 1, 2, 3))
        slots = max(1, min(self.words, self.rows) // 2 // spacing)
        entries = np.zeros((count, 4), dtype="<u2")
        entries[:, 0] = self.bits.integers(0, self.words // 2, count)
        places = self.bits.permutation(slots)
        if count > slots or self.random.random() < 0.2:
            places = self.bits.integers(0, slots, count)
        entries[:, 1] = places[:count] * spacing
        entries[:, 2] = self.bits.choice(np.array([0, 1, 0x7FFF, 0x8000, 0xFFFF]), count)
        random_gates = self.bits.integers(0, 1 << 16, count)
        entries[:, 2] = np.where(self.bits.random(count) < 0.6, random_gates, entries[:, 2])
        entries[:, 3] = self.bits.random(count) < 0.15
        raw = entries.reshape(-1).view(np.uint8)
        self.images[group][start : start + raw.size] = raw
        self.model.memory[group][start : start + raw.size] = raw
        return {"group": group, "addr": start // ADDRESS_UNIT}

    def _draw_store(self) -> Instruction:
        rows = self.random.randint(1, min(8, self.rows))
        values = {
            "format": self.random.randrange(4),
            "group": self.random.randrange(2),
            "shift": self.random.choice((0, 1, 4, 7, 15, self.random.randrange(32))),
            "clear": int(self.random.random() < 0.4),
            "row_base": self.random.randrange(self.rows - rows + 1),
            "rows": rows,
        }
        if self.options.gaps:
            self._draw_gaps(values)
        return self.with_window(instruction_of(Opcode.STORE, values))

    def _draw_gaps(self, values: dict[str, int]) -> None:
        c = self.config
        if self.random.random() < 0.4:
            values["row_gap"] = self.random.randint(0, 3)
            values["rows"] = min(values["rows"], 1 + (self.rows - 1 - values["row_base"]) // (1 + values["row_gap"]))
        if self.random.random() < 0.5:
            room = (self.limits.window[0][1] - self.limits.window[0][0]) // 8
            values["addr_gap"] = self.random.choice((1, 2, 3, c.rows - 1, self.random.randrange(12)))
            start, end = store_span(instruction_of(Opcode.STORE, values), c)
            if end - start > room:
                values["addr_gap"] = 0

    def with_window(self, store: Instruction) -> Instruction:
        """Return a STORE with an address in its group's output window: fresh, as long as there is room."""
        if store["format"] == StoreFormat.DISCARD:
            return store
        first, end = store_span(store, self.config)
        size = -(-(end - first) // self.unit) * self.unit
        group = store["group"]
        low, high = self.limits.window[group]
        reserve = 0 if store["rows"] == self.rows else self.last_bytes
        start = self.window_next[group]
        if start + size > high - reserve or self.random.random() < 0.1:
            start = low + self.random.randrange((high - low - size) // self.unit + 1) * self.unit
        else:
            self.window_next[group] = start + size
        if self.options.gaps and self.random.random() < 0.5:  # where a row, but no beat or unit of 32 bytes, begins
            step = min(store_step(store, self.config)[0], self.config.group_bytes)
            start += self.random.randrange(self.unit // step) * step
        place = {"addr": start // ADDRESS_UNIT, "offset": start % ADDRESS_UNIT}
        return instruction_of(Opcode.STORE, {**store.values, **place})

    def _draw_gemm(self) -> Instruction | None:
        c, choose = self.config, self.random
        count = choose.choice([1, 1, *range(1, c.tiers + 1)]) if c.vertical_links else 1
        base = choose.randrange(c.tiers - count + 1)
        mapping = Mapping3D(choose.randrange(1, 4) if count > 1 or choose.random() < 0.1 else 0)
        owners = range(base, base + (1 if mapping == Mapping3D.M else count))
        run = self._tile_run(list(owners))
        if run is None:
            return None
        vcache_base, available, tag = run
        k_slices = choose.randint(1, min(available, 6, self.words // 2))
        n_tiles = choose.randint(1, min(available // k_slices, 5, self.params))
        order = Order(choose.randrange(2))
        most = self.tokens if order == Order.K_INNER else max(1, c.accumulator_depth // n_tiles)
        tokens = choose.choice((1, 1, 2, 3, choose.randint(1, self.tokens), self.tokens))
        act_list, dest_list = int(choose.random() < 0.4), int(choose.random() < 0.4)
        tokens = min(tokens, most, self.entries if act_list or dest_list else tokens)
        combine = choose.random() < 0.5
        mode = choose.choice((Mode.REQUANT8, Mode.REQUANT16) if combine else (Mode.REQUANT8, Mode.SWIGLU, Mode.SWIGLU))
        values = {
            "tier_base": base, "tier_count": count, "mapping": int(mapping), "order": int(order),
            "act_list": act_list, "dest_list": dest_list, "tokens": tokens, "k_slices": k_slices, "n_tiles": n_tiles,
            "vcache_base": vcache_base, "tag": tag, "mode": int(mode),
            "param_base": choose.randrange(self.params - n_tiles + 1),
            "shift": choose.choice((choose.randint(14, 30), choose.randint(20, 26), choose.randrange(48))),
            "dest_kind": int(Dest.COMBINE if combine else Dest.ACTIVATION),
        }  # fmt: skip
        if self.options.hold:
            values["param_hold"] = int(choose.random() < 0.3)
        if mode == Mode.SWIGLU:
            values |= {
                "post_mult": choose.choice((choose.randrange(1 << 16), 0xFFFF, 1)),
                "post_shift": choose.choice((choose.randint(14, 30), choose.randrange(48))),
            }
        if act_list or dest_list:
            values["list_base"] = choose.randrange(self.entries - tokens + 1)
        half = choose.randrange(2)
        self.draw_source(values, half * self.words)
        self.draw_dest(values, 0 if combine else (1 - half) * self.words)
        return instruction_of(Opcode.GEMM, values)

    def draw_source(self, values: dict[str, int], start: int) -> None:
        """Choose where a GEMM's activations lie, in the half of the working set that begins at word `start`."""
        span = self.words // 2 if values["act_list"] else self.words
        tokens, k_slices = values["tokens"], values["k_slices"]
        stride = self.random.choice((0, 1, k_slices, self.random.randrange(8)))
        if values["act_list"]:
            stride = 0
        elif (tokens - 1) * stride + k_slices > span:
            stride = (span - k_slices) // max(1, tokens - 1)
        room = span - (tokens - 1) * stride - k_slices
        values |= {"act_base": start + self.random.randint(0, max(0, room)), "act_stride": stride}

    def draw_dest(self, values: dict[str, int], start: int) -> None:
        """Choose where a GEMM's rows go, likewise (combine rows: `start` is 0)."""
        c = self.config
        combine = values["dest_kind"] == Dest.COMBINE
        tiles = values["n_tiles"] * (values["tier_count"] if values["mapping"] == Mapping3D.N else 1)
        element = c.columns // (2 if values["mode"] == Mode.SWIGLU else 1)
        extent = tiles if combine else -(-tiles * element // c.rows)
        if combine:
            values["accumulate"] = int(self.random.random() < 0.6)
        else:
            values["dest_tiers"] = self.random.choice((0, 0, self._mask(), (1 << c.tiers) - 1))
        spread = values["mapping"] == Mapping3D.M and not values["dest_list"] and (combine or values["dest_tiers"])
        tokens = values["tokens"] * (values["tier_count"] if spread else 1)
        span = self.rows if combine else self.words
        stride = 0 if values["dest_list"] else self.random.choice((extent, extent, extent + 1, 0, 1))
        if values["dest_list"]:
            span -= min(self.words, self.rows) // 2
        elif (tokens - 1) * stride + extent > span:
            stride = max(0, span - extent) // max(1, tokens - 1)
        room = span - (tokens - 1) * stride - extent if not values["dest_list"] else span - extent
        values |= {"dest_base": start + self.random.randint(0, max(0, room)), "dest_stride": stride}

    def _tile_run(self, owners: Sequence[int]) -> tuple[int, int, int] | None:
        """Return (first tile, tiles, tag) of a run of valid tiles with one tag, the same in all `owners`."""
        tags = self.model.tags[list(owners), : self.tiles]
        same = (tags == tags[0]).all(axis=0) & (tags[0] >= 0)
        starts = np.flatnonzero(same)
        if not starts.size:
            return None
        first = int(self.random.choice(list(starts)))
        end = first
        while end < self.tiles and same[end] and tags[0, end] == tags[0, first]:
            end += 1
        return first, end - first, int(tags[0, first])
