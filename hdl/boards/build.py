# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a board's bitstream: Verilog, Amaranth's platform, Yosys, nextpnr, ecppack."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hdl.boards.boards import Board, BoardWrapper, platform_of, pll_of
from hdl.boards.memory import check_memory_bytes
from hdl.boards.top import Wiring, emit_board
from hdl.config import MachineConfig
from hdl.emit.design import EmittedDesign
from hdl.errors import A3dError, CheckError
from hdl.flow.ecp5 import MAPPING, PARTS, Part, Resources, too_much
from hdl.flow.nextpnr import PACKAGE, REPORT, find_nextpnr, follow_nextpnr
from hdl.flow.yosys import Job, SynthError, run_jobs
from hdl.process import guarded
from hdl.scratch import scratch_folder

__all__ = ["DEFAULT_MHZ", "SUMMARY", "BoardBuild", "BuiltBoard", "check_memories"]

DEFAULT_MHZ = 25.0
"""What `nano` reaches on both boards with room to spare."""

SUMMARY = "board.json"
"""File beside the bitstream that says what is in it."""

BLOCK_BITS, LUT_BITS = 18_432, 16
"""Bits of a block memory, and of a LUT as a memory."""

COUNTED = ("logic", "luts", "ffs", "brams", "dsps")
"""Resources that the summary has; `logic` is the places of LUT4 that are taken."""

CELLS = "cells.json"
SYNTHESIS_S = 3 * 3600.0
ECPPACK = "yowasp-ecppack"


@dataclass(frozen=True)
class BuiltBoard:
    """What is in a bitstream.

    Attributes
    ----------
    board, part, config, config_sha256 : str
    clock_mhz : float
        Clock of the machine.
    reached_mhz : float
        What the routed design could run at, by the worst path.
    baud, memory_bytes : int
        Of the serial line, and of each channel group's memory.
    resources, available : dict of str to int
        What it takes of the part, and what the part has.
    synth_s, route_s, pack_s : float
        Seconds of the tools.
    bitstream : str
        Its file.
    """

    board: str
    part: str
    config: str
    config_sha256: str
    clock_mhz: float
    reached_mhz: float
    baud: int
    memory_bytes: int
    resources: dict[str, int]
    available: dict[str, int]
    synth_s: float
    route_s: float
    pack_s: float
    bitstream: str


def check_memories(what: str, design: EmittedDesign, part: Part) -> None:
    """Refuse, before anything slow is done, a design whose memories are more than all bits of a part.

    Raises
    ------
    A3dError
        Says how many block memories they need at least, and how many there are.
    """
    bits = sum(memory.width * memory.depth * design.instances[memory.module] for memory in design.memories)
    if bits > part.has.brams * BLOCK_BITS + part.has.logic * LUT_BITS:
        much = f"at least {-(-bits // BLOCK_BITS):,} of {part.has.brams:,} DP16KD block memories"
        raise A3dError(_does_not_fit(what, part, much))


def _does_not_fit(what: str, part: Part, much: str) -> str:
    return (
        f"{what} does not fit the {part.name}: {much}; use a smaller configuration with --config (nano fits), or less "
        "memory with --memory-kib"
    )


