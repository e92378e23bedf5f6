# SPDX-License-Identifier: Apache-2.0
"""Error codes that the machine latches in its error register (the table of the architecture contract, section 7)."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ErrorCode"]


class ErrorCode(IntEnum):
    """Why the machine stopped; 0 (no error) is not a member."""

    ILLEGAL_OPCODE = 1
    """Unknown opcode."""
    ILLEGAL_FIELD = 2
    """A field or a combination of fields that is not legal, or a reserved bit that is set."""
    RANGE = 3
    """An on-chip address outside its memory."""
    ADDRESS = 4
    """A memory address that is misaligned or outside the limits in the registers."""
    AXI_READ = 5
    """Error response to a load."""
    AXI_WRITE = 6
    """Error response to a store."""
    AXI_FETCH = 7
    """Error response to an instruction fetch."""
    SEMAPHORE = 8
    """A semaphore counter overflowed."""
    VCACHE_MISS = 9
    """A GEMM needs a V-Cache tile that no load brings."""
    WATCHDOG = 10
    """No progress for the programmed number of cycles (deadlock)."""
