# SPDX-License-Identifier: Apache-2.0
"""The register map, defined once: the AXI4-Lite block, C header, manifest and host driver derive from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

from hdl.capabilities import capabilities
from hdl.config import MachineConfig
from hdl.isa.error_codes import ERROR_CODE_BITS, ErrorCode

__all__ = [
    "COUNTER_BASE", "COUNTER_BITS", "EXHAUSTIVE", "GLOBAL_COUNTERS", "TIER_COUNTERS", "Register",
    "RegisterField", "counter_names", "exhaustive_counters", "register_map",
    "traced_counters",
]  # fmt: skip

COUNTER_BASE = 0x400
"""Byte offset of the first performance counter; each takes 8 bytes (low word first)."""

COUNTER_BITS = 40
"""Width of a performance counter."""

Access = Literal["ro", "rw", "wo", "w1c"]


@dataclass(frozen=True)
class RegisterField:
    """One field of a register: bits ``lsb`` to ``lsb + width - 1``.

    Attributes
    ----------
    name, doc : str
        Name in the C header, and one line.
    lsb, width : int
        Where it is.
    enum : type of IntEnum, optional
        Names of the values.
    """

    name: str
    lsb: int
    width: int
    doc: str
    enum: type[IntEnum] | None = None

    @property
    def bits(self) -> slice:
        """The field's bits, for slicing a value."""
        return slice(self.lsb, self.lsb + self.width)

    @property
    def mask(self) -> int:
        """The field's bits, all set."""
        return (1 << self.width) - 1 << self.lsb

    def to_dict(self) -> dict[str, Any]:
        """Return the field as plain data for the manifest."""
        values = {} if self.enum is None else {"values": {member.name: int(member) for member in self.enum}}
        return {"name": self.name, "lsb": self.lsb, "width": self.width, "doc": self.doc, **values}


