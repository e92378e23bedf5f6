# SPDX-License-Identifier: Apache-2.0
"""An HBM channel cycle by cycle: the specification of `sim/rtl/hbm_channel.v`, which gives the same commands.

Requests are bursts of beats. They come in *streams*: one for each read id and one for the writes. Within a stream beats
are answered in order, as AXI demands; between streams the controller chooses, row hits first (FR-FCFS): only beats
whose row is open can be read or written, the oldest burst first. Pages stay open.

Each stream has two pointers. The *opener* runs ahead and sees to it that rows are open; it passes a beat when the
beat's row is open, up to `WINDOW` beats a cycle, and the row then stays open until that beat's column access. The
*column* pointer follows, at most `LEAD` beats behind. In a cycle the channel gives at most one column command (READ,
WRITE) and one row command (ACTIVATE, PRECHARGE, REFRESH), as HBM has a bus for each.

Refresh is per bank, every `refresh` cycles one of the banks that this round still lacks: the one used last that nobody
wants now, so that a stream that has just left a bank finds it refreshed when it comes back. When as many as may be are
postponed, the lowest one is taken in any case.

What happens in one cycle, in this order: a column command; a bank is claimed for refresh; a row command; the openers
go on; the refresh interval is counted.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.cost.hbm.timing import T
from scheduler.stream.compiled import compiled, numbered

__all__ = [
    "ACTIVATE", "COMMAND", "DEPTH", "LEAD", "NONE", "PRECHARGE", "READ", "REFRESH", "STREAMS", "WINDOW", "WRITE",
    "WRITES", "Channel", "cycle", "new_channel", "push", "replay", "room", "running_channel", "wait",
]  # fmt: skip

STREAMS: Final = 3
WRITES: Final = 2
"""Streams of a channel: read id 0, read id 1, writes."""

WINDOW: Final = 8
"""Beats ahead of the opener that rows are opened for."""

LEAD: Final = 64
"""Beats that the opener may be ahead: more than a precharge and an activate take, few enough to leave banks alone."""

DEPTH: Final = 64
"""Bursts that wait in a stream, a power of two."""

NONE, READ, WRITE, ACTIVATE, PRECHARGE, REFRESH = range(6)
"""Commands."""

Int = npt.NDArray[np.int64]

COMMAND: Any = numbered(
    "COMMAND", "column column_stream column_last column_bank column_at row row_bank row_row"
)  # fmt: skip
"""What a channel does in a cycle: the column command (or NONE), its stream, whether the beat is its burst's last, bank
and column; the row command (or NONE), bank and row."""

_STATE: Final = {
    "now": 1, "order": 1, "due": 1, "counter": 1, "claimed": 1, "left": 1, "column_any": 1, "read_any": 1,
    "write_any": 1, "activate_any": 1, "faw": 4, "column_group": 8, "read_group": 8, "activate_group": 8,
    "head": STREAMS, "count": STREAMS, "head_beat": STREAMS, "open_entry": STREAMS, "open_beat": STREAMS,
    "lead": STREAMS,
}  # fmt: skip
S: Any = numbered("S", " ".join(_STATE), (sum(list(_STATE.values())[:at]) for at in range(len(_STATE))))
"""Places in a channel's state. Scalars: the cycle, bursts so far, refreshes that are due, cycles to the next one, the
bank that is claimed for one (or -1), banks that this round still lacks (a mask), the first cycles in which there may be
a column command, a read, a write, an activate. Then the last four activates; for each group the first cycle of a column
command, a read, an activate; for each stream the first burst's place, bursts, beats of the first burst that are done,
and the opener: bursts behind the first one, beats of that burst, and beats between both pointers."""

SIZE: Final = sum(_STATE.values())

B: Any = numbered("B", "row read write activate precharge passed used")
"""Columns of a channel's banks: the open row (or -1), the first cycles in which there may be a read, a write, an
activate, a precharge, beats that the openers have passed and that wait for their column, the last use."""

E: Any = numbered("E", "first beats order")
"""Columns of a channel's bursts: number of the first beat, beats, order of arrival."""


class Channel(NamedTuple):
    """A channel.

    Attributes
    ----------
    timing : int64 array
        See :data:`scheduler.cost.hbm.timing.T`.
    state, banks, bursts
        See :data:`S`, :data:`B` and :data:`E`; bursts by stream and place.
    command : int64 array
        What happened in the last cycle; see :data:`COMMAND`.
    wanted : int64 array [banks]
        For the cycle that is being worked out.
    """

    timing: Int
    state: Int
    banks: Int
    bursts: Int
    command: Int
    wanted: Int


