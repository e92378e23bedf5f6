# SPDX-License-Identifier: Apache-2.0
"""Constrained-random instruction streams: short, legal, free of races, and rich in corners.

A stream starts with a few instructions that fill the working set, goes on with random instructions, and ends with
operations and stores that bring every activation and combine row of the working set out to memory. Whatever two
instructions share is ordered by semaphores that the generator inserts; everything else runs as the machine pleases.
Activation buffers and combine rows outside the working set are never touched.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hdl.asm import to_binary
from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import Dest, Format, Instruction, LoadDest, Mapping3D, Mode, Opcode, Order, StoreFormat
from hdl.legality import LIST_ENTRY_BYTES, Limits, beats, check_instruction, load_unit_bytes, store_bytes
from scheduler.footprint import Footprint, Lists, footprint
from scheduler.hazards import HazardTracker, self_conflict
from scheduler.ordering import Ordering, row_completions
from sim.golden.executor import ExecutionError, Executor
from sim.illegal_streams import IllegalStream, illegal_streams

__all__ = ["IllegalStream", "RandomStream", "illegal_streams", "random_stream"]

STREAM_BASE = 0
"""Byte address in group 0 of the stream itself."""

MOST_WAITS = 31
"""Largest count of one wait."""

CORNERS = (-128, -127, -1, 0, 1, 127)


@dataclass(frozen=True)
class RandomStream:
    """A generated program.

    Attributes
    ----------
    config : MachineConfig
        The machine.
    seed : int
        Seed that repeats it.
    instructions : tuple of Instruction
        END included.
    images : tuple of two bytes
        Initial memories of the groups; the stream lies in group 0 at `stream_base`.
    limits : Limits
        Memory sizes and output windows for the registers.
    stream_base : int
        Byte address of the stream in group 0.
    """

    config: MachineConfig
    seed: int
    instructions: tuple[Instruction, ...]
    images: tuple[bytes, bytes]
    limits: Limits
    stream_base: int

    @property
    def stream(self) -> bytes:
        """The binary stream."""
        return to_binary(self.instructions)


def random_stream(config: MachineConfig, seed: int, length: int = 30) -> RandomStream:
    """Return a random legal stream.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    seed : int
        The same seed gives the same stream.
    length : int
        About how many random instructions to put between the first fills and the last stores.
    """
    for attempt in range(50):
        try:
            return _Generator(config, seed, length, attempt).generate()
        except _StuckError:
            continue
    raise RuntimeError(f"random_stream: seed {seed} gives no stream of length {length} for {config.name}")


class _StuckError(Exception):
    """The last instructions of a stream found no free semaphore: draw another stream."""


class _Generator:
    def __init__(self, config: MachineConfig, seed: int, length: int, attempt: int) -> None:
        c = self.config = config
        self.seed = seed
        self.length = length
        self.random = random.Random(f"{config.digest()} {seed} {attempt}")
        self.bits = np.random.default_rng([seed, attempt, int(config.digest()[:8], 16)])
        # Working set: small, so that operations meet.
        self.tiles = min(c.vcache_tiles, 48)
        self.words = min(c.activation_words // 2, 24)  # words of each half of the activation working set
        self.entries = min(c.list_depth, 24)
        self.params = min(c.parameter_words, 16)
        self.rows = min(c.combine_rows, 48)
        self.tokens = min(c.accumulator_depth, 12)
        self._place_memory()
        self.order = Ordering()
        self.hazards = HazardTracker(c, self.order)
        self.lists = Lists(c)
        self.program: list[Instruction] = []
        # A semaphore is used for one wait at a time: the number of the last waiter, once there was one.
        self.last_waiter: dict[int, int] = {}
        self.reserved = min(c.semaphores // 3, 2 * c.tiers + 4)  # semaphores kept for the last instructions
        self.finishing = False
        self.model = Executor(c, self.images, self.limits, strict=True)

    def _place_memory(self) -> None:
        c = self.config
        unit = max(ADDRESS_UNIT, c.group_bytes)
        tile_space = 32 * c.tile_bytes
        small = 4 * unit + 64 * 2 * c.columns + 64 * c.rows + 512 * LIST_ENTRY_BYTES
        self.unit = unit
        self.stream_bytes = -(-(self.length + 64) * 32 // unit) * unit
        self.list_next = self.stream_bytes
        self.list_end = self.list_next + -(-(self.length + 8) * 64 * LIST_ENTRY_BYTES // unit) * unit
        window = -(-(self.rows * c.columns * 4 * 12) // unit) * unit
        start = self.list_end + -(-(tile_space + small) // unit) * unit
        size = start + window
        if size > 1 << c.address_bits:
            raise ValueError(f"random_stream: {size} bytes of memory exceed address_bits {c.address_bits}")
        self.data = (self.list_end, start)
        self.window_next = [start, start]
        self.limits = Limits((size, size), ((start, size), (start, size)))
        images = []
        for _ in range(2):
            image = self.bits.integers(0, 256, size, dtype=np.uint8)
            corners = self.bits.choice(np.array(CORNERS, dtype=np.int8), size).view(np.uint8)
            images.append(np.where(self.bits.random(size) < 0.25, corners, image).astype(np.uint8))
        self.images: list[npt.NDArray[np.uint8]] = images

    # The whole stream.

    def generate(self) -> RandomStream:
        """Draw instructions until the length is reached."""
        self._fill_working_set()
        target = len(self.program) + self.length
        attempts = 0
        while len(self.program) < target and attempts < 20 * self.length:
            attempts += 1
            self._emit(self._draw())
        self.finishing = True
        self._bring_out()
        instructions = (*self.program, Instruction(Opcode.END, {}))
        stream = to_binary(instructions)
        images = [image.copy() for image in self.images]
        images[0][STREAM_BASE : STREAM_BASE + len(stream)] = np.frombuffer(stream, dtype=np.uint8)
        both = (images[0].tobytes(), images[1].tobytes())
        return RandomStream(self.config, self.seed, instructions, both, self.limits, STREAM_BASE)

    def _fill_working_set(self) -> None:
        c, everyone = self.config, (1 << self.config.tiers) - 1
        self._must(self._load(LoadDest.ACTIVATION, 0, 2 * self.words, everyone))
        self._must(self._load(LoadDest.PARAMETER, 0, self.params, everyone))
        if c.tiers > 1 and self.random.random() < 0.5:
            for tier in range(c.tiers):
                self._must(self._load(LoadDest.LIST, 0, self.entries, 1 << tier))
        else:
            self._must(self._load(LoadDest.LIST, 0, self.entries, everyone))
        clear = {"format": StoreFormat.DISCARD, "clear": 1, "row_base": 0, "rows": self.rows}
        self._must(Instruction(Opcode.STORE, {k: int(v) for k, v in clear.items() if v}))

    def _bring_out(self) -> None:
        """Add every activation word of the working set into combine rows by way of random weights, and store them."""
        c = self.config
        self._must(self._load(LoadDest.VCACHE, 0, 1, (1 << c.tiers) - 1))
        tag = self.program[-1]["tag"]
        for tier in range(c.tiers):
            step = min(self.tokens, self.rows)
            for first in range(0, 2 * self.words, step):
                count = min(step, 2 * self.words - first)
                values = {
                    "tier_base": tier, "tier_count": 1, "tokens": count, "k_slices": 1, "n_tiles": 1, "tag": tag,
                    "act_base": first, "act_stride": 1, "mode": int(Mode.REQUANT16), "shift": 16,
                    "dest_kind": int(Dest.COMBINE), "accumulate": 1, "dest_stride": 1,
                }  # fmt: skip
                self._must(_instruction(Opcode.GEMM, values))
        store = {"format": int(StoreFormat.INT32), "rows": self.rows, "group": self.random.randrange(2)}
        self._must(self._with_window(_instruction(Opcode.STORE, store)))

    def _must(self, instruction: Instruction) -> None:
        if not self._emit(instruction):
            raise _StuckError

    # Drawing one instruction.

    def _draw(self) -> Instruction:
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
            count = self.random.choice((1, 1, 2, 3, 4, 6, 8))
            return self._load(LoadDest.VCACHE, self.random.randrange(self.tiles - count + 1), count, self._mask())
        dest, size = {
            "activation": (LoadDest.ACTIVATION, 2 * self.words),
            "list": (LoadDest.LIST, self.entries),
            "parameter": (LoadDest.PARAMETER, self.params),
        }[kind]
        count = self.random.randint(1, min(7, size))
        return self._load(dest, self.random.randrange(size - count + 1), count, self._mask())

    def _mask(self) -> int:
        everyone = (1 << self.config.tiers) - 1
        return everyone if self.random.random() < 0.3 else self.random.randint(1, everyone)

    def _load(self, dest: LoadDest, base: int, count: int, mask: int) -> Instruction:
        form = Format.BYTES
        if dest == LoadDest.VCACHE:
            form = self.random.choice((Format.BYTES, Format.PAIR, Format.PAIR, Format.HIGH))
        values = {"format": int(form), "group": self.random.randrange(2), "dest_kind": int(dest), "dest_tiers": mask,
                  "dest_base": base, "count": count}  # fmt: skip
        if dest == LoadDest.VCACHE:
            values["tag"] = self.random.choice((0, 1, 2, 3, 62, 63, self.random.randrange(64)))
        load = _instruction(Opcode.LOAD, values)
        size = beats(count * load_unit_bytes(load, self.config), self.config) * self.config.group_bytes
        if dest == LoadDest.LIST:
            values["addr"] = self._place_list(values["group"], count, size) // ADDRESS_UNIT
        else:
            for name in ("addr", "addr_low")[: 2 if form == Format.PAIR else 1]:
                low, high = self.data
                if self.random.random() < 0.1:  # what stores wrote: a hazard through memory
                    low, high = self.limits.window[0]
                    high = max(high, low + size)
                slots = max(1, (high - low - size) // self.unit)
                values[name] = (low + self.random.randrange(slots) * self.unit) // ADDRESS_UNIT
        return _instruction(Opcode.LOAD, values)

    def _place_list(self, group: int, count: int, size: int) -> int:
        """Write list entries into the memory image and return their byte address."""
        start = self.list_next
        self.list_next += -(-size // self.unit) * self.unit
        if self.list_next > self.list_end:
            raise _StuckError
        spacing = self.random.choice((1, 1, 2, 3))
        slots = min(self.words, self.rows) // 2 // spacing
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
        return start

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
        return self._with_window(_instruction(Opcode.STORE, values))

    def _with_window(self, store: Instruction) -> Instruction:
        if store["format"] == StoreFormat.DISCARD:
            return store
        size = -(-store_bytes(store, self.config) // self.unit) * self.unit
        group = store["group"]
        low, high = self.limits.window[group]
        reserve = self.rows * self.config.columns * 4  # for the last store
        start = self.window_next[group]
        if start + size > high - (0 if store["rows"] == self.rows else reserve) or self.random.random() < 0.1:
            start = low + self.random.randrange((high - low - size) // self.unit + 1) * self.unit
        else:
            self.window_next[group] = start + size
        return _instruction(Opcode.STORE, {**store.values, "addr": start // ADDRESS_UNIT})

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
        if mode == Mode.SWIGLU:
            values |= {
                "post_mult": choose.choice((choose.randrange(1 << 16), 0xFFFF, 1)),
                "post_shift": choose.choice((choose.randint(14, 30), choose.randrange(48))),
            }
        if act_list or dest_list:
            values["list_base"] = choose.randrange(self.entries - tokens + 1)
        half = choose.randrange(2)
        self._draw_source(values, half * self.words)
        self._draw_dest(values, 0 if combine else (1 - half) * self.words)
        return _instruction(Opcode.GEMM, values)

    def _draw_source(self, values: dict[str, int], start: int) -> None:
        span = self.words // 2 if values["act_list"] else self.words
        tokens, k_slices = values["tokens"], values["k_slices"]
        stride = self.random.choice((0, 1, k_slices, self.random.randrange(8)))
        if values["act_list"]:
            stride = 0
        elif (tokens - 1) * stride + k_slices > span:
            stride = (span - k_slices) // max(1, tokens - 1)
        room = span - (tokens - 1) * stride - k_slices
        values |= {"act_base": start + self.random.randint(0, max(0, room)), "act_stride": stride}

    def _draw_dest(self, values: dict[str, int], start: int) -> None:
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

    # Emission with the waits and posts that order it.

    def _emit(self, instruction: Instruction) -> bool:
        """Append an instruction if it is legal and can be ordered; return whether it was."""
        if check_instruction(instruction, self.config, self.limits) is not None:
            return False
        if instruction.opcode == Opcode.NOP:
            self.program.append(instruction)
            self.order.add(instruction)
            return True
        touched = footprint(instruction, self.config, self.lists)
        if self_conflict(touched) is not None or not self._addresses_fit(touched):
            return False
        done, _ = self.order.preview(instruction)
        needed = {c.earlier for c in self.hazards.conflicts(instruction, touched, done) if not c.ordered}
        needed = {self._poster(number) for number in needed}
        for number in sorted(needed):
            others = [self.order.before[e] for n in needed - {number} for e in self.order.completions[n]]
            if any(all(past >> e & 1 for e in self.order.completions[number]) for past in others):
                needed.discard(number)
        waits = self._connect(instruction, sorted(needed))
        if waits is None:
            return False
        values = dict(instruction.values)
        for n, (semaphore, count) in enumerate(waits):
            values |= {f"wait{n}_sem": semaphore, f"wait{n}_count": count}
        number = len(self.program)
        instruction = _instruction(instruction.opcode, values)
        self.program.append(instruction)
        waited = [e for earlier in needed for e in self.order.completions[earlier]]
        self.order.add(instruction, waited, self.hazards.tag_loads(touched))
        self.hazards.record(number, touched)
        for semaphore, _ in waits:
            self.last_waiter[semaphore] = number
        if instruction.opcode == Opcode.LOAD and instruction["dest_kind"] == LoadDest.LIST:
            self.lists.load(instruction, (self.model.memory[0], self.model.memory[1]))
        self._run_model(instruction, number)
        return True

    def _poster(self, number: int) -> int:
        """Return `number`, or when it has no post to spare, a later instruction that completes after it."""
        wanted = self.order.completions[number]
        for later in range(number, len(self.program)):
            past = 0
            for completion in self.order.completions[later]:
                past |= self.order.before[completion]
            if all(past >> e & 1 for e in wanted) and not self.program[later]["post1_en"]:
                return later
        return number

    def _run_model(self, instruction: Instruction, number: int) -> None:
        self.model.semaphores[:] = MOST_WAITS  # the model is here for memory and tags only
        try:
            self.model.step(to_binary([instruction]), number)
        except ExecutionError as error:
            raise AssertionError(f"seed {self.seed}: the generator made an illegal instruction: {error}") from error

    def _addresses_fit(self, touched: Footprint) -> bool:
        """Keep list-driven accesses inside the working set."""
        c = self.config
        for access in touched.accesses:
            if access.space == "combine" and access.cells.size and access.cells.max() >= self.rows:
                return False
            if access.space == "activation" and access.cells.size:
                word = access.cells // (2 * c.rows // c.columns) % c.activation_words
                if word.max() >= 2 * self.words:
                    return False
        return True

    def _connect(self, instruction: Instruction, needed: list[int]) -> list[tuple[int, int]] | None:
        """Post semaphores from the instructions `needed`; return the waits, or None when that is not possible."""
        granted = self.order.preview_grant(instruction)
        if not needed:
            return []
        groups = [needed]
        if len(needed) > 1 and self.random.random() < 0.5:
            cut = self.random.randrange(1, len(needed))
            groups = [needed[:cut], needed[cut:]]
        waits: list[tuple[int, int]] = []
        for group in groups:
            count = sum(len(row_completions(self.program[n])) for n in group)
            semaphore = self._free_semaphore(group, [s for s, _ in waits], granted)
            if count > MOST_WAITS or semaphore is None:
                return None
            if any(self.program[n]["post0_en"] and self.program[n]["post1_en"] for n in group):
                return None
            waits.append((semaphore, count))
        for group, (semaphore, _) in zip(groups, waits, strict=True):
            for n in group:
                slot = 1 if self.program[n]["post0_en"] else 0
                posts = {f"post{slot}_en": 1, f"post{slot}_sem": semaphore}
                self.program[n] = replace(self.program[n], values={**self.program[n].values, **posts})
        return waits

    def _free_semaphore(self, group: Sequence[int], taken: Sequence[int], granted: int) -> int | None:
        """Return a semaphore whose last waiter is granted before the new one, and before any of `group` completes."""
        usable = self.config.semaphores - (0 if self.finishing else self.reserved)
        candidates = [s for s in range(usable) if s not in taken]
        self.random.shuffle(candidates)
        for semaphore in candidates:
            waiter = self.last_waiter.get(semaphore)
            if waiter is None:
                return semaphore
            completions = [e for n in group for e in self.order.completions[n]]
            before = granted >> waiter & 1
            if before and all(self.order.grants_before[e] >> waiter & 1 for e in completions):
                return semaphore
        return None


def _instruction(opcode: Opcode, values: dict[str, int]) -> Instruction:
    return Instruction(opcode, {k: v for k, v in values.items() if v})
