# SPDX-License-Identifier: Apache-2.0
"""The one configuration object of the machine: validated, frozen, from a preset name or a TOML file."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from hdl.config_file import ENDING, LONGEST_NAME, ConfigError, is_name, read_sections
from hdl.errors import one_line, shown

__all__ = ["FEEDS", "PRESETS", "ConfigError", "MachineConfig", "field_words", "load_config"]

INSTRUCTION_BYTES = 32
"""Size of one instruction in memory (256 bits)."""

ADDRESS_UNIT = 32
"""Memory addresses in instructions count units of this many bytes."""

MOST_ADDRESS_BITS = 37
"""Largest `address_bits`: instructions hold 32 bits of an address in such units."""


FEEDS = ("vertical", "edge")
"""Values of ``stationary_feed``; the register of the capability holds their number."""


def _log2_ceil(n: int) -> int:
    return max(1, (n - 1).bit_length())


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Everything that the generator, the scheduler and the simulation need to know about one machine.

    All sizes are this project's own choice: the A3D-MoE abstract states none of them.

    Attributes
    ----------
    name : str
        Name of the configuration (preset or file stem), for folders and messages: letters, digits and ``_``, at most
        128 (64 in a file), not a digit first.
    tiers : int
        Array tiers in the stack, 1 to 8.
    rows, columns : int
        PE rows (reduction dimension) and columns (output dimension) of a tier; powers of two, 4 to 256;
        ``rows`` is ``columns`` or twice that.
    stationary_feed : {"vertical", "edge"}
        How stationary words reach the rows. ``vertical``: the V-Cache bank over each row hands the row its whole
        stationary word in one cycle.
        ``edge``: the plain array used as the control; weights shift in from the top edge, ``rows`` cycles a tile,
        overlapped with the previous tile's waves.
    vertical_links : bool
        Whether the three tier-to-tier links (stationary, activation, partial sum) exist. Off: only ``alone`` works.
    k_link_stages : int
        Pipeline registers of the partial-sum link between row R-1 of a tier and row 0 of the next, at least 1.
    vcache_tiles : int
        Stationary tiles (rows x columns bytes) that one tier's V-Cache holds.
    activation_words : int
        Words (``rows`` bytes each) of one tier's activation buffer.
    accumulator_depth : int
        Output rows (``columns`` int32) of one tier's accumulators.
    list_depth : int
        Entries of one tier's token list.
    parameter_words : int
        Requantisation words (``columns`` uint16 multipliers) of one tier.
    combine_rows : int
        Rows (``columns`` int32) of the combine buffer, which is also the vector unit's memory.
    scalar_depth : int
        Scalars (32 bits) of the vector unit: running maxima, sums, reciprocals, chosen experts.
    expert_slots : int
        Entries of the routing table, which is also the most experts that the machine can route tokens to.
    result_lanes : int
        Result rows that the result bus moves per cycle.
    row_fifo_depth : int
        Result rows per tier that may be in flight or wait for the result bus (the drain credits).
    channels_per_group : int
        AXI4 read/write channels in each of the two channel groups; they run in lockstep, striped by beat.
    channel_bytes : int
        Data bytes of one AXI channel, 4 to 128.
    address_bits : int
        Byte-address width of one channel group's memory, 12 to 37; the memory holds at least 16 tiles, so that a
        stream, weights and results have room together.
    burst_beats : int
        Longest AXI burst in beats (power of two, 1 to 256, at most 4 KiB).
    outstanding_bursts : int
        Read bursts in flight per channel group.
    skew_fifo_beats : int
        Depth of the read data buffer of each group; covers the latency spread between groups.
    queue_depth : int
        Entries of each instruction queue.
    semaphores : int
        Counting semaphores, 8 to 64, at least one for each instruction queue (``tiers + 4``): a queue that shares one
        with another may take the posts that the other waits for.
    semaphore_bits : int
        Width of a semaphore counter; overflow is an error.
    """

    name: str
    tiers: int
    rows: int
    columns: int
    stationary_feed: Literal["vertical", "edge"] = "vertical"
    vertical_links: bool = True
    k_link_stages: int = 1
    vcache_tiles: int = 1024
    activation_words: int = 4096
    accumulator_depth: int = 256
    list_depth: int = 512
    parameter_words: int = 512
    combine_rows: int = 4096
    scalar_depth: int = 1024
    expert_slots: int = 64
    result_lanes: int = 2
    row_fifo_depth: int = 96
    channels_per_group: int = 1
    channel_bytes: int = 32
    address_bits: int = 34
    burst_beats: int = 16
    outstanding_bursts: int = 8
    skew_fifo_beats: int = 128
    queue_depth: int = 32
    semaphores: int = 64
    semaphore_bits: int = 8

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ConfigError
            One line naming the field, its value, what is allowed and how to fix it.
        """
        for each in dataclasses.fields(self):
            self._check_type(each.name, str(each.type))
        if not is_name(self.name):
            raise ConfigError(
                f"config name: {shown(self.name)} is not an identifier; use 1 to {LONGEST_NAME} letters (a to z, A to "
                "Z), digits and '_', not a digit first"
            )
        self._check_range("tiers", 1, 8)
        for field in ("rows", "columns"):
            self._check_power(field, 4, 256)
        if self.rows not in (self.columns, 2 * self.columns):
            raise ConfigError(
                f"config rows: {self.rows} with columns {self.columns}; rows must be columns or 2 x columns: "
                f"set rows to {self.columns} or {2 * self.columns}"
            )
        if self.stationary_feed not in FEEDS:
            raise ConfigError(f"config stationary_feed: {shown(self.stationary_feed)}; use 'vertical' or 'edge'")
        self._check_range("k_link_stages", 1, 16)
        for field, low, high in (
            ("vcache_tiles", 4, 1 << 16),
            ("activation_words", 16, 1 << 16),
            ("accumulator_depth", 4, 1 << 10),
            ("list_depth", 4, 1 << 12),
            ("parameter_words", 4, 1 << 12),
            ("combine_rows", 8, 1 << 16),
            ("scalar_depth", 16, 1 << 12),
            ("expert_slots", 2, 1 << 8),
            ("channels_per_group", 1, 16),
            ("channel_bytes", 4, 128),
            ("burst_beats", 1, 256),
            ("skew_fifo_beats", 4, 4096),
            ("queue_depth", 2, 64),
            ("semaphores", 8, 64),
        ):
            self._check_power(field, low, high)
        self._check_range("result_lanes", 1, self.tiers)
        if not _power_of_two(self.result_lanes):
            raise ConfigError(f"config result_lanes: {self.result_lanes}; use a power of two up to tiers")
        least = self.tiers * self.skew_k + 16
        self._check_range("row_fifo_depth", least, 4096)
        self._check_range("address_bits", 12, MOST_ADDRESS_BITS)
        self._check_range("outstanding_bursts", 1, 64)
        self._check_range("semaphore_bits", 4, 16)
        if self.burst_beats * self.channel_bytes > 4096:
            raise ConfigError(
                f"config burst_beats: {self.burst_beats} beats of {self.channel_bytes} bytes exceed AXI's 4 KiB; "
                f"use at most {4096 // self.channel_bytes}"
            )
        if self.burst_beats > self.skew_fifo_beats:
            raise ConfigError(
                f"config skew_fifo_beats: {self.skew_fifo_beats} is less than a burst of {self.burst_beats} beats; "
                f"use at least {self.burst_beats}"
            )
        if self.fill_bytes % self.columns or self.rows % self.fill_rows:
            raise ConfigError(
                f"config channel_bytes: 2 x {self.group_bytes} bytes a cycle must be 1 to {self.rows} whole rows of "
                f"{self.columns} columns; set channels_per_group x channel_bytes between {max(4, self.columns // 2)} "
                f"and {self.rows * self.columns // 4}"
            )
        queues = self.tiers + 4
        if self.semaphores < queues:
            raise ConfigError(
                f"config semaphores: {self.semaphores} with tiers {self.tiers}; each of the {queues} instruction "
                f"queues needs one to wait for: use at least {1 << (queues - 1).bit_length()}"
            )
        if 16 * self.tile_bytes > 1 << self.address_bits:
            raise ConfigError(
                f"config address_bits: {self.address_bits}; a group's memory must hold at least 16 tiles of "
                f"{self.tile_bytes} bytes: use at least {(16 * self.tile_bytes - 1).bit_length()}"
            )
        if self.fill_words < 2:
            raise ConfigError(
                f"config channel_bytes: a tile of {self.tile_bytes} bytes must take at least two fill words of "
                f"{self.fill_bytes}; set channels_per_group x channel_bytes to at most {self.tile_bytes // 4}"
            )

    def _check_type(self, field: str, kind: str) -> None:
        """Refuse a value of another type than the field's, and let equal values be one: NumPy's integers become int.

        Types are exact because a configuration is compared, hashed and written by value: ``1`` or ``"false"`` in the
        place of a boolean would build one machine and describe another.
        """
        value = getattr(self, field)
        if kind == "bool":
            if not isinstance(value, bool):
                raise ConfigError(f"config {field}: {shown(value)}; use true or false")
        elif kind == "int":
            if isinstance(value, Integral) and not isinstance(value, bool):
                object.__setattr__(self, field, int(value))
        elif not isinstance(value, str):
            use = "'vertical' or 'edge'" if field == "stationary_feed" else "a text in quotes"
            raise ConfigError(f"config {field}: {shown(value)}; use {use}")
        else:
            object.__setattr__(self, field, str(value))

    def _check_range(self, field: str, low: int, high: int) -> None:
        value = getattr(self, field)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ConfigError(f"config {field}: {shown(value)}; use an integer from {low} to {high}")

    def _check_power(self, field: str, low: int, high: int) -> None:
        self._check_range(field, low, high)
        value = getattr(self, field)
        if not _power_of_two(value):
            below = 1 << (value.bit_length() - 1)
            raise ConfigError(f"config {field}: {value}; use a power of two from {low} to {high}, such as {below}")

    # Derived sizes, each computed once.

    @cached_property
    def pes(self) -> int:
        """Number of processing elements in the stack."""
        return self.tiers * self.rows * self.columns

    @cached_property
    def tile_bytes(self) -> int:
        """Bytes of one stationary tile in V-Cache."""
        return self.rows * self.columns

    @cached_property
    def plane_bytes(self) -> int:
        """Bytes of one nibble plane of a tile in memory."""
        return self.tile_bytes // 2

    @cached_property
    def group_bytes(self) -> int:
        """Bytes per cycle (one beat) of one channel group."""
        return self.channels_per_group * self.channel_bytes

    @cached_property
    def peak_bytes(self) -> int:
        """Bytes per cycle that both channel groups read at their peak."""
        return 2 * self.group_bytes

    @cached_property
    def fill_bytes(self) -> int:
        """Stationary bytes of one fill word: one beat of nibbles expands to twice its bytes."""
        return 2 * self.group_bytes

    @cached_property
    def fill_rows(self) -> int:
        """V-Cache rows (banks) that one fill word covers."""
        return self.fill_bytes // self.columns

    @cached_property
    def fill_words(self) -> int:
        """Fill words per tile."""
        return self.rows // self.fill_rows

    @cached_property
    def skew_k(self) -> int:
        """Cycles between a wave at row 0 of a tier and the same wave at row 0 of the tier above, K mapping."""
        return self.rows + self.k_link_stages

    @cached_property
    def parameter_parts(self) -> int:
        """Write-bus words (``rows`` bytes) that make up one requantisation word of 2 x ``columns`` bytes."""
        return 2 * self.columns // self.rows

    # Address widths in bits.

    @cached_property
    def vcache_bits(self) -> int:
        """Width of a V-Cache tile index."""
        return _log2_ceil(self.vcache_tiles)

    @cached_property
    def activation_bits(self) -> int:
        """Width of an activation word address."""
        return _log2_ceil(self.activation_words)

    @cached_property
    def accumulator_bits(self) -> int:
        """Width of an accumulator address."""
        return _log2_ceil(self.accumulator_depth)

    @cached_property
    def list_bits(self) -> int:
        """Width of a token-list address."""
        return _log2_ceil(self.list_depth)

    @cached_property
    def parameter_bits(self) -> int:
        """Width of a requantisation word address."""
        return _log2_ceil(self.parameter_words)

    @cached_property
    def combine_bits(self) -> int:
        """Width of a combine-buffer row address."""
        return _log2_ceil(self.combine_rows)

    @cached_property
    def bank_rows(self) -> int:
        """Rows of one bank of the combine buffer; row r lies in bank ``r % result_lanes``."""
        return max(2, self.combine_rows // self.result_lanes)

    @cached_property
    def bank_bits(self) -> int:
        """Width of a row address within a bank."""
        return _log2_ceil(self.bank_rows)

    @cached_property
    def scalar_bits(self) -> int:
        """Width of a scalar's address."""
        return _log2_ceil(self.scalar_depth)

    @cached_property
    def slot_bits(self) -> int:
        """Width of a slot's or an expert's number."""
        return _log2_ceil(self.expert_slots)

    @cached_property
    def fill_word_bits(self) -> int:
        """Width of the number of a fill word in its tile."""
        return _log2_ceil(self.fill_words)

    @cached_property
    def write_bits(self) -> int:
        """Width of a write-bus address: an activation word, or a part of a requantisation word."""
        return max(self.activation_bits, self.parameter_bits + (self.parameter_parts - 1).bit_length())

    @cached_property
    def position_bits(self) -> int:
        """Width of the place where a word of the load path goes: a word of a tile, or an address of another memory."""
        return max(self.vcache_bits + self.fill_word_bits, self.write_bits, self.list_bits, self.combine_bits)

    @cached_property
    def semaphore_id_bits(self) -> int:
        """Width of a semaphore number."""
        return _log2_ceil(self.semaphores)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary in declaration order."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON of all fields but the name (hexadecimal)."""
        fields = {k: v for k, v in self.to_dict().items() if k != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def replace(self, **changes: Any) -> MachineConfig:
        """Return a copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)


def field_words() -> dict[str, str]:
    """Return for each field what it is, in one line: the beginning of what `MachineConfig` says about it."""
    sections = re.split(r"^(\w+(?:, \w+)*) : .*$", inspect.cleandoc(MachineConfig.__doc__ or ""), flags=re.MULTILINE)
    words: dict[str, str] = {}
    for names, text in zip(sections[1::2], sections[2::2], strict=True):
        first = re.split(r"[;:.](?:\s|$)", " ".join(text.replace("``", "").split()))[0]
        words |= {name: first[:1].lower() + first[1:] if first[1:2].islower() else first for name in names.split(", ")}
    return {each.name: words.get(each.name, each.name) for each in dataclasses.fields(MachineConfig)}


def _preset(name: str, tiers: int, side: int, **sizes: Any) -> MachineConfig:
    return MachineConfig(name=name, tiers=tiers, rows=side, columns=side, **sizes)


def _presets() -> dict[str, MachineConfig]:
    return {
        "nano": _preset(
            "nano", 1, 4, vcache_tiles=64, activation_words=256, accumulator_depth=32, list_depth=64,
            parameter_words=64, combine_rows=256, scalar_depth=64, expert_slots=8, result_lanes=1, row_fifo_depth=32,
            channel_bytes=4, address_bits=24, burst_beats=8, outstanding_bursts=4, skew_fifo_beats=32, queue_depth=4,
            semaphores=16,
        ),
        "tiny": _preset(
            "tiny", 2, 8, vcache_tiles=256, activation_words=512, accumulator_depth=64, list_depth=128,
            parameter_words=128, combine_rows=512, scalar_depth=256, expert_slots=16, result_lanes=1, row_fifo_depth=64,
            channel_bytes=4, address_bits=28, burst_beats=16, outstanding_bursts=8, skew_fifo_beats=128, queue_depth=4,
            semaphores=32,
        ),
        "small": _preset("small", 4, 16),
        "medium": _preset(
            "medium", 4, 64, vcache_tiles=2048, activation_words=8192, list_depth=2048, parameter_words=1024,
            combine_rows=8192, row_fifo_depth=4 * (64 + 1) + 60, channels_per_group=4, channel_bytes=128,
            address_bits=36, outstanding_bursts=16, skew_fifo_beats=256,
        ),
        "large": _preset(
            "large", 4, 128, activation_words=1 << 16, list_depth=4096, parameter_words=1024, combine_rows=1 << 16,
            scalar_depth=4096, expert_slots=256, row_fifo_depth=4 * (128 + 1) + 60, channels_per_group=16,
            channel_bytes=128, address_bits=37, burst_beats=16, outstanding_bursts=16, skew_fifo_beats=256,
            result_lanes=2, semaphore_bits=12,
        ),
    }  # fmt: skip


PRESETS: Mapping[str, MachineConfig] = _presets()
"""Named configurations. `small` keeps 16 MACs per byte of memory bandwidth, as do `tiny`, `medium` and `large`; `nano`
has one MAC array so small that the narrowest useful AXI channel (4 bytes) gives it 2.

`medium` is for the widths of a published model (OLMoE: hidden 2,048, 16 heads of 128, experts of 1,024) where memory
outruns the edge feed (1,024 bytes a cycle, of which the control takes in 256), in a size that Verilator can simulate.
Its sizes for two layers of that model, decode of 8 and prefill of 64 tokens: an expert is 384 tiles in each of the
four tiers, so that 2,048 tiles hold the attention matrices of a layer (1,024) and two experts while another loads; a
token's hidden state is 32 activation words and 32 combine rows, so that 8,192 of each hold four rows of it for each of
64 tokens; 64 tokens with 8 choices are 512 list entries of four loads in flight; an expert's multipliers are 16 words
a tier. What a simulation has to hold of it is 40 MB."""


def load_config(name_or_path: str | Path) -> MachineConfig:
    """Return a preset, or read a TOML file of fields (``preset = "small"`` names the base; others override).

    A file with sections describes a whole system (`scheduler.system`); its machine is the section ``[machine]``.

    Parameters
    ----------
    name_or_path : str or Path
        A preset's name, or the path of a TOML file.

    Raises
    ------
    ConfigError
        Unknown name, unreadable file, unknown field or a value that is not allowed.
    """
    text = str(name_or_path)
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    if not path.name.lower().endswith(ENDING):
        raise ConfigError(
            f"config: {shown(text)} is no preset; use one of {', '.join(PRESETS)} or a path to a {ENDING} file"
        )
    values, file = read_sections(path)["machine"], one_line(path)
    base_name = values.pop("preset", None)
    if base_name is not None and (not isinstance(base_name, str) or base_name not in PRESETS):
        raise ConfigError(f"config preset: {shown(base_name)} in {file}; use one of {', '.join(PRESETS)}")
    known = [f.name for f in dataclasses.fields(MachineConfig)]
    for key in values:
        if key not in known:
            field = key if is_name(key) else shown(key)
            raise ConfigError(f"config {field}: no such field (in {file}); use one of {', '.join(known)}")
    if base_name is not None:
        return PRESETS[base_name].replace(**values)
    missing = [f for f in ("tiers", "rows", "columns") if f not in values]
    if missing:
        raise ConfigError(f'config {missing[0]}: missing in {file}; set it, or name a base with preset = "small"')
    return MachineConfig(**values)
