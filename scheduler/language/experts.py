# SPDX-License-Identifier: Apache-2.0
"""Router and experts of a layer: whole experts on single tiers, their weights in slots that run ahead of their use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hdl.isa import Dest, LoadDest, Mode, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from scheduler.language.dense import lower_norm
from scheduler.language.expert_lanes import LaneJob, load_job, run_lanes
from scheduler.language.work import Work
from scheduler.models.fixed_point import GATE_IN_BITS, GATE_MULT, GATE_RECIP, GATE_SHIFT, gate_scale_shift
from scheduler.ops.batch import Routing
from scheduler.plan.shape import LoweringError

__all__ = ["ExpertQueues", "lower_choices", "lower_router"]

assert GATE_IN_BITS == 32


@dataclass(eq=False, kw_only=True)
class _Job(LaneJob):
    """One expert on one tier, with its tokens.

    Attributes
    ----------
    tokens, gates : arrays [count]
        Tokens that chose it.
    number : int
        Place in the tier's queue, over all layers.
    """

    tokens: npt.NDArray[np.int64]
    gates: npt.NDArray[np.int64]
    number: int = 0


def lower_router(work: Work, layer: int, first: int, count: int) -> Iterator[int]:
    """Emit norm and router logits of some tokens of a layer, one step of a chain."""
    chip, shape, emit = work.chip, work.shape, work.emitter
    rows, scalars = chip.rows["experts"], chip.scalars["experts"]
    x = chip.words["experts"]["x"] + first * shape.hidden_words
    logits_row = rows["router"] + first * shape.router_rows
    parameters = work.model.layers[layer]
    lower_norm(
        work, "norm 2", parameters.expert_norm, row=first * shape.hidden_rows, stride=shape.hidden_rows, count=count,
        scalar=scalars["norm"] + first, word=x, tiers=work.every_tier,
    )  # fmt: skip
    emit.gemm(
        "router", tier_base=0, tier_count=1, tokens=count, k_slices=shape.hidden_words, n_tiles=shape.router_rows,
        vcache_base=work.tile(layer, "router"), tag=work.dense_tags[layer], act_base=x, act_stride=shape.hidden_words,
        mode=Mode.REQUANT16, shift=parameters.router.shift, param_base=work.word(layer, "router"),
        dest_kind=Dest.COMBINE, dest_base=logits_row, dest_stride=shape.router_rows,
    )  # fmt: skip
    yield emit.clock.vector


def lower_choices(work: Work, tokens: int) -> None:
    """Emit top-k and gates of all tokens.

    The gates stay in rows; the token lists of a host-known stream hold the same numbers.
    """
    chip, shape, emit = work.chip, work.shape, work.emitter
    rows, scalars = chip.rows["experts"], chip.scalars["experts"]
    logits = {
        "vectors": tokens, "rows": shape.router_rows, "a_base": rows["router"], "a_stride": shape.router_rows,
    }  # fmt: skip
    whole = shape.router_rows * shape.config.columns
    mask = {} if shape.experts == whole else {"masked": 1, "length": shape.experts}
    for choice in range(shape.chosen):
        emit.vector(
            f"choose {choice}", op=VectorOp.ARGMAX, **logits, **mask, first=int(choice == 0),
            s_base=scalars["choice"] + max(0, choice - 1) * tokens, d_scalar=scalars["choice"] + choice * tokens,
        )  # fmt: skip
    emit.vector(
        "gather", op=VectorOp.GATHER, **logits, length=shape.chosen, s_base=scalars["choice"], bits=VectorBits.BITS16,
        dest_kind=VectorDest.ROWS, dest_base=rows["gates"], dest_stride=1,
    )  # fmt: skip
    gates = {"vectors": tokens, "rows": 1, "a_base": rows["gates"], "a_stride": 1}
    some = {"masked": 1, "length": shape.chosen}
    result = {"bits": VectorBits.BITS32, "dest_kind": VectorDest.ROWS, "dest_base": rows["gates"], "dest_stride": 1}
    emit.vector("gate max", op=VectorOp.MAX, **gates, **some, first=1, d_scalar=scalars["top"])
    emit.vector(
        "gate exp", op=VectorOp.MAP, fn=VectorFn.EXP2, sum=VectorSum.SUM_RECIP, **gates, **some, first=1,
        s_base=scalars["top"], d_scalar=scalars["sum"], mult=GATE_MULT, shift=GATE_SHIFT, imm=GATE_RECIP, **result,
    )  # fmt: skip
    emit.vector(
        "gates", op=VectorOp.SCALE, **gates, **some, s_base=scalars["sum"], shift=gate_scale_shift(15), **result
    )


class ExpertQueues:
    """Experts of all layers, each on a tier, in the order in which the tier runs them.

    Parameters
    ----------
    work : Work
        What a step's lowering shares.
    routing : sequence of Routing
        Of every layer.
    before_keys : int
        Cycles from a layer's begin to its first load of keys.
    """

    def __init__(self, work: Work, routing: Sequence[Routing], before_keys: int) -> None:
        self._work = work
        self._before_keys = before_keys
        tiers = work.shape.config.tiers
        self._queues: list[list[_Job]] = [[] for _ in range(tiers)]
        self._layers: list[list[list[_Job]]] = []
        self._load_clock = 0  # forecast: when the loads that were emitted are through
        self._keys_wanted = 0  # forecast: when the next layer first loads keys
        for layer, route in enumerate(routing):
            jobs = self._jobs(layer, route)
            lanes: list[list[_Job]] = [[] for _ in range(tiers)]
            load = [0] * tiers
            for job in sorted(jobs, key=lambda j: (-self._cost(j), j.expert)):
                tier = min(range(tiers), key=lambda t: (load[t], t))
                load[tier] += self._cost(job)
                lanes[tier].append(job)
            for tier, lane in enumerate(lanes):
                for job in lane:
                    job.number = len(self._queues[tier])
                    job.place = job.number % len(work.chip.slots)
                    self._queues[tier].append(job)
            self._layers.append(lanes)

    def _cost(self, job: _Job) -> int:
        """Return the cycles of a job: its waves, or its weights' share of the bandwidth."""
        shape = self._work.shape
        waves = job.count * shape.expert_tiles
        beats = shape.expert_tiles * shape.config.fill_words * shape.config.tiers
        return int(max(waves, beats))

    @staticmethod
    def _jobs(layer: int, routing: Routing) -> list[_Job]:
        jobs = []
        for expert in np.unique(routing.experts).tolist():
            tokens, places = np.nonzero(routing.experts == expert)
            gates = routing.gates[tokens, places].astype(np.int64)
            jobs.append(
                _Job(
                    layer=layer, name=f"expert {expert}", expert=expert, count=tokens.size, tokens=tokens, gates=gates
                )
            )  # fmt: skip
        return jobs

    def prime(self) -> None:
        """Let the experts that have a slot from the beginning be loaded beside the first layer's attention."""
        slots = len(self._work.chip.slots)
        for place in range(slots):
            for tier, queue in enumerate(self._queues):
                if place < len(queue):
                    self._work.background.append(partial(load_job, self._work, tier, queue[place]))

    def load_lists(self, layer: int) -> None:
        """Emit the loads of a layer's token lists."""
        work, shape = self._work, self._work.shape
        for tier, lane in enumerate(self._layers[layer]):
            entries, count = [], 0
            for job in lane:
                table = np.zeros((job.count, 4), dtype="<u2")
                table[:, 0] = job.tokens * shape.hidden_words
                table[:, 1] = job.tokens * shape.hidden_rows
                table[:, 2] = job.gates
                entries.append(table)
                count += job.count
            if not count:
                continue
            ring = work.lists[tier]
            if count > ring.size:
                raise LoweringError(
                    f"token lists of layer {layer}: {count} entries in tier {tier}; list_depth leaves {ring.size}: run "
                    "fewer tokens in a step or raise list_depth"
                )
            first = ring.take(count)
            symbol = work.memory.add(np.concatenate(entries).tobytes())
            work.emitter.load(
                "token list", dest_kind=LoadDest.LIST, dest_tiers=1 << tier, group=symbol.group, dest_base=first,
                count=count, addr=symbol.units,
            )  # fmt: skip
            for job in lane:
                job.entry = first
                first += job.count

    def run(self, layer: int) -> None:
        """Emit a layer's experts.

        A slot is loaded again as soon as its expert's last GEMM is in the queue, when that load can be done before the
        next layer loads keys; else beside that layer's attention, whose own loads it would hold up.
        """
        while self._work.background:
            self._work.background.popleft()()
        lanes = self._layers[layer]
        tiers = self._work.emitter.clock.tiers
        waves = [sum(job.count for job in lane) * self._work.shape.expert_tiles for lane in lanes]
        self._load_clock = min(tiers)
        end = max(start + own for start, own in zip(tiers, waves, strict=True))
        self._keys_wanted = end + self._before_keys
        run_lanes(self._work, lanes, self._next_load)

    def _next_load(self, tier: int, done: _Job) -> None:
        shape = self._work.shape
        following = done.number + len(self._work.chip.slots)
        if following >= len(self._queues[tier]):
            return
        job = self._queues[tier][following]
        load = partial(load_job, self._work, tier, job)
        free = self._work.emitter.clock.tiers[tier]
        end = max(self._load_clock, free) + shape.expert_tiles * shape.config.fill_words + shape.expert_words
        if end <= self._keys_wanted or job.layer == done.layer:
            self._load_clock = end
            load()
        else:
            self._work.background.append(load)
