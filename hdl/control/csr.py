# SPDX-License-Identifier: Apache-2.0
"""The AXI4-Lite register block: capabilities, start, status, errors, interrupt, limits and counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.buses import AXI4_LITE, BusSignature
from hdl.emit.hierarchy import digest
from hdl.interfaces import error_layout
from hdl.regs import COUNTER_BASE, COUNTER_BITS, Register, counter_names, register_map

__all__ = ["AXIL_ADDRESS_BITS", "CsrBlock", "axil_signature"]

AXIL_ADDRESS_BITS = 12
"""Address width of the register block (4 KiB)."""

OKAY, SLVERR = 0, 2


def axil_signature() -> wiring.Signature:
    """Return an AXI4-Lite port as its manager sees it (32-bit data, standard names)."""
    return BusSignature(
        AXI4_LITE,
        {
            "awaddr": Out(AXIL_ADDRESS_BITS),
            "awprot": Out(3),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(32),
            "wstrb": Out(4),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(AXIL_ADDRESS_BITS),
            "arprot": Out(3),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(32),
            "rresp": In(2),
            "rvalid": In(1),
            "rready": Out(1),
        },
    )


def _packed(register: Register, values: Mapping[str, Value]) -> Value:
    """Return a register's value, given those of all its fields."""
    parts: list[Value] = []
    for field in register.fields:
        value = values[field.name]
        if len(value) != field.width:
            raise ValueError(f"{register.name}.{field.name} has {field.width} bits, its value has {len(value)}")
        parts += [Const(0, field.lsb - sum(map(len, parts))), value]
    return Cat(*parts)


