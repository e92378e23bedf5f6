# SPDX-License-Identifier: Apache-2.0
"""Runs proofs and says what they found.

    python -m tests.formal                  # all of them
    python -m tests.formal csr-reads tags   # those whose name contains one of the words
    python -m tests.formal --docs           # all, and rewrite the table in docs/proofs.md

Exit status 1 when a proof does not hold, a cover is not reached or a bug not caught.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from tests.formal.catalogue import PROOFS
from tests.support.formal.proof import Outcome, row, run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "proofs.md"


def report(outcome: Outcome) -> bool:
    """Print what a proof found; return whether all is well."""
    print(f"  {'holds' if outcome.proved else f'FAILS: {outcome.fails}'}, {outcome.seconds:.1f} s")
    for name, cycle in outcome.covers.items():
        print(f"  cover, {f'cycle {cycle}' if cycle else 'NOT REACHED'}: {name}")
    for name, claim in outcome.bugs.items():
        print(f"  bug, {f'caught in cycle {claim[1]} by {claim[0]!r}' if claim else 'NOT CAUGHT'}: {name}")
    return outcome.proved and None not in outcome.covers.values() and None not in outcome.bugs.values()


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.formal", description="Run proofs of the RTL.")
    parser.add_argument("names", nargs="*", help="parts of names; none: all proofs")
    parser.add_argument("--docs", action="store_true", help="rewrite the table in docs/proofs.md; needs all proofs")
    options = parser.parse_args()
    if options.docs and options.names:
        parser.error("--docs runs all proofs: name none")
    fine, rows = True, []
    for proof in PROOFS:
        if options.names and not any(word in proof.name for word in options.names):
            continue
        print(proof.name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(proof, Path(folder))
        fine &= report(outcome)
        rows.append(row(proof, f"{outcome.seconds:.1f}"))
    if options.docs and fine:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(re.sub(r"(\| --- .*\n)(\|.*\n)+", lambda found: found[1] + "\n".join(rows) + "\n", text))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
