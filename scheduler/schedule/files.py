# SPDX-License-Identifier: Apache-2.0
"""A schedule as a directory of files, and back.

``schedule.json``
    configuration, model, memory (regions by name), and for each step what it works on, where stream, lists and logits
    lie, its work and its roofline.
``stepN.bin``, ``stepN.asm``
    the stream, as the machine reads it and as text.
``stepN.patch.bin``
    what the host writes for the step: token lists, then the stream, from ``patch.address`` of group 0 on.
``stepN.labels.json``
    what instructions are for: ``[first instruction, layer, operation]`` wherever it changes.
``group0.bin``, ``group1.bin``
    the memories before the first step; a schedule without weights has none.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError, one_line
from hdl.isa import Instruction
from hdl.isa.asm import from_binary, to_text
from hdl.scratch import scratch_folder
from scheduler.memory.image import Symbol
from scheduler.models.description import Model
from scheduler.schedule.build import Planned, Scheduler
from scheduler.stream.emit.labels import Label
from scheduler.stream.lower import LogitBlock, gather_logits
from scheduler.stream.table import Table

__all__ = ["SavedSchedule", "SavedStep", "ScheduleError", "load_schedule", "save_schedule"]

FORMAT = 1
"""Version of the directory format."""
INDEX = "schedule.json"


class ScheduleError(A3dError):
    """A schedule directory that cannot be read or written."""


@dataclass(frozen=True, eq=False)
class SavedStep:
    """A step of a schedule that was read from a directory; it runs like a `StepProgram`.

    Attributes
    ----------
    name : str
    about : mapping
        Its entry in ``schedule.json``.
    table : Table
        The stream.
    labels : tuple of Label
    stream_base : int
    patch : Symbol
    window : tuple of two (int, int)
    data : bytes
        What the host writes at `patch`.
    """

    name: str
    about: Mapping[str, Any]
    table: Table
    labels: tuple[Label, ...]
    stream_base: int
    patch: Symbol
    window: tuple[tuple[int, int], tuple[int, int]]
    data: bytes

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """The stream, one instruction after the other."""
        return self.table.instructions()

    def read_logits(self, memory: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int16]:
        """Return the logits [sequences, vocabulary] from the groups' memories after the step."""
        own = self.about["logits"]
        blocks = [LogitBlock(*block) for block in own["blocks"]]
        region = Symbol(own["group"], own["address"], own["size"])
        return gather_logits(memory, region, blocks, own["columns"], own["vocabulary"])


@dataclass(frozen=True, eq=False)
class SavedSchedule:
    """A schedule that was read from a directory.

    Attributes
    ----------
    folder : Path
    config : MachineConfig
    about : mapping
        ``schedule.json``.
    images : tuple of two uint8 arrays, or None
        The memories before the first step; None: a schedule without weights.
    """

    folder: Path
    config: MachineConfig
    about: Mapping[str, Any]
    images: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None

    def __len__(self) -> int:
        return len(self.about["steps"])

    def step(self, number: int) -> SavedStep:
        """Read a step.

        Raises
        ------
        ScheduleError
            A file is missing or damaged.
        """
        about = self.about["steps"][number]
        try:
            stream = (self.folder / f"{about['name']}.bin").read_bytes()
            data = (self.folder / f"{about['name']}.patch.bin").read_bytes()
            changes = json.loads((self.folder / f"{about['name']}.labels.json").read_text(encoding="utf-8"))
            from_binary(stream)  # refuses what is no instruction
            table = Table.from_binary(stream)
            ends = [first for first, _, _ in changes[1:]] + [len(table)]
            labels: list[Label] = []
            for (_, layer, operation), end in zip(changes, ends, strict=True):
                labels += [Label(layer, operation)] * (end - len(labels))
            window = about["window"]
            return SavedStep(
                about["name"], about, table, tuple(labels), about["stream_base"], Symbol(**about["patch"]),
                ((window[0][0], window[0][1]), (window[1][0], window[1][1])), data,
            )  # fmt: skip
        except OSError as error:
            raise _unreadable(self.folder, error) from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ScheduleError(
                f"schedule {one_line(self.folder)}: step {number} is damaged ({error}); schedule it again"
            ) from error


def _unreadable(folder: Path, error: OSError) -> ScheduleError:
    return ScheduleError(f"schedule {one_line(folder)}: cannot read {one_line(error.filename)}: {error.strerror}")