def new_channel(timing: Int) -> Channel:
    """Return a channel whose banks are all closed."""
    banks = 1 << int(timing[T.group_bits] + timing[T.bank_bits])
    channel = Channel(
        timing, np.zeros(SIZE, np.int64), np.zeros((banks, len(B)), np.int64),
        np.zeros((STREAMS, DEPTH, len(E)), np.int64), np.zeros(len(COMMAND), np.int64), np.zeros(banks, np.int64),
    )  # fmt: skip
    channel.banks[:, B.row] = -1
    channel.state[S.claimed] = -1
    channel.state[S.left] = (1 << banks) - 1
    channel.state[S.counter] = timing[T.refresh]
    channel.state[S.faw : S.faw + 4] = -timing[T.faw]
    return channel


@compiled
def room(channel: Channel, stream: int) -> int:
    """Return how many more bursts a stream can take."""
    return int(DEPTH - channel.state[S.count + stream])


@compiled
def push(channel: Channel, stream: int, first: int, beats: int) -> None:
    """Let a burst wait in a stream that has room, from the next cycle on.

    Parameters
    ----------
    first : int
        Number of its first beat: the byte address in the channel over the bytes of a beat.
    """
    s, place = channel.state, (channel.state[S.head + stream] + channel.state[S.count + stream]) % DEPTH
    channel.bursts[stream, place, E.first], channel.bursts[stream, place, E.beats] = first, beats
    channel.bursts[stream, place, E.order] = s[S.order]
    s[S.order] += 1
    s[S.count + stream] += 1


@compiled
def _bank(timing: Int, beat: int) -> int:
    """Return the bank of a beat: its group above the bank in the group."""
    low = timing[T.group_bits] - timing[T.high_bits]
    group = beat >> timing[T.group_at] & (1 << low) - 1
    group |= (beat >> timing[T.high_at] & (1 << timing[T.high_bits]) - 1) << low
    bank = beat >> timing[T.bank_at] & (1 << timing[T.bank_bits]) - 1
    return int(group << timing[T.bank_bits] | bank)


@compiled
def _row(timing: Int, beat: int) -> int:
    return int(beat >> (timing[T.group_bits] + timing[T.bank_bits] + timing[T.column_bits]))


@compiled
def _burst(channel: Channel, stream: int, number: int) -> int:
    """Return the place of a stream's burst, counted from its first one."""
    return int((channel.state[S.head + stream] + number) % DEPTH)


@compiled
def _column(channel: Channel) -> None:
    """Give a column command, if there can be one."""
    s, t, banks, command = channel.state, channel.timing, channel.banks, channel.command
    now, best, chosen = s[S.now], -1, -1
    command[COMMAND.column] = NONE
    if now < s[S.column_any]:
        return
    for stream in range(STREAMS):
        if s[S.lead + stream] == 0:
            continue
        burst = channel.bursts[stream, s[S.head + stream]]
        beat = burst[E.first] + s[S.head_beat + stream]
        bank = _bank(t, beat)
        group = bank >> t[T.bank_bits]
        fits = now >= s[S.column_group + group]
        if stream == WRITES:
            fits = fits and now >= s[S.write_any] and now >= banks[bank, B.write]
        else:
            fits = fits and now >= s[S.read_any] and now >= s[S.read_group + group] and now >= banks[bank, B.read]
        if fits and (chosen < 0 or burst[E.order] < best):
            best, chosen = burst[E.order], stream
    if chosen < 0:
        return
    burst = channel.bursts[chosen, s[S.head + chosen]]
    beat = burst[E.first] + s[S.head_beat + chosen]
    bank = _bank(t, beat)
    group, last = bank >> t[T.bank_bits], s[S.head_beat + chosen] + 1 == burst[E.beats]
    command[COMMAND.column] = WRITE if chosen == WRITES else READ
    command[COMMAND.column_stream], command[COMMAND.column_last], command[COMMAND.column_bank] = chosen, last, bank
    command[COMMAND.column_at] = beat >> t[T.column_at] & (1 << t[T.column_bits]) - 1
    s[S.column_any], s[S.column_group + group] = now + t[T.ccd_s], now + t[T.ccd_l]
    if chosen == WRITES:
        end = now + t[T.cwl] + t[T.ccd_s]  # of its data
        s[S.read_any], s[S.read_group + group] = end + t[T.wtr_s], end + t[T.wtr_l]
        banks[bank, B.precharge] = max(banks[bank, B.precharge], end + t[T.wr])
    else:
        s[S.write_any] = now + t[T.rtw]
        banks[bank, B.precharge] = max(banks[bank, B.precharge], now + t[T.rtp])
    banks[bank, B.passed] -= 1
    banks[bank, B.used] = now
    s[S.lead + chosen] -= 1
    if not last:
        s[S.head_beat + chosen] += 1
        return
    s[S.head + chosen] = _burst(channel, chosen, 1)
    s[S.count + chosen] -= 1
    s[S.head_beat + chosen] = 0
    s[S.open_entry + chosen] -= 1


