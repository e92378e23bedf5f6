# SPDX-License-Identifier: Apache-2.0
"""ROUTE: makes the routing table and the token lists of the chosen experts (``docs/vector.md``, section 6)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa.checks import Limits, Violation, field_violation, memory_violation
from hdl.isa.description import OpcodeDescription, Work
from hdl.isa.fields import Field, Instruction, Opcode
from hdl.isa.memories import Access, Memory
from hdl.isa.queues import VECTOR_QUEUE
from hdl.isa.words import count_of, span_of

__all__ = [
    "IMPORTANCE_BITS", "MAX_CHOICES", "ROUTE", "check_route_fields", "check_route_ranges", "gate_rows", "route_dests",
    "route_entries", "route_scalars", "route_sources",
]  # fmt: skip

Int = npt.NDArray[np.int64]

_CHOICES_BITS = 4

MAX_CHOICES = (1 << _CHOICES_BITS) - 1
"""Most experts of a token."""

IMPORTANCE_BITS = 20
"""Width of an expert's importance, a sum of gates in Q15 that saturates."""

_BODY = (
    Field("tokens", 10, "tokens, 1 or more"),
    Field("choices", _CHOICES_BITS, f"experts of each token, 1 to {MAX_CHOICES} and at most columns"),
    Field("experts", 9, "experts, 1 to expert_slots - slot_base: a choice is below it"),
    Field("s_base", 12, "first scalar: choice j of token t at s_base + j*tokens + t, as ARGMAX writes them"),
    Field("a_base", 16, "combine row with the gates of token 0: lane j of a row is that of choice j (low 16 bits)"),
    Field("a_stride", 10, "combine rows from one token's gates to the next"),
    Field("list_base", 12, "first token-list entry that is written, in every tier"),
    Field("source_stride", 10, "activation words from one token to the next: source is source_base + t*source_stride"),
    Field("dest_base", 16, "dest of token 0"),
    Field("dest_stride", 10, "combine rows from one token to the next: dest is dest_base + t*dest_stride"),
    Field("source_base", 16, "source of token 0"),
    Field("slot_base", 8, "first slot that is written; `experts` slots are, those without tokens as empty"),
    Field("by_number", 1, "slots by the experts' numbers instead of by falling number of tokens"),
    Field(
        "full_score", IMPORTANCE_BITS, "least importance, sum of gates, of an expert with both planes; 0: all have both"
    ),
    Field(
        "high_score",
        IMPORTANCE_BITS,
        "least importance of an expert with the high plane only; below it the slot is empty",
    ),
    Field("first_full", 1, "1 = the first choice of any token has both planes whatever its importance"),
)


def route_entries(instruction: Instruction) -> int:
    """Return the token-list entries that a ROUTE writes in each tier, which is also the scalars that it reads."""
    return instruction["tokens"] * instruction["choices"]


def route_scalars(instruction: Instruction) -> Int:
    """Return the scalars that hold the choices: shape [tokens, choices]."""
    tokens = np.arange(instruction["tokens"])[:, None]
    scalars: Int = instruction["s_base"] + np.arange(instruction["choices"]) * instruction["tokens"] + tokens
    return scalars


def gate_rows(instruction: Instruction) -> Int:
    """Return the combine row of each token's gates: shape [tokens]."""
    rows: Int = instruction["a_base"] + np.arange(instruction["tokens"]) * instruction["a_stride"]
    return rows


def route_sources(instruction: Instruction) -> Int:
    """Return the list entries' `source` of each token: shape [tokens]."""
    sources: Int = instruction["source_base"] + np.arange(instruction["tokens"]) * instruction["source_stride"]
    return sources


def route_dests(instruction: Instruction) -> Int:
    """Return the list entries' `dest` of each token: shape [tokens]."""
    dests: Int = instruction["dest_base"] + np.arange(instruction["tokens"]) * instruction["dest_stride"]
    return dests


def check_route_fields(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return the first field of a ROUTE that is not legal, or None; the dispatcher checks these."""
    if not instruction["tokens"]:
        return field_violation(instruction, "tokens", "1 or more")
    most = min(MAX_CHOICES, config.columns)
    if not 1 <= instruction["choices"] <= most:
        return field_violation(instruction, "choices", f"1 to {most}")
    if not 1 <= instruction["experts"] <= config.expert_slots:
        return field_violation(instruction, "experts", f"1 to {config.expert_slots}")
    if instruction["slot_base"] + instruction["experts"] > config.expert_slots:
        return field_violation(instruction, "slot_base", f"at most {config.expert_slots} less experts")
    return None


def check_route_ranges(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return the first range of a ROUTE with legal fields that leaves its memory, or None; the unit checks these."""
    i, last, entries = instruction, instruction["tokens"] - 1, route_entries(instruction)
    for name, end, memory in (
        ("s_base", i["s_base"] + entries, Memory.SCALAR),
        ("a_base", i["a_base"] + last * i["a_stride"] + 1, Memory.COMBINE),
        ("list_base", i["list_base"] + entries, Memory.LIST),
        ("source_base", i["source_base"] + last * i["source_stride"] + 1, Memory.ACTIVATION),
        ("dest_base", i["dest_base"] + last * i["dest_stride"] + 1, Memory.COMBINE),
    ):
        wrong = memory_violation(i, name, end, memory, config)
        if wrong:
            return wrong
    return None


def _check(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    return check_route_fields(instruction, config) or check_route_ranges(instruction, config)


def _explain(i: Instruction, config: MachineConfig) -> str:
    entries = route_entries(i)
    return (
        f"routes {count_of(i['tokens'], 'token')} to {i['choices']} of {count_of(i['experts'], 'expert')} each, chosen "
        f"in scalars {span_of(i['s_base'], entries)}, with gates in combine rows from {i['a_base']} on: fills slots "
        f"{span_of(i['slot_base'], i['experts'])} of the routing table "
        f"({'by number' if i['by_number'] else 'by falling number of tokens'}) and entries "
        f"{span_of(i['list_base'], entries)} of all token lists{_scores_text(i)}"
    )


def _scores_text(i: Instruction) -> str:
    """Return what is said of the experts' importance."""
    if not i["full_score"]:
        return ""
    first = "a first choice or " if i["first_full"] else ""
    low = f"; an expert below {i['high_score']} is left out" if i["high_score"] else ""
    return f"; experts that are not {first}of an importance of {i['full_score']} get the high plane only{low}"


ROUTE = OpcodeDescription(
    opcode=Opcode.ROUTE,
    summary="makes the routing table and the token lists of the experts that ARGMAX chose",
    body=_BODY,
    queues=lambda instruction: (VECTOR_QUEUE,),
    queue_words="`vector`",
    accesses=(
        Access(Memory.SCALAR, "read", "`tokens` x `choices` choices from `s_base` on"),
        Access(Memory.COMBINE, "read", "a row of gates for each token from `a_base` on"),
        Access(Memory.LIST, "write", "`tokens` x `choices` entries from `list_base` on, in every tier"),
        Access(Memory.SLOTS, "write", "`experts` slots from `slot_base` on"),
    ),
    check=_check,
    explain=_explain,
    work=lambda instruction, config: Work(vector_rows=instruction["tokens"]),
)
