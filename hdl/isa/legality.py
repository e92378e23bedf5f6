# SPDX-License-Identifier: Apache-2.0
"""The static checks that the dispatcher makes before an instruction has any effect.

The executor, the verifier, the assembler and the tests of the RTL all use these functions, so that there is one
Python statement of what is legal; each opcode's own checks stand in its file. Addresses that come from a token list or
a chosen index are checked when they are used, not here; neither are the memory addresses of a LOAD with a slot
(:func:`hdl.isa.load.check_load_addresses`).

In the RTL the dispatcher makes all field checks, and the RANGE checks of LOAD, of STORE and of a GEMM's accumulators.
A unit makes the others, with the same code, when it takes the instruction or uses the address: the sequencer the rest
of GEMM's RANGE, the vector unit all of VECTOR's and ROUTE's, load engines and store unit every ADDRESS. By then earlier
instructions may have changed on-chip memories, and VECTOR some of its own results; nothing outside has changed.
"""

from __future__ import annotations

from hdl.config import MachineConfig
from hdl.isa.checks import Limits, Violation, field_violation
from hdl.isa.description import beats
from hdl.isa.encoding import decode
from hdl.isa.error_codes import ErrorCode
from hdl.isa.fields import INSTRUCTION_BITS, Instruction, IsaError, Opcode, tiers_of_mask
from hdl.isa.gemm import gang_tiers, parameter_count
from hdl.isa.load import LIST_ENTRY_BYTES, MAX_ROW_SHIFT, check_load_addresses, load_groups
from hdl.isa.load import load_item_bytes as load_item_bytes
from hdl.isa.registry import OPCODES
from hdl.isa.store import element_bytes, store_beats, store_bytes, store_span, store_start, store_step

# Most of these are names that `hdl.isa` has itself, for modules that still import them from here.
__all__ = [
    "LIST_ENTRY_BYTES", "MAX_ROW_SHIFT", "Limits", "Violation", "beats", "check_instruction", "check_load_addresses",
    "check_word", "element_bytes", "gang_tiers", "issue_queues", "load_groups", "load_item_bytes", "parameter_count",
    "read_word", "store_beats", "store_bytes", "store_span", "store_start", "store_step", "tiers_of_mask",
]  # fmt: skip


def read_word(word: bytes, config: MachineConfig, limits: Limits) -> Instruction | Violation:
    """Decode and check 32 raw bytes as the dispatcher does; return the instruction, or what is wrong."""
    if len(word) != INSTRUCTION_BITS // 8:
        raise ValueError(f"an instruction has {INSTRUCTION_BITS // 8} bytes, not {len(word)}")
    code = word[0] & 0x3F
    if code not in list(Opcode):
        return Violation(ErrorCode.ILLEGAL_OPCODE, "opcode", f"opcode {code} is not defined")
    try:
        instruction = decode(word)
    except IsaError as error:
        return Violation(ErrorCode.ILLEGAL_FIELD, "encoding", str(error))
    return check_instruction(instruction, config, limits) or instruction


def check_word(word: bytes, config: MachineConfig, limits: Limits) -> Violation | None:
    """Check 32 raw bytes as the dispatcher does; return what is wrong, or None."""
    result = read_word(word, config, limits)
    return result if isinstance(result, Violation) else None


def check_instruction(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    """Check a decoded instruction as the dispatcher does; return the first thing that is wrong, or None."""
    return _check_header(instruction, config) or OPCODES[instruction.opcode].check(instruction, config, limits)


def issue_queues(instruction: Instruction) -> tuple[str, ...]:
    """Return the queues that an instruction enters: ``load0``, ``load1``, ``store``, ``vector``, ``tier0`` ..."""
    return OPCODES[instruction.opcode].queues(instruction)


def _check_header(instruction: Instruction, config: MachineConfig) -> Violation | None:
    if OPCODES[instruction.opcode].immediate:
        for name in ("wait0_count", "wait1_count", "post0_en", "post1_en"):
            if instruction[name]:
                return field_violation(instruction, name, "0: this instruction enters no queue")
        return None
    waits = [n for n in (0, 1) if instruction[f"wait{n}_count"]]
    posts = [n for n in (0, 1) if instruction[f"post{n}_en"]]
    for kind, numbers in (("wait", waits), ("post", posts)):
        for n in numbers:
            if instruction[f"{kind}{n}_sem"] >= config.semaphores:
                return field_violation(instruction, f"{kind}{n}_sem", f"0 to {config.semaphores - 1}")
    if len(waits) == 2 and instruction["wait0_sem"] == instruction["wait1_sem"]:
        return field_violation(instruction, "wait1_sem", "a semaphore other than wait0_sem")
    return None
