# SPDX-License-Identifier: Apache-2.0
"""Footprints are exactly the cells that the executor writes, and cover those that it needs."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Opcode
from hdl.isa.asm import assemble, to_binary
from sim.golden.executor import Executor, UninitialisedError
from sim.golden.order.footprint import Lists, footprint
from sim.stimulus.streams import StreamOptions, random_stream

WIDE = PRESETS["tiny"].replace(name="wide", tiers=3, rows=8, columns=4, row_fifo_depth=64)
KNOWN = {
    "activation": "activation byte",
    "list": "list entry",
    "parameter": "requantisation word",
    "combine": "combine row",
    "scalar": "scalar",
}


def cells_of(machine: Executor, space: str, config: MachineConfig) -> np.ndarray:
    """Return the cells that the executor has marked as written."""
    known = machine.known[KNOWN[space]]
    if space == "activation":  # cells of C/2 bytes
        known = known.reshape(-1, config.columns // 2).all(axis=1)
    return np.flatnonzero(known.reshape(-1))


@pytest.mark.parametrize("config", [PRESETS["nano"], PRESETS["tiny"], WIDE], ids=lambda c: c.name)
@pytest.mark.parametrize("seed", range(4))
def test_footprints_equal_what_the_executor_does(config: MachineConfig, seed: int) -> None:
    stream = random_stream(config, seed, 40, StreamOptions.everything())
    machine = Executor(config, stream.images, stream.limits)
    lists = Lists(config)
    for pc, instruction in enumerate(stream.instructions):
        touched = footprint(instruction, config, lists)
        word = to_binary([instruction])
        if instruction.opcode in (Opcode.GEMM, Opcode.VECTOR):
            # With exactly the footprint's reads known, strict mode is content; without any one space, it is not.
            read = {s: [a.cells for a in touched.accesses if a.space == s and a.kind in ("read", "add")] for s in KNOWN}
            for missing in (None, *[s for s in KNOWN if any(cells.size for cells in read[s])]):
                _mark(machine, config, {s: cells for s, cells in read.items() if s != missing})
                if missing is None:
                    continue
                machine.strict, before = True, machine.semaphores.copy()
                with pytest.raises(UninitialisedError):
                    machine.step(word, pc)
                machine.semaphores[:] = before
            _mark(machine, config, read)
            machine.strict = True
        else:
            _mark(machine, config, {})
        reads = {s: cells_of(machine, s, config) for s in KNOWN}
        memory = [m.copy() for m in machine.memory]
        machine.step(word, pc)
        machine.strict = False
        for space in KNOWN:
            writes = [a.cells for a in touched.accesses if a.space == space and a.kind == "write"]
            expected = np.unique(np.concatenate([reads[space], *writes]))
            np.testing.assert_array_equal(cells_of(machine, space, config), expected, err_msg=f"{pc}: {space}")
        for group in (0, 1):
            changed = np.flatnonzero(memory[group] != machine.memory[group])
            assert all(any(span.group == group and span.covers(b) for span in touched.writes) for b in changed)
        lists.apply(instruction, (machine.memory[0], machine.memory[1]))


def _mark(machine: Executor, config: MachineConfig, cells: dict[str, list[np.ndarray]]) -> None:
    """Make exactly these cells known."""
    for space, name in KNOWN.items():
        known = machine.known[name]
        known[:] = False
        flat = known.reshape(-1, config.columns // 2) if space == "activation" else known.reshape(-1)
        for some in cells.get(space, []):
            flat[some] = True


def test_a_list_that_is_loaded_over_what_a_route_wrote() -> None:
    """A GEMM with a slot reads whatever lies where the ROUTE wrote: here an entry of its own, and one from memory."""
    config = PRESETS["tiny"]
    lists = Lists(config)
    memory = (np.zeros(64, np.uint8), np.zeros(64, np.uint8))
    memory[0][:8].view("<u2")[:] = (40, 50, 1, 0)
    gemm, route, load = assemble(
        "gemm tokens=2 k_slices=1 n_tiles=1 act_list=1 dest_list=1 slot_en=1 slot=0 dest_kind=combine\n"
        "route tokens=2 choices=1 experts=4 list=6 source_stride=3 dest=100 dest_stride=7\n"
        "load dest_kind=list dest_tiers=0 dest=7 count=1"
    )

    def rows() -> list[int]:
        accesses = footprint(gemm, config, lists).accesses
        return sorted(c for a in accesses if a.space == "combine" for c in a.cells.tolist())

    assert rows() == []
    lists.apply(route, memory)
    assert rows() == [100, 107]
    lists.apply(load, memory)
    assert rows() == [50, 100, 107]
    assert [a.cells.tolist() for a in footprint(gemm, config, lists).accesses if a.space == "list"] == [[6, 7]]
    assert lists.sources(gemm, 0).tolist() == [40, 0, 3] and lists.sources(gemm, 1).tolist() == [0, 3]
