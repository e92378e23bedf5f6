# SPDX-License-Identifier: Apache-2.0
"""What an HBM channel of a simulation was asked for and did, as `sim/rtl/hbm_channel.v` records it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scheduler.cost.energy.count import HbmCounts
from scheduler.cost.hbm.channel import ACTIVATE, COMMAND, NONE, REFRESH, new_channel, replay

__all__ = ["HbmRecord", "hbm_counts", "read_record"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HbmRecord:
    """What happened from one reset to the next.

    Attributes
    ----------
    requests : int64 array [bursts, 4]
        Cycle, stream, first beat, beats.
    commands : int64 array [cycles, 1 + len(COMMAND)]
        Cycle and commands, see :data:`scheduler.cost.hbm.channel.COMMAND`.
    """

    requests: Int
    commands: Int

    def specified(self, timing: Int) -> Int:
        """Return the commands that the specification gives for the same requests."""
        found = np.zeros((2 * len(self.commands) + 64, self.commands.shape[1]), np.int64)
        return found[: replay(new_channel(timing), self.requests, found)]

    def differs(self, timing: Int) -> int:
        """Return how many cycles have other commands than the specification's, of those that this one knows of."""
        wanted = self.specified(timing)
        own = self.commands[: len(wanted)]
        if len(own) < len(wanted):
            return len(wanted) - len(own)
        return int((_shown(own) != _shown(wanted)).any(axis=1).sum())


def _shown(commands: Int) -> Int:
    """Return commands with 0 where a field means nothing."""
    found = commands.copy()
    found[found[:, 1 + COMMAND.column] == NONE, 1 + COMMAND.column : 1 + COMMAND.row] = 0
    found[found[:, 1 + COMMAND.row] == NONE, 1 + COMMAND.row :] = 0
    return found


def hbm_counts(records: Iterable[HbmRecord]) -> HbmCounts:
    """Return the rows that were opened and the banks that were refreshed, of one channel of each group."""
    commands = np.concatenate([record.commands[:, 1 + COMMAND.row] for record in records])
    return HbmCounts(activates=int((commands == ACTIVATE).sum()), refreshes=int((commands == REFRESH).sum()))


def read_record(path: Path) -> HbmRecord:
    """Read a record."""
    kinds: dict[str, list[list[int]]] = {"p": [], "c": []}
    for line in path.read_text(encoding="ascii").splitlines():
        kind, *numbers = line.split()
        kinds[kind].append([int(one) if one.isdigit() else 0 for one in numbers])
    requests = np.array(kinds["p"], np.int64).reshape(-1, 4)
    return HbmRecord(requests, np.array(kinds["c"], np.int64).reshape(-1, 1 + len(COMMAND)))