def load_schedule(folder: Path) -> SavedSchedule:
    """Read a schedule directory; its steps are read when they are asked for.

    Raises
    ------
    ScheduleError
        A file is missing or damaged, or the format is of another version.
    """
    name = f"schedule {one_line(folder)}"
    try:
        about = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(folder, error) from error
    except ValueError as error:
        raise ScheduleError(f"{name}: {INDEX} is damaged: {error}; schedule it again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ScheduleError(f"{name}: {INDEX} is not of format {FORMAT}; schedule it again")
    try:
        config = MachineConfig(**about["config"])
        weights, _ = about["weights"], about["steps"]
    except (KeyError, TypeError) as error:
        raise ScheduleError(f"{name}: {INDEX} is damaged ({error}); schedule it again") from error
    images = None
    if weights:
        try:
            groups = [np.fromfile(folder / f"group{group}.bin", dtype=np.uint8) for group in (0, 1)]
        except OSError as error:
            raise _unreadable(folder, error) from error
        images = (groups[0], groups[1])
    return SavedSchedule(folder, config, about, images)


def save_schedule(
    scheduler: Scheduler,
    target: Path,
    *,
    assembler: bool = True,
    more: Mapping[str, Any] | None = None,
    each: Callable[[Planned, dict[str, Any]], None] = lambda planned, entry: None,
) -> dict[str, Any]:
    """Lower all steps and write them into a directory, all or nothing; return ``schedule.json``.

    Parameters
    ----------
    scheduler : Scheduler
    target : Path
        The directory; one that holds a schedule is replaced.
    assembler : bool
        Also write the streams as text.
    more : mapping, optional
        More entries of ``schedule.json``.
    each : callable
        Called with every step and its entry before it is written; may add to the entry.

    Raises
    ------
    ScheduleError
        The directory cannot be written, or holds something that is no schedule.
    LoweringError
        A step that does not fit the machine.
    """
    name = f"schedule {one_line(target)}"
    if target.exists() and not (target / INDEX).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ScheduleError(f"{name}: exists and is no schedule; name another directory, or remove it")
    memory = scheduler.memory
    about: dict[str, Any] = {
        "format": FORMAT,
        "config": memory.config.to_dict(),
        "model": describe_model(scheduler.model),
        "weights": scheduler.has_weights,
        "memory": {"bytes": memory.sizes, "symbols": {n: asdict(s) for n, s in memory.symbols.items()}},
        **(more or {}),
        "steps": [],
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(f".{target.name}-", target.parent) as scratch:
            if scheduler.has_weights:
                for group, image in enumerate(memory.images):
                    image.tofile(scratch / f"group{group}.bin")
            for number, planned in enumerate(scheduler.run()):
                entry = _entry(f"step{number:04d}", planned)
                each(planned, entry)
                about["steps"].append(entry)
                _write_step(scratch, entry["name"], planned, memory.images, assembler)
            (scratch / INDEX).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            scratch.chmod(0o755)
            _replace(scratch, target)
    except OSError as error:
        raise ScheduleError(f"{name}: cannot write: {os.strerror(error.errno or 0)}") from error
    return about


def _replace(scratch: Path, target: Path) -> None:
    if not target.exists():
        scratch.rename(target)
        return
    old = scratch.with_suffix(".old")
    target.rename(old)
    scratch.rename(target)
    shutil.rmtree(old)


def describe_model(model: Model) -> dict[str, Any]:
    """Return what reports say of a model."""
    return {
        "name": model.name, "family": model.family, "layers": len(model.layers), "parameters": model.parameters,
        "active_parameters": model.active_parameters, "missing": model.missing,
    }  # fmt: skip


def _entry(name: str, planned: Planned) -> dict[str, Any]:
    program, line = planned.program, planned.roofline
    return {
        "name": name,
        "line": planned.step.line,
        "sequences": [
            {"id": own.name, "place": chunk.sequence, "cached": own.cached, "new": own.new}
            for own, chunk in zip(planned.step.sequences, planned.chunks, strict=True)
        ],
        "tokens": planned.step.tokens,
        "parts": [part.tokens for part in program.parts],
        "routing": "machine" if planned.routing is None else "known",
        "instructions": len(program.table),
        "stream_base": program.stream_base,
        "patch": asdict(program.patch),
        "window": program.window,
        "logits": {
            **asdict(program.logits), "blocks": [list(asdict(b).values()) for b in program.logit_blocks],
            "columns": program.tiling.config.columns, "vocabulary": program.tiling.model.vocabulary,
        },
        "macs": sum(op.macs for op in planned.operations),
        "bytes": sum(op.bytes for op in planned.operations),
        "roofline": {
            "cycles": line.cycles, "bound": line.bound, "compute": line.compute, "memory": line.memory,
            "vector": line.vector,
        },
    }  # fmt: skip


def _write_step(
    folder: Path, name: str, planned: Planned, images: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    assembler: bool,
) -> None:  # fmt: skip
    program = planned.program
    (folder / f"{name}.bin").write_bytes(program.table.to_binary())
    patch = program.patch
    (folder / f"{name}.patch.bin").write_bytes(
        images[patch.group][patch.address : patch.address + patch.size].tobytes()
    )
    changes = [
        [number, label.layer, label.operation]
        for number, label in enumerate(program.labels)
        if not number or program.labels[number - 1] != label
    ]
    (folder / f"{name}.labels.json").write_text(json.dumps(changes) + "\n", encoding="utf-8")
    if assembler:
        (folder / f"{name}.asm").write_text(to_text(program.instructions), encoding="utf-8")
