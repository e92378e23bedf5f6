# SPDX-License-Identifier: Apache-2.0
"""What the command ``a3d`` calls: imports next to nothing, so that Ctrl-C is one word from the start."""

import sys

__all__ = ["main"]


def main() -> int:
    """Run ``a3d`` with the arguments of the process, and return the exit status."""
    try:
        from sim.cli import main as run

        return run()
    except KeyboardInterrupt:  # while modules were imported
        sys.stderr.write("interrupted\n")
        return 130
