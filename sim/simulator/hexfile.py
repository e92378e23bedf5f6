# SPDX-License-Identifier: Apache-2.0
"""Memory images as the simulator's back door reads them (``$readmemh``) and writes them (raw bytes)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["channel_path", "read_dump", "write_hex", "write_hex_patches"]

Bytes = npt.NDArray[np.uint8]


def channel_path(path: Path, channel: int, channels: int) -> Path:
    """Return the file of one channel: the path itself when the group has one channel."""
    return path if channels == 1 else path.with_name(f"{path.name}.{channel}")


def write_hex(path: Path, image: Bytes, channel_bytes: int, channels: int = 1) -> None:
    """Write a group's image as one file per channel, one memory word (``channel_bytes`` bytes) a line.

    Parameters
    ----------
    path : Path
    image : uint8 array
        Length a multiple of ``channel_bytes * channels``; beats are striped over the channels.
    """
    words = image.reshape(-1, channels, channel_bytes)
    for channel in range(channels):
        # $readmemh wants the highest byte first.
        text = np.ascontiguousarray(words[:, channel, ::-1]).tobytes().hex()
        width = 2 * channel_bytes
        lines = "\n".join(text[i : i + width] for i in range(0, len(text), width))
        channel_path(path, channel, channels).write_text(lines + "\n")


def write_hex_patches(path: Path, patches: Sequence[tuple[int, bytes]], channel_bytes: int, channels: int = 1) -> None:
    """Write parts of a group's image, one file per channel, so that reading them leaves the rest as it is.

    Parameters
    ----------
    path : Path
    patches : sequence of (int, bytes)
        Byte address and contents; whole beats (``channel_bytes * channels``) each.
    """
    texts = ["" for _ in range(channels)]
    beat = channel_bytes * channels
    for address, data in patches:
        if address % beat or len(data) % beat:
            raise ValueError(f"patch of {len(data)} bytes at {address:#x}: whole beats of {beat} bytes only")
        words = np.frombuffer(data, dtype=np.uint8).reshape(-1, channels, channel_bytes)
        for channel in range(channels):
            text = np.ascontiguousarray(words[:, channel, ::-1]).tobytes().hex()
            lines = [text[i : i + 2 * channel_bytes] for i in range(0, len(text), 2 * channel_bytes)]
            texts[channel] += "\n".join([f"@{address // beat:x}", *lines]) + "\n"
    for channel, text in enumerate(texts):
        channel_path(path, channel, channels).write_text(text)


def read_dump(path: Path, size: int, channel_bytes: int, channels: int = 1) -> Bytes:
    """Read a group's image of `size` bytes back from one file of raw bytes per channel.

    Raises
    ------
    ValueError
        A file does not have the length of its channel.
    """
    words = np.empty((size // (channels * channel_bytes), channels, channel_bytes), dtype=np.uint8)
    for channel in range(channels):
        file = channel_path(path, channel, channels)
        data = np.fromfile(file, dtype=np.uint8)
        if data.size != size // channels:
            raise ValueError(f"dump {file}: {data.size} bytes, {size // channels} expected; was the disk full?")
        words[:, channel, :] = data.reshape(-1, channel_bytes)
    return words.reshape(-1)
