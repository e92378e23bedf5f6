# SPDX-License-Identifier: Apache-2.0
"""Links, anchors and names of files in the pages lead somewhere."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import ROOT, anchors, exists, links, pages, spans

FILE = re.compile(r"^(?:docs|hdl|models|scheduler|sim|tests|tools)/[\w./-]*[\w/]$")
TEST = re.compile(r"^(tests/[\w./-]+)((?:::\w+)*)(?:\[.*\])?$")


@pytest.mark.parametrize("page", pages())
def test_links_resolve(page: str) -> None:
    """Each relative link names a file or a folder of the tree, and each anchor a heading."""
    broken = []
    for link in links(page):
        name, _, anchor = link.text.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        if not target.exists() and target.is_relative_to(ROOT) and exists(str(target.relative_to(ROOT))):
            continue
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(f"{link}: no such file")
        elif anchor and (target.suffix != ".md" or anchor not in anchors(str(target.relative_to(ROOT)))):
            broken.append(f"{link}: no such heading")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("page", pages())
def test_files_exist(page: str) -> None:
    """A path in inline code exists (NAME stands for any), and a test is defined in its file."""
    missing = []
    for span in spans(page):
        words = span.text.split()[1:] if span.text.startswith("pytest ") else [span.text]
        for word in words:
            if FILE.match(word) and not exists(word):
                missing.append(f"{span}: no {word}")
            elif test := TEST.match(word):
                path = ROOT / test[1]
                source = path.read_text(encoding="utf-8") if path.is_file() else ""
                if not path.exists() or not all(f"def {name}(" in source for name in test[2].split("::")[1:]):
                    missing.append(f"{span}: no {word}")
    assert not missing, "\n".join(missing)
