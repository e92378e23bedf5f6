# SPDX-License-Identifier: Apache-2.0
"""Every proof holds, every cover is reached, and every seeded bug makes a claim fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formal.catalogue import PROOFS
from tests.support.formal.proof import Proof, run


@pytest.mark.parametrize(
    "proof", [pytest.param(proof, id=proof.name, marks=[pytest.mark.slow] * proof.slow) for proof in PROOFS]
)
def test_proof(proof: Proof, tmp_path: Path) -> None:
    outcome = run(proof, tmp_path)
    assert outcome.fails is None
    assert outcome.proved
    assert [name for name, cycle in outcome.covers.items() if cycle is None] == []
    assert [name for name, claim in outcome.bugs.items() if claim is None] == []
