# SPDX-License-Identifier: Apache-2.0
"""What a stream lets each part of the machine do, from its instructions alone.

Time plays no part: how many waves, words, beats and rows there are follows from the instructions, and from the tokens
of the slots where the machine's router says them. The performance counters count some of it too; see
:mod:`scheduler.cost.energy.counters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import Dest, Format, LoadDest, Mapping3D, Mode, Opcode, StoreFormat, VectorDest, VectorOp
from hdl.memory.axi import fetch_buffer_beats
from hdl.memory.fetch import longest_burst
from scheduler.cost.slots import loaded_rows, tokens_of
from scheduler.cost.work import fetch_beats, load_beats, makes_rows, store_beats, vector_requests
from scheduler.stream.table import COL, Rows

__all__ = ["Work", "work_of"]

Int = npt.NDArray[np.int64]
Fields = dict[str, int]


@dataclass(eq=False, kw_only=True)
class Work:
    """Work of one stream, by part of the machine.

    Attributes
    ----------
    wave, new_own, link_m, link_n, link_k : int64 arrays [tiers]
        As the counters of these names: waves, tiles read from V-Cache, tiles and waves that came over a link.
    rows : int64 array [tiers]
        Result rows by the tier that makes them, those that are dropped included.
    swiglu_rows : int
        Of them, rows of SWIGLU, whose elements pass two multipliers.
    rows_activation, rows_combine : int
        Of them, rows that are written to activation buffers, to the combine buffer.
    result_bytes, result_bond_bytes : int
        Bytes that rows for activation buffers write, all tiers that get them; the same over bonds on their way up.
    added_rows : int
        Of `rows_combine`, rows that are added to what is there, which is read.
    accumulator_rows : int
        Rows of sums that the accumulators read, and rows that they write.
    list_entries : int
        Token-list entries that are read or written.
    parameter_bytes : int
        Bytes of requantisation words that are written; one word is read for each of `rows`.
    fill_words, fill_tiers, fill_bonds : int
        Fill words; the same for each tier that takes one; for each bond that one crosses.
    bus_bond_bytes : int
        Bytes that loads and vector unit write into tiers, for each bond that they cross.
    activation_written : int
        Bytes that loads and vector unit write into activation buffers, all tiers that get them.
    combine_rows : int
        Rows of the combine buffer that stores, loads and vector unit read, and rows that they write.
    vector_rows, vector_moved : int
        Rows of operand A, and of a ROUTE's gates; all rows between vector unit and combine buffer.
    read_beats, write_beats : int64 arrays [2]
        By channel group; without instructions.
    fetch_beats : int
        Beats of instructions, those that are fetched beyond END included.
    runs : list of (int, int, int)
        Runs of beats in memory that lie side by side, of instructions, loads and stores: group, first beat, how many.
    """

    wave: Int
    new_own: Int
    link_m: Int
    link_n: Int
    link_k: Int
    rows: Int
    read_beats: Int
    write_beats: Int
    swiglu_rows: int = 0
    rows_activation: int = 0
    rows_combine: int = 0
    result_bytes: int = 0
    result_bond_bytes: int = 0
    added_rows: int = 0
    accumulator_rows: int = 0
    list_entries: int = 0
    parameter_bytes: int = 0
    fill_words: int = 0
    fill_tiers: int = 0
    fill_bonds: int = 0
    bus_bond_bytes: int = 0
    activation_written: int = 0
    combine_rows: int = 0
    vector_rows: int = 0
    vector_moved: int = 0
    fetch_beats: int = 0
    runs: list[tuple[int, int, int]] = field(default_factory=list)


def _gemm(w: Work, c: MachineConfig, i: Fields, tokens: int) -> None:
    """Add a GEMM with the tokens that it has; 0: its slot is empty, and one wave whose row is dropped goes."""
    low, gang, tiles = i["tier_base"], i["tier_count"], i["k_slices"] * i["n_tiles"]
    mapping = i["mapping"] if gang > 1 else Mapping3D.ALONE
    skipped, slices = tokens == 0, i["k_slices"]
    if skipped:
        tokens, tiles, slices = 1, 1, 1
    gang_tiers = slice(low, low + gang)
    followers = slice(low + 1, low + gang)
    w.wave[gang_tiers] += tokens * tiles
    w.new_own[low if mapping == Mapping3D.M else gang_tiers] += tiles
    if mapping == Mapping3D.M:
        w.link_m[followers] += tiles
    elif mapping == Mapping3D.N:
        w.link_n[followers] += tokens * tiles
    elif mapping == Mapping3D.K:
        w.link_k[followers] += tokens * tiles
    makers = range(low + gang - 1, low + gang) if mapping == Mapping3D.K else range(low, low + gang)
    made = tokens * tiles // slices
    w.accumulator_rows += 2 * made * (slices - 1) * len(makers)
    readers = 1 if mapping == Mapping3D.N else gang
    w.list_entries += (tokens * tiles * readers if i["act_list"] else 0) + (made * len(makers) if i["dest_list"] else 0)
    swiglu = i["mode"] == Mode.SWIGLU
    for tier in makers:
        w.rows[tier] += made
        w.swiglu_rows += made if swiglu else 0
        if skipped:
            continue
        if i["dest_kind"] == Dest.COMBINE:
            w.rows_combine += made
            w.added_rows += made if i["accumulate"] else 0
        else:
            mask = i["dest_tiers"] or 1 << tier
            size = made * (c.columns // 2 if swiglu else c.columns)
            w.rows_activation += made
            w.result_bytes += size * mask.bit_count()
            w.result_bond_bytes += size * mask.bit_length()


def _load(w: Work, c: MachineConfig, i: Fields) -> None:
    """Add a LOAD."""
    dest, form, count = i["dest_kind"], i["format"], i["count"]
    beats = int(load_beats(c.rows, c.columns, c.group_bytes, dest, form, count))
    _run(w, c, w.read_beats, i["group"], i["addr"] * ADDRESS_UNIT, beats)
    if dest == LoadDest.VCACHE and form == Format.PAIR:
        _run(w, c, w.read_beats, 1 - i["group"], i["addr_low"] * ADDRESS_UNIT, beats)
    many, high = i["dest_tiers"].bit_count(), i["dest_tiers"].bit_length()
    if dest == LoadDest.VCACHE:
        words = count * c.fill_words
        w.fill_words += words
        w.fill_tiers += words * many
        w.fill_bonds += words * high
    elif dest == LoadDest.LIST:
        w.list_entries += count * many
    elif dest == LoadDest.ROWS:
        w.combine_rows += count
    else:
        size = count * (c.rows if dest == LoadDest.ACTIVATION else 2 * c.columns)
        w.bus_bond_bytes += size * high
        if dest == LoadDest.ACTIVATION:
            w.activation_written += size * many
        else:
            w.parameter_bytes += size * many


def _store(w: Work, c: MachineConfig, i: Fields) -> None:
    """Add a STORE."""
    form, count = i["format"], i["rows"]
    start, apart = i["addr"] * ADDRESS_UNIT + i["offset"], bool(i["addr_gap"])
    w.combine_rows += count * ((form != StoreFormat.DISCARD) + i["clear"])
    if form == StoreFormat.DISCARD:
        return
    if not apart:
        beats = int(store_beats(c.columns, c.group_bytes, form, count, False, start))
        _run(w, c, w.write_beats, i["group"], start, beats)
        return
    step = (c.columns << form) * (1 + i["addr_gap"])
    for row in range(count):
        at = start + row * step
        beats = int(store_beats(c.columns, c.group_bytes, form, 1, True, at))
        _run(w, c, w.write_beats, i["group"], at, beats)


def _vector(w: Work, c: MachineConfig, i: Fields) -> None:
    """Add a VECTOR."""
    op = i["op"]
    asked = int(vector_requests(op, i["vectors"], i["rows"], i["b_rows"], i["length"]))
    w.vector_rows += i["vectors"] * (i["length"] if op == VectorOp.GATHER else i["rows"])
    w.combine_rows += asked
    w.vector_moved += asked
    made = i["vectors"] * (1 if op == VectorOp.GATHER else i["rows"]) if makes_rows(i["dest_kind"]) else 0
    if i["dest_kind"] == VectorDest.ROWS:
        w.combine_rows += made
        w.vector_moved += made
    elif made:
        size = made * c.columns
        w.activation_written += size * i["dest_tiers"].bit_count()
        w.bus_bond_bytes += size * i["dest_tiers"].bit_length()


def _route(w: Work, c: MachineConfig, i: Fields) -> None:
    """Add a ROUTE: it reads a row of gates for each token, and writes an entry for each choice in each tier."""
    w.combine_rows += i["tokens"]
    w.vector_rows += i["tokens"]
    w.list_entries += i["tokens"] * i["choices"] * c.tiers


def _run(w: Work, c: MachineConfig, counter: Int, group: int, address: int, beats: int) -> None:
    counter[group] += beats
    w.runs.append((group, address // c.group_bytes, beats))


def work_of(
    config: MachineConfig, rows: Rows, slot_counts: Sequence[Sequence[int]] = (), *, fetch_room: int | None = None
) -> Work:
    """Return the work of a stream.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    rows : int64 array [instructions, columns]
        A table's rows (:class:`scheduler.stream.table.Table`): legal instructions, END the last one.
    slot_counts : sequence of sequences of int, optional
        Tokens of each slot that a ROUTE of the stream writes, for each ROUTE; without them every slot is taken to be
        as full as planned.
    fetch_room : int, optional
        Bytes from the stream's first one to the limit of group 0's memory; default: enough.
    """
    rows, slot_counts = loaded_rows(rows, slot_counts), tokens_of(slot_counts)
    tiers = [np.zeros(config.tiers, np.int64) for _ in range(6)]
    work = Work(
        wave=tiers[0], new_own=tiers[1], link_m=tiers[2], link_n=tiers[3], link_k=tiers[4], rows=tiers[5],
        read_beats=np.zeros(2, np.int64), write_beats=np.zeros(2, np.int64),
        fetch_beats=_fetched(config, len(rows), fetch_room),
    )  # fmt: skip
    work.runs.append((0, 0, work.fetch_beats))
    slots: dict[int, int] = {}
    routed = 0
    names = COL._fields
    for row in rows.tolist():
        i = dict(zip(names, row, strict=True))
        opcode = i["opcode"]
        known = i["slot_en"] and slot_counts
        held = slots.get(i["slot"], 0) if known else None
        if opcode == Opcode.GEMM:
            _gemm(work, config, i, i["tokens"] if held is None else max(0, min(i["tokens"], held - i["list_base"])))
        elif opcode == Opcode.LOAD and held != 0:
            _load(work, config, i)
        elif opcode == Opcode.STORE:
            _store(work, config, i)
        elif opcode == Opcode.VECTOR:
            _vector(work, config, i)
        elif opcode == Opcode.ROUTE:
            _route(work, config, i)
            if routed < len(slot_counts):
                own = slot_counts[routed]
                for number in range(i["experts"]):
                    slots[i["slot_base"] + number] = int(own[number]) if number < len(own) else 0
            routed += 1
    return work


def _fetched(config: MachineConfig, instructions: int, room: int | None) -> int:
    """Return the beats of instructions that are fetched, in whole bursts, until the buffer behind END is full."""
    least = int(fetch_beats(config.group_bytes, instructions))
    burst = longest_burst(config)
    beats = max(least, (least + fetch_buffer_beats(config)) // burst * burst)
    return beats if room is None else min(beats, max(least, room // config.group_bytes))
