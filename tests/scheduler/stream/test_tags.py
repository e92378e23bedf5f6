# SPDX-License-Identifier: Apache-2.0
"""The tags that a stream leaves are those of the executor."""

import numpy as np

from hdl.config import PRESETS
from hdl.isa import Format, Instruction, LoadDest, Opcode
from scheduler.stream.table import Table
from scheduler.stream.tags import note_tags
from sim.golden.executor import Executor


def test_the_last_load_counts_and_other_memories_have_no_tags() -> None:
    config = PRESETS["tiny"]
    load = {"format": Format.BYTES, "dest_tiers": 3, "count": 4, "tag": 5, "addr": 0}
    stream = [
        Instruction(Opcode.LOAD, load | {"dest_base": 2}),
        Instruction(Opcode.LOAD, load | {"dest_base": 4, "dest_tiers": 2, "tag": 9}),
        Instruction(Opcode.LOAD, load | {"dest_base": 0, "dest_kind": LoadDest.ACTIVATION}),
        Instruction(Opcode.END, {}),
    ]
    executor = Executor(config, [np.zeros(4096, np.uint8)] * 2)
    executor.run(stream)
    tags = np.full((config.tiers, config.vcache_tiles), -1, np.int16)
    note_tags(Table.of(stream), tags)
    assert np.array_equal(tags, executor.tags) and set(tags[1]) == {-1, 5, 9}


def test_a_load_with_a_slot_may_load_nothing() -> None:
    tags = np.full((2, 8), 3, np.int16)
    slot = Instruction(Opcode.LOAD, {"dest_tiers": 1, "dest_base": 1, "count": 2, "tag": 7, "slot_en": 1})
    note_tags(Table.of([slot]), tags)
    assert tags[0].tolist() == [3, -1, -1, 3, 3, 3, 3, 3] and set(tags[1]) == {3}
