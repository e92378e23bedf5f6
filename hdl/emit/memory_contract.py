# SPDX-License-Identifier: Apache-2.0
"""What a memory promises about a read and a write that meet, where it is said, and the check that it is kept.

A component that is nothing but a memory has an attribute ``collision``.  The manifest then says it, and the Verilog
file: whoever puts a macro in its place must know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum

__all__ = ["Collision", "documented", "memory_users"]


class Collision(Enum):
    """What a read gets that meets a write of the same address in the same cycle."""

    OLD = "old"
    """The word before the write; what reads it may rely on that."""

    NEVER = "never"
    """There is no such read; a simulation stops at one."""


_WORDS: Mapping[Collision, tuple[str, ...]] = {
    Collision.OLD: (
        "A read of the address that is written in the same cycle returns the OLD word: a macro in this module's place",
        "must do so too (read-first), or keep the old word beside it.",
    ),
    Collision.NEVER: (
        "No read meets a write of the same address in the same cycle: a macro in this module's place may return",
        "anything then. In simulation such a read ends the run.",
    ),
}


_INSTANCE = re.compile(r"^  (\w+) (\w+) \($", re.MULTILINE)


def _header(width: int, depth: int, lane: int, collision: Collision) -> str:
    written = "whole words" if lane == width else f"lanes of {lane} bits, those whose write_mask bit is set"
    lines = [
        f"Memory of {depth} words of {width} bits: one write port ({written}), one read port, one clock.",
        "read_data shows the word in the cycle after read_en, and holds it until the next read.",
        *_WORDS[collision],
        "Contents are not reset, rst has no effect; in simulation they begin as zero.",
    ]
    return "".join(f"// {line}\n" for line in lines)


_CHECK = """`ifndef SYNTHESIS
  always @(posedge clk)
    if (write_en && read_en && write_addr == read_addr) begin
      $display("ERROR: %m: address %0d is read and written in the same cycle", read_addr);
      $finish;
    end
`endif
"""


def documented(text: str, width: int, depth: int, lane: int, collision: Collision) -> str:
    """Return the Verilog of a memory's module with its contract before it, and with the check that it is kept.

    Parameters
    ----------
    text : str
        The module, with the ports of :class:`hdl.common.sram.Sram`.
    width, depth, lane : int
        Bits of a word, words, bits that are written together.
    collision : Collision
        What it promises.
    """
    if collision is Collision.NEVER:
        text = text.replace("\nendmodule\n", f"\n{_CHECK}endmodule\n")
    return _header(width, depth, lane, collision) + text


def memory_users(modules: Mapping[str, str], memories: Iterable[str]) -> dict[str, list[str]]:
    """Return for each module of a memory who instantiates it, each as ``module.instance``.

    Parameters
    ----------
    modules : mapping of str to str
        Verilog text of every module.
    memories : iterable of str
        Names of the modules in question.
    """
    found: dict[str, list[str]] = {name: [] for name in memories}
    for parent, text in modules.items():
        for module, instance in _INSTANCE.findall(text):
            if module in found:
                found[module].append(f"{parent}.{instance}")
    return found
