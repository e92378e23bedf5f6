# SPDX-License-Identifier: Apache-2.0
"""Error codes that the machine latches in its error register: names, numbers and meanings, stated once."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

__all__ = ["ERROR_CODE_BITS", "ERROR_MEANINGS", "ErrorCode"]

ERROR_CODE_BITS = 5
"""Width of an error code in the machine; 0 is no error."""


class ErrorCode(IntEnum):
    """Why the machine stopped; 0 (no error) is not a member."""

    ILLEGAL_OPCODE = 1
    ILLEGAL_FIELD = 2
    RANGE = 3
    ADDRESS = 4
    AXI_READ = 5
    AXI_WRITE = 6
    AXI_FETCH = 7
    SEMAPHORE = 8
    VCACHE_MISS = 9
    WATCHDOG = 10


ERROR_MEANINGS: Mapping[ErrorCode, str] = {
    ErrorCode.ILLEGAL_OPCODE: "unknown opcode",
    ErrorCode.ILLEGAL_FIELD: "a field or a combination of fields that is not legal, or a reserved bit that is set",
    ErrorCode.RANGE: "an on-chip address outside its memory",
    ErrorCode.ADDRESS: (
        "a memory address that is misaligned, or outside the limits in the registers (loads and fetch: the memory's "
        "size; stores: the output window)"
    ),
    ErrorCode.AXI_READ: "error response to a load",
    ErrorCode.AXI_WRITE: "error response to a store",
    ErrorCode.AXI_FETCH: "error response to an instruction fetch",
    ErrorCode.SEMAPHORE: "a semaphore counter overflowed",
    ErrorCode.VCACHE_MISS: "a GEMM needs a V-Cache tile that no load brings",
    ErrorCode.WATCHDOG: "no progress for the programmed number of cycles (deadlock)",
}
"""What each code means."""
