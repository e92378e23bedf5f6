# SPDX-License-Identifier: Apache-2.0
"""NOP and END, which the dispatcher executes itself."""

from __future__ import annotations

from hdl.isa.description import OpcodeDescription, Work
from hdl.isa.fields import Opcode

__all__ = ["END", "NOP"]


def _description(opcode: Opcode, summary: str) -> OpcodeDescription:
    return OpcodeDescription(
        opcode=opcode,
        summary=summary,
        body=(),
        queues=lambda instruction: (),
        queue_words="none: it neither waits nor posts",
        accesses=(),
        check=lambda instruction, config, limits: None,
        explain=lambda instruction, config: summary,
        work=lambda instruction, config: Work(),
        immediate=True,
    )


NOP = _description(Opcode.NOP, "does nothing")
END = _description(Opcode.END, "ends the stream when everything is idle")
