# SPDX-License-Identifier: Apache-2.0
"""A schedule as a directory of files, and back.

``schedule.json``
    configuration, memory timing, clock, policy, model, memory (regions by name), and for each step what it works on,
    where stream, lists and logits lie, its work and its roofline.
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

import contextlib
import itertools
import json
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
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.memory.image import Symbol
from scheduler.models.description import Model
from scheduler.plan.policy import policy_of
from scheduler.schedule.build import Planned, Scheduler
from scheduler.schedule.index import FILES, check_index
from scheduler.stream.emit.labels import Label
from scheduler.stream.step_program import LogitBlock, gather_logits
from scheduler.stream.table import Table
from scheduler.system import SystemConfig

__all__ = ["SavedSchedule", "SavedStep", "ScheduleError", "check_target", "load_schedule", "save_schedule"]

FORMAT = 2
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
    kept_tiles : int
    """

    name: str
    about: Mapping[str, Any]
    table: Table
    labels: tuple[Label, ...]
    stream_base: int
    patch: Symbol
    window: tuple[tuple[int, int], tuple[int, int]]
    data: bytes
    kept_tiles: int

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
    system : SystemConfig
        What it was made for.
    about : mapping
        ``schedule.json``.
    images : tuple of two uint8 arrays, or None
        The memories before the first step; None: a schedule without weights.
    """

    folder: Path
    system: SystemConfig
    about: Mapping[str, Any]
    images: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None

    @property
    def config(self) -> MachineConfig:
        """The machine."""
        return self.system.machine

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
            if len(table) != about["instructions"]:
                raise ValueError(f"{about['name']}.bin has {len(table)} instructions, expected {about['instructions']}")
            if len(data) != about["patch"]["size"]:
                raise ValueError(f"{about['name']}.patch.bin has {len(data)} bytes, expected {about['patch']['size']}")
            window = about["window"]
            return SavedStep(
                about["name"], about, table, _labels(changes, len(table)), about["stream_base"],
                Symbol(**{key: about["patch"][key] for key in ("group", "address", "size")}),
                ((window[0][0], window[0][1]), (window[1][0], window[1][1])), data, about["kept_tiles"],
            )  # fmt: skip
        except OSError as error:
            raise _unreadable(self.folder, error) from error
        except (A3dError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise ScheduleError(
                f"schedule {one_line(self.folder)}: step {number} is damaged ({one_line(error)}); schedule it again"
            ) from error


def _labels(changes: Any, count: int) -> tuple[Label, ...]:
    """Return the label of each of `count` instructions from the places where they change."""
    if not isinstance(changes, list) or not all(isinstance(c, list) and len(c) == 3 for c in changes):
        raise ValueError("labels are no list of [instruction, layer, operation]")
    ends = [first for first, _, _ in changes] + [count]
    if ends[0] != 0 or not all(first < end for first, end in itertools.pairwise(ends)):
        raise ValueError(f"labels do not go from instruction 0 up to the last of {count}")
    labels: list[Label] = []
    for (first, layer, operation), end in zip(changes, ends[1:], strict=True):
        labels += [Label(layer, operation)] * (end - first)
    return tuple(labels)


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
    except (ValueError, RecursionError) as error:
        raise ScheduleError(f"{name}: {INDEX} is damaged ({one_line(error)}); schedule it again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ScheduleError(f"{name}: {INDEX} is not of format {FORMAT}; schedule it again")
    try:
        check_index(about)
        system = SystemConfig(
            machine=MachineConfig(**about["config"]), memory=MemoryTiming.of(about["system"]["memory"]),
            clock_mhz=about["system"]["clock_mhz"], policy=policy_of(about["system"]["policy"]),
        )  # fmt: skip
    except (A3dError, ValueError, TypeError) as error:
        raise ScheduleError(f"{name}: {INDEX} is damaged ({one_line(error)}); schedule it again") from error
    images = None
    if about["weights"]:
        try:
            groups = [np.fromfile(folder / f"group{group}.bin", dtype=np.uint8) for group in (0, 1)]
        except OSError as error:
            raise ScheduleError(f"{name}: cannot read group0.bin and group1.bin: {error.strerror}") from error
        images = (groups[0], groups[1])
        sizes, expected = [image.size for image in images], about["memory"]["bytes"]
        if sizes != expected:
            raise ScheduleError(
                f"{name}: group0.bin and group1.bin have {sizes} bytes, expected {expected}; schedule it again"
            )
    return SavedSchedule(folder, system, about, images)


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
        The directory; one that holds a schedule, and nothing else, is replaced. A link is followed.
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
    check_target(target)
    place = target.resolve()
    memory = scheduler.memory
    about: dict[str, Any] = {
        "format": FORMAT,
        "config": memory.config.to_dict(),
        "system": scheduler.system.to_dict(),
        "model": describe_model(scheduler.model),
        "weights": scheduler.has_weights,
        "memory": {"bytes": memory.sizes, "symbols": {n: asdict(s) for n, s in memory.symbols.items()}},
        **(more or {}),
        "steps": [],
    }
    made = [folder for folder in place.parents if not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(f".{place.name}-", place.parent) as scratch:
            new = scratch / "new"
            new.mkdir()
            if scheduler.has_weights:
                for group, image in enumerate(memory.images):
                    image.tofile(new / f"group{group}.bin")
            for number, planned in enumerate(scheduler.run()):
                entry = _entry(f"step{number:04d}", planned)
                each(planned, entry)
                about["steps"].append(entry)
                _write_step(new, entry["name"], planned, memory.images, assembler)
            (new / INDEX).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            check_target(target)  # somebody may have put something there
            _replace(new, place, scratch / "old")
    except BaseException as error:
        for folder in made:
            with contextlib.suppress(OSError):  # there was none, or somebody else has put something there
                folder.rmdir()
        if isinstance(error, OSError):
            raise ScheduleError(f"{name}: cannot write: {error.strerror or one_line(error)}") from error
        raise
    return about


def check_target(target: Path) -> None:
    """Refuse to replace a directory whose files are not all a schedule's: they would be lost.

    Raises
    ------
    ScheduleError
        Names one of them.
    """
    name = f"schedule {one_line(target)}"
    if not target.exists():
        return
    try:
        others = sorted(path.name for path in target.iterdir() if not FILES.fullmatch(path.name))
        index = (target / INDEX).is_file() or not any(target.iterdir())
    except OSError as error:
        raise ScheduleError(f"{name}: cannot look into it: {error.strerror}; name another directory") from error
    if not index:
        raise ScheduleError(f"{name}: exists and is no schedule; name another directory, or remove it")
    if others:
        raise ScheduleError(
            f"{name}: a schedule is there, and {one_line(others[0])}, which is none of its files and would be lost; "
            "move it, or name another directory"
        )


def _replace(new: Path, target: Path, old: Path) -> None:
    """Put a directory in the place of another, which goes to `old`."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise


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
            {
                "id": own.name, "place": chunk.sequence, "cached": own.cached, "new": own.new,
                "prefix": None if chunk.prefix is None else asdict(chunk.prefix),
            }
            for own, chunk in zip(planned.step.sequences, planned.chunks, strict=True)
        ],
        "tokens": planned.step.tokens,
        "parts": [part.tokens for part in program.parts],
        "routing": "machine" if planned.routing is None else "known",
        "instructions": len(program.table),
        "stream_base": program.stream_base,
        "kept_tiles": program.kept_tiles,
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
