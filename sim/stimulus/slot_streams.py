# SPDX-License-Identifier: Apache-2.0
"""Draws random routing on the working set of a random stream: choices, a ROUTE, loads and GEMMs with slots."""

from __future__ import annotations

from collections.abc import Callable

from hdl.config import ADDRESS_UNIT
from hdl.isa import Dest, Format, LoadDest, Mapping3D, Mode, Opcode, Order, VectorOp, beats, load_item_bytes
from sim.stimulus.stream_draw import Drawer
from sim.stimulus.stream_order import OrderedProgram, instruction_of

__all__ = ["SlotDrawer"]

MOST_TOKENS = 5
MOST_EXPERTS = 12


class SlotDrawer:
    """Random routing.

    V-Cache tiles that loads with a slot fill lie behind those of the working set: only a GEMM with the same slot may
    read them. Some GEMMs with a slot read what a load without one has filled.

    Parameters
    ----------
    draws : Drawer
        Sizes of the working set, and random fields of GEMMs.
    program : OrderedProgram
        Takes the instructions, and holds the state after them.
    other : callable
        Emits an instruction of another kind: some come between those with slots.
    """

    def __init__(self, draws: Drawer, program: OrderedProgram, other: Callable[[], None]) -> None:
        self.draws = draws
        self.program = program
        self.config = draws.config
        self.random = draws.random
        self.tiles = range(draws.tiles, min(self.config.vcache_tiles, draws.tiles + 12))
        self.scalars = min(draws.rows // 2, self.config.scalar_depth, 24)  # as `VectorDrawer` has them
        self._other = other
        self._written: dict[int, tuple[int, int]] = {}  # slots of the ROUTEs so far: their experts and tokens

    def emit(self) -> None:
        """Emit choices, a ROUTE and what uses its table, mixed with other instructions."""
        choose, c = self.random, self.config
        experts = choose.choice((1, 2, choose.randint(1, min(MOST_EXPERTS, c.expert_slots))))
        experts = min(experts, c.expert_slots)
        tokens = choose.randint(1, min(MOST_TOKENS, self.draws.entries, self.scalars))
        k = choose.randint(1, min(3, experts, c.columns, self.draws.entries // tokens))
        s_base = self._choices(tokens, k, experts)
        if s_base is None or len(self.tiles) < 2:
            return
        words = self.draws.words // 2
        rows = min(self.draws.words, self.draws.rows) // 2
        values = {
            "tokens": tokens, "choices": k, "experts": experts, "s_base": s_base,
            "a_stride": choose.randrange(min(4, self.draws.rows // tokens)),
            "list_base": choose.randrange(self.draws.entries - tokens * k + 1),
            "source_stride": choose.randrange(max(1, words // tokens)),
            "dest_stride": choose.randrange(max(1, rows // tokens)), "by_number": choose.randrange(2),
            "slot_base": choose.randrange(c.expert_slots - experts + 1),
            "full_score": choose.choice((0, 0, choose.randrange(1 << 17), 1 << 15, (1 << 20) - 1)),
            "high_score": choose.choice((0, 0, choose.randrange(1 << 16))), "first_full": choose.randrange(2),
        }  # fmt: skip
        values["source_base"] = choose.randrange(words - (tokens - 1) * values["source_stride"])
        values["a_base"] = choose.randrange(self.draws.rows - (tokens - 1) * values["a_stride"])
        values["dest_base"] = choose.randrange(rows - (tokens - 1) * values["dest_stride"])
        if not self.program.emit(instruction_of(Opcode.ROUTE, values)):
            return
        self._written |= {values["slot_base"] + n: (experts, tokens) for n in range(experts)}
        for _ in range(choose.randint(1, 4)):
            # With slots by falling counts those at the begin are not empty more often; slots of earlier ROUTEs stay.
            slot = values["slot_base"] + choose.choice((choose.randrange(min(experts, tokens * k)), experts - 1))
            if self._written and choose.random() < 0.2:
                slot = choose.choice(sorted(self._written))
            if choose.random() < 0.3:
                self._other()
            self._use(slot, *self._written[slot])

    def _choices(self, tokens: int, k: int, experts: int) -> int | None:
        """Emit ARGMAXes that leave k choices of each token; return the first scalar, or None."""
        choose, c = self.random, self.config
        rows = -(-experts // c.columns)
        if tokens * k > self.scalars or tokens * rows + k - 1 > self.draws.rows:
            return None
        s_base = choose.randrange(self.scalars - tokens * k + 1)
        a_base = choose.randrange(self.draws.rows - tokens * rows - k + 2)
        if choose.random() < 0.7:
            count = tokens * rows + k - 1
            self.program.emit(self.draws.load(LoadDest.ROWS, a_base, count, 0))
        for j in range(k):
            values = {
                "op": int(VectorOp.ARGMAX), "first": 1, "vectors": tokens, "rows": rows, "a_base": a_base + j,
                "a_stride": rows, "masked": 1, "length": experts, "d_scalar": s_base + j * tokens,
            }  # fmt: skip
            if j and choose.random() < 0.6:  # the next best: never the same expert twice
                values |= {"first": 0, "a_base": a_base, "s_base": s_base + (j - 1) * tokens}
            if not self.program.emit(instruction_of(Opcode.VECTOR, values)):
                return None
        chosen = self.program.model.scalars[s_base : s_base + tokens * k] >> 16
        return s_base if chosen.max() < experts else None

    def _use(self, slot: int, experts: int, tokens: int) -> None:
        """Emit loads for a slot, and GEMMs on its tokens."""
        choose, c = self.random, self.config
        if choose.random() < 0.4:
            count = choose.randint(1, min(2, self.draws.params))
            base = choose.randrange(self.draws.params - count + 1)
            self._load(
                slot, experts, LoadDest.PARAMETER, Format.BYTES, base, count, choose.randint(1, (1 << c.tiers) - 1), 0
            )
        columns = (Format.COLUMNS,) if c.stationary_feed == "vertical" else ()
        form = choose.choice((Format.PAIR, Format.PAIR, Format.BYTES, Format.HIGH, *columns))
        count = choose.randint(1, min(2, (self.draws.data[1] - self.draws.data[0]) // c.tile_bytes))
        base, tag = choose.choice(self.tiles[: -count + 1 or None]), choose.randrange(64)
        tier = choose.randrange(c.tiers)
        gang = choose.randint(1, c.tiers - tier) if c.vertical_links and choose.random() < 0.6 else 1
        mask = ((1 << gang) - 1) << tier
        if not self._load(slot, experts, LoadDest.VCACHE, form, base, count, mask, tag):
            return
        if columns and choose.random() < 0.4:
            self._load(slot, experts, LoadDest.VCACHE, Format.LOW, base, count, mask, tag, follows=1)
        for _ in range(choose.randint(1, 3)):
            first = choose.randrange(gang)  # not all gangs have the same leader, nor all tiers
            many = choose.choice((gang - first, choose.randint(1, gang - first)))
            self._gemm(slot, range(tier + first, tier + first + many), base, count, tag, tokens)
            if choose.random() < 0.2:
                self._other()

    def _load(
        self, slot: int, experts: int, dest: LoadDest, form: Format, base: int, count: int, mask: int, tag: int,
        follows: int | None = None,
    ) -> bool:  # fmt: skip
        choose, unit = self.random, self.draws.unit
        follows = int(choose.random() < 0.8) if follows is None else follows
        values = {"format": int(form), "group": choose.randrange(2), "dest_kind": int(dest), "dest_tiers": mask,
                  "dest_base": base, "count": count, "tag": tag, "slot_en": follows,
                  "slot": slot * follows}  # fmt: skip
        load = instruction_of(Opcode.LOAD, values)
        size = beats(count * load_item_bytes(load, self.config), self.config) * self.config.group_bytes
        last = (experts - 1) >> 1 if form == Format.PAIR else experts - 1
        low, high = self.draws.data
        stride = choose.choice((0, 1, -(-size // unit))) if follows else 0
        if follows and (dest == LoadDest.PARAMETER or form in (Format.PAIR, Format.LOW)) and choose.random() < 0.6:
            values["scored"] = 1
            if dest == LoadDest.PARAMETER:  # those of the high plane alone come half a step later
                stride, last = 2 * stride, last + 1
        if low + size + last * stride * unit > high:
            stride = 0
        values["slot_stride"] = stride * unit // ADDRESS_UNIT
        for name in ("addr", "addr_low")[: 2 if form == Format.PAIR else 1]:
            room = (high - low - size - last * stride * unit) // unit
            values[name] = (low + choose.randrange(room + 1) * unit) // ADDRESS_UNIT
        return self.program.emit(instruction_of(Opcode.LOAD, values))

    def _gemm(self, slot: int, gang: range, base: int, count: int, tag: int, most: int) -> bool:
        choose, draws = self.random, self.draws
        k_slices, n_tiles = choose.choice([(1, 1), (1, min(count, draws.params)), (count, 1)])
        act_list = int(choose.random() < 0.7)
        combine = choose.random() < 0.6
        mode = choose.choice((Mode.REQUANT8, Mode.REQUANT16) if combine else (Mode.REQUANT8, Mode.SWIGLU))
        values = {
            "tier_base": gang.start, "tier_count": len(gang), "mapping": Mapping3D.N if len(gang) > 1 else 0,
            "order": choose.choice(list(Order)), "act_list": act_list,
            "dest_list": 1 - act_list if choose.random() < 0.5 else 1, "tokens": choose.randint(1, most),
            "list_base": choose.choice((0, 0, 1, 2)), "k_slices": k_slices, "n_tiles": n_tiles, "vcache_base": base,
            "tag": tag, "mode": mode, "param_base": choose.randrange(draws.params - n_tiles + 1),
            "shift": choose.randint(14, 26), "dest_kind": Dest.COMBINE if combine else Dest.ACTIVATION,
            "post_mult": choose.randrange(1 << 16), "post_shift": choose.randint(14, 30), "slot_en": 1, "slot": slot,
        }  # fmt: skip
        half = choose.randrange(2)
        draws.draw_source(values, half * draws.words)
        draws.draw_dest(values, 0 if combine else (1 - half) * draws.words)
        return self.program.emit(instruction_of(Opcode.GEMM, {name: int(value) for name, value in values.items()}))
