# SPDX-License-Identifier: Apache-2.0
"""What there is to say about an opcode; each has its own file, and :mod:`hdl.isa.registry` has them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hdl.config import MachineConfig
from hdl.isa.checks import Limits, Violation
from hdl.isa.fields import Field, Instruction, Opcode
from hdl.isa.memories import Access

__all__ = ["OpcodeDescription", "Work", "beats"]


@dataclass(frozen=True)
class Work:
    """What an instruction moves and computes (one with a slot: at most).

    Attributes
    ----------
    bytes_loaded, bytes_stored : int
        Bytes of external memory, both groups together, without the rest of a last beat.
    macs : int
        Multiply-accumulates.
    waves : int
        Waves in each tier of the gang.
    vector_rows : int
        Rows that the vector unit takes in.
    """

    bytes_loaded: int = 0
    bytes_stored: int = 0
    macs: int = 0
    waves: int = 0
    vector_rows: int = 0


@dataclass(frozen=True)
class OpcodeDescription:
    """An opcode.

    Attributes
    ----------
    opcode : Opcode
        Which one.
    summary : str
        What it does, in one line.
    body : tuple of Field
        Fields after the header, from its last bit on.
    queues : function of the instruction
        Names of the instruction queues that it enters, see :mod:`hdl.isa.queues`; of a gang the leader's first.
    queue_words : str
        The same in words.
    accesses : tuple of Access
        What it reads and writes.
    check : function of the instruction, the configuration and the limits
        Returns the first thing in its body that is not legal, or None. The fields encode.
    explain : function of the instruction and the configuration
        Returns in plain words what it does, without its semaphores.
    work : function of the instruction and the configuration
        Returns what it moves and computes.
    immediate : bool
        Whether the dispatcher executes it itself: it enters no queue, so that nothing could wait or post.
    """

    opcode: Opcode
    summary: str
    body: tuple[Field, ...]
    queues: Callable[[Instruction], tuple[str, ...]]
    queue_words: str
    accesses: tuple[Access, ...]
    check: Callable[[Instruction, MachineConfig, Limits], Violation | None]
    explain: Callable[[Instruction, MachineConfig], str]
    work: Callable[[Instruction, MachineConfig], Work]
    immediate: bool = False


def beats(n_bytes: int, config: MachineConfig) -> int:
    """Return the beats of a channel group that ``n_bytes`` take."""
    return -(-n_bytes // config.group_bytes)
