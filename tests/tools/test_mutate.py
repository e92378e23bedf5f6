# SPDX-License-Identifier: Apache-2.0
"""The deliberate breakages can be made: what they replace is in the sources, once, and their tests are there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("mutate", ROOT / "tools" / "mutate.py")
assert SPEC is not None and SPEC.loader is not None
mutate = sys.modules["mutate"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(mutate)


@pytest.mark.parametrize("mutant", mutate.MUTANTS, ids=lambda m: m.name.replace(" ", "_"))
def test_mutants_are_up_to_date(mutant: mutate.Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert (ROOT / mutant.tests.split()[0]).exists()


def test_page_names_every_mutant() -> None:
    page = (ROOT / "docs" / "mutations.md").read_text()
    for mutant in mutate.MUTANTS:
        assert f"| {mutant.name} | `{mutant.file}` |" in page