@dataclass(frozen=True)
class Register:
    """One 32-bit register.

    Attributes
    ----------
    name : str
        Name in the C header.
    offset : int
        Byte offset, a multiple of 4.
    access : {"ro", "rw", "wo", "w1c"}
        Read only, read/write, write only (reads as zero), or write ones to clear.
    doc : str
        One line.
    fields : tuple of RegisterField
        Bit fields; empty means one 32-bit value.
    value : int, optional
        Constant of a capability register.
    """

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[RegisterField, ...] = ()
    value: int | None = None

    @property
    def width(self) -> int:
        """Bits up to the last field."""
        return max((field.lsb + field.width for field in self.fields), default=32)

    @property
    def reset(self) -> int | None:
        """Value after a reset; None: what the machine then reports."""
        return 0 if self.value is None and self.access != "ro" else self.value

    def __getitem__(self, name: str) -> RegisterField:
        """Return a field by name."""
        return {field.name: field for field in self.fields}[name]

    def mask(self, *names: str) -> int:
        """Return the bits of some fields, all set."""
        return sum(self[name].mask for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Return the register as plain data for the manifest."""
        return {
            "name": self.name,
            "offset": self.offset,
            "access": self.access,
            "doc": self.doc,
            "value": self.value,
            "reset": self.reset,
            "fields": [field.to_dict() for field in self.fields],
        }


TIER_COUNTERS: tuple[tuple[str, str], ...] = (
    ("wave", "waves issued (rows x columns MACs each)"),
    ("new_own", "V-Cache tiles read (rows x columns bytes each)"),
    ("link_m", "tiles taken through the stationary link (M mapping)"),
    ("link_n", "waves that took activations through the activation link (N mapping)"),
    ("link_k", "waves that took partial sums through the partial-sum link (K mapping)"),
    ("stall_tag", "cycles an operation waited for a tile that is still being loaded"),
    ("stall_credit", "cycles an operation waited for room in the result FIFO"),
    ("stall_edge", "cycles an operation waited for the edge feed to shift a tile in"),
    ("wait_semaphore", "cycles without a running operation, the next one waiting for semaphores"),
    ("wait_gang", "cycles without a running operation, waiting for the other tiers of the gang"),
    ("idle", "cycles without an instruction"),
)
"""Per-tier performance counters; exactly one of ``wave`` and the counters from ``stall_tag`` on counts each cycle."""

GLOBAL_COUNTERS: tuple[tuple[str, str], ...] = (
    ("cycles", "cycles from start to done"),
    ("first_issue", "cycle at which the first instruction entered a queue"),
    ("last_result", "cycle at which the last result row or store beat was written"),
    ("instructions", "instructions dispatched"),
    ("dispatch_full", "cycles the dispatcher waited for a full queue"),
    ("dispatch_starved", "cycles the dispatcher waited for the instruction fetch"),
    ("fetch_beats", "data beats of instruction fetch in group 0"),
    ("fill_words", "V-Cache fill words (fill_rows x columns bytes each)"),
    ("read_beats_0", "data beats read by loads in group 0 (group_bytes each)"),
    ("load_blocked_0", "cycles load engine 0 could not ask for data: memory, buffer or bursts at their limit"),
    ("load_starved_0", "cycles load engine 0 waited for data that it had asked for"),
    ("load_wait_0", "cycles load engine 0 waited for semaphores, or for the other engine with PAIR"),
    ("load_idle_0", "cycles load engine 0 had no load, or only data inside the machine to move"),
    ("read_beats_1", "data beats read by loads in group 1 (group_bytes each)"),
    ("load_blocked_1", "cycles load engine 1 could not ask for data: memory, buffer or bursts at their limit"),
    ("load_starved_1", "cycles load engine 1 waited for data that it had asked for"),
    ("load_wait_1", "cycles load engine 1 waited for semaphores, or for the other engine with PAIR"),
    ("load_idle_1", "cycles load engine 1 had no load, or only data inside the machine to move"),
    ("loads_left_out", "loads with a slot that had no tokens, or whose importance was too low"),
    ("loads_reduced", "PAIR loads of which only the high plane was read, as their slot asked for"),
    ("write_beats_0", "data beats written in group 0"),
    ("write_beats_1", "data beats written in group 1"),
    ("store_blocked", "cycles the store unit had an address or a beat that the memory did not take"),
    ("store_wait", "cycles the store unit waited for semaphores"),
    ("store_busy", "cycles the store unit read rows without a full beat, or waited for write responses"),
    ("store_idle", "cycles the store unit had no store"),
    ("vector_rows", "rows of operand A that the vector unit took in (GATHER: one for each lane it fills)"),
    ("vector_row_wait", "cycles the vector unit waited for a row of the combine buffer, or read operand B"),
    ("vector_drain", "cycles the vector unit had no row to ask for: it drains, or the next one needs its results"),
    ("vector_semaphore", "cycles the vector unit waited for semaphores"),
    ("vector_idle", "cycles the vector unit had no instruction"),
    ("rows", "result rows moved by the result bus"),
    ("rows_activation", "result rows written to activation buffers"),
    ("rows_combine", "result rows written to the combine buffer"),
    ("bus_conflict", "rows held back because their destination was taken in that cycle"),
)
"""Performance counters of the whole machine; those named in `EXHAUSTIVE` count each cycle of a unit exactly once."""

EXHAUSTIVE: Mapping[str, tuple[str, ...]] = {
    **{
        f"load engine {group}": tuple(
            f"{name}_{group}" for name in ("read_beats", "load_blocked", "load_starved", "load_wait", "load_idle")
        )
        for group in range(2)
    },
    "store unit": ("write_beats_0", "write_beats_1", "store_blocked", "store_wait", "store_busy", "store_idle"),
    "vector unit": ("vector_rows", "vector_row_wait", "vector_drain", "vector_semaphore", "vector_idle"),
}
"""Units of which exactly one of some counters counts each cycle, the first that applies in this order."""


def exhaustive_counters(config: MachineConfig) -> dict[str, tuple[str, ...]]:
    """Return for each unit, tiers first, the counters of which exactly one counts each cycle."""
    names = [name for name, _ in TIER_COUNTERS]
    states = ["wave", *names[names.index("stall_tag") :]]
    tiers = {f"tier {t}": tuple(f"tier{t}_{name}" for name in states) for t in range(config.tiers)}
    return tiers | dict(EXHAUSTIVE)


def traced_counters(config: MachineConfig) -> dict[str, tuple[str, ...]]:
    """Return by unit the counters whose events the machine's trace output carries.

    Beside `exhaustive_counters` the dispatcher's, of which at most one counts each cycle (after END none).
    """
    return {**exhaustive_counters(config), "dispatcher": ("instructions", "dispatch_full", "dispatch_starved")}


def counter_names(config: MachineConfig) -> list[str]:
    """Return the names of all performance counters in address order."""
    names = [name for name, _ in GLOBAL_COUNTERS]
    for tier in range(config.tiers):
        names += [f"tier{tier}_{name}" for name, _ in TIER_COUNTERS]
    return names


def _counter_docs(config: MachineConfig) -> list[str]:
    docs = [doc for _, doc in GLOBAL_COUNTERS]
    for tier in range(config.tiers):
        docs += [f"tier {tier}: {doc}" for _, doc in TIER_COUNTERS]
    return docs


_VERSION_FIELDS = (
    RegisterField("MINOR", 0, 16, "counts what was added; older software need not know"),
    RegisterField("MAJOR", 16, 16, "counts what was changed; other software does not understand the machine"),
)


def _wide(name: str, offset: int, doc: str, access: Access = "rw") -> list[Register]:
    return [
        Register(f"{name}_LO", offset, access, f"{doc}, bits 31..0"),
        Register(f"{name}_HI", offset + 4, access, f"{doc}, bits 63..32"),
    ]


def register_map(config: MachineConfig) -> list[Register]:
    """Return all registers of a machine in address order."""
    registers = [
        Register(each.name, 4 * number, "ro", each.doc, _VERSION_FIELDS if each.name == "VERSION" else (), each.value)
        for number, each in enumerate(capabilities(config, len(counter_names(config))))
    ]
    registers += [
        Register(
            "CONTROL", 0x100, "wo", "commands",
            (
                RegisterField("START", 0, 1, "start the stream at STREAM_BASE; ignored unless READY"),
                RegisterField("INVALIDATE", 1, 1, "with START: first invalidate V-Cache tiles from KEPT_TILES on"),
            ),
        ),
        Register(
            "STATUS", 0x104, "ro", "state of the machine",
            (
                RegisterField("READY", 0, 1, "a stream can be started"),
                RegisterField("BUSY", 1, 1, "a stream is running or being stopped"),
                RegisterField("DONE", 2, 1, "the last stream reached END"),
                RegisterField("ERROR", 3, 1, "the last stream stopped with an error"),
                RegisterField("SEMAPHORES", 4, 1, "DONE with a semaphore that is not zero"),
            ),
        ),
        Register("IRQ_ENABLE", 0x108, "rw", "interrupt enables",
                 (RegisterField("DONE", 0, 1, "at END"), RegisterField("ERROR", 1, 1, "at an error"))),
        Register("IRQ_PENDING", 0x10C, "w1c", "pending interrupts, write 1 to clear",
                 (RegisterField("DONE", 0, 1, "END reached"), RegisterField("ERROR", 1, 1, "stopped by an error"))),
        Register("ERROR_CODE", 0x110, "ro", "error code of the last stop, 0 = none",
                 (RegisterField("CODE", 0, ERROR_CODE_BITS, "why the machine stopped", ErrorCode),)),
        Register("ERROR_PC", 0x114, "ro", "index of the failing instruction in its stream"),
        *_wide("ERROR_ADDRESS", 0x118, "failing memory address in bytes", "ro"),
        *_wide("STREAM_BASE", 0x120, "byte address of the stream in group 0"),
        Register("WATCHDOG", 0x128, "rw", "cycles without progress that count as deadlock; 0 = off"),
        Register("KEPT_TILES", 0x12C, "rw", "V-Cache tiles of each tier, from tile 0 on, that INVALIDATE leaves valid"),
        *_wide("MEMORY0_BYTES", 0x130, "size of group 0's memory in bytes"),
        *_wide("MEMORY1_BYTES", 0x138, "size of group 1's memory in bytes"),
        *_wide("WINDOW0_BASE", 0x140, "first byte that stores may write in group 0"),
        *_wide("WINDOW0_LIMIT", 0x148, "first byte past the store window in group 0"),
        *_wide("WINDOW1_BASE", 0x150, "first byte that stores may write in group 1"),
        *_wide("WINDOW1_LIMIT", 0x158, "first byte past the store window in group 1"),
    ]  # fmt: skip
    offset = COUNTER_BASE
    for name, doc in zip(counter_names(config), _counter_docs(config), strict=True):
        registers += _wide(f"COUNT_{name.upper()}", offset, doc, "ro")
        offset += 8
    return registers