class CsrBlock(wiring.Component):
    """AXI4-Lite subordinate with every register of ``hdl.regs``.

    One write and one read in flight. A write takes effect in the cycle in which both its address and data are there
    and is answered in the next; a read takes three cycles, that of a counter up to ``LONGEST_READ`` more. Partial
    writes (``wstrb`` not all ones) and unmapped or read-only targets answer SLVERR and change nothing.

    Members
    -------
    axil : In(axil_signature())
    start : Out(1)
        Pulse: START was written while ``ready``.
    invalidate : Out(1)
        With ``start``: V-Cache contents of earlier streams must not be seen, but for those of `kept_tiles`.
    irq : Out(1)
        Level interrupt: some pending bit is enabled.
    stream_base : Out(address_bits)
    watchdog : Out(32)
    kept_tiles : Out(vcache_bits + 1)
        Tiles of each tier, from the first on, that stay valid; larger values saturate.
    memory_bytes, window_base, window_limit : Out(address_bits + 1).array(2)
        Sizes and byte addresses by channel group; larger values saturate.
    ready, busy, semaphores_left : In(1)
    done, failed : In(1)
        Pulses: END reached / stopped after an error.
    error : In(error_layout())
        Latched error report, valid with ``failed``.
    counter_ask : Out(1), counter_index : Out(8), counter_answered : In(1)
        A counter's value is wanted, which one, and it has come (see `CounterBank`).
    counter_value : In(COUNTER_BITS)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        wide = config.address_bits + 1
        super().__init__(
            {
                "axil": In(axil_signature()),
                "start": Out(1),
                "invalidate": Out(1),
                "irq": Out(1),
                "stream_base": Out(config.address_bits),
                "watchdog": Out(32),
                "kept_tiles": Out(config.vcache_bits + 1),
                "memory_bytes": Out(wide).array(2),
                "window_base": Out(wide).array(2),
                "window_limit": Out(wide).array(2),
                "ready": In(1),
                "busy": In(1),
                "semaphores_left": In(1),
                "done": In(1),
                "failed": In(1),
                "error": In(error_layout()),
                "counter_ask": Out(1),
                "counter_index": Out(8),
                "counter_answered": In(1),
                "counter_value": In(COUNTER_BITS),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module, which has the whole configuration in its registers."""
        return f"csr_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Build decoder, registers and the two channels."""
        m = Module()
        config = self.config
        registers = {r.name: r for r in register_map(config)}
        wide = config.address_bits + 1

        # Writable registers; 64-bit ones as pairs.
        stored: dict[str, Signal] = {}
        for register in registers.values():
            if register.access == "rw":
                stored[register.name] = Signal(32, name=register.name.lower())

        def address(name: str, width: int) -> object:
            both = Cat(stored[f"{name}_LO"], stored[f"{name}_HI"])
            clipped = Signal(width, name=f"{name.lower()}_clipped")
            with m.If(both[width:].any()):
                m.d.comb += clipped.eq(-1)
            with m.Else():
                m.d.comb += clipped.eq(both)
            return clipped

        m.d.comb += [
            self.stream_base.eq(address("STREAM_BASE", config.address_bits)),
            self.watchdog.eq(stored["WATCHDOG"]),
            self.kept_tiles.eq(
                Mux(stored["KEPT_TILES"] > config.vcache_tiles, config.vcache_tiles, stored["KEPT_TILES"])
            ),
        ]
        for group in range(2):
            m.d.comb += [
                self.memory_bytes[group].eq(address(f"MEMORY{group}_BYTES", wide)),
                self.window_base[group].eq(address(f"WINDOW{group}_BASE", wide)),
                self.window_limit[group].eq(address(f"WINDOW{group}_LIMIT", wide)),
            ]

        # State that the machine reports.
        error = Signal(error_layout())
        done = Signal()
        failed = Signal()
        semaphores = Signal()
        pending = Signal(registers["IRQ_PENDING"].width)
        m.d.comb += self.irq.eq((pending & stored["IRQ_ENABLE"]).any())
        with m.If(self.start):
            m.d.sync += [done.eq(0), failed.eq(0), semaphores.eq(0), error.eq(0)]
        with m.If(self.done):
            m.d.sync += [done.eq(1), semaphores.eq(self.semaphores_left)]
        with m.If(self.failed):
            m.d.sync += [failed.eq(1), error.eq(self.error)]

        # Write channel: address and data are taken together.
        write = Signal()
        write_ok = Signal()
        word = Signal(AXIL_ADDRESS_BITS - 2)
        clear_pending = Signal.like(pending)
        # A register, so that no path leads from the bus into the machine (which also keeps simulators fast).
        m.d.sync += self.start.eq(0)
        m.d.comb += [
            write.eq(self.axil.awvalid & self.axil.wvalid & ~self.axil.bvalid),
            self.axil.awready.eq(write),
            self.axil.wready.eq(write),
            word.eq(self.axil.awaddr[2:]),
        ]
        with m.If(write & self.axil.wstrb.all() & (self.axil.awaddr[:2] == 0)), m.Switch(word):
            for register in registers.values():
                if register.access == "ro":
                    continue
                with m.Case(register.offset // 4):
                    m.d.comb += write_ok.eq(1)
                    if register.access == "rw":
                        m.d.sync += stored[register.name].eq(self.axil.wdata)
                    elif register.name == "CONTROL":
                        m.d.sync += [
                            self.start.eq(self.axil.wdata[register["START"].bits] & self.ready),
                            self.invalidate.eq(self.axil.wdata[register["INVALIDATE"].bits]),
                        ]
                    elif register.name == "IRQ_PENDING":
                        m.d.comb += clear_pending.eq(self.axil.wdata)
        happened = _packed(registers["IRQ_PENDING"], {"DONE": self.done, "ERROR": self.failed})
        m.d.sync += pending.eq((pending & ~clear_pending) | happened)
        bresp = Signal(2)
        with m.If(write):
            m.d.sync += [self.axil.bvalid.eq(1), bresp.eq(OKAY)]
            with m.If(~write_ok):
                m.d.sync += bresp.eq(SLVERR)
        with m.Elif(self.axil.bready):
            m.d.sync += self.axil.bvalid.eq(0)
        m.d.comb += self.axil.bresp.eq(bresp)

        # Read channel: latch the address, let the counter bank look up, answer.
        read_addr = Signal(AXIL_ADDRESS_BITS)
        counter_offset = Signal(AXIL_ADDRESS_BITS)
        last_counter = COUNTER_BASE + 8 * len(counter_names(config))
        is_counter = Signal()
        m.d.comb += [
            is_counter.eq((read_addr >= COUNTER_BASE) & (read_addr < last_counter) & (read_addr[:2] == 0)),
            counter_offset.eq(read_addr - COUNTER_BASE),
            self.counter_index.eq(counter_offset[3:11]),
        ]
        values: dict[str, object] = {
            "STATUS": _packed(
                registers["STATUS"],
                {"READY": self.ready, "BUSY": self.busy, "DONE": done, "ERROR": failed, "SEMAPHORES": semaphores},
            ),
            "IRQ_PENDING": pending,
            "ERROR_CODE": _packed(registers["ERROR_CODE"], {"CODE": error.code}),
            "ERROR_PC": error.pc,
            "ERROR_ADDRESS_LO": error.address[:32],
            "ERROR_ADDRESS_HI": error.address[32:],
            "CONTROL": 0,
        }
        with m.FSM(name="read"):
            with m.State("IDLE"):
                m.d.comb += self.axil.arready.eq(1)
                with m.If(self.axil.arvalid):
                    m.d.sync += read_addr.eq(self.axil.araddr)
                    m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.d.comb += self.counter_ask.eq(is_counter)
                with m.If(self.counter_answered | ~is_counter):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.sync += [self.axil.rvalid.eq(1), self.axil.rresp.eq(SLVERR), self.axil.rdata.eq(0)]
                with m.If(is_counter):
                    m.d.sync += self.axil.rresp.eq(OKAY)
                    with m.If(read_addr[2]):
                        m.d.sync += self.axil.rdata.eq(self.counter_value[32:])
                    with m.Else():
                        m.d.sync += self.axil.rdata.eq(self.counter_value[:32])
                with m.Elif(read_addr[:2] == 0), m.Switch(read_addr[2:]):
                    for register in registers.values():
                        if register.offset >= COUNTER_BASE:
                            continue
                        with m.Case(register.offset // 4):
                            value: Any = register.value
                            if value is None:
                                value = stored[register.name] if register.name in stored else values[register.name]
                            m.d.sync += [self.axil.rresp.eq(OKAY), self.axil.rdata.eq(value)]
                m.next = "HOLD"
            with m.State("HOLD"), m.If(self.axil.rready):
                m.d.sync += self.axil.rvalid.eq(0)
                m.next = "IDLE"
        return m
