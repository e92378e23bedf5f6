# SPDX-License-Identifier: Apache-2.0
"""What an operation costs on a machine as it is planned: waves, bytes and vector rows, padding and repeated loads too.

The three are the resources of the roofline. An operation takes at least as long as the one that it needs longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.cost.work import gemm_waves
from scheduler.models.description import Experts, LatentAttention
from scheduler.ops.batch import Chunk, Routing
from scheduler.ops.graph import expected_experts, step_operations
from scheduler.ops.operation import Kind, Operation
from scheduler.plan.places import Places

__all__ = ["Estimate", "Roofline", "estimate", "roofline"]


@dataclass(frozen=True)
class Roofline:
    """The least cycles of some operations, nothing padded and nothing moved twice.

    Attributes
    ----------
    compute, memory, vector : float
        MACs / PEs, compulsory bytes / peak bandwidth, rows of the vector unit.
    """

    compute: float
    memory: float
    vector: float

    @property
    def cycles(self) -> float:
        """The largest of the three."""
        return max(self.compute, self.memory, self.vector)

    @property
    def bound(self) -> str:
        """Which of the three is the largest."""
        return max(("compute", "memory", "vector"), key=lambda name: getattr(self, name))


def roofline(operations: Sequence[Operation], places: Places) -> Roofline:
    """Return the roofline of some operations on a machine."""
    config = places.config
    return Roofline(
        sum(op.macs for op in operations) / config.pes,
        sum(op.bytes for op in operations) / config.peak_bytes,
        sum(op.elements for op in operations) / config.columns,
    )


@dataclass(frozen=True)
class Estimate:
    """An operation as it is planned.

    Attributes
    ----------
    operation : Operation
    how : str
        Tiers and mapping, or the unit that does it.
    where : str
        Places on the chip.
    waves, bytes, rows : int
        Cycles of the longest tier, bytes moved, cycles of the vector unit.
    cycles : int
        The largest of waves, bytes / peak bandwidth, rows.
    padding : float
        Part of the waves that is spent on padding.
    """

    operation: Operation
    how: str
    where: str
    waves: int
    bytes: int
    rows: int
    cycles: int
    padding: float

    @property
    def bound(self) -> str:
        """What takes longest."""
        if self.cycles == 0:
            return "-"
        return "compute" if self.waves == self.cycles else "vector" if self.rows == self.cycles else "memory"


def estimate(
    places: Places, chunks: Sequence[Chunk], routing: Sequence[Routing | None] | None = None, outputs: int | None = None
) -> list[Estimate]:
    """Return every operation of a step, or of a part of one, as `places` plans it."""
    if not places.size.sharing:  # each reads what sequences have in common
        chunks = [replace(chunk, prefix=None) for chunk in chunks]
    operations = step_operations(places.tiling.model, chunks, routing, outputs)
    estimator = _Estimator(places, routing)
    return [estimator.one(operation) for operation in operations]


def _gangs(tiers: Iterable[int]) -> str:
    """Name the gangs that share a matrix's output tiles."""
    return f"gang of {'/'.join(str(count) for count in sorted(set(tiers), reverse=True))}, N"


