# SPDX-License-Identifier: Apache-2.0
"""What an HBM's commands have to obey, checked one pair of commands at a time, and traffic to draw them with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.cost.hbm.channel import (
    ACTIVATE,
    COMMAND,
    NONE,
    PRECHARGE,
    READ,
    REFRESH,
    STREAMS,
    WRITE,
    WRITES,
    cycle,
    new_channel,
    push,
    room,
)
from scheduler.cost.hbm.timing import T

__all__ = ["Request", "commands_of", "drawn", "mistakes"]


@dataclass(frozen=True)
class Request:
    """A burst that comes in a cycle, or as soon as its stream has room."""

    cycle: int
    stream: int
    first: int
    beats: int


def drawn(rng: random.Random, kind: str, many: int) -> list[Request]:
    """Return traffic of a kind: ``stream`` (one id reads what follows), ``random`` (all streams, anywhere, pauses)."""
    found, at, place = [], 0, 0
    for _ in range(many):
        if kind == "stream":
            found.append(Request(at, 0, place, 16))
            place, at = place + 16, at + 16
            continue
        at += rng.choice((0, 0, 1, 5, 20, 200))
        beats = rng.choice((1, 1, 2, 8, 16, 16, 64))
        place = rng.choice((place, rng.randrange(1 << 14), rng.randrange(64) * 512))
        found.append(Request(at, rng.choices(range(STREAMS), (4, 1, 2))[0], place, beats))
        place += beats
    return found


def commands_of(timing: npt.NDArray[np.int64], requests: list[Request], more: int = 0) -> Iterator[tuple[int, ...]]:
    """Yield cycle and commands of each cycle in which there are any, until all is done and `more` cycles longer."""
    channel, place, left = new_channel(timing), 0, 0
    now = 0
    while place < len(requests) or left or more:
        cycle(channel)
        if not left and place == len(requests):
            more -= 1
        if channel.command[COMMAND.column] or channel.command[COMMAND.row]:
            yield now, *channel.command.tolist()
            left -= int(channel.command[COMMAND.column] != NONE and channel.command[COMMAND.column_last])
        while place < len(requests) and requests[place].cycle <= now and room(channel, requests[place].stream) > 2:
            one = requests[place]
            push(channel, one.stream, one.first, one.beats)
            place, left = place + 1, left + 1
            if place < len(requests) and requests[place].stream <= one.stream:
                break  # one of each stream a cycle, in their order
        now += 1


def mistakes(timing: npt.NDArray[np.int64], commands: list[tuple[int, ...]], requests: list[Request]) -> list[str]:
    """Return what commands do that they must not, or do not that they must."""
    t, found = timing, []
    bank_bits = int(t[T.bank_bits])
    rows: dict[int, int] = {}
    last: dict[tuple[int, int], int] = {}  # of each command in each bank
    history: list[tuple[int, int, int]] = []  # cycle, column command, bank
    activates: list[tuple[int, int]] = []  # cycle, bank
    beats = [
        [(one, beat) for one in requests if one.stream == stream for beat in range(one.first, one.first + one.beats)]
        for stream in range(STREAMS)
    ]  # fmt: skip
    done = [0] * STREAMS
    refreshed: list[int] = []

    def at_least(now: int, before: int | None, cycles: int, what: str) -> None:
        if before is not None and now < before + cycles:
            found.append(f"cycle {now}: {what} after {now - before}, not {cycles}")

    for now, column, stream, ends, bank, at, row_command, row_bank, row in commands:
        if column:
            group = bank >> bank_bits
            request, beat = beats[stream][done[stream]]
            done[stream] += 1
            low = int(t[T.group_bits] - t[T.high_bits])
            own_group = beat >> int(t[T.group_at]) & (1 << low) - 1
            own_group |= (beat >> int(t[T.high_at]) & (1 << int(t[T.high_bits])) - 1) << low
            own_bank = beat >> int(t[T.bank_at]) & (1 << bank_bits) - 1
            own_column = beat >> int(t[T.column_at]) & (1 << int(t[T.column_bits])) - 1
            own_row = beat >> int(t[T.group_bits] + t[T.bank_bits] + t[T.column_bits])
            if (group, bank & (1 << bank_bits) - 1, at, rows.get(bank)) != (own_group, own_bank, own_column, own_row):
                found.append(f"cycle {now}: beat {beat} of stream {stream} from the wrong place")
            if bool(ends) != (beat == request.first + request.beats - 1):
                found.append(f"cycle {now}: beat {beat} of stream {stream} is its burst's last, or not")
            if (column == WRITE) != (stream == WRITES):
                found.append(f"cycle {now}: command {column} for stream {stream}")
            at_least(now, last.get((ACTIVATE, bank)), int(t[T.rcd_wr if column == WRITE else T.rcd_rd]), "rcd")
            for before, command, other in reversed(history):
                if before < now - 100:
                    break
                same = other >> bank_bits == group
                at_least(now, before, int(t[T.ccd_l if same else T.ccd_s]), "ccd")
                if command == READ and column == WRITE:
                    at_least(now, before, int(t[T.rtw]), "rtw")
                if command == WRITE and column == READ:
                    turn = t[T.wtr_l if same else T.wtr_s]
                    at_least(now, before, int(t[T.cwl] + t[T.ccd_s] + turn), "wtr")
            history.append((now, column, bank))
            last[column, bank] = now
        if row_command == ACTIVATE:
            if row_bank in rows:
                found.append(f"cycle {now}: bank {row_bank} is open already")
            rows[row_bank] = row
            at_least(now, last.get((PRECHARGE, row_bank)), int(t[T.rp]), "rp")
            at_least(now, last.get((ACTIVATE, row_bank)), int(t[T.rc]), "rc")
            at_least(now, last.get((REFRESH, row_bank)), int(t[T.rfc_pb]), "rfc")
            for when, other in activates[-4:]:
                same = other >> bank_bits == row_bank >> bank_bits
                at_least(now, when, int(t[T.rrd_l if same else T.rrd_s]), "rrd")
            if len(activates) > 3:
                at_least(now, activates[-4][0], int(t[T.faw]), "faw")
            activates.append((now, row_bank))
        elif row_command == PRECHARGE:
            if rows.pop(row_bank, None) != row:
                found.append(f"cycle {now}: bank {row_bank} is not open")
            at_least(now, last.get((ACTIVATE, row_bank)), int(t[T.ras]), "ras")
            at_least(now, last.get((READ, row_bank)), int(t[T.rtp]), "rtp")
            at_least(now, last.get((WRITE, row_bank)), int(t[T.cwl] + t[T.ccd_s] + t[T.wr]), "wr")
        elif row_command == REFRESH:
            if row_bank in rows:
                found.append(f"cycle {now}: bank {row_bank} is open and refreshed")
            at_least(now, last.get((PRECHARGE, row_bank)), int(t[T.rp]), "rp")
            at_least(now, last.get((ACTIVATE, row_bank)), int(t[T.rc]), "rc")
            at_least(now, last.get((REFRESH, row_bank)), int(t[T.rfc_pb]), "rfc")
            refreshed.append(row_bank)
        if row_command:
            last[row_command, row_bank] = now
    if done != [len(own) for own in beats]:
        found.append(f"{done} beats of {[len(own) for own in beats]}")
    banks = 1 << int(t[T.group_bits] + t[T.bank_bits])
    for first in range(0, len(refreshed) - banks + 1, banks):
        if sorted(refreshed[first : first + banks]) != list(range(banks)):
            found.append(f"refresh round {first // banks}: {refreshed[first : first + banks]}")
    due = (commands[-1][0] if commands else 0) // int(t[T.refresh])
    if not due - int(t[T.postponed]) - 2 <= len(refreshed) <= due:
        found.append(f"{len(refreshed)} refreshes of {due}")
    return found
