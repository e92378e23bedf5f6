# SPDX-License-Identifier: Apache-2.0
"""Lowers a mixture-of-experts layer with its batch and routing to a program.

Semaphores of the stream, all counted within this one program:

==================  ==============================================  =======================================
name                posted by                                       waited for by
==================  ==============================================  =======================================
done                last GEMM of each lane in a block               the block's STORE
x free              STORE of block b                                load of x for block b + 2
cross               first load of a generation (engine 0)           its first load on engine 1 alone
lane: h0, h1        last up GEMM of a job (even, odd jobs)          the job's first down GEMM
lane: ready         last list/parameter load of a generation        the generation's first GEMM
lane: stored        the clearing STORE before a block               the lane's first GEMM of the block
lane: free[s]       last GEMM that uses segment s                   the load that fills it again
==================  ==============================================  =======================================

Weights need no semaphore on the way in: GEMMs wait for their fill tag, tile by tile, while the load streams.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Dest, Format, Instruction, LoadDest, Mapping3D, Mode, Opcode, StoreFormat
from hdl.isa.asm import to_binary
from scheduler.memory.image import ImageBuilder, Symbol
from scheduler.memory.layout import LayerShape, memory_unit, pack_planes, parameter_words, tiles_of
from scheduler.memory.placement import Part, Placement, high_plane_group
from scheduler.models.quantise import GATE_BITS, QuantisedLayer
from scheduler.moe.plan import Gang, Plan, make_plan
from scheduler.moe.steps import Generation, Lane, Routing, Step, lane_steps
from scheduler.stream.program import OutputRegion, Program

__all__ = ["LowerError", "Options", "lower_moe_layer"]

OUTPUT_GROUP = 1
"""Channel group of results: group 0 carries the instruction fetch and the small loads."""

DONE, X_FREE, CROSS, LANE_BASE = 0, 1, 2, 3


class LowerError(A3dError):
    """A batch that does not fit its layer."""


@dataclass(frozen=True)
class Options:
    """Choices of the lowering.

    Attributes
    ----------
    placement : Placement
        Which group holds the high planes.
    gang : Gang, optional
        Mapping and tiers of every lane; default: the cheapest by estimate.
    high_only : collection of int
        Experts that run on their high nibbles only, for half the bytes.
    """

    placement: Placement = Placement.EVEN_ODD
    gang: Gang | None = None
    high_only: Collection[int] = ()


def lower_moe_layer(
    config: MachineConfig,
    layer: QuantisedLayer,
    x: npt.NDArray[np.int8],
    experts: npt.NDArray[np.integer],
    gates: npt.NDArray[np.uint16],
    options: Options | None = None,
) -> Program:
    """Return the program that computes a layer for a batch.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    layer : QuantisedLayer
        All experts; those without tokens cost nothing.
    x : int8 array [tokens, hidden]
        Input.
    experts : int array [tokens, k]
        Chosen experts of each token.
    gates : uint16 array [tokens, k]
        Their gate scores, Q15.
    options : Options, optional
        Choices.

    Raises
    ------
    LowerError
        Shapes that do not fit each other, or an expert number outside the layer.
    PlanError
        A layer that the machine cannot run.
    ImageError
        Memory is too small.
    """
    chosen = np.asarray(experts, dtype=np.int64)
    _check(layer, x, chosen, gates)
    return _Lowering(config, layer, x, Routing(chosen, np.asarray(gates, dtype=np.uint16)), options or Options()).run()


def _check(
    layer: QuantisedLayer, x: npt.NDArray[np.int8], experts: npt.NDArray[np.int64], gates: npt.NDArray[np.uint16]
) -> None:
    if x.ndim != 2 or x.shape[1] != layer.hidden or x.shape[0] < 1 or x.dtype != np.int8:
        raise LowerError(f"x: {x.dtype} of shape {x.shape}; the layer takes int8 [1 or more tokens, {layer.hidden}]")
    if experts.ndim != 2 or experts.shape[0] != x.shape[0] or experts.shape != gates.shape:
        raise LowerError(f"experts {experts.shape} and gates {gates.shape}: both must be [{x.shape[0]} tokens, k]")
    if experts.size and (experts.min() < 0 or experts.max() >= len(layer.experts)):
        raise LowerError(f"experts: {experts.min()} to {experts.max()}; the layer has 0 to {len(layer.experts) - 1}")


class _Lowering:
    def __init__(
        self, config: MachineConfig, layer: QuantisedLayer, x: npt.NDArray[np.int8], routing: Routing, options: Options
    ) -> None:
        self.config = config
        self.layer = layer
        self.x = x
        self.routing = routing
        self.options = options
        self.shape = LayerShape(config, layer.hidden, layer.intermediate)
        self.counts = {int(e): int(n) for e, n in zip(*np.unique(routing.experts, return_counts=True), strict=True)}
        self.plan: Plan = make_plan(self.shape, x.shape[0], self.counts, options.gang)
        high = {e: e in options.high_only and self._high_group(e) for e in self.counts}
        numbers = range(len(self.plan.lanes))
        self.lanes = [lane_steps(self.plan, n, routing, high, x.shape[0]) for n in numbers]
        self.image = ImageBuilder(config)
        self.instructions: list[Instruction] = []

    def _high_group(self, expert: int) -> bool:
        """Return whether a high plane of an expert lies in group 1 (its load passes engine 1 alone)."""
        return any(high_plane_group(self.options.placement, expert, part) == 1 for part in Part)

    # Semaphores.

    def _lane_semaphore(self, lane: Lane, number: int) -> int:
        return LANE_BASE + lane.number * (4 + self.plan.segments.count) + number

    def _h(self, lane: Lane, step: Step) -> int:
        return self._lane_semaphore(lane, step.buffer)

    def _ready(self, lane: Lane) -> int:
        return self._lane_semaphore(lane, 2)

    def _stored(self, lane: Lane) -> int:
        return self._lane_semaphore(lane, 3)

    def _freed(self, lane: Lane, segment: int) -> int:
        return self._lane_semaphore(lane, 4 + segment)

    @property
    def _makers(self) -> int:
        """Posts of one GEMM: every mapping used here makes rows in each tier."""
        return self.plan.gang.tiers

    # Building.

    def run(self) -> Program:
        """Build the program."""
        plan, config = self.plan, self.config
        weights = {(e, part): self._add_weights(e, part) for e in sorted(self.counts) for part in Part}
        data = self._add_data()
        outputs = self._add_outputs()
        self._clear(0, None)
        opened: set[int] = set()
        for block in range(plan.blocks):
            self._load_x(block, data)
            queues = [[s for s in lane.steps if s.block == block] for lane in self.lanes]
            for place in range(max(len(queue) for queue in queues)):
                for lane, queue in zip(self.lanes, queues, strict=True):
                    if place < len(queue):
                        self._step(lane, queue[place], weights, data, opened)
            self._clear(block + 1, outputs[block])
        self._emit(Opcode.END)
        stream = self.image.add("stream", 0, to_binary(self.instructions))
        images = self.image.build()
        window = self._window(outputs)
        return Program(
            config=config,
            instructions=tuple(self.instructions),
            images=images,
            symbols=dict(self.image.symbols),
            outputs=tuple(outputs),
            window=window,
            stream_base=stream.address,
            meta=self._meta(),
        )

    def _add_weights(self, expert: int, part: Part) -> tuple[Symbol, Symbol]:
        group = high_plane_group(self.options.placement, expert, part)
        high, low = pack_planes(tiles_of(self.shape, part, self.layer.experts[expert]))
        name = f"expert{expert}.{part}"
        return self.image.add(f"{name}.high", group, high), self.image.add(f"{name}.low", 1 - group, low)

    def _add_data(self) -> dict[str, Symbol]:
        """Add the batch's input, token lists and requantisation words to group 0."""
        config, plan, data = self.config, self.plan, {}
        padded = np.zeros((self.x.shape[0], self.shape.k_slices(Part.UP) * config.rows), dtype=np.int8)
        padded[:, : self.x.shape[1]] = self.x
        for block in range(plan.blocks):
            rows = padded[block * plan.block : (block + 1) * plan.block]
            data[f"x{block}"] = self.image.add(f"x{block}", 0, rows.tobytes())
        words = {
            (e, part): parameter_words(self.shape, part, self.layer.experts[e]) for e in self.counts for part in Part
        }
        spread = plan.gang.tiers if plan.gang.mapping == Mapping3D.N else 1
        for lane in self.lanes:
            for generation in lane.generations:
                name = f"lane{lane.number}.gen{generation.number}"
                for tier, entries in enumerate(generation.entries):
                    key = f"{name}.list{tier}"
                    data[key] = self.image.add(key, 0, np.concatenate(entries).astype("<u2").tobytes())
                for tier in range(spread if generation.words else 0):
                    parts = [
                        words[e, p.part][p.first + tier * p.n_tiles : p.first + (tier + 1) * p.n_tiles]
                        for e, p in generation.words
                    ]
                    key = f"{name}.words{tier}"
                    data[key] = self.image.add(key, 0, np.concatenate(parts).astype("<u2").tobytes())
        return data

    def _add_outputs(self) -> list[OutputRegion]:
        outputs, tokens = [], self.x.shape[0]
        row_bytes = self.shape.n_tiles(Part.DOWN) * self.config.columns * 2
        for block in range(self.plan.blocks):
            first = block * self.plan.block
            count = min(self.plan.block, tokens - first)
            symbol = self.image.reserve(f"y{block}", OUTPUT_GROUP, count * row_bytes)
            outputs.append(OutputRegion(symbol.group, symbol.address, first, count, row_bytes, self.layer.hidden))
        return outputs

    def _window(self, outputs: list[OutputRegion]) -> tuple[tuple[int, int], tuple[int, int]]:
        unit = memory_unit(self.config)
        last = outputs[-1]
        end = -(-(last.address + last.tokens * last.row_bytes) // unit) * unit
        window = (outputs[0].address, end)
        return ((0, 0), window) if OUTPUT_GROUP == 1 else (window, (0, 0))

    # Instructions.

    def _emit(
        self,
        opcode: Opcode,
        values: dict[str, int] | None = None,
        waits: list[tuple[int, int]] | None = None,
        posts: list[int] | None = None,
    ) -> None:
        fields = dict(values or {})
        for n, (semaphore, count) in enumerate(waits or []):
            fields |= {f"wait{n}_sem": semaphore, f"wait{n}_count": count}
        for n, semaphore in enumerate(posts or []):
            fields |= {f"post{n}_sem": semaphore, f"post{n}_en": 1}
        self.instructions.append(Instruction(opcode, {k: int(v) for k, v in fields.items() if v}))

    def _clear(self, block: int, output: OutputRegion | None) -> None:
        """Store the rows of the block before `block`, clear the buffer, and tell the lanes that work in `block`."""
        rows = self.plan.block * self.shape.n_tiles(Part.DOWN)
        values = {"format": StoreFormat.DISCARD, "rows": rows, "clear": 1}
        waits: list[tuple[int, int]] = []
        if output is not None:
            values |= {
                "format": StoreFormat.INT16, "shift": GATE_BITS, "group": output.group,
                "rows": output.tokens * self.shape.n_tiles(Part.DOWN), "addr": output.address // 32,
            }  # fmt: skip
            working = [lane for lane in self.lanes if any(s.block == block - 1 for s in lane.steps)]
            waits = [(DONE, self._makers * len(working))]
        posts = [self._stored(lane) for lane in self.lanes if any(s.block == block for s in lane.steps)]
        if output is not None and block + 1 < self.plan.blocks:
            posts.append(X_FREE)
        self._emit(Opcode.STORE, values, waits, posts[:2])
        for n in range(2, len(posts), 2):  # stores are in order: these only carry more posts
            self._emit(Opcode.STORE, {"format": StoreFormat.DISCARD, "rows": 1}, None, posts[n : n + 2])

    def _load_x(self, block: int, data: dict[str, Symbol]) -> None:
        plan = self.plan
        every = (1 << self.config.tiers) - 1
        mask = sum(1 << lane.number * plan.gang.tiers for lane in self.lanes)
        tokens = min(plan.block, self.x.shape[0] - block * plan.block)
        values = {
            "dest_kind": LoadDest.ACTIVATION, "dest_tiers": every if plan.gang.mapping == Mapping3D.M else mask,
            "dest_base": self._x_base(block), "count": tokens * self.shape.k_slices(Part.UP),
            "addr": data[f"x{block}"].units,
        }  # fmt: skip
        self._emit(Opcode.LOAD, values, [(X_FREE, 1)] if block >= 2 else [])

    def _x_base(self, block: int) -> int:
        return block % 2 * self.plan.block * self.shape.k_slices(Part.UP)

    def _h_base(self, step: Step) -> int:
        blocks = min(2, self.plan.blocks)
        start = blocks * self.plan.block * self.shape.k_slices(Part.UP)
        return start + step.buffer * self.plan.chunk * self.shape.k_slices(Part.DOWN)

    def _step(
        self,
        lane: Lane,
        step: Step,
        weights: dict[tuple[int, Part], tuple[Symbol, Symbol]],
        data: dict[str, Symbol],
        opened: set[int],
    ) -> None:
        if step.opens:
            self._open(lane, step.generation, data)
        if step.loads:
            self._load_weights(lane, step, weights[step.expert, step.piece.part], opened)
        self._gemm(lane, step)

    def _open(self, lane: Lane, generation: Generation, data: dict[str, Symbol]) -> None:
        """Load a generation's token lists and requantisation words; the first load waits for the segment."""
        plan, segments = self.plan, self.plan.segments
        segment = generation.number % segments.count
        first_tier = lane.number * plan.gang.tiers
        gang = ((1 << plan.gang.tiers) - 1) << first_tier
        loads: list[dict[str, int]] = []
        name = f"lane{lane.number}.gen{generation.number}"
        for tier, entries in enumerate(generation.entries):
            mask = 1 << first_tier + tier if len(generation.entries) > 1 else gang
            loads.append(
                {
                    "dest_kind": LoadDest.LIST, "dest_tiers": mask, "dest_base": segment * segments.entries,
                    "count": sum(len(e) for e in entries), "addr": data[f"{name}.list{tier}"].units,
                }
            )  # fmt: skip
        spread = plan.gang.tiers if plan.gang.mapping == Mapping3D.N else 1
        for tier in range(spread if generation.words else 0):
            loads.append(
                {
                    "dest_kind": LoadDest.PARAMETER, "dest_tiers": 1 << first_tier + tier if spread > 1 else gang,
                    "dest_base": segment * segments.words, "count": generation.words_used,
                    "addr": data[f"{name}.words{tier}"].units,
                }
            )  # fmt: skip
        for place, load in enumerate(loads):
            refill = place == 0 and generation.number >= segments.count
            waits = [(self._freed(lane, segment), self._makers)] if refill else []
            posts = [self._ready(lane)] if place == len(loads) - 1 else []
            if place == 0 and generation.cross:
                posts.append(CROSS)
            self._emit(Opcode.LOAD, load, waits, posts)

    def _load_weights(self, lane: Lane, step: Step, planes: tuple[Symbol, Symbol], opened: set[int]) -> None:
        plan, piece = self.plan, step.piece
        high, low = planes
        k_slices = self.shape.k_slices(piece.part)
        spread = plan.gang.tiers if plan.gang.mapping == Mapping3D.N else 1
        only_high = step.expert in self.options.high_only
        for tier in range(spread):
            offset = (piece.first + tier * piece.n_tiles) * k_slices * self.config.plane_bytes // 32
            values = {
                "format": Format.HIGH if only_high else Format.PAIR, "group": high.group,
                "dest_tiers": 1 << lane.number * plan.gang.tiers + tier, "dest_base": step.tile,
                "count": piece.n_tiles * k_slices, "tag": step.tag, "addr": high.units + offset,
                "addr_low": 0 if only_high else low.units + offset,
            }  # fmt: skip
            waits = []
            if step.generation.cross and id(step.generation) not in opened:
                if not only_high or high.group == 1:
                    # The first load of this generation that passes engine 1 waits for what engine 0 waited for.
                    waits = [(CROSS, 1)]
                    opened.add(id(step.generation))
            self._emit(Opcode.LOAD, values, waits)

    def _gemm(self, lane: Lane, step: Step) -> None:
        plan, piece, shape = self.plan, step.piece, self.shape
        gang = plan.gang
        expert = self.layer.experts[step.expert]
        leader = lane.number * gang.tiers
        values: dict[str, int] = {
            "tier_base": leader, "tier_count": gang.tiers, "mapping": gang.mapping if gang.tiers > 1 else 0,
            "tokens": step.tokens, "k_slices": shape.k_slices(piece.part), "n_tiles": piece.n_tiles,
            "vcache_base": step.tile, "tag": step.tag, "list_base": step.entry, "param_base": step.word,
        }  # fmt: skip
        waits = [(self._ready(lane), 1)] if step.opens else []
        posts: list[int] = []
        if piece.part == Part.UP:
            half = self.config.columns // 2
            values |= {
                "act_list": 1, "act_base": self._x_base(step.block), "mode": Mode.SWIGLU, "shift": expert.up_shift,
                "post_mult": expert.post_mult, "post_shift": expert.post_shift, "dest_kind": Dest.ACTIVATION,
                "dest_tiers": 1 << leader if gang.mapping == Mapping3D.N else 0,
                "dest_base": self._h_base(step) + piece.first * half // self.config.rows,
                "dest_stride": shape.k_slices(Part.DOWN),
            }  # fmt: skip
            if piece.last:
                posts.append(self._h(lane, step))
        else:
            values |= {
                "act_base": self._h_base(step), "act_stride": shape.k_slices(Part.DOWN), "mode": Mode.REQUANT16,
                "shift": expert.down_shift, "dest_kind": Dest.COMBINE, "dest_list": 1, "accumulate": 1,
                "dest_base": piece.first,
            }  # fmt: skip
            if step.first_of_part:
                waits.append((self._h(lane, step), self._makers))
        if step.first_of_block:
            waits.append((self._stored(lane), 1))
        if step.last_of_block:
            posts.append(DONE)
        posts += [self._freed(lane, segment) for segment in step.posts_free]
        self._emit(Opcode.GEMM, values, waits, posts)

    def _meta(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "kind": "moe_layer",
            "hidden": self.layer.hidden,
            "intermediate": self.layer.intermediate,
            "tokens": int(self.x.shape[0]),
            "experts": len(self.layer.experts),
            "active_experts": {str(e): n for e, n in self.counts.items()},
            "high_only": sorted(int(e) for e in self.options.high_only if e in self.counts),
            "placement": self.options.placement.value,
            "gang": plan.gang.name,
            "lanes": [list(lane) for lane in plan.lanes],
            "blocks": plan.blocks,
            "block_tokens": plan.block,
            "chunk_tokens": plan.chunk,
            "segments": plan.segments.count,
            "generations": [len(lane.generations) for lane in self.lanes],
            "estimated_cycles": plan.cycles,
            "tile_reads": plan.tile_reads,
            "instructions": len(self.instructions),
        }