class _Estimator:
    def __init__(self, places: Places, routing: Sequence[Routing | None] | None) -> None:
        self.places = places
        self.config = places.config
        self.tiling = places.tiling
        self.residence = places.residence
        self.routing = routing

    def one(self, operation: Operation) -> Estimate:
        if operation.kind in (Kind.PROJECT, Kind.HEAD, Kind.MLP):
            return self.dense(operation)
        if operation.kind == Kind.EXPERTS:
            return self.experts(operation)
        if operation.kind == Kind.ATTEND:
            return self.attend(operation)
        rows = -(-operation.elements // self.config.columns)
        unit = "vector unit" if rows else "loads" if operation.kind == Kind.EMBED else "stores"
        return self._done(operation, unit, "combine rows", 0, operation.bytes, rows)

    def _done(self, operation: Operation, how: str, where: str, waves: int, moved: int, rows: int) -> Estimate:
        cycles = max(waves, -(-moved // self.config.peak_bytes), rows)
        useful = operation.macs / self.config.pes
        padding = 1 - min(1.0, useful / waves) if waves else 0.0
        return Estimate(operation, how, where, waves, moved, rows, cycles, padding)

    def _matrices(self, operation: Operation) -> list[str]:
        if operation.kind == Kind.HEAD:
            return ["head"]
        if operation.kind == Kind.MLP:
            return ["mlp.up", "mlp.down"]
        name = operation.name.split(".", 1)[1]
        return ["query plain", "query rotated"] if name == "query" else [name]

    def dense(self, operation: Operation) -> Estimate:
        residence, config = self.residence, self.config
        tokens, waves, tiles, gangs, count = operation.tokens, 0, 0, set[int](), 0
        for name in self._matrices(operation):
            if name == "head":
                matrix, shares = self.tiling.head, residence.head
            else:
                layer = self.tiling.model.layers[operation.layer]
                matrix, shares = residence.matrices[layer][name], residence.shares[layer][name]
            waves += sum(gemm_waves(tokens, matrix.k_slices, share.each) for share in shares)
            tiles += matrix.tiles
            gangs |= {share.tiers for share in shares}
            count += len(shares)
        passes = 1
        if not residence.resident and operation.kind == Kind.PROJECT and not operation.name.endswith("router"):
            passes = -(-tokens // self.places.block)
        how = _gangs(gangs)
        kept = "resident" if residence.resident else f"{count} shares streamed" + (f" x {passes}" if passes > 1 else "")
        return self._done(operation, how, f"{tiles} tiles, {kept}", waves, passes * tiles * config.tile_bytes, 0)

    def experts(self, operation: Operation) -> Estimate:
        layer = self.tiling.model.layers[operation.layer]
        mlp = layer.mlp
        assert isinstance(mlp, Experts)
        tiling, config = self.tiling.expert(mlp.intermediate), self.config
        route = None if self.routing is None else self.routing[operation.layer]
        if route is not None and route.experts.size:
            counts = np.bincount(route.experts.ravel(), minlength=mlp.count)
        else:
            used = round(expected_experts(mlp.count, mlp.chosen, operation.tokens))
            counts = np.full(used, operation.tokens * mlp.chosen / max(1, used))
        passes = np.ceil(counts / self.places.chunk).sum()
        shares = self.residence.gangs.get(mlp.intermediate)
        if shares is not None:
            each = [
                sum(share.each for share in own) * matrix.k_slices
                for own, matrix in zip(shares, (tiling.up, tiling.down), strict=True)
            ]
            waves = round(counts.sum() * sum(each))
            how = f"{_gangs(share.tiers for own in shares for share in own)}, expert by expert"
        else:
            loads = [0.0] * config.tiers
            for count in sorted(counts[counts > 0].tolist(), reverse=True):
                loads[loads.index(min(loads))] += count
            waves = round(max(loads) * tiling.tiles)
            pieces = len(self.residence.pieces[mlp.intermediate])
            how = f"tiers alone, {'whole' if pieces == 1 else f'{pieces} pieces'}"
        size = self.residence.piece_tiles if shares is None else self.residence.gang_tiles
        where = f"{len(self.places.piece_buffers)} buffers of {size} tiles"
        return self._done(operation, how, where, waves, int(passes) * tiling.tiles * config.tile_bytes, 0)

    def attend(self, operation: Operation) -> Estimate:
        places, layer = self.places, self.tiling.model.layers[operation.layer]
        heads, attention = self.tiling.heads(layer), layer.attention
        if isinstance(attention, LatentAttention):
            width, cached = 2 * attention.kv_rank + attention.rope_dim, attention.kv_rank + attention.rope_dim
        else:
            width, cached = 2 * attention.head_dim, 2 * attention.kv_heads * attention.head_dim
        padded = heads.key_words * self.config.rows + heads.value_rows * self.config.columns
        waves = -(-operation.macs * padded // width // self.config.pes)
        rows = -(-operation.elements // self.config.columns)
        how = f"tiers in turn, jobs of {places.job_vectors}"
        where = (
            f"{places.keys[1]} tiles, {min(places.key_piece, places.size.keys)} of {places.size.keys} keys at a time"
        )
        moved = operation.bytes + operation.tokens * cached  # the step's own keys are read from memory as well
        return self._done(operation, how, where, waves, moved, rows)