@compiled
def _claim(channel: Channel) -> None:
    """Claim a bank for a refresh that is due."""
    s, t, banks = channel.state, channel.timing, channel.banks
    if s[S.due] == 0 or s[S.claimed] >= 0:
        return
    for bank in range(len(banks)):
        channel.wanted[bank] = banks[bank, B.passed]
    for stream in range(STREAMS):
        entry, offset = s[S.open_entry + stream], s[S.open_beat + stream]
        for _ in range(WINDOW):
            if entry == s[S.count + stream]:
                break
            burst = channel.bursts[stream, _burst(channel, stream, entry)]
            channel.wanted[_bank(t, burst[E.first] + offset)] += 1
            offset += 1
            if offset == burst[E.beats]:
                entry, offset = entry + 1, 0
    lowest, best = -1, -1
    for bank in range(len(banks)):
        if s[S.left] >> bank & 1:
            if lowest < 0:
                lowest = bank
            if channel.wanted[bank] == 0 and (best < 0 or banks[bank, B.used] > banks[best, B.used]):
                best = bank
    if best < 0 and s[S.due] > t[T.postponed]:
        best = lowest
    s[S.claimed] = best


@compiled
def _precharge(channel: Channel, bank: int) -> None:
    s, t, banks, command = channel.state, channel.timing, channel.banks, channel.command
    command[COMMAND.row], command[COMMAND.row_bank], command[COMMAND.row_row] = PRECHARGE, bank, banks[bank, B.row]
    banks[bank, B.row] = -1
    banks[bank, B.activate] = max(banks[bank, B.activate], s[S.now] + t[T.rp])


@compiled
def _refresh(channel: Channel) -> bool:
    """Bring the claimed bank's refresh on, if there can be a command for it now."""
    s, t, banks, command = channel.state, channel.timing, channel.banks, channel.command
    bank, now = s[S.claimed], s[S.now]
    if bank < 0:
        return False
    if banks[bank, B.row] >= 0:
        if banks[bank, B.passed] or now < banks[bank, B.precharge]:
            return False
        _precharge(channel, bank)
        return True
    if now < banks[bank, B.activate]:
        return False
    command[COMMAND.row], command[COMMAND.row_bank], command[COMMAND.row_row] = REFRESH, bank, 0
    banks[bank, B.activate] = now + t[T.rfc_pb]
    s[S.left] &= ~(1 << bank)
    if s[S.left] == 0:
        s[S.left] = (1 << len(banks)) - 1
    s[S.due] -= 1
    s[S.claimed] = -1
    return True


@compiled
def _activate(channel: Channel, bank: int, row: int) -> bool:
    """Open a row of a closed bank, if that is possible now."""
    s, t, banks, command = channel.state, channel.timing, channel.banks, channel.command
    now, group = s[S.now], bank >> t[T.bank_bits]
    if now < banks[bank, B.activate] or now < s[S.activate_any] or now < s[S.activate_group + group]:
        return False
    if now < s[S.faw] + t[T.faw]:
        return False
    command[COMMAND.row], command[COMMAND.row_bank], command[COMMAND.row_row] = ACTIVATE, bank, row
    banks[bank, B.row] = row
    banks[bank, B.read], banks[bank, B.write] = now + t[T.rcd_rd], now + t[T.rcd_wr]
    banks[bank, B.precharge], banks[bank, B.activate] = now + t[T.ras], now + t[T.rc]
    banks[bank, B.used] = now
    s[S.activate_any], s[S.activate_group + group] = now + t[T.rrd_s], now + t[T.rrd_l]
    for at in range(3):
        s[S.faw + at] = s[S.faw + at + 1]
    s[S.faw + 3] = now
    return True


@compiled
def _open(channel: Channel, stream: int) -> bool:
    """Open or close a row for one of the beats ahead of a stream's opener, the first for which it is possible."""
    s, t, banks, seen = channel.state, channel.timing, channel.banks, 0
    entry, offset = s[S.open_entry + stream], s[S.open_beat + stream]
    for _ in range(WINDOW):
        if entry == s[S.count + stream]:
            return False
        burst = channel.bursts[stream, _burst(channel, stream, entry)]
        beat = burst[E.first] + offset
        bank, row = _bank(t, beat), _row(t, beat)
        if not seen >> bank & 1 and bank != s[S.claimed] and banks[bank, B.row] != row:
            if banks[bank, B.row] < 0:
                if _activate(channel, bank, row):
                    return True
            elif banks[bank, B.passed] == 0 and s[S.now] >= banks[bank, B.precharge]:
                _precharge(channel, bank)
                return True
        seen |= 1 << bank
        offset += 1
        if offset == burst[E.beats]:
            entry, offset = entry + 1, 0
    return False


