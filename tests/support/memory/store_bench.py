# SPDX-License-Identifier: Apache-2.0
"""The store unit on two group masters and Python memories, against the executable specification of STORE."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator

from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate, ports_of
from hdl.interfaces import error_layout, post_layout
from hdl.isa import Instruction, StoreFormat, store_span, store_step
from hdl.memory.axi import GroupMaster, axi_signature
from hdl.memory.store import StoreUnit
from sim.golden.state import MachineState
from sim.golden.transfer import execute_store
from tests.support.memory.axi_slave import AxiSlave, Behaviour
from tests.support.memory.environment import Get, Sink, Source, entry


class StorePath(wiring.Component):
    """Store unit and the masters that it writes through; the unit's ports keep their names behind ``store_``."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.unit = StoreUnit(config)
        members = self.unit.signature.members
        ports = {f"store_{name}": member for name, member in members.items() if name != "write"}
        axi = Out(axi_signature(config)).array(config.channels_per_group)
        super().__init__({**ports, "axi0": axi, "axi1": axi})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        instantiate(m, platform, "unit", self.unit)
        for g, axi in enumerate((self.axi0, self.axi1)):
            master = instantiate(m, platform, f"master{g}", GroupMaster(self.config, fetch=False))
            wiring.connect(m, self.unit.write[g], master.store)
            for channel in range(self.config.channels_per_group):
                wiring.connect(m, master.axi[channel], wiring.flipped(axi[channel]))
        outer = {port.name: port for port in ports_of(self)}
        for port in ports_of(self.unit):
            if not port.name.startswith("write__"):
                mine = outer[f"store_{port.name}"].value
                m.d.comb += port.value.eq(mine) if port.direction == "input" else mine.eq(port.value)
        return m


