# SPDX-License-Identifier: Apache-2.0
"""Bundles that cross block boundaries, as Amaranth layouts and signatures derived from the configuration.

The contract behind them (who drives what, when) is in ``docs/architecture.md``.
"""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.queues import queue_count
from hdl.config import MachineConfig
from hdl.isa import ERROR_CODE_BITS, INSTRUCTION_BITS, Opcode, field_widths
from hdl.regs import traced_counters

__all__ = [
    "PC_BITS", "bank_write_layout", "bond_signature", "dispatch_layout", "error_layout", "fill_control_layout",
    "fill_layout", "list_entry_layout", "post_layout", "queue_entry_layout", "result_layout", "row_descriptor_layout",
    "row_write_layout", "slot_write_layout", "tail_layout", "trace_layout", "wait_layout", "wave_layout",
    "write_layout",
]  # fmt: skip

PC_BITS = 24
"""Width of an instruction's index in its stream, carried along for error reports."""


def wave_layout(config: MachineConfig) -> data.StructLayout:
    """Return what one wave tells each row it passes: one bundle per cycle at row 0, one row further each cycle.

    ``new``: take a new stationary word; ``stationary_below``: from the tier below (M link) instead of the own bank;
    ``activation_below``: activation from the tier below (N link); ``psum_below``: row 0 adds to the tier below's
    partial sum (K link) instead of zero.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "new": 1,
            "stationary_below": 1,
            "activation_below": 1,
            "psum_below": 1,
            "vcache_addr": config.vcache_bits,
            "activation_addr": config.activation_bits,
        }
    )


def tail_layout(config: MachineConfig) -> data.StructLayout:
    """Return what a wave tells the accumulators and the drain; waits in the tier's tail FIFO, not in the rows.

    ``accumulate``: 0 for the lower tiers of a K gang (the partial sum only leaves through the K link).
    ``first``/``last``: first/last slice of this output row's reduction in this tier's accumulators.
    """
    return data.StructLayout(
        {
            "accumulate": 1,
            "first": 1,
            "last": 1,
            "accumulator_addr": config.accumulator_bits,
            **field_widths(Opcode.GEMM, "mode"),
            "param_addr": config.parameter_bits,
            **field_widths(Opcode.GEMM, "shift", "post_mult", "post_shift"),
        }
    )


def dispatch_layout(config: MachineConfig) -> data.StructLayout:
    """Return one tier's lane of the dispatch bond: a wave with its tail, and the edge feed's tile request."""
    return data.StructLayout(
        {
            "wave": wave_layout(config),
            "tail": tail_layout(config),
            "edge_load": 1,
            "edge_below": 1,
            "edge_tile": config.vcache_bits,
        }
    )


def fill_control_layout(config: MachineConfig) -> data.StructLayout:
    """Return the control part of a fill word: which tiers (bit 0 = the next tier up), tile and word of the tile.

    ``columns``: 0 = the word is ``fill_rows`` rows of the tile from row ``word * fill_rows``; 1 = the tile comes
    transposed: the word is ``fill_rows * columns`` bytes from byte ``word * fill_rows * columns`` of the tile's columns
    (R bytes each), so that it writes some bytes in each of some rows' words. ``low``: only the lower four bits of each
    byte are written; not with ``columns``.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "columns": 1,
            "low": 1,
            "tiers": config.tiers,
            "tile": config.vcache_bits,
            "word": config.fill_word_bits,
        }
    )


def fill_layout(config: MachineConfig) -> data.StructLayout:
    """Return a whole fill word as the load path produces it: control and ``fill_rows`` rows of ``columns`` bytes."""
    return data.StructLayout(
        {
            "control": fill_control_layout(config),
            "data": data.ArrayLayout(8 * config.columns, config.fill_rows),
        }
    )


def write_layout(config: MachineConfig) -> data.StructLayout:
    """Return a write-bus word: ``rows`` bytes for activation buffers or requantisation memories of some tiers.

    ``tiers``: bit 0 = the next tier up. ``parameter``: 0 = activation buffer (``addr`` is a word, ``enable`` masks
    bytes), 1 = requantisation memory (``addr`` = word x parameter_parts + part; ``enable`` is ignored).
    """
    return data.StructLayout(
        {
            "valid": 1,
            "parameter": 1,
            "tiers": config.tiers,
            "addr": config.write_bits,
            "enable": config.rows,
            "data": data.ArrayLayout(8, config.rows),
        }
    )


def result_layout(config: MachineConfig) -> data.StructLayout:
    """Return a finished row on its way down: ``columns`` int16 (int8 results are sign-extended)."""
    return data.StructLayout({"valid": 1, "data": data.ArrayLayout(signed(16), config.columns)})