@compiled
def _next_stream(channel: Channel, behind: int) -> int:
    """Return the stream with the oldest burst at its opener, of those whose is younger than `behind`, or -1."""
    s, best, chosen = channel.state, -1, -1
    for stream in range(STREAMS):
        if s[S.open_entry + stream] < s[S.count + stream]:
            order = channel.bursts[stream, _burst(channel, stream, s[S.open_entry + stream]), E.order]
            if order > behind and (chosen < 0 or order < best):
                best, chosen = order, stream
    return chosen


@compiled
def _row_command(channel: Channel) -> None:
    """Give a row command, if there can be one."""
    s, behind = channel.state, -1
    channel.command[COMMAND.row] = NONE
    if _refresh(channel):
        return
    for _ in range(STREAMS):
        stream = _next_stream(channel, behind)
        if stream < 0 or _open(channel, stream):
            return
        behind = channel.bursts[stream, _burst(channel, stream, s[S.open_entry + stream]), E.order]


@compiled
def _go_on(channel: Channel, stream: int) -> None:
    """Let a stream's opener pass beats whose rows are open."""
    s, t, banks = channel.state, channel.timing, channel.banks
    for _ in range(WINDOW):
        if s[S.open_entry + stream] == s[S.count + stream] or s[S.lead + stream] == LEAD:
            return
        burst = channel.bursts[stream, _burst(channel, stream, s[S.open_entry + stream])]
        beat = burst[E.first] + s[S.open_beat + stream]
        bank = _bank(t, beat)
        if bank == s[S.claimed] or banks[bank, B.row] != _row(t, beat):
            return
        banks[bank, B.passed] += 1
        s[S.lead + stream] += 1
        s[S.open_beat + stream] += 1
        if s[S.open_beat + stream] == burst[E.beats]:
            s[S.open_entry + stream] += 1
            s[S.open_beat + stream] = 0


@compiled
def cycle(channel: Channel) -> None:
    """Work out a cycle; `channel.command` has what happens in it."""
    s = channel.state
    _column(channel)
    _claim(channel)
    _row_command(channel)
    for stream in range(STREAMS):
        _go_on(channel, stream)
    s[S.counter] -= 1
    if s[S.counter] == 0:
        s[S.counter] = channel.timing[T.refresh]
        s[S.due] += 1
    s[S.now] += 1


@compiled
def wait(channel: Channel, until: int) -> None:
    """Work out the cycles up to one while no burst waits; what is seen afterwards is as if each were worked out."""
    s = channel.state
    while s[S.now] < until:
        if s[S.due] == 0 and s[S.claimed] < 0 and s[S.counter] > 1:
            step = min(until - s[S.now], s[S.counter] - 1)  # nothing can happen
            s[S.now] += step
            s[S.counter] -= step
        else:
            cycle(channel)


def running_channel(timing: Int, cycles: int) -> Channel:
    """Return a channel that has run for some cycles without a request, at its cycle 0."""
    channel = new_channel(timing)
    wait(channel, cycles)
    channel.state[S.now] = 0
    channel.banks[:, B.activate] -= cycles
    return channel


@compiled
def replay(channel: Channel, requests: Int, commands: Int) -> int:
    """Push bursts in given cycles and note the commands of each cycle that has any, until all bursts are done.

    Parameters
    ----------
    requests : int64 array [bursts, 4]
        Cycle, stream, first beat, beats; by rising cycles.
    commands : int64 array [room, 1 + len(COMMAND)]
        Takes the cycle and the commands, until there is no more room.

    Returns
    -------
    int
        Cycles with commands.
    """
    place, left, many, s = 0, 0, 0, channel.state
    while (place < len(requests) or left) and many < len(commands):
        now = s[S.now]
        cycle(channel)
        column, row = channel.command[COMMAND.column], channel.command[COMMAND.row]
        if column or row:
            commands[many, 0] = now
            for field in range(len(channel.command)):
                commands[many, 1 + field] = channel.command[field]
            many += 1
            if column and channel.command[COMMAND.column_last]:
                left -= 1
        while place < len(requests) and requests[place, 0] <= now:
            push(channel, requests[place, 1], requests[place, 2], requests[place, 3])
            place += 1
            left += 1
    return many