class BoardBuild:
    """A bitstream in the making.

    Parameters
    ----------
    board : Board
    config : MachineConfig
    memory_bytes : int
        Of each channel group.
    mhz : float
        Clock of the machine; the PLL's nearest below is taken.
    baud : int
    seed : int
        Of the placer.

    Raises
    ------
    A3dError
        A clock, a rate or a memory that cannot be; a package that is missing.
    """

    def __init__(
        self, board: Board, config: MachineConfig, *, memory_bytes: int, baud: int, mhz: float = DEFAULT_MHZ,
        seed: int = 1,
    ) -> None:  # fmt: skip
        self.board = board
        self.config = config
        self.seed = seed
        self.pll = pll_of(board, mhz)
        self.wiring = Wiring(memory_bytes=memory_bytes, clock_hz=round(self.pll.output_mhz * 1e6), baud=baud)
        self.platform = platform_of(board)
        self.part = PARTS[_part_name(self.platform.device)]
        self.built: BuiltBoard | None = None
        check_memory_bytes(config, memory_bytes)
        _ = self.wiring.divisor  # raises where the clock cannot make the rate

    @property
    def what(self) -> str:
        """What is built, for messages."""
        return f"{self.config.name} with 2 x {self.wiring.memory_bytes >> 10} KiB on {self.board.name}"

    def run(self, out: Path) -> Iterator[str]:
        """Build into a folder; yields what is being done, and leaves :attr:`built`.

        Raises
        ------
        A3dError
            It does not fit the part, or a tool is missing or fails.
        CheckError
            It does not reach its clock: no bitstream is left.
        """
        nextpnr, ecppack = find_nextpnr(without=""), _find_ecppack()
        yield "generating Verilog"
        design = emit_board(self.config, self.wiring)
        check_memories(self.what, design, self.part)
        out.mkdir(parents=True, exist_ok=True)
        # In the output folder: some of the tools write nothing in the folder for temporary files.
        with scratch_folder(".board-", out) as folder:
            script = self._plan(design, folder)
            yield "synthesising"
            begin = time.monotonic()
            resources = self._synthesise(folder)
            synth_s = time.monotonic() - begin
            much = too_much(resources, self.part)
            if much:
                raise A3dError(_does_not_fit(self.what, self.part, much))
            yield f"placing and routing: {resources.logic:,} places of LUT4 taken"
            begin = time.monotonic()
            env = {**os.environ, "YOSYS": "true", "NEXTPNR_ECP5": nextpnr, "ECPPACK": "true"}
            yield from follow_nextpnr(["sh", script], folder, env=env)
            route_s = time.monotonic() - begin
            reached = _reached(folder, self.pll.output_mhz)
            if reached < self.pll.output_mhz:
                raise CheckError(
                    f"{self.what}: reaches {reached:.1f} MHz, {self.pll.output_mhz:g} are asked for: use --clock-mhz "
                    f"{int(reached)}, or another --seed"
                )
            yield "packing the bitstream"
            begin = time.monotonic()
            _run(["sh", script], folder, {**env, "NEXTPNR_ECP5": "true", "ECPPACK": ecppack})
            self._keep(folder, out, resources, reached, (synth_s, route_s, time.monotonic() - begin))

    def _plan(self, design: EmittedDesign, folder: Path) -> str:
        """Write all files of the build into a folder, and return the name of the script that runs the tools."""
        name = self.board.name
        for file in design.files:
            self.platform.add_file(file, design.text_of(file))
        plan = self.platform.prepare(
            BoardWrapper(self.board, design, self.pll), name, verbose=True,
            synth_opts=MAPPING,
            script_after_synth=f"tee -q -o {CELLS} stat -json",
            # The first router does not get through a whole machine.
            nextpnr_opts=f"--router router2 --timing-allow-fail --seed {self.seed} --report {REPORT}",
        )  # fmt: skip
        plan.extract(str(folder))
        return f"{plan.script}.sh"

    def _synthesise(self, folder: Path) -> Resources:
        """Run the platform's script of Yosys, by the package that the project has anyway."""
        lines = (folder / f"{self.board.name}.ys").read_text(encoding="utf-8").splitlines()
        passes = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
        for _ in run_jobs([Job(self.what, passes)], folder, timeout=SYNTHESIS_S):
            pass
        cells = json.loads((folder / CELLS).read_text(encoding="utf-8"))
        return Resources.of(cells["design"]["num_cells_by_type"])

    def _keep(
        self, folder: Path, out: Path, resources: Resources, reached: float, seconds: tuple[float, float, float]
    ) -> None:
        """Move what is wanted of a build to its place, the summary last."""
        name = self.board.name
        bitstream = out / f"{name}.bit"
        self.built = BuiltBoard(
            name, self.part.name, self.config.name, self.config.digest(), round(self.pll.output_mhz, 3),
            round(reached, 2), self.wiring.baud, self.wiring.memory_bytes, _counts(resources), _counts(self.part.has),
            round(seconds[0], 1), round(seconds[1], 1), round(seconds[2], 1), str(bitstream),
        )  # fmt: skip
        (folder / SUMMARY).write_text(json.dumps(asdict(self.built), indent=2) + "\n", encoding="utf-8")
        for file in (f"{name}.svf", f"{name}.tim", bitstream.name, SUMMARY):
            os.replace(folder / file, out / file)


def _counts(resources: Resources) -> dict[str, int]:
    return {name: getattr(resources, name) for name in COUNTED}


def _part_name(device: str) -> str:
    """Return the part whose logic a device has: those with fast serial lines have the same."""
    return f"LFE5U-{device.rpartition('-')[2]}"


def _reached(folder: Path, mhz: float) -> float:
    """Return what the clock of the machine could be, by nextpnr's report.

    Raises
    ------
    SynthError
        The clock is not in the report.
    """
    report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    clocks = [each for each in report["fmax"].values() if abs(each["constraint"] - mhz) < 0.01 * mhz]
    if not clocks:
        raise SynthError(f"place and route: the report has no clock of {mhz:g} MHz")
    return float(min(each["achieved"] for each in clocks))


def _find_ecppack() -> str:
    beside = Path(sys.executable).with_name(ECPPACK)
    found = str(beside) if beside.is_file() else shutil.which(ECPPACK) or shutil.which("ecppack")
    if found is None:
        raise SynthError(f"no program {ECPPACK!r} or 'ecppack', which writes bitstreams; fix: pip install {PACKAGE}")
    return found


def _run(command: list[str], folder: Path, env: dict[str, str]) -> None:
    log = folder / "pack.log"
    with log.open("wb") as output, guarded(command, cwd=folder, env=env, stdout=output) as process:
        status = process.wait()
    if status:
        said = log.read_text(errors="replace").strip().splitlines()
        raise SynthError(f"the bitstream cannot be written: ecppack says {said[-1] if said else status!r}")
