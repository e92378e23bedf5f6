# SPDX-License-Identifier: Apache-2.0
"""The page about proofs has the proofs that there are, and the bugs can still be seeded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.formal.catalogue import PROOFS
from tests.support.formal.proof import Proof, broken, row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "proofs.md"


def test_page_lists_every_proof_and_no_other() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert [re.sub(r" \| [\d.]+ \| ", " | SECONDS | ", line) for line in lines] == [row(p, "SECONDS") for p in PROOFS]


def test_names_are_unique() -> None:
    assert len({proof.name for proof in PROOFS}) == len(PROOFS)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_bugs_can_be_seeded(proof: Proof) -> None:
    assert proof.bugs
    for bug in proof.bugs:
        made = broken(proof.block, bug)
        assert made is not proof.block and made.__name__ == proof.block.__name__