def bond_signature(config: MachineConfig) -> wiring.Signature:
    """Return everything that crosses one die boundary, seen from the lower die; nothing crosses outside it.

    Members
    -------
    stationary : rows x (columns x 8)
        Stationary registers of each row (M link).
    activation : rows x 8
        Activation register of each row (N link).
    psum : columns x 32
        Partial sums leaving row R-1 (K link).
    dispatch : tiers lanes
        Lane 0 is for the next tier up; each tier passes lane j+1 on as lane j.
    fill_control, fill_data : 2 lanes (channel groups)
        V-Cache fill words; ``fill_data[lane][slice]``.
    write : result_lanes + 1 lanes
        Activation and parameter writes.
    edge : columns x 8 and valid
        Edge feed only: the stationary word entering the lower tier's top row (M mapping); zero otherwise.
    result : tiers lanes, downwards
        Lane 0 carries the next tier up's rows, lane j those of the tier j further up.
    """
    return wiring.Signature(
        {
            "stationary": Out(8 * config.columns).array(config.rows),
            "activation": Out(8).array(config.rows),
            "psum": Out(32 * config.columns),
            "dispatch": Out(dispatch_layout(config)).array(config.tiers),
            "fill_control": Out(fill_control_layout(config)).array(2),
            "fill_data": Out(8 * config.columns).array(2, config.fill_rows),
            "write": Out(write_layout(config)).array(config.result_lanes + 1),
            "edge": Out(8 * config.columns),
            "result": In(result_layout(config)).array(config.tiers),
        }
    )


def list_entry_layout() -> data.StructLayout:
    """Return a token-list entry (8 bytes in memory, little-endian): pre-scaled addresses, gate (Q15), drop flag."""
    return data.StructLayout({"source": 16, "dest": 16, "gate": 16, "drop": 1, "reserved": 15})


def row_write_layout(config: MachineConfig) -> data.StructLayout:
    """Return a write of one combine-buffer row: its number in the whole buffer, and ``columns`` int32."""
    return data.StructLayout({"row": 16, "data": data.ArrayLayout(signed(32), config.columns)})


def bank_write_layout(config: MachineConfig) -> data.StructLayout:
    """Return a write of one row of a bank of the combine buffer (bank = row % result_lanes)."""
    return data.StructLayout({"row": config.bank_bits, "data": data.ArrayLayout(signed(32), config.columns)})


def row_descriptor_layout(config: MachineConfig) -> data.StructLayout:
    """Return what the collector must do with the next result row of a tier; pushed when its wave is issued.

    ``drop``: consume the row, write nothing. ``op_end``: last row of the operation in this tier: post after writing.
    ``combine``: 1 = combine buffer (``addr`` is a row), 0 = activation buffers (``addr`` is a word, ``byte`` the first
    byte, ``half`` = C/2 bytes instead of C).
    """
    return data.StructLayout(
        {
            "combine": 1,
            "accumulate": 1,
            "drop": 1,
            "half": 1,
            "op_end": 1,
            "tiers": config.tiers,
            "addr": 16,
            "byte": max(1, (config.rows - 1).bit_length()),
            "gate": 16,
            "post0_en": 1,
            "post0_sem": config.semaphore_id_bits,
            "post1_en": 1,
            "post1_sem": config.semaphore_id_bits,
        }
    )


def slot_write_layout(config: MachineConfig) -> data.StructLayout:
    """Return a write of the routing table, broadcast to all its copies.

    How many tokens, first list entry, expert, and whether only the high plane of its weights is wanted.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "slot": config.slot_bits,
            "count": config.list_bits + 1,
            "base": config.list_bits,
            "expert": config.slot_bits,
            "high_only": 1,
        }
    )


def queue_entry_layout() -> data.StructLayout:
    """Return an entry of an instruction queue: the raw instruction and its index in the stream."""
    return data.StructLayout({"word": INSTRUCTION_BITS, "pc": PC_BITS})


def wait_layout(config: MachineConfig) -> data.StructLayout:
    """Return a unit's pair of semaphore waits, granted together or not at all (count 0 = no wait)."""
    return data.StructLayout(
        {
            "sem0": config.semaphore_id_bits,
            "count0": field_widths(Opcode.NOP, "wait0_count")["wait0_count"],
            "sem1": config.semaphore_id_bits,
            "count1": field_widths(Opcode.NOP, "wait1_count")["wait1_count"],
        }
    )


def post_layout(config: MachineConfig) -> data.StructLayout:
    """Return a post request: up to two semaphores, 1 is added to each enabled one."""
    return data.StructLayout(
        {
            "en0": 1,
            "sem0": config.semaphore_id_bits,
            "en1": 1,
            "sem1": config.semaphore_id_bits,
        }
    )


def trace_layout(config: MachineConfig) -> data.StructLayout:
    """Return what the machine tells a recorder of traces in each cycle; it may be left open.

    ``running``: performance counters count this cycle. ``taken``, ``begin``, ``end``: one bit for each queue, in the
    order of `hdl.common.queues`: an instruction leaves the queue / does its first work, its waits granted / is
    finished (tiers: its first and last wave were issued). Within a queue all three happen in program order, so that no
    instruction index is needed; ``pair_end`` instead of ``end`` belongs to load engine 1's PAIR loads. ``activity``:
    the events of the counters of `hdl.regs.traced_counters`, first counter of the first unit lowest.
    """
    queues = queue_count(config)
    activity = sum(len(names) for names in traced_counters(config).values())
    return data.StructLayout(
        {"running": 1, "taken": queues, "begin": queues, "end": queues, "pair_end": 1, "activity": activity}
    )


def error_layout() -> data.StructLayout:
    """Return an error report: code, instruction index, memory address in bytes (0 when none)."""
    return data.StructLayout({"valid": 1, "code": ERROR_CODE_BITS, "pc": PC_BITS, "address": 40})
