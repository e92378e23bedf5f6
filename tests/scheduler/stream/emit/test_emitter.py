# SPDX-License-Identifier: Apache-2.0
"""The collector of instructions: labels, and carriers that disturb nobody."""

from __future__ import annotations

import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, Limits, Opcode, check_instruction
from scheduler.plan.places import SPARE_ROWS, SPARE_SCALARS
from scheduler.stream.emit.emitter import Emitter, carriers
from scheduler.stream.emit.labels import Label

TINY = PRESETS["tiny"]


def test_instructions_keep_their_order_and_their_labels() -> None:
    emit = Emitter(TINY)
    emit.load("one", count=1)
    emit.layer = 2
    emit.store("two", rows=3)
    emit.vector("one", vectors=1, rows=1)
    labels = emit.labels.of(emit.stream.marks[: emit.stream.count].tolist())
    assert labels == (Label(-1, "one"), Label(2, "two"), Label(2, "one"))
    assert [str(label) for label in labels] == ["one", "L2 two", "L2 one"]
    assert list(emit.stream.table().instructions()) == [
        Instruction(Opcode.LOAD, {"count": 1}), Instruction(Opcode.STORE, {"rows": 3}),
        Instruction(Opcode.VECTOR, {"vectors": 1, "rows": 1}),
    ]  # fmt: skip


def test_rows_are_expected_after_their_waves() -> None:
    """A tier works in order: the same GEMM again is ready its waves later, on the other tier it is not."""
    fields = {"tier_count": 1, "tokens": 5, "k_slices": 3, "n_tiles": 4}
    emit = Emitter(TINY)
    first, second, other = (emit.gemm("g", tier_base=tier, **fields) for tier in (0, 0, 1))
    assert second - first == 60 and other == first
    before = emit.clock.vector
    emit.vector("v", vectors=7, rows=3)
    assert emit.clock.vector >= before + 21


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
def test_carriers_are_legal_and_touch_spare_cells_only(name: str) -> None:
    config = PRESETS[name]
    kinds = {"store": Opcode.STORE, "vector": Opcode.VECTOR, "load0": Opcode.LOAD, "load1": Opcode.LOAD}
    rows = set()
    for queue, fields in carriers(config).items():
        instruction = Instruction(kinds[queue], {k: int(v) for k, v in fields.items() if v})
        assert check_instruction(instruction, config, Limits.whole(config)) is None
        (row,) = {instruction[field] for field in ("row_base", "a_base", "dest_base")} - {0}
        assert row >= config.combine_rows - SPARE_ROWS
        rows.add(row)
        if queue == "vector":
            assert instruction["d_scalar"] >= config.scalar_depth - SPARE_SCALARS
    assert len(rows) == SPARE_ROWS
