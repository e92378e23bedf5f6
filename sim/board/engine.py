# SPDX-License-Identifier: Apache-2.0
"""The engine ``board``: steps on a board, after each of which every byte of both memories is compared."""

from __future__ import annotations

from contextlib import ExitStack

from hdl.config import MachineConfig
from sim.board.session import BoardSession, check_images
from sim.machine.engines import Memory, RtlEngine
from sim.machine.session import Session

__all__ = ["BoardEngine"]


class BoardEngine(RtlEngine):
    """A board; after every step each byte of both memories must be what the executor says.

    Parameters
    ----------
    config : MachineConfig
        The machine on the board.
    board : BoardSession
        The board; it stays open.
    verify : bool
        Prove every stream free of races before it is compared.
    """

    name = "board"

    def __init__(self, config: MachineConfig, board: BoardSession, *, verify: bool = True) -> None:
        super().__init__(config, verify=verify)
        self._board = board

    @property
    def clock_mhz(self) -> float:
        """Clock of the board's machine."""
        return self._board.clock_khz / 1000

    def _open(self, memory: Memory, stack: ExitStack) -> Session:
        """Return the board, whose memories must be large enough."""
        check_images([image.size for image in memory.images], self._board.memory_bytes)
        return self._board
