# SPDX-License-Identifier: Apache-2.0
"""Router and experts of a layer: whole experts on single tiers, their weights in slots that run ahead of their use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hdl.isa import Dest, Format, LoadDest, Mode, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from scheduler.fixed_point import GATE_IN_BITS, GATE_MULT, GATE_RECIP, GATE_SHIFT, gate_scale_shift
from scheduler.language.batch import Routing
from scheduler.language.dense import lower_norm
from scheduler.language.shape import LoweringError
from scheduler.language.work import Work
from scheduler.placement import Part

__all__ = ["ExpertQueues", "lower_choices", "lower_router"]

assert GATE_IN_BITS == 32


@dataclass(eq=False)
class _Job:
    """One expert on one tier.

    Attributes
    ----------
    layer, expert : int
    tokens, gates : arrays [n]
        Tokens that chose it.
    number : int
        Place in the tier's queue, over all layers; its slot is ``number`` modulo the slots.
    tag : int
        Fill tag.
    loaded : bool
        Whether its loads have been emitted.
    lists : list of int
        First list entry of each chunk of tokens.
    """

    layer: int
    expert: int
    tokens: npt.NDArray[np.int64]
    gates: npt.NDArray[np.int64]
    number: int = 0
    tag: int = 0
    loaded: bool = False
    lists: list[int] | None = None


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
    """

    def __init__(self, work: Work, routing: Sequence[Routing]) -> None:
        self._work = work
        tiers = work.shape.config.tiers
        self._queues: list[list[_Job]] = [[] for _ in range(tiers)]
        self._layers: list[list[list[_Job]]] = []
        self._clock: list[int] = []  # waves that each tier has been given in the present layer
        self._load_clock = 0
        self._phase = 0
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
                    self._queues[tier].append(job)
            self._layers.append(lanes)

    def _cost(self, job: _Job) -> int:
        """Return the cycles of a job: its waves, or its weights' share of the bandwidth."""
        shape = self._work.shape
        waves = job.tokens.size * shape.expert_tiles
        beats = shape.expert_tiles * shape.config.fill_words * shape.config.tiers
        return int(max(waves, beats))

    @staticmethod
    def _jobs(layer: int, routing: Routing) -> list[_Job]:
        jobs = []
        for expert in np.unique(routing.experts).tolist():
            tokens, places = np.nonzero(routing.experts == expert)
            jobs.append(_Job(layer, expert, tokens, routing.gates[tokens, places].astype(np.int64)))
        return jobs

    def prime(self) -> None:
        """Let the experts that have a slot from the beginning be loaded beside the first layer's attention."""
        slots = len(self._work.chip.slots)
        for place in range(slots):
            for tier, queue in enumerate(self._queues):
                if place < len(queue):
                    self._work.background.append(partial(self._load, tier, queue[place]))

    def load_lists(self, layer: int) -> None:
        """Emit the loads of a layer's token lists."""
        work, shape = self._work, self._work.shape
        for tier, lane in enumerate(self._layers[layer]):
            entries, count = [], 0
            waiting: list[_Job] = []
            for job in lane:
                table = np.zeros((job.tokens.size, 4), dtype="<u2")
                table[:, 0] = job.tokens * shape.hidden_words
                table[:, 1] = job.tokens * shape.hidden_rows
                table[:, 2] = job.gates
                entries.append(table)
                waiting.append(job)
                count += job.tokens.size
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
            for job in waiting:
                job.lists = [first + done for done in range(0, job.tokens.size, work.chip.chunk)]
                first += job.tokens.size

    def run(self, layer: int) -> None:
        """Emit a layer's experts.

        A slot is loaded again as soon as its expert's last GEMM is in the queue, when that load can be done by the end
        of the phase; else beside the next layer's attention, whose own loads it would hold up.
        """
        while self._work.background:
            self._work.background.popleft()()
        lanes = self._layers[layer]
        self._clock = [0] * len(lanes)
        self._load_clock = 0
        self._phase = max(sum(job.tokens.size for job in lane) for lane in lanes) * self._work.shape.expert_tiles
        # (job, chunk) of every lane; a chunk's down projection comes after the next chunk's up projection.
        work = self._work
        steps = [
            [(job, chunk) for job in lane for chunk in range(-(-job.tokens.size // work.chip.chunk))] for lane in lanes
        ]
        for place in range(max((len(s) for s in steps), default=0) + 1):
            for tier, own in enumerate(steps):
                ahead = place < len(own) and own[place][0].loaded
                if ahead:
                    self._up(tier, *own[place], place % 2)
                if 0 < place <= len(own):
                    self._down(tier, *own[place - 1], (place - 1) % 2)
                    if place == len(own) or own[place][0] is not own[place - 1][0]:
                        self._next_load(tier, own[place - 1][0])
                if place < len(own) and not ahead:  # its slot has only now become free
                    self._up(tier, *own[place], place % 2)

    def _next_load(self, tier: int, done: _Job) -> None:
        shape = self._work.shape
        self._clock[tier] += done.tokens.size * shape.expert_tiles
        following = done.number + len(self._work.chip.slots)
        if following >= len(self._queues[tier]):
            return
        job = self._queues[tier][following]
        load = partial(self._load, tier, job)
        end = max(self._load_clock, self._clock[tier]) + shape.expert_tiles * shape.config.fill_words
        if end <= self._phase or job.layer == done.layer:
            self._load_clock = end
            load()
        else:
            self._work.background.append(load)

    def _load(self, tier: int, job: _Job) -> None:
        work, shape = self._work, self._work.shape
        slot = job.number % len(work.chip.slots)
        job.tag = work.next_tag()
        job.loaded = True
        name = f"layer{job.layer}.expert{job.expert}"
        words = work.memory.symbol(f"{name}.words")
        before, work.emitter.layer = work.emitter.layer, job.layer
        work.emitter.load(
            f"expert {job.expert} words", dest_kind=LoadDest.PARAMETER, dest_tiers=1 << tier, group=words.group,
            dest_base=work.chip.slot_words[slot], count=shape.expert_words, addr=words.units,
        )  # fmt: skip
        base = work.chip.slots[slot]
        for part, count in (
            (Part.UP, shape.up_tiles * shape.hidden_words), (Part.DOWN, shape.hidden_rows * shape.inner_words)
        ):  # fmt: skip
            high, low = work.memory.planes(f"{name}.{part}")
            work.emitter.load(
                f"expert {job.expert} {part}", format=Format.PAIR, group=high.group, dest_tiers=1 << tier,
                dest_base=base, count=count, tag=job.tag, addr=high.units, addr_low=low.units,
            )  # fmt: skip
            base += count
        work.emitter.layer = before

    def _chunk(self, job: _Job, chunk: int) -> tuple[int, int]:
        """Return (tokens, first list entry) of a chunk."""
        size = self._work.chip.chunk
        assert job.lists is not None
        return min(size, job.tokens.size - chunk * size), job.lists[chunk]

    def _up(self, tier: int, job: _Job, chunk: int, parity: int) -> None:
        work, shape = self._work, self._work.shape
        tokens, entry = self._chunk(job, chunk)
        slot = job.number % len(work.chip.slots)
        expert = work.model.layers[job.layer].experts.experts[job.expert]
        words = work.chip.words["experts"]
        work.emitter.gemm(
            f"expert {job.expert} up", tier_base=tier, tier_count=1, tokens=tokens, k_slices=shape.hidden_words,
            n_tiles=shape.up_tiles, vcache_base=work.chip.slots[slot], tag=job.tag, act_base=words["x"], act_list=1,
            list_base=entry, mode=Mode.SWIGLU, shift=expert.up_shift, post_mult=expert.post_mult,
            post_shift=expert.post_shift, param_base=work.chip.slot_words[slot], dest_kind=Dest.ACTIVATION,
            dest_base=words["h"] + parity * work.chip.chunk * shape.inner_words, dest_stride=shape.inner_words,
        )  # fmt: skip

    def _down(self, tier: int, job: _Job, chunk: int, parity: int) -> None:
        work, shape = self._work, self._work.shape
        tokens, entry = self._chunk(job, chunk)
        slot = job.number % len(work.chip.slots)
        expert = work.model.layers[job.layer].experts.experts[job.expert]
        work.emitter.gemm(
            f"expert {job.expert} down", tier_base=tier, tier_count=1, tokens=tokens, k_slices=shape.inner_words,
            n_tiles=shape.hidden_rows, vcache_base=work.chip.slots[slot] + shape.up_tiles * shape.hidden_words,
            tag=job.tag, act_base=work.chip.words["experts"]["h"] + parity * work.chip.chunk * shape.inner_words,
            act_stride=shape.inner_words, list_base=entry, dest_list=1, mode=Mode.REQUANT16, shift=expert.down_shift,
            param_base=work.chip.slot_words[slot] + shape.up_tiles, dest_kind=Dest.COMBINE, accumulate=1,
        )  # fmt: skip
