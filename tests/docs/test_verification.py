# SPDX-License-Identifier: Apache-2.0
"""The verification plan names mutants that there are; the link test looks after its tests and pages."""

from __future__ import annotations

import re

from tests.support.pages import ROOT


def test_mutants_are_rows_of_their_page() -> None:
    text = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    features = text.partition("## Features")[2].partition("\n## ")[0]
    last = [line.split("|")[4] for line in features.splitlines() if re.match(r"\| [^-]", line)][1:]
    words = [word.strip() for cell in last for word in re.sub(r"`[^`]*`", "", cell).split(";")[0].split(",")]
    mutants = (ROOT / "docs" / "mutations.md").read_text(encoding="utf-8")
    missing = [word for word in words if word and f"\n| {word}" not in mutants]
    assert len([word for word in words if word]) > 20 and not missing
