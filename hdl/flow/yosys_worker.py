# SPDX-License-Identifier: Apache-2.0
"""The process in which :mod:`hdl.flow.yosys` runs Yosys: Yosys ends its process on an error, so it gets its own.

Reads a JSON list of ``[name, [pass, ...]]`` from the file that its argument names, and runs each job on an empty
design.  Imports nothing of this project, so that it starts in any Python that has ``pyosys``.
"""

import json
import sys

DONE = "@@done"
MISSING = "@@no pyosys"


def main() -> None:
    """Run the jobs; after each, print a line that names it."""
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    try:
        from pyosys import libyosys
    except ImportError:
        print(MISSING, flush=True)
        sys.exit(3)
    for name, passes in jobs:
        design = libyosys.Design()
        for line in passes:
            libyosys.run_pass(line, design)
        print(f"\n{DONE} {name}", flush=True)


if __name__ == "__main__":
    main()
