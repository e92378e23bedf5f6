# SPDX-License-Identifier: Apache-2.0
"""Byte-level models: from a checkpoint to the integers that the machine runs, and from text to tokens and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError, one_line
from scheduler.models.calibration import quantise_checkpoint, split_text
from scheduler.models.checkpoint import check_checkpoint, has_weights, read_checkpoint, read_config
from scheduler.models.quantised_model import QuantisedModel
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.parts import check_smallest_step

__all__ = ["ByteModel", "printable", "read_byte_model", "show", "to_tokens"]

HELDOUT = "heldout.txt"
"""Text in a model's directory that it was not trained on."""

BYTE_VALUES = 256
WINDOW = 256
CALIBRATION_WINDOWS = 32
MOST_CALIBRATION = 1 << 26
"""Bytes of the text: the rest of a longer one is not looked at."""

KEY_BLOCK = 128
"""As `a3d bench quality` measures the model."""


@dataclass(frozen=True, eq=False)
class ByteModel:
    """A quantised byte-level model.

    Attributes
    ----------
    name : str
        Name of its directory.
    model : QuantisedModel
    text : int array [windows, window]
        Held-out text that no range was taken from.
    """

    name: str
    model: QuantisedModel
    text: npt.NDArray[np.int64]

    def excerpts(self, count: int, shortest: int, longest: int) -> list[tuple[int, ...]]:
        """Return excerpts of the held-out text, their lengths spread from `shortest` to `longest` tokens.

        Raises
        ------
        A3dError
            The text has too few or too short windows.
        """
        windows, size = self.text.shape
        if count > windows or longest > size:
            raise A3dError(
                f"excerpts: {count} of up to {longest} bytes; the held-out text has {windows} of {size} bytes: ask for "
                "fewer or give prompts"
            )
        lengths = np.linspace(longest, shortest, count).round().astype(int) if count > 1 else np.array([longest])
        step = windows // count
        return [tuple(self.text[i * step, :n].tolist()) for i, n in enumerate(lengths)]


def read_byte_model(
    folder: Path, config: MachineConfig, *, calibration: Path | None = None, reach: int | None = None
) -> ByteModel:  # fmt: skip
    """Read a checkpoint, check that the machine can map it, and quantise it.

    Parameters
    ----------
    folder : path
        Hugging Face model directory.
    config : MachineConfig
        The machine.
    calibration : path, optional
        Text that the static ranges are taken from; default: ``heldout.txt`` of the model.
    reach : int, optional
        How far experts' weights may move for a better high plane, see `scheduler.models.planes`; default: they do not.

    Raises
    ------
    A3dError
        A checkpoint that cannot be read, is of another architecture or not of bytes; a shape that the machine cannot
        map; no text or too little.
    """
    sizes = read_config(folder)
    sizes.require_complete()
    if has_weights(folder):  # the machine is not to blame for sizes that the weights do not have
        check_checkpoint(folder)
    if sizes.vocabulary > BYTE_VALUES:
        raise A3dError(
            f"{folder}: vocab_size is {sizes.vocabulary}; text goes in and out as bytes, so that a model has at most "
            f"{BYTE_VALUES} tokens: use a byte-level model"
        )
    tiling = Tiling(config, sizes)
    key_block = max(KEY_BLOCK, tiling.key_alignment)
    check_smallest_step(plan_residence(tiling), key_block)
    path = calibration or folder / HELDOUT
    data = _calibration_text(path, sizes.vocabulary)
    window = min(WINDOW, sizes.context)
    count = (len(data) - 1) // window
    if count < 2:
        raise A3dError(
            f"calibration text {one_line(path)}: {len(data)} bytes, expected at least {2 * window + 1}; name a longer "
            "text of the model's kind with --calibration FILE"
        )
    seen = min(CALIBRATION_WINDOWS, count // 2)
    calibrate, rest = split_text(data, window=window, calibration=seen, evaluation=count - seen)
    model = quantise_checkpoint(read_checkpoint(folder), calibrate, key_block=key_block, reach=reach)
    return ByteModel(folder.resolve().name, model, rest[:, :-1])


def _calibration_text(path: Path, vocabulary: int) -> bytes:
    """Return the text that the ranges are taken from."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_CALIBRATION)  # some devices never end
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise A3dError(
            f"calibration text {one_line(path)}: {why}; put a text of the model's kind there or name one with "
            "--calibration FILE"
        ) from error
    wrong = next((place for place, byte in enumerate(data) if byte >= vocabulary), None)
    if wrong is not None:
        raise A3dError(
            f"calibration text {one_line(path)}: byte {data[wrong]:#04x} at position {wrong}; the model's vocabulary "
            f"is 0 to {vocabulary - 1}: name another text with --calibration FILE"
        )
    return data


def to_tokens(prompt: bytes, vocabulary: int, name: str = "prompt") -> tuple[int, ...]:
    """Return a prompt's tokens.

    Raises
    ------
    A3dError
        It is empty, or has a byte that the model has no token for.
    """
    if not prompt:
        raise A3dError(f"{name}: empty; give at least one byte")
    for place, byte in enumerate(prompt):
        if byte >= vocabulary:
            raise A3dError(
                f"{name}: byte {byte:#04x} at position {place}; the model's vocabulary is 0 to {vocabulary - 1}: "
                "leave it out"
            )
    return tuple(prompt)


def show(tokens: bytes) -> str:
    """Return bytes as text that is safe on a terminal."""
    return printable(tokens.decode("utf-8", errors="backslashreplace"))


def printable(text: str) -> str:
    """Return a text with its control characters, but for new lines and tabs, as ``\\x..``."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
