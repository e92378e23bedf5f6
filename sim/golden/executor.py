# SPDX-License-Identifier: Apache-2.0
"""The instruction executor: what a stream does, one instruction at a time in program order, in NumPy.

It knows nothing of time. The machine runs its queues concurrently; for a stream whose hazards are ordered by
semaphores and tags (``scheduler.verify`` proves that) memory ends up byte for byte as this model leaves it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.asm import split_words, to_binary
from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.errors import A3dError
from hdl.errors_hw import ErrorCode
from hdl.isa import (
    INSTRUCTION_BITS,
    Dest,
    Format,
    Instruction,
    LoadDest,
    Mapping3D,
    Mode,
    Opcode,
    Order,
    StoreFormat,
    decode,
)
from hdl.legality import (
    Limits,
    Violation,
    beats,
    check_word,
    gang_tiers,
    load_groups,
    load_unit_bytes,
    store_bytes,
    tiers_of_mask,
)
from hdl.numerics import merge_nibbles, requant, store_convert, swiglu, wrap

__all__ = ["DeadlockError", "ExecutionError", "Executor", "RunReport", "UninitialisedError"]

Int = npt.NDArray[np.int64]


class ExecutionError(A3dError):
    """The machine would stop with an error code.

    Attributes
    ----------
    code : ErrorCode
        Value of the error register.
    pc : int
        Index of the instruction in its stream.
    address : int
        Memory address in bytes, 0 when none is involved.
    """

    def __init__(self, code: ErrorCode, pc: int, address: int, message: str) -> None:
        super().__init__(f"instruction {pc}: {code.name}: {message}")
        self.code = code
        self.pc = pc
        self.address = address


class DeadlockError(A3dError):
    """A wait that the instructions before it do not satisfy (the machine's watchdog would fire)."""


class UninitialisedError(A3dError):
    """An instruction reads something that nothing has written (checked in strict mode only)."""


@dataclass(frozen=True)
class RunReport:
    """What a run left behind beside memory.

    Attributes
    ----------
    instructions : int
        Instructions executed, END included.
    semaphores_left : dict of int to int
        Semaphores that are not zero at END, with their counts: a hint of a post that nobody waited for.
    """

    instructions: int
    semaphores_left: dict[int, int]


class Executor:
    """The machine's state and its instructions.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    memory : sequence of two bytes-like, optional
        Initial contents of the two groups' memories; copied.
    limits : Limits, optional
        Memory limits; without them, loads may read all of `memory` and stores may write all of it.
    strict : bool
        Raise `UninitialisedError` when on-chip memory is read that was never written.

    Attributes
    ----------
    memory : list of two uint8 arrays
        The groups' memories.
    vcache : int8 array [tiers, vcache_tiles, rows, columns]
        Stationary tiles.
    tags : int16 array [tiers, vcache_tiles]
        Fill tag, or -1 for an invalid tile.
    activation : int8 array [tiers, activation_words, rows]
        Activation buffers.
    lists : uint16 array [tiers, list_depth, 4]
        Token lists: source, dest, gate, flags (bit 0: drop).
    parameters : uint16 array [tiers, parameter_words, columns]
        Requantisation multipliers.
    combine : int32 array [combine_rows, columns]
        Combine buffer.
    semaphores : int64 array [semaphores]
        Counters.
    counters : Counter
        Performance counters by the names of ``hdl.regs``, those that do not depend on time; and ``macs``,
        ``read_bytes_<format>``, ``write_bytes`` (exact bytes, without the rest of a last beat).
    """

    def __init__(
        self,
        config: MachineConfig,
        memory: Sequence[bytes | npt.NDArray[np.uint8]] = (b"", b""),
        limits: Limits | None = None,
        *,
        strict: bool = False,
    ) -> None:
        c = self.config = config
        self.memory = [np.frombuffer(bytes(m), dtype=np.uint8).copy() for m in memory]
        sizes = (self.memory[0].size, self.memory[1].size)
        self.limits = limits or Limits(sizes, ((0, sizes[0]), (0, sizes[1])))
        self.strict = strict
        self.vcache = np.zeros((c.tiers, c.vcache_tiles, c.rows, c.columns), dtype=np.int8)
        self.tags = np.full((c.tiers, c.vcache_tiles), -1, dtype=np.int16)
        self.activation = np.zeros((c.tiers, c.activation_words, c.rows), dtype=np.int8)
        self.lists = np.zeros((c.tiers, c.list_depth, 4), dtype=np.uint16)
        self.parameters = np.zeros((c.tiers, c.parameter_words, c.columns), dtype=np.uint16)
        self.combine = np.zeros((c.combine_rows, c.columns), dtype=np.int32)
        self.semaphores = np.zeros(c.semaphores, dtype=np.int64)
        self.counters: Counter[str] = Counter()
        self._known = {
            "activation byte": np.zeros(self.activation.shape, dtype=bool),
            "list entry": np.zeros(self.lists.shape[:2], dtype=bool),
            "requantisation word": np.zeros(self.parameters.shape[:2], dtype=bool),
            "combine row": np.zeros(self.combine.shape[:1], dtype=bool),
        }

    # Running.

    def run(self, stream: bytes | Iterable[Instruction]) -> RunReport:
        """Execute a stream up to its END; on-chip memories keep their contents from earlier runs.

        Raises
        ------
        ExecutionError
            What the machine reports; a stream without END runs into zero words (ILLEGAL_OPCODE).
        DeadlockError
            A wait that is not satisfied in program order.
        """
        words = split_words(stream if isinstance(stream, bytes) else to_binary(stream))
        self.semaphores[:] = 0
        pc = 0
        while True:
            word = words[pc] if pc < len(words) else bytes(INSTRUCTION_BITS // 8)
            try:
                if self.step(word, pc):
                    break
            except ExecutionError:
                self.tags[:] = -1  # the soft reset sweeps the tags; memories stay
                raise
            pc += 1
        left = {int(s): int(self.semaphores[s]) for s in np.flatnonzero(self.semaphores)}
        return RunReport(pc + 1, left)

    def step(self, word: bytes, pc: int) -> bool:
        """Execute one instruction; return True for END."""
        wrong = check_word(word, self.config, self.limits)
        if wrong is not None:
            raise self._error(wrong, pc)
        instruction = decode(word)
        self.counters["instructions"] += 1
        self._wait(instruction, pc)
        posts = 1
        if instruction.opcode == Opcode.LOAD:
            self._load(instruction)
        elif instruction.opcode == Opcode.STORE:
            self._store(instruction, pc)
        elif instruction.opcode == Opcode.GEMM:
            posts = self._gemm(instruction, pc)
        self._post(instruction, pc, posts)
        return instruction.opcode == Opcode.END

    def _error(self, wrong: Violation, pc: int) -> ExecutionError:
        return ExecutionError(wrong.code, pc, wrong.address, wrong.message)

    def _wait(self, instruction: Instruction, pc: int) -> None:
        for n in (0, 1):
            semaphore, count = instruction[f"wait{n}_sem"], instruction[f"wait{n}_count"]
            if count and self.semaphores[semaphore] < count:
                raise DeadlockError(
                    f"instruction {pc} ({instruction.opcode.name}) waits for {count} of semaphore {semaphore}, which "
                    f"holds {self.semaphores[semaphore]}: nothing before it in the stream posts the rest"
                )
            if count:
                self.semaphores[semaphore] -= count

    def _post(self, instruction: Instruction, pc: int, times: int) -> None:
        for n in (0, 1):
            if instruction[f"post{n}_en"]:
                semaphore = instruction[f"post{n}_sem"]
                self.semaphores[semaphore] += times
                if self.semaphores[semaphore] >> self.config.semaphore_bits:
                    most = (1 << self.config.semaphore_bits) - 1
                    raise ExecutionError(ErrorCode.SEMAPHORE, pc, 0, f"semaphore {semaphore} counts beyond {most}")

    def _need(self, what: str, pc: int, tier: int | None, index: Any) -> None:
        if not self.strict:
            return
        known = self._known[what] if tier is None else self._known[what][tier]
        if not known[index].all():
            where = "" if tier is None else f" of tier {tier}"
            raise UninitialisedError(f"instruction {pc}: {what}{where} is read but never written")

    # Instructions.

    def _load(self, instruction: Instruction) -> None:
        c = self.config
        kind, count = LoadDest(instruction["dest_kind"]), instruction["count"]
        n_bytes = count * load_unit_bytes(instruction, c)
        planes = []
        for group, start in load_groups(instruction):
            planes.append(self.memory[group][start : start + n_bytes])
            self.counters[f"read_beats_{group}"] += beats(n_bytes, c)
            self.counters[f"read_bytes_{Format(instruction['format']).name.lower()}"] += n_bytes
        base = instruction["dest_base"]
        for tier in tiers_of_mask(instruction["dest_tiers"]):
            if kind == LoadDest.VCACHE:
                self.vcache[tier, base : base + count] = self._tiles(instruction, planes)
                self.tags[tier, base : base + count] = instruction["tag"]
            elif kind == LoadDest.ACTIVATION:
                self.activation[tier, base : base + count] = planes[0].view(np.int8).reshape(count, c.rows)
                self._known["activation byte"][tier, base : base + count] = True
            elif kind == LoadDest.LIST:
                entries = planes[0].copy().view("<u2").reshape(count, 4)
                self.lists[tier, base : base + count] = entries
                self._known["list entry"][tier, base : base + count] = True
            else:
                self.parameters[tier, base : base + count] = planes[0].copy().view("<u2").reshape(count, c.columns)
                self._known["requantisation word"][tier, base : base + count] = True
        if kind == LoadDest.VCACHE:
            self.counters["fill_words"] += count * c.fill_words

    def _tiles(self, instruction: Instruction, planes: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int8]:
        shape = (instruction["count"], self.config.rows, self.config.columns)
        if instruction["format"] == Format.BYTES:
            return planes[0].view(np.int8).reshape(shape)
        high = _nibbles(planes[0])
        low = _nibbles(planes[1]) if instruction["format"] == Format.PAIR else np.zeros_like(high)
        return merge_nibbles(high, low).astype(np.int8).reshape(shape)

    def _store(self, instruction: Instruction, pc: int) -> None:
        rows = slice(instruction["row_base"], instruction["row_base"] + instruction["rows"])
        form = StoreFormat(instruction["format"])
        if form != StoreFormat.DISCARD:
            self._need("combine row", pc, None, rows)
            dtype = {StoreFormat.INT8: "<i1", StoreFormat.INT16: "<i2", StoreFormat.INT32: "<i4"}[form]
            elements = store_convert(self.combine[rows], instruction["shift"], form).astype(dtype)
            start, group = instruction["addr"] * ADDRESS_UNIT, instruction["group"]
            n_bytes = store_bytes(instruction, self.config)
            self.memory[group][start : start + n_bytes] = elements.reshape(-1).view(np.uint8)
            self.counters[f"write_beats_{group}"] += beats(n_bytes, self.config)
            self.counters["write_bytes"] += n_bytes
        if instruction["clear"]:
            self.combine[rows] = 0
            self._known["combine row"][rows] = True

    def _gemm(self, instruction: Instruction, pc: int) -> int:
        """Execute a GEMM; return how many times it posts."""
        c = self.config
        tiers = gang_tiers(instruction)
        mapping = Mapping3D(instruction["mapping"]) if len(tiers) > 1 else Mapping3D.ALONE
        tokens, k_slices, n_tiles = (instruction[n] for n in ("tokens", "k_slices", "n_tiles"))
        owners = tiers[:1] if mapping == Mapping3D.M else tiers
        weights = {tier: self._stationary(instruction, tier, pc) for tier in owners}
        readers = tiers[:1] if mapping == Mapping3D.N else tiers
        acts = {tier: self._activations(instruction, tier, pc) for tier in readers}
        if mapping == Mapping3D.K:
            total = sum(_product(acts[tier], weights[tier]) for tier in tiers)
            makers = {tiers[-1]: wrap(np.asarray(total), 32)}
        else:
            makers = {
                tier: wrap(_product(acts.get(tier, acts[tiers[0]]), weights.get(tier, weights[tiers[0]])), 32)
                for tier in tiers
            }
        for tier, acc in makers.items():
            place = tier - tiers[0]
            rows = self._drain(instruction, tier, acc, pc)
            tile = place * n_tiles if mapping == Mapping3D.N else 0
            spread = not instruction["dest_list"] and (
                instruction["dest_kind"] == Dest.COMBINE or instruction["dest_tiers"] != 0
            )
            token = place * tokens if mapping == Mapping3D.M and spread else 0
            self._deliver(instruction, tier, rows, token, tile, pc)
        for tier in tiers:
            self.counters[f"tier{tier}_wave"] += tokens * k_slices * n_tiles
            if tier in owners:
                self.counters[f"tier{tier}_new_own"] += k_slices * n_tiles
            if tier != tiers[0]:
                link = {Mapping3D.M: "link_m", Mapping3D.N: "link_n", Mapping3D.K: "link_k"}[mapping]
                waves = k_slices * n_tiles * (1 if mapping == Mapping3D.M else tokens)
                self.counters[f"tier{tier}_{link}"] += waves
        self.counters["macs"] += tokens * k_slices * c.rows * n_tiles * c.columns * len(tiers)
        self.counters["rows"] += tokens * n_tiles * len(makers)
        return len(makers)

    def _stationary(self, instruction: Instruction, tier: int, pc: int) -> npt.NDArray[np.int8]:
        """Return a tier's tiles as one matrix [k_slices * R, n_tiles * C], after checking their tags."""
        k_slices, n_tiles, base = instruction["k_slices"], instruction["n_tiles"], instruction["vcache_base"]
        tiles = slice(base, base + k_slices * n_tiles)
        stale = np.flatnonzero(self.tags[tier, tiles] != instruction["tag"])
        if stale.size:
            tag = int(self.tags[tier, base + stale[0]])
            state = "is not valid" if tag < 0 else f"has tag {tag}"
            text = f"tile {base + stale[0]} of tier {tier} {state}; tag {instruction['tag']} is needed"
            raise ExecutionError(ErrorCode.VCACHE_MISS, pc, 0, text)
        block = self.vcache[tier, tiles]
        if instruction["order"] == Order.K_INNER:
            block = block.reshape(n_tiles, k_slices, *block.shape[1:]).transpose(1, 2, 0, 3)
        else:
            block = block.reshape(k_slices, n_tiles, *block.shape[1:]).transpose(0, 2, 1, 3)
        result: npt.NDArray[np.int8] = block.reshape(k_slices * self.config.rows, n_tiles * self.config.columns)
        return result

    def _entries(self, instruction: Instruction, tier: int, pc: int) -> npt.NDArray[np.uint16]:
        rows = slice(instruction["list_base"], instruction["list_base"] + instruction["tokens"])
        self._need("list entry", pc, tier, rows)
        return self.lists[tier, rows]

    def _activations(self, instruction: Instruction, tier: int, pc: int) -> npt.NDArray[np.int8]:
        """Return a tier's activations as one matrix [tokens, k_slices * R]."""
        if instruction["act_list"]:
            source = self._entries(instruction, tier, pc)[:, 0].astype(np.int64)
        else:
            source = np.arange(instruction["tokens"]) * instruction["act_stride"]
        words = instruction["act_base"] + source[:, None] + np.arange(instruction["k_slices"])
        self._in_range(words, self.config.activation_words, "activation word", pc)
        self._need("activation byte", pc, tier, words)
        acts: npt.NDArray[np.int8] = self.activation[tier, words].reshape(instruction["tokens"], -1)
        return acts

    def _in_range(self, index: Int, depth: int, what: str, pc: int) -> None:
        if index.size and index.max() >= depth:
            raise ExecutionError(ErrorCode.RANGE, pc, 0, f"{what} {index.max()} through the token list; has {depth}")

    def _drain(self, instruction: Instruction, tier: int, acc: Int, pc: int) -> Int:
        """Return finished rows [tokens, n_tiles, elements] from accumulators [tokens, n_tiles * C]."""
        tokens, n_tiles, half = instruction["tokens"], instruction["n_tiles"], self.config.columns // 2
        words = slice(instruction["param_base"], instruction["param_base"] + n_tiles)
        self._need("requantisation word", pc, tier, words)
        mult, acc = self.parameters[tier, words], acc.reshape(tokens, n_tiles, self.config.columns)
        mode, shift = Mode(instruction["mode"]), instruction["shift"]
        if mode == Mode.SWIGLU:
            return swiglu(
                acc[..., :half], acc[..., half:], mult[:, :half], mult[:, half:], shift,
                instruction["post_mult"], instruction["post_shift"],
            )  # fmt: skip
        return requant(acc, mult, shift, 8 if mode == Mode.REQUANT8 else 16)

    def _deliver(self, instruction: Instruction, tier: int, rows: Int, token: int, tile: int, pc: int) -> None:
        """Write rows [tokens, n_tiles, elements]; `token` and `tile` are the first row's global numbers."""
        c = self.config
        tokens, n_tiles, elements = rows.shape
        gate = np.ones(tokens, dtype=np.int64)
        keep = np.ones(tokens, dtype=bool)
        if instruction["dest_list"]:
            entries = self._entries(instruction, tier, pc)
            offset, gate, keep = entries[:, 1].astype(np.int64), entries[:, 2].astype(np.int64), entries[:, 3] & 1 == 0
        else:
            offset = (token + np.arange(tokens)) * instruction["dest_stride"]
        base = (instruction["dest_base"] + offset)[keep, None]
        number = tile + np.arange(n_tiles)
        written = int(keep.sum()) * n_tiles
        if instruction["dest_kind"] == Dest.COMBINE:
            index = base + number
            self._in_range(index, c.combine_rows, "combine row", pc)
            # Rows leave the array tile by tile, tokens inside: the order matters only when a stream overwrites a row.
            flat = index.T.reshape(-1)
            values = (gate[keep, None, None] * rows[keep]).swapaxes(0, 1).reshape(-1, elements)
            if instruction["accumulate"]:
                self._need("combine row", pc, None, flat)
                total = self.combine.astype(np.int64)
                np.add.at(total, flat, values)
                self.combine[:] = wrap(total, 32).astype(np.int32)
            else:
                self.combine[flat] = wrap(values, 32).astype(np.int32)
                self._known["combine row"][flat] = True
            self.counters["rows_combine"] += written
            return
        word = base + number * elements // c.rows
        self._in_range(word, c.activation_words, "activation word", pc)
        lane = (number * elements % c.rows)[:, None] + np.arange(elements)
        for target in tiers_of_mask(instruction["dest_tiers"]) or [tier]:
            self.activation[target, word[:, :, None], lane] = rows[keep]
            self._known["activation byte"][target, word[:, :, None], lane] = True
        self.counters["rows_activation"] += written


def _product(acts: npt.NDArray[np.int8], weights: npt.NDArray[np.int8]) -> Int:
    """Return the exact product: float64 holds sums of int8 products up to 2**53, and has a fast routine."""
    product: Int = (acts.astype(np.float64) @ weights.astype(np.float64)).astype(np.int64)
    return product


def _nibbles(plane: npt.NDArray[np.uint8]) -> Int:
    """Return the signed nibbles of a plane: bits 3..0 first."""
    values = np.stack([plane & 15, plane >> 4], axis=-1).reshape(-1).astype(np.int64)
    return np.where(values > 7, values - 16, values)
