# SPDX-License-Identifier: Apache-2.0
"""cocotb test that `test_cells.py` runs: cells of the ECP5 on random inputs, against what Python says they do."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

CYCLES = 3000
INITS = (0x6B2D, 0x1EE8, 0xC035, 0x9F01)
MEMORIES = {36: "NORMAL", 18: "WRITETHROUGH", 9: "READBEFOREWRITE", 4: "NORMAL", 1: "WRITETHROUGH"}
"""Width of both ports, and what a port that writes shows."""


class Memory:
    """A DP16KD as an integer of 512 * 36 bits, and what its ports show; bits of `unsure` may be anything."""

    def __init__(self, width: int, mode: str) -> None:
        words = dict.fromkeys(range(16), 0x2ABCD) | dict.fromkeys(range(1008, 1024), 0x15432)
        self.bits = sum(word << 18 * n for n, word in words.items())
        self.width, self.mode = width, mode
        self.out = {"a": 0, "b": 0}
        self.old = {"a": 0, "b": 0}
        self.unsure = {"a": 0, "b": 0}

    def place(self, address: int) -> int:
        """Return the first bit that an address means."""
        if self.width == 36:
            return address // 32 * 36
        within = {18: 0, 9: address // 8 % 2 * 9}.get(self.width)
        if within is None:
            step = {4: 4, 1: 1}[self.width]
            within = address // 8 % 2 * 9 + address % 8 // step * step
        return address // 16 * 18 + within

    def mask(self, address: int) -> int:
        """Return the bits, from there on, that a write means."""
        if self.width < 18:
            return (1 << self.width) - 1
        return sum(0x1FF << 9 * byte for byte in range(self.width // 9) if address >> byte & 1)

    def step(self, ports: dict[str, dict[str, int]]) -> None:
        """Do a cycle."""
        full = (1 << self.width) - 1
        writes = {}
        for name, port in ports.items():
            mask = self.mask(port["address"]) if port["enable"] and port["write"] else 0
            writes[name] = (self.place(port["address"]), mask)
        before = self.bits
        for name, port in ports.items():
            at, mask = writes[name]
            self.bits = self.bits & ~(mask << at) | (port["data"] & mask) << at
        for name, port in ports.items():
            at, mask = writes[name]
            if not port["enable"] or (port["write"] and self.mode == "NORMAL"):
                continue
            seen = before if self.mode == "READBEFOREWRITE" else self.bits
            self.out[name] = seen >> at & full
            self.old[name] = before >> at & full
            other_at, other = writes["b" if name == "a" else "a"]
            self.unsure[name] = (other << other_at) >> at & full if other_at <= at else (other << other_at - at) & full


def lut(init: int, bits: int) -> int:
    """Return the output of a LUT4."""
    return init >> (bits & 15) & 1


def signed(value: int, bits: int) -> int:
    """Return a number in two's complement."""
    return value - (value >> bits - 1 << bits)


@cocotb.test()
async def cells(dut: Any) -> None:
    """Inputs change at the falling edge, and outputs are read at the next one: registers take them between."""
    rng = random.Random(7)
    memories = {width: Memory(width, mode) for width, mode in MEMORIES.items()}
    small = [0] * 16
    enabled, set_ = 0, 1
    unsure, noisy = {"a": 0, "b": 0}, {"a": 0, "b": 0}
    Clock(dut.clk, 10, "ns").start()
    widths = {
        "lut_in": 6, "add_a": 6, "add_b": 6, "add_carry": 1, "mult_a": 18, "mult_b": 18, "mult_signed_a": 1,
        "mult_signed_b": 1, "ff_d": 1, "ff_enable": 1, "ff_reset": 1, "small_data": 4, "small_write": 4,
        "small_read": 4, "small_enable": 1, "data_a": 36, "data_b": 18, "enable_a": 1, "enable_b": 1, "write_a": 1,
        "write_b": 1,
    }  # fmt: skip
    await FallingEdge(dut.clk)
    for _ in range(CYCLES):
        given = {name: rng.getrandbits(width) for name, width in widths.items()}
        for name in ("mult_a", "mult_b"):  # corners
            given[name] = rng.choice([given[name], given[name], 0, 1, 0x1FFFF, 0x20000, 0x3FFFF])
        # Few addresses, at both ends, so that ports meet.
        for name in ("address_a", "address_b"):
            given[name] = rng.choice([0, 0x3FC0]) + rng.getrandbits(6)
        if given["write_a"] and given["write_b"]:  # what two writes at one place leave, nobody says
            given["address_b"] = given["address_a"] ^ 0x3FC0
        for name, value in given.items():
            getattr(dut, name).value = value
        await FallingEdge(dut.clk)
        got = {
            name: int(getattr(dut, name).value)
            for name in ("lut0", "lut1", "five", "six", "add_sum", "add_out", "mult_p", "small_out")
        }
        luts = [lut(init, given["lut_in"]) for init in INITS]
        fives = [luts[1] if given["lut_in"] >> 4 & 1 else luts[0], luts[3] if given["lut_in"] >> 4 & 1 else luts[2]]
        total = given["add_a"] + given["add_b"] + given["add_carry"]
        factors = [
            signed(given[f"mult_{n}"], 18) if given[f"mult_signed_{n}"] else given[f"mult_{n}"] for n in "ab"
        ]  # fmt: skip
        if given["small_enable"]:
            small[given["small_write"]] = given["small_data"]
        assert got == {
            "lut0": luts[0], "lut1": luts[1], "five": fives[0], "six": fives[given["lut_in"] >> 5 & 1],
            "add_sum": total % 64, "add_out": total // 64, "mult_p": factors[0] * factors[1] % (1 << 36),
            "small_out": small[given["small_read"]],
        }, given  # fmt: skip
        enabled = 0 if given["ff_reset"] else given["ff_d"] if given["ff_enable"] else enabled
        set_ = 1 if given["ff_reset"] else given["ff_d"] if given["ff_enable"] else set_
        assert (dut.ff_plain.value, dut.ff_enabled.value, dut.ff_set.value) == (given["ff_d"], enabled, set_)
        for width, memory in memories.items():
            ports = {n: {k: given[f"{k}_{n}"] for k in ("address", "data", "enable", "write")} for n in "ab"}
            if width == 36:
                ports["b"]["write"] = 0
            memory.step(ports)
            out = {n: int(getattr(dut, f"out{width}_{n}").value) for n in "ab"}
            if width == 36:
                out = {"b": out["b"] << 18 | out["a"]}
            for name, value in out.items():
                wrong = value ^ memory.out[name]
                assert not wrong & ~memory.unsure[name], (width, name, hex(value), hex(memory.out[name]), ports)
                unsure[name] += memory.unsure[name] != 0
                noisy[name] += wrong != 0 and value != memory.old[name]
    assert all(2 * noisy[n] > unsure[n] > 50 for n in "ab"), f"neither old nor new: {noisy} of {unsure}"
