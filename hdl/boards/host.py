# SPDX-License-Identifier: Apache-2.0
"""The engine behind the serial line: takes requests of ``hdl.boards.protocol``, does them, answers.

A request is buffered and checked before anything is done. One request at a time: bytes that come while one is done or
answered are lost, and the host waits for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.boards.memory import WORD_BYTES, host_port
from hdl.boards.protocol import (
    ANSWER,
    ANSWER_START,
    CHECKSUM_BYTES,
    MOST_WORDS,
    REQUEST,
    REQUEST_START,
    RESIDUE,
    WRITE,
    Space,
    Status,
)  # fmt: skip
from hdl.common.sram import Sram
from hdl.control.csr import AXIL_ADDRESS_BITS, axil_signature
from hdl.emit.hierarchy import digest, instantiate

__all__ = ["Checksum", "HostEngine"]

RESET_CYCLES = 16
POLYNOMIAL = 0xEDB88320
"""Of the CRC-32, lowest bit first."""


class Checksum(wiring.Component):
    """The CRC-32 of a frame, a bit a cycle: eight cycles a byte, which takes at least forty on the line.

    Members
    -------
    clear : In(1)
        Begin a frame.
    valid : In(1)
        Take a byte; the one before must be done.
    data : In(8)
    value : Out(32)
        The register; the checksum is its complement.
    busy : Out(1)
        Bits of the last byte are still to come.
    """

    def __init__(self) -> None:
        super().__init__({"clear": In(1), "valid": In(1), "data": In(8), "value": Out(32), "busy": Out(1)})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "board_checksum"

    def elaborate(self, platform: object) -> Module:
        """Build the shift register with feedback."""
        m = Module()
        byte, left = Signal(8), Signal(range(9))
        m.d.comb += self.busy.eq(left != 0)
        with m.If(self.clear):
            m.d.sync += [self.value.eq(~0), left.eq(0)]
        with m.Elif(self.valid):
            m.d.sync += [byte.eq(self.data), left.eq(8)]
        with m.Elif(self.busy):
            feedback = (self.value[0] ^ byte[0]).replicate(32) & POLYNOMIAL
            m.d.sync += [self.value.eq((self.value >> 1) ^ feedback), byte.eq(byte >> 1), left.eq(left - 1)]
        return m


class HostEngine(wiring.Component):
    """Requests in, answers out.

    Parameters
    ----------
    identity : sequence of int
        Words of the identity.
    memory_bytes : int
        Size of each group's memory.
    gap : int
        Clocks without a byte after which a request that has begun is given up.

    Members
    -------
    receive_valid, receive_data, receive_broken : In
        A byte from the line, as `hdl.boards.uart.UartReceiver` gives it.
    send : Out(stream of 8)
    axil : Out(axil_signature())
    memory : Out(host_port(memory_bytes)).array(2)
    machine_reset : Out(1)
    """

    def __init__(self, identity: Sequence[int], memory_bytes: int, gap: int) -> None:
        self.identity = tuple(identity)
        self.memory_bytes = memory_bytes
        self.gap = gap
        super().__init__(
            {
                "receive_valid": In(1),
                "receive_data": In(8),
                "receive_broken": In(1),
                "send": Out(stream.Signature(8)),
                "axil": Out(axil_signature()),
                "memory": Out(host_port(memory_bytes)).array(2),
                "machine_reset": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"board_host_{digest(self.identity, self.memory_bytes, self.gap)}"

    def elaborate(self, platform: object) -> Module:
        """Build the state machine: request, check, word after word, answer."""
        m = Module()
        crc = instantiate(m, platform, "checksum", Checksum())
        buffer = instantiate(m, platform, "buffer", Sram(8 * WORD_BYTES, MOST_WORDS))
        request = Signal(8 * sum(field.size for field in REQUEST))
        fields, position = {}, 0
        for field in REQUEST:
            fields[field.name] = request[8 * position : 8 * (position + field.size)]
            position += field.size
        command, words = fields["command"], fields["words"]
        space = Signal(2)
        address = Signal(32)
        status = Signal(Status)
        damaged = Signal()
        count = Signal(5)  # bytes of a part of a frame, cycles of a reset
        at = Signal(len(words))  # words done
        word = Signal(8 * WORD_BYTES)
        lane = Signal(range(WORD_BYTES))
        waited = Signal(range(self.gap + 1))
        m.d.comb += [space.eq(command[:2]), buffer.write_addr.eq(at), buffer.read_addr.eq(at)]

        m.d.comb += [self.axil.awaddr.eq(address), self.axil.araddr.eq(address)]
        m.d.comb += [self.axil.wdata.eq(buffer.read_data), self.axil.wstrb.eq(~0)]
        for port in self.memory:
            m.d.comb += [port.addr.eq(address[2:]), port.write_data.eq(buffer.read_data)]
            m.d.comb += port.write.eq((command & WRITE).bool())

        taken = Signal()
        m.d.comb += taken.eq(self.send.valid & self.send.ready)
        receiving = Signal()
        with m.If(self.receive_valid):
            m.d.sync += waited.eq(0)
        with m.Elif(waited != self.gap):
            m.d.sync += waited.eq(waited + 1)
        with m.If(receiving & self.receive_valid):
            m.d.comb += [crc.valid.eq(1), crc.data.eq(self.receive_data)]
            m.d.sync += damaged.eq(damaged | self.receive_broken)

        def give_up() -> None:
            """Leave a state of the request when the rest does not come."""
            m.d.comb += receiving.eq(1)
            with m.If(~self.receive_valid & (waited == self.gap)):
                m.d.sync += status.eq(Status.INCOMPLETE)
                m.next = "ANSWER"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += crc.clear.eq(1)
                m.d.sync += [count.eq(0), at.eq(0), lane.eq(0), damaged.eq(0), status.eq(Status.OK)]
                with m.If(self.receive_valid & (self.receive_data == REQUEST_START) & ~self.receive_broken):
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                give_up()
                with m.If(self.receive_valid):
                    m.d.sync += [request.eq(Cat(request[8:], self.receive_data)), count.eq(count + 1)]
                    with m.If(count == position - 1):
                        m.next = "KIND"
            with m.State("KIND"):
                m.d.sync += count.eq(0)
                with m.If((command & WRITE).bool() & (space != Space.IDENTITY) & (words != 0)):
                    m.next = "DATA"
                with m.Else():
                    m.next = "CHECKSUM"
            with m.State("DATA"):
                give_up()
                with m.If(self.receive_valid):
                    m.d.comb += [
                        buffer.write_data.eq(Cat(word[8:], self.receive_data)),
                        buffer.write_en.eq((lane == WORD_BYTES - 1) & (at < MOST_WORDS)),
                    ]
                    m.d.sync += [word.eq(buffer.write_data), lane.eq(lane + 1)]
                    with m.If(lane == WORD_BYTES - 1):
                        m.d.sync += at.eq(at + 1)
                        with m.If(at + 1 == words):
                            m.next = "CHECKSUM"
            with m.State("CHECKSUM"):
                give_up()
                with m.If(self.receive_valid):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == CHECKSUM_BYTES - 1):
                        m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [at.eq(0), lane.eq(0), count.eq(0), address.eq(fields["address"])]
                with m.If(~crc.busy):
                    m.next = "ANSWER"
                    with m.If(damaged | (crc.value != RESIDUE)):
                        m.d.sync += status.eq(Status.DAMAGED)
                    with m.Elif((command & ~(WRITE | 0b11)).any()):
                        m.d.sync += status.eq(Status.COMMAND)
                    with m.Elif(command == (WRITE | Space.IDENTITY)):
                        m.next = "RESET"
                    with m.Elif((words == 0) | (words > MOST_WORDS)):
                        m.d.sync += status.eq(Status.LENGTH)
                    with m.Elif(self._beyond(fields["address"], words, space)):
                        m.d.sync += status.eq(Status.ADDRESS)
                    with m.Else():
                        m.next = "WORD"
            with m.State("RESET"):
                m.d.comb += self.machine_reset.eq(1)
                m.d.sync += [count.eq(count + 1), words.eq(0)]
                with m.If(count == RESET_CYCLES - 1):
                    m.next = "ANSWER"
            self._execute(m, buffer, command, space, address, words, at, status)
            with m.State("NEXT"):
                m.d.sync += [at.eq(at + 1), address.eq(address + WORD_BYTES)]
                m.next = "WORD"
                with m.If(at + 1 == words):
                    m.next = "ANSWER"
            self._answer(m, crc, buffer, fields, status, count, at, lane, taken)
        return m

    def _beyond(self, address: Value, words: Value, space: Signal) -> Value:
        """Return whether an access is not aligned, or does not lie within its space."""
        ends = Array([WORD_BYTES * len(self.identity), 1 << AXIL_ADDRESS_BITS, self.memory_bytes, self.memory_bytes])
        return (address[:2] != 0) | (address + (words << 2) > ends[space])

    def _execute(
        self, m: Module, buffer: Sram, command: Value, space: Signal, address: Signal, words: Value, at: Signal,
        status: Signal,
    ) -> None:  # fmt: skip
        """Build the states of one word: from WORD to NEXT, or to ANSWER with an error."""
        axil = self.axil
        writes = (command & WRITE).bool()
        identity = Array(Const(value, 8 * WORD_BYTES) for value in self.identity)

        def fail() -> None:
            m.d.sync += status.eq(Status.REGISTER)
            m.next = "ANSWER"

        with m.State("WORD"):
            m.d.comb += buffer.read_en.eq(1)
            with m.If(space == Space.IDENTITY):
                m.d.comb += [buffer.write_en.eq(1), buffer.write_data.eq(identity[address[2:]])]
                m.next = "NEXT"
            with m.Elif(space != Space.REGISTERS):
                m.next = "MEMORY"
            with m.Elif(writes):
                m.d.sync += [axil.awvalid.eq(1), axil.wvalid.eq(1)]
                m.next = "REGISTER WRITE"
            with m.Else():
                m.d.sync += axil.arvalid.eq(1)
                m.next = "REGISTER READ"
        with m.State("MEMORY"):
            for number, port in enumerate(self.memory):
                m.d.comb += port.enable.eq(space == Space.MEMORY0 + number)
            m.next = "NEXT"
            with m.If(~writes):
                m.next = "MEMORY READ"
        with m.State("MEMORY READ"):
            m.d.comb += buffer.write_en.eq(1)
            m.d.comb += buffer.write_data.eq(Mux(space[0], self.memory[1].read_data, self.memory[0].read_data))
            m.next = "NEXT"
        with m.State("REGISTER WRITE"):
            m.d.comb += axil.bready.eq(1)
            with m.If(axil.awready):
                m.d.sync += axil.awvalid.eq(0)
            with m.If(axil.wready):
                m.d.sync += axil.wvalid.eq(0)
            with m.If(axil.bvalid):
                m.next = "NEXT"
                with m.If(axil.bresp != 0):
                    fail()
        with m.State("REGISTER READ"):
            m.d.comb += axil.rready.eq(1)
            with m.If(axil.arready):
                m.d.sync += axil.arvalid.eq(0)
            with m.If(axil.rvalid):
                m.d.comb += [buffer.write_en.eq(1), buffer.write_data.eq(axil.rdata)]
                m.next = "NEXT"
                with m.If(axil.rresp != 0):
                    fail()

    def _answer(
        self, m: Module, crc: Checksum, buffer: Sram, fields: dict[str, Value], status: Signal, count: Signal,
        at: Signal, lane: Signal, taken: Signal,
    ) -> None:  # fmt: skip
        """Build the states of an answer, from ANSWER to IDLE."""
        send, sent = self.send, Signal(len(fields["words"]))
        parts = {"status": status, "number": fields["number"], "words": sent}
        header = [Const(ANSWER_START, 8)]
        for field in ANSWER:
            value = Cat(parts[field.name], Const(0, 8 * field.size))
            header += [value[8 * n : 8 * (n + 1)] for n in range(field.size)]
        with m.State("ANSWER"):
            m.d.comb += crc.clear.eq(1)
            m.d.sync += [count.eq(0), at.eq(0), lane.eq(0), sent.eq(0)]
            with m.If((status == Status.OK) & ~(fields["command"] & WRITE).bool()):
                m.d.sync += sent.eq(fields["words"])
            m.next = "HEADER"
        with m.State("HEADER"):
            m.d.comb += [send.valid.eq(1), send.payload.eq(Array(header)[count]), buffer.read_en.eq(1)]
            m.d.comb += [crc.valid.eq(taken & (count != 0)), crc.data.eq(send.payload)]
            m.d.sync += count.eq(count + taken)
            with m.If(taken & (count == len(header) - 1)):
                m.d.sync += count.eq(0)
                m.next = "FOOTER"
                with m.If(sent != 0):
                    m.next = "WORDS"
        with m.State("WORDS"):
            m.d.comb += [send.valid.eq(1), send.payload.eq(buffer.read_data.word_select(lane, 8))]
            m.d.comb += [crc.valid.eq(taken), crc.data.eq(send.payload)]
            with m.If(taken):
                m.d.sync += lane.eq(lane + 1)
                with m.If(lane == WORD_BYTES - 1):
                    m.d.sync += at.eq(at + 1)
                    m.next = "FETCH"
        with m.State("FETCH"):
            m.d.comb += buffer.read_en.eq(1)
            m.next = "WORDS"
            with m.If(at == sent):
                m.next = "FOOTER"
        with m.State("FOOTER"):
            m.d.comb += [send.valid.eq(~crc.busy), send.payload.eq((~crc.value).word_select(count[:2], 8))]
            m.d.sync += count.eq(count + taken)
            with m.If(taken & (count == CHECKSUM_BYTES - 1)):
                m.next = "IDLE"
