# SPDX-License-Identifier: Apache-2.0
"""One operation of a step: what it computes, on which tensors, and how much work it is, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Kind", "Operation"]


class Kind(StrEnum):
    """Kinds of operations; planner and emitter have a table with an entry for each."""

    EMBED = "embed"
    """Embeddings of the new tokens become the residual."""
    NORM = "norm"
    """RMSNorm of the residual to activations."""
    PROJECT = "project"
    """A dense matrix."""
    HEAD_NORM = "head_norm"
    """RMSNorm of queries and keys."""
    ROTATE = "rotate"
    """Rotary embedding of queries and keys."""
    APPEND = "append"
    """New keys and values go to the cache."""
    ATTEND = "attend"
    """Scores, softmax and contexts over the cache."""
    ROUTE = "route"
    """Choice of experts and their gates."""
    EXPERTS = "experts"
    """The chosen experts, added to the residual."""
    MLP = "mlp"
    """A gated MLP that every token uses, added to the residual."""
    HEAD = "head"
    """Logits of the sequences' last tokens."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation.

    Attributes
    ----------
    name : str
        Such as ``layer3.qkv``.
    kind : Kind
    layer : int
        Decoder layer; -1 before and after all layers.
    tokens : int
        Tokens that it works on.
    reads, writes : tuple of str
        Values, such as ``residual``, ``x``, ``q``; those of a layer end with it. What writes ``residual`` adds to it,
        the embedding aside.
    tensors : tuple of str
        Weights, as the checkpoint's layout names them; experts: ``experts``.
    macs : int
        Useful multiply-accumulates.
    weight_bytes : int
        Bytes of weights that must be read when the chip holds none: one each, two of an embedding.
    cache_read, cache_written : int
        Bytes of keys and values: of earlier tokens, read once; of new ones, written once.
    elements : int
        Elements that the vector unit takes in, all of its passes together.
    sequences : tuple of int
        Numbers of the sequences whose tokens it works on.
    """

    name: str
    kind: Kind
    layer: int
    tokens: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    tensors: tuple[str, ...] = ()
    macs: int = 0
    weight_bytes: int = 0
    cache_read: int = 0
    cache_written: int = 0
    elements: int = 0
    sequences: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes that must move."""
        return self.weight_bytes + self.cache_read + self.cache_written
