# SPDX-License-Identifier: Apache-2.0
"""The configurations that proofs are about: the smallest that have everything the claims speak of."""

from __future__ import annotations

from hdl.config import PRESETS

__all__ = ["TINIEST"]

TINIEST = PRESETS["nano"].replace(
    vcache_tiles=4, activation_words=16, accumulator_depth=4, list_depth=4, parameter_words=4, combine_rows=8,
    scalar_depth=16, expert_slots=2, row_fifo_depth=21, address_bits=14, burst_beats=4, outstanding_bursts=2,
    skew_fifo_beats=8, queue_depth=2, semaphores=8, semaphore_bits=4,
)  # fmt: skip
"""Every size of `nano` as small as it may be, with four pages of memory so that a burst could cross one."""
