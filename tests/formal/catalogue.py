# SPDX-License-Identifier: Apache-2.0
"""All proofs."""

from __future__ import annotations

from tests.formal import fifos, semaphores, tags

__all__ = ["PROOFS"]

PROOFS = (*semaphores.PROOFS, *fifos.PROOFS, *tags.PROOFS)
