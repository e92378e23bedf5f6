# SPDX-License-Identifier: Apache-2.0
"""All proofs."""

from __future__ import annotations

from tests.formal import bursts, credits, csr, fetch, fifos, loads, master, semaphores, stores, tags

__all__ = ["PROOFS"]

PROOFS = (
    *csr.PROOFS,
    *bursts.PROOFS,
    *master.PROOFS,
    *loads.PROOFS,
    *stores.PROOFS,
    *fetch.PROOFS,
    *semaphores.PROOFS,
    *fifos.PROOFS,
    *credits.PROOFS,
    *tags.PROOFS,
)
