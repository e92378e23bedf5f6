# SPDX-License-Identifier: Apache-2.0
"""A program: a stream, the memory images it runs on, and where its results lie; saved as a directory of files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Instruction
from hdl.isa.asm import from_binary, to_binary
from hdl.isa.legality import Limits
from hdl.scratch import scratch_folder
from scheduler.memory.image import Symbol

__all__ = ["OutputRegion", "Program", "ProgramError"]

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
FORMAT = 1
"""Version of the directory format."""


class ProgramError(A3dError):
    """A program directory that cannot be read or written."""


@dataclass(frozen=True)
class OutputRegion:
    """Rows of int16 results in memory.

    Attributes
    ----------
    group, address : int
        Channel group and first byte.
    first_token, tokens : int
        The batch's tokens whose rows these are.
    row_bytes : int
        Bytes from one token's row to the next.
    hidden : int
        Valid elements of a row.
    """

    group: int
    address: int
    first_token: int
    tokens: int
    row_bytes: int
    hidden: int


@dataclass(frozen=True, eq=False)
class Program:
    """Everything that a machine needs to run one stream.

    Attributes
    ----------
    config : MachineConfig
        The machine that it was made for.
    instructions : tuple of Instruction
        The stream, END included.
    images : tuple of two uint8 arrays
        Memories of the groups before the run; the stream itself lies in group 0 at `stream_base`.
    symbols : mapping of str to Symbol
        Named regions of memory.
    outputs : tuple of OutputRegion
        Where results appear.
    window : tuple of two (int, int)
        Output windows of the groups: first byte and end.
    stream_base : int
        Byte address of the stream in group 0.
    meta : mapping
        What the scheduler decided, for reports; plain data.
    """

    config: MachineConfig
    instructions: tuple[Instruction, ...]
    images: Images
    symbols: Mapping[str, Symbol]
    outputs: tuple[OutputRegion, ...]
    window: tuple[tuple[int, int], tuple[int, int]]
    stream_base: int
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stream(self) -> bytes:
        """The binary stream."""
        return to_binary(self.instructions)

    @property
    def limits(self) -> Limits:
        """Memory limits for the registers."""
        return Limits((self.images[0].size, self.images[1].size), self.window)

    def read_output(self, memory: Sequence[npt.NDArray[np.uint8] | bytes]) -> npt.NDArray[np.int16]:
        """Return the results [tokens, hidden] from the groups' memories after a run."""
        parts = []
        for region in self.outputs:
            raw = np.frombuffer(bytes(memory[region.group]), dtype=np.uint8)
            rows = raw[region.address : region.address + region.tokens * region.row_bytes]
            parts.append(rows.reshape(region.tokens, region.row_bytes).copy().view("<i2")[:, : region.hidden])
        return np.concatenate(parts).astype(np.int16)

    def save(self, directory: str | Path) -> None:
        """Write ``program.json``, ``stream.bin``, ``group0.bin`` and ``group1.bin``, all or nothing.

        Raises
        ------
        ProgramError
            The directory cannot be written, or holds something that is not a program.
        """
        target = Path(directory)
        if target.exists() and not (target / "program.json").is_file():
            raise ProgramError(f"program directory {target}: exists and is no program; name another, or remove it")
        description = {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "stream_base": self.stream_base,
            "window": self.window,
            "outputs": [asdict(region) for region in self.outputs],
            "symbols": {name: asdict(symbol) for name, symbol in self.symbols.items()},
            "meta": dict(self.meta),
        }
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(f".{target.name}-", target.parent) as scratch:
                (scratch / "program.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
                (scratch / "stream.bin").write_bytes(self.stream)
                for group, image in enumerate(self.images):
                    (scratch / f"group{group}.bin").write_bytes(image.tobytes())
                scratch.chmod(0o755)
                if target.exists():
                    old = scratch.with_suffix(".old")
                    target.rename(old)
                    scratch.rename(target)
                    shutil.rmtree(old)
                else:
                    scratch.rename(target)
        except OSError as error:
            raise ProgramError(f"program directory {target}: cannot write: {os.strerror(error.errno or 0)}") from error

    @staticmethod
    def load(directory: str | Path) -> Program:
        """Read a program directory.

        Raises
        ------
        ProgramError
            A file is missing or damaged, or the format is of another version.
        """
        source = Path(directory)
        try:
            description = json.loads((source / "program.json").read_text(encoding="utf-8"))
            stream = (source / "stream.bin").read_bytes()
            groups = [np.frombuffer((source / f"group{g}.bin").read_bytes(), dtype=np.uint8).copy() for g in (0, 1)]
        except OSError as error:
            raise ProgramError(f"program {source}: cannot read {error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise ProgramError(f"program {source}: program.json is damaged: {error}; schedule it again") from error
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise ProgramError(f"program {source}: program.json is not of format {FORMAT}; schedule it again")
        try:
            window = description["window"]
            return Program(
                config=MachineConfig(**description["config"]),
                instructions=tuple(from_binary(stream)),
                images=(groups[0], groups[1]),
                symbols={name: Symbol(**symbol) for name, symbol in description["symbols"].items()},
                outputs=tuple(OutputRegion(**region) for region in description["outputs"]),
                window=((window[0][0], window[0][1]), (window[1][0], window[1][1])),
                stream_base=description["stream_base"],
                meta=description["meta"],
            )
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ProgramError(f"program {source}: program.json is damaged ({error}); schedule it again") from error
