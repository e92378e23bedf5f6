# SPDX-License-Identifier: Apache-2.0
"""All proofs."""

from __future__ import annotations

from tests.formal import bursts, csr, fetch, fifos, master, semaphores, tags

__all__ = ["PROOFS"]

PROOFS = (
    *csr.PROOFS,
    *bursts.PROOFS,
    *master.PROOFS,
    *fetch.PROOFS,
    *semaphores.PROOFS,
    *fifos.PROOFS,
    *tags.PROOFS,
)
