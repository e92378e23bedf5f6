# SPDX-License-Identifier: Apache-2.0
"""A simulated board: the Verilog of `a3d board build` without what is the vendor's, behind a pseudo terminal."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hdl.boards.top import BOARD_TOP, DEFAULT_BAUD, Wiring, emit_board
from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.process import guarded
from hdl.scratch import scratch_folder
from sim.simulator import runner

__all__ = ["build_simulated_board", "simulated_board", "simulated_wiring"]

MAIN = Path(__file__).parents[1] / "rtl" / "board_main.cpp"

BIT_CLOCKS = 2
"""Clocks of a bit: both ends have the same clock here, so that two do."""

START_S = 30.0


def simulated_wiring(memory_bytes: int) -> Wiring:
    """Return a board whose line is as fast as it can be."""
    return Wiring(memory_bytes=memory_bytes, clock_hz=BIT_CLOCKS * DEFAULT_BAUD, bit_clocks=BIT_CLOCKS)


def build_simulated_board(
    config: MachineConfig, board: Wiring, *, announce: Callable[[], None] | None = None
) -> Path:  # fmt: skip
    """Compile the simulator of a board, once, and return the program.

    Raises
    ------
    BuildError, ToolError
        The simulator cannot be built.
    """
    with scratch_folder("a3d-board-") as folder:
        design = emit_board(config, board)
        sources = []
        for file in design.files:
            sources.append(folder / file)
            sources[-1].parent.mkdir(parents=True, exist_ok=True)
            sources[-1].write_text(design.text_of(file), encoding="utf-8")
        return runner.build(sources, BOARD_TOP, main=MAIN, announce=announce).program


@contextlib.contextmanager
def simulated_board(program: Path, board: Wiring) -> Iterator[str]:
    """Run a simulated board for the block, and give the name of its port.

    Raises
    ------
    A3dError
        It does not start.
    """
    with scratch_folder("a3d-board-") as folder:
        name, log = folder / "port", folder / "log"
        with (
            log.open("wb") as output,
            guarded([program, str(board.divisor), name], cwd=folder, stdout=output) as process,
        ):
            deadline = time.monotonic() + START_S
            while not name.exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.01)
                if process.returncode is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace").strip().splitlines()
                    raise A3dError(f"the simulated board did not start: {said[-1] if said else 'it says nothing'}")
            yield name.read_text()