def bursts(config: MachineConfig, store: Instruction) -> list[tuple[int, int]]:
    """Return (byte address, beats) of each burst of a STORE."""
    if store["format"] == StoreFormat.DISCARD:
        return []
    row_bytes, step = store_step(store, config)
    start, end = store_span(store, config)
    if step == row_bytes:
        ranges = [(start, end)]
    else:
        ranges = [(start + j * step, start + j * step + row_bytes) for j in range(store["rows"])]
    longest = config.burst_beats * config.group_bytes
    result = []
    for first, stop in ranges:
        first -= first % config.group_bytes
        while first < stop:
            upto = min(stop, (first // longest + 1) * longest)
            result.append((first, -(-(upto - first) // config.group_bytes)))
            first = upto
    return result


@dataclass
class StoreBench:
    """Plays STORE instructions; `memory` and `combine` are changed in place by the unit under test."""

    config: MachineConfig
    memory: Sequence[np.ndarray]
    combine: np.ndarray
    stores: Sequence[Instruction]
    seed: int = 0
    stall: float = 0.0
    wait_delay: int = 0
    window: Sequence[tuple[int, int]] | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)
    halt_at: int | None = None
    recording: tuple[list[str], list[str]] | None = None
    """Words of the inputs (with a reset of 0 on top) and of the outputs, one a cycle, in the order of the ports."""

    cycle: int = 0
    error: tuple[int, int, int] | None = None
    posts: int = 0
    grants: int = 0
    responses: int = 0
    read_cycles: list[int] = field(default_factory=list)
    beat_cycles: list[int] = field(default_factory=list)
    request_cycles: list[int] = field(default_factory=list)
    strobed: int = 0
    slaves: list[AxiSlave] = field(default_factory=list)

    def run(self, until: Callable[[StoreBench, Get], bool] | None = None, cycles: int = 30_000) -> StoreBench:
        """Run until `until`, by default until everything is finished."""
        config = self.config
        dut = StorePath(config)
        ports = {port.name: port for port in ports_of(dut)}
        rng = random.Random(self.seed)
        queue = Source("store_queue", [entry(i, pc) for pc, i in enumerate(self.stores)], rng, self.stall)
        rows = Source("store_store_data", [], rng, self.stall)
        reads = Sink("store_store_read", rng, self.stall)
        posts = Sink("store_post", rng, self.stall)
        reads.check = posts.check = self.halt_at is None
        expected = deque(i for i in enumerate(self.stores) if i[1]["post0_en"] or i[1]["post1_en"])
        burst_sums = np.cumsum([len(bursts(config, i)) for i in self.stores])
        self.slaves = [
            AxiSlave(f"axi{g}__{i}", view, self.behaviour, 100 * g + i + self.seed, alone=True)
            for g in range(2)
            for i, view in enumerate(_views(config, self.memory[g]))
        ]
        window = self.window or [(0, group.size) for group in self.memory]
        finished = until or (
            lambda bench, get: not queue.items and not expected and not get("store_busy") and bool(get("store_quiet"))
        )

        async def bench(ctx):  # type: ignore[no-untyped-def]
            waiting = 0

            def get(name: str) -> int:
                port = ports[name]
                return int(ctx.get(port.value)) & ((1 << port.width) - 1)

            for _ in range(cycles):
                values: dict[str, int] = {
                    "store_halt": self.halt_at is not None and self.cycle >= self.halt_at,
                    "store_wait__ready": waiting > self.wait_delay,
                }
                for g in range(2):
                    values[f"store_window_base__{g}"], values[f"store_window_limit__{g}"] = window[g]
                for source in (queue, rows, reads, posts, *self.slaves):
                    values |= source.drive()
                for name, value in values.items():
                    ctx.set(ports[name].value, int(value))
                queue.observe(get)
                self._reads(get, reads, rows)
                if get("store_wait__valid"):
                    self.grants += waiting > self.wait_delay
                    waiting = 0 if waiting > self.wait_delay else waiting + 1
                self._memory(get)
                if get("store_post__valid"):
                    assert expected, "a post that no instruction asks for"
                    pc, store = expected[0]
                    assert self.responses >= burst_sums[pc], "a post before the last response"
                    post = post_layout(config).from_bits(get("store_post__payload"))
                    for n in (0, 1):
                        assert (post[f"en{n}"], post[f"sem{n}"]) == (store[f"post{n}_en"], store[f"post{n}_sem"])
                if posts.observe(get) is not None:
                    expected.popleft()
                    self.posts += 1
                error = error_layout().from_bits(get("store_error"))
                if error["valid"]:
                    report = (error["code"], error["pc"], error["address"])
                    assert self.error in (None, report), "a latched error changed"
                    self.error = report
                done = finished(self, get)
                if self.recording is not None:
                    words = {"input": "", "output": ""}
                    for port in ports.values():
                        words[port.direction] = f"{get(port.name):0{port.width}b}" + words[port.direction]
                    self.recording[0].append("0" + words["input"])
                    self.recording[1].append(words["output"])
                await ctx.tick()
                self.cycle += 1
                if done:
                    return
            raise AssertionError(f"not finished after {cycles} cycles; error {self.error}")

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
        return self

    def _reads(self, get: Get, reads: Sink, rows: Source) -> None:
        taken = reads.observe(get)
        if taken is not None:
            row = taken & 0xFFFF
            self.read_cycles.append(self.cycle)
            rows.items.append(int.from_bytes(self.combine[row].astype("<i4").tobytes(), "little"))
            if taken >> 16:
                self.combine[row] = 0
        rows.observe(get)

    def _memory(self, get: Get) -> None:
        """Responses and beats of channel 0 of each group; the channels run in lockstep."""
        for g in range(2):
            first = f"axi{g}__0_"
            self.responses += get(first + "bvalid") and get(first + "bready")
            if get(first + "wvalid") and get(first + "wready"):
                self.beat_cycles.append(self.cycle)
            if get(first + "awvalid") and get(first + "awready"):
                self.request_cycles.append(self.cycle)
        for slave in self.slaves:
            if get(f"{slave.prefix}_wvalid") and get(f"{slave.prefix}_wready"):
                self.strobed += get(f"{slave.prefix}_wstrb").bit_count()
            slave.observe(get)

    def expect(self) -> MachineState:
        """Return the state that the specification says; call before :meth:`run`."""
        machine = MachineState(self.config, [group.tobytes() for group in self.memory])
        machine.combine[:] = self.combine
        for pc, store in enumerate(self.stores):
            execute_store(machine, store, pc)
        return machine

    def check(self, want: MachineState) -> None:
        """Assert that memories, combine rows, beats, bursts and bytes are those of the specification."""
        assert self.error is None
        for g in range(2):
            assert np.array_equal(self.memory[g], want.memory[g]), f"group {g}"
        assert np.array_equal(self.combine, want.combine)
        counters = want.counters
        assert len(self.beat_cycles) == counters["write_beats_0"] + counters["write_beats_1"]
        assert self.strobed == counters["write_bytes"]
        assert len(self.request_cycles) == self.responses == sum(len(bursts(self.config, i)) for i in self.stores)
        assert len(self.read_cycles) == sum(i["rows"] for i in self.stores)
        assert self.grants == sum(bool(i["wait0_count"] or i["wait1_count"]) for i in self.stores)


def _views(config: MachineConfig, memory: np.ndarray) -> list[np.ndarray]:
    """Return each channel's (beats, channel_bytes) view of a group's memory."""
    striped = memory.reshape(-1, config.channels_per_group, config.channel_bytes)
    return [striped[:, i, :] for i in range(config.channels_per_group)]
