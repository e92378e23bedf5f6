# SPDX-License-Identifier: Apache-2.0
"""The instruction executor: against the contract's loop nest written out, and hand-computed cases."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Limits, Opcode
from hdl.isa.asm import assemble, to_binary
from hdl.isa.error_codes import ErrorCode
from hdl.numerics import merge_nibbles
from sim.golden.executor import DeadlockError, ExecutionError, Executor, UninitialisedError
from sim.golden.gemm import _product
from sim.golden.loop_nest import run_gemm
from sim.golden.transfer import merge_planes
from sim.golden.vector_nest import run_vector
from sim.stimulus.streams import StreamOptions, illegal_streams, random_stream

WIDE = PRESETS["tiny"].replace(name="wide", tiers=3, rows=8, columns=4, row_fifo_depth=64)
CONFIGS = [PRESETS["nano"], PRESETS["tiny"], WIDE]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", [StreamOptions(), StreamOptions.everything()], ids=["array", "everything"])
def test_random_streams_equal_the_contract_written_out(
    config: MachineConfig, seed: int, options: StreamOptions
) -> None:
    stream = random_stream(config, seed, 25, options)
    machine = Executor(config, stream.images, stream.limits, strict=True)
    for pc, instruction in enumerate(stream.instructions):
        if instruction.opcode not in (Opcode.GEMM, Opcode.VECTOR):
            machine.step(to_binary([instruction]), pc)
            continue
        reference = copy.deepcopy(machine)
        if instruction.opcode == Opcode.GEMM:
            run_gemm(reference, instruction)
        else:
            run_vector(reference, instruction)
        machine.step(to_binary([instruction]), pc)
        for name in ("activation", "combine", "scalars"):
            np.testing.assert_array_equal(
                getattr(machine, name), getattr(reference, name), err_msg=f"{pc}: {name}: {instruction}"
            )


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
def test_illegal_streams_report_their_code_and_place(name: str) -> None:
    config = PRESETS[name]
    for case in illegal_streams(config, vector=True):
        machine = Executor(config, case.images, case.limits)
        if case.code == ErrorCode.WATCHDOG:
            with pytest.raises(DeadlockError):
                machine.run(case.stream)
            continue
        with pytest.raises(ExecutionError) as caught:
            machine.run(case.stream)
        assert caught.value.code == case.code, case.name
        assert case.pc is None or caught.value.pc == case.pc, case.name
        assert case.address is None or caught.value.address == case.address, case.name


def machine_with(config: MachineConfig, *, strict: bool = False) -> Executor:
    return Executor(config, (bytes(8192), bytes(8192)), strict=strict)


def filled() -> Executor:
    """Return a tiny machine with small known contents: tiles hold 1 + tile + tier, words 1 + word + 10 * tier."""
    machine = machine_with(PRESETS["tiny"])
    for tier in range(2):
        for tile in range(8):
            machine.vcache[tier, tile] = 1 + tile + tier
        for word in range(16):
            machine.activation[tier, word] = 1 + word + 10 * tier
    machine.tags[:] = 0
    machine.parameters[:] = 1
    return machine


GEMM = (
    "gemm tiers=0..1 mapping={} tokens=2 k_slices=2 n_tiles=2 act_stride=2 "
    "mode=requant16 dest_kind=combine dest_stride=4"
)


def test_m_mapping_shares_the_leaders_tiles() -> None:
    machine = filled()
    machine.run(to_binary(assemble(GEMM.format("m") + "\nend")))
    # Tier 0, token 0: words 0, 1 hold 1, 2; tiles 0, 1 hold 1, 2 -> 8 * (1*1 + 2*2) = 40; tile 2, 3: 8 * (3 + 8) = 88.
    assert machine.combine[0, 0] == 40 and machine.combine[1, 0] == 88
    # Tier 1's first token is global token 2: words hold 11, 12 -> 8 * (11 + 24) = 280.
    assert machine.combine[8, 0] == 280 and machine.combine[9, 0] == 8 * (33 + 48)
    assert machine.counters["tier0_new_own"] == 4 and machine.counters["tier1_new_own"] == 0
    assert machine.counters["tier1_link_m"] == 4 and machine.counters["macs"] == 2 * 2 * 8 * 2 * 8 * 2


def test_m_mapping_counts_tokens_per_tier_when_each_keeps_its_rows() -> None:
    line = "gemm tiers=0..1 mapping=m tokens=2 k_slices=1 n_tiles=1 act_stride=1 dest=8 dest_stride=2{}\nend"
    machine = filled()
    machine.run(to_binary(assemble(line.format(""))))
    # dest_tiers = 0: token t of each tier goes to word 8 + 2t of its own buffer.
    assert [int(machine.activation[0, w, 0]) for w in (8, 10, 12)] == [8, 16, 13]
    assert [int(machine.activation[1, w, 0]) for w in (8, 10, 12)] == [88, 96, 23]
    machine = filled()
    machine.run(to_binary(assemble(line.format(" dest_tiers=0..1"))))
    # Multicast: tier 1's tokens come after tier 0's, in both buffers.
    for tier in (0, 1):
        assert [int(machine.activation[tier, w, 0]) for w in (8, 10, 12, 14)] == [8, 16, 88, 96]


def test_n_mapping_shares_the_leaders_activations() -> None:
    machine = filled()
    machine.run(to_binary(assemble(GEMM.format("n") + "\nend")))
    assert machine.combine[0, 0] == 40 and machine.combine[1, 0] == 88
    # Tier 1 makes global tiles 2 and 3 from its own tiles, whose values are one more.
    assert machine.combine[2, 0] == 8 * (1 * 2 + 2 * 3) and machine.combine[3, 0] == 8 * (1 * 4 + 2 * 5)
    assert machine.counters["tier1_link_n"] == 8 and machine.counters["rows"] == 8


def test_k_mapping_adds_both_tiers() -> None:
    machine = filled()
    machine.run(to_binary(assemble(GEMM.format("k") + "\nend")))
    assert machine.combine[0, 0] == 40 + 8 * (11 * 2 + 12 * 3)
    assert machine.counters["rows"] == 4 and machine.counters["tier1_link_k"] == 8


def test_n_inner_takes_tiles_in_loop_order() -> None:
    machine = filled()
    line = GEMM.format("alone").replace("0..1", "0") + " order=n_inner\nend"
    machine.run(to_binary(assemble(line)))
    assert machine.combine[0, 0] == 8 * (1 * 1 + 2 * 3) and machine.combine[1, 0] == 8 * (1 * 2 + 2 * 4)


def test_load_formats_and_store_rounding() -> None:
    config = PRESETS["nano"]
    high, low = bytearray(8192), bytearray(8192)
    high[0], low[0] = 0xF7, 0x87  # weights: 16*7 + 7 = 119; 16*-1 + 8 = -8
    machine = Executor(config, (bytes(high), bytes(low)))
    machine.run(to_binary(assemble("load format=pair dest_tiers=0 count=1 tag=9\nend")))
    assert list(machine.vcache[0, 0, 0, :2]) == [119, -8]
    machine.run(to_binary(assemble("load format=high dest_tiers=0 count=1 dest=1\nend")))
    assert list(machine.vcache[0, 1, 0, :2]) == [120, -8]
    machine.run(to_binary(assemble("load format=low dest_tiers=0 count=1 dest=1 addr=0x40 group=1\nend")))
    assert list(machine.vcache[0, 1, 0, :2]) == [112, -16]
    machine.run(to_binary(assemble("load format=low dest_tiers=0 count=1 dest=1 group=1\nend")))
    assert list(machine.vcache[0, 1, 0, :2]) == [119, -8]
    assert machine.counters["read_beats_0"] == 4 and machine.counters["read_beats_1"] == 6
    machine.strict = True
    with pytest.raises(UninitialisedError, match="instruction 0: a high plane of tier 0 is missing"):
        machine.run(to_binary(assemble("load format=low dest_tiers=0 count=2 dest=1\nend")))
    machine.strict = False
    machine.combine[3] = [5, -5, 70000, -70000]
    machine.run(to_binary(assemble("store format=int16 shift=1 row=3 rows=1 addr=0x40 clear=1 group=1\nend")))
    assert list(machine.memory[1][2048:2056].view("<i2")) == [3, -2, 32767, -32768]
    assert not machine.combine[3].any()


def test_tags_survive_a_run_and_not_an_error() -> None:
    machine = machine_with(PRESETS["nano"])
    machine.run(to_binary(assemble("load dest_tiers=0 count=1 tag=9\nend")))
    gemm = to_binary(assemble("gemm tag=9 tokens=1 k_slices=1 n_tiles=1 dest_kind=combine\nend"))
    machine.run(gemm)
    with pytest.raises(ExecutionError, match="opcode 0"):
        machine.run(bytes(32))
    with pytest.raises(ExecutionError, match="VCACHE_MISS.*not valid"):
        machine.run(gemm)


def test_a_stream_without_end_stops_at_zero_memory() -> None:
    with pytest.raises(ExecutionError) as caught:
        machine_with(PRESETS["nano"]).run(to_binary(assemble("nop\nnop")))
    assert (caught.value.code, caught.value.pc) == (ErrorCode.ILLEGAL_OPCODE, 2)


def test_unsatisfied_wait_names_semaphore_and_instruction() -> None:
    with pytest.raises(DeadlockError, match=r"instruction 1 \(STORE\) waits for 2 of semaphore 3, which holds 1"):
        machine_with(PRESETS["nano"]).run(
            to_binary(assemble("load dest_tiers=0 count=1 post=s3\nstore rows=1 format=discard wait=s3:2\nend"))
        )


def test_left_over_semaphores_are_reported() -> None:
    report = machine_with(PRESETS["nano"]).run(to_binary(assemble("load dest_tiers=0 count=1 post=s3,s4\nend")))
    assert report.semaphores_left == {3: 1, 4: 1} and report.instructions == 2


def test_strict_mode_names_what_was_never_written() -> None:
    program = "load dest_tiers=0 count=1\ngemm tokens=1 k_slices=1 n_tiles=1 dest_kind=combine\nend"
    machine = machine_with(PRESETS["nano"], strict=True)
    with pytest.raises(UninitialisedError, match="instruction 1: activation byte of tier 0 is read but never written"):
        machine.run(to_binary(assemble(program)))


def test_store_outside_the_window_is_refused() -> None:
    limits = Limits((4096, 4096), ((1024, 2048), (0, 0)))
    machine = Executor(PRESETS["nano"], (bytes(4096), bytes(4096)), limits)
    with pytest.raises(ExecutionError, match="ADDRESS.*outside 0x400 to 0x800"):
        machine.run(to_binary(assemble("store rows=1 format=int8 addr=0\nend")))


def test_rows_are_loaded_with_their_shift() -> None:
    memory = np.zeros(256, dtype=np.uint8)
    memory[64:80].view("<i2")[:] = [1, -1, 32767, -32768, 5, 6, 7, 8]
    machine = Executor(PRESETS["nano"], (bytes(256), memory.tobytes()))
    machine.run(to_binary(assemble("load dest_kind=rows group=1 count=2 dest=3 addr=2 shift=16 post=s1\nend")))
    assert machine.combine[3].tolist() == [1 << 16, -(1 << 16), 32767 << 16, -(1 << 31)]
    assert machine.combine[4].tolist() == [v << 16 for v in (5, 6, 7, 8)] and machine.semaphores[1] == 1
    assert machine.counters["read_beats_1"] == 4 and machine.counters["read_bytes_bytes"] == 16
    machine.run(to_binary(assemble("load dest_kind=rows group=1 count=1 addr=2\nend")))
    assert machine.combine[0].tolist() == [1, -1, 32767, -32768]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_columns_are_transposed_tiles(config: MachineConfig) -> None:
    memory = np.random.default_rng(1).integers(0, 256, 4096, dtype=np.uint8)
    machine = Executor(config, (memory, memory))
    machine.run(to_binary(assemble("load format=columns dest_tiers=0 dest=5 count=2 tag=7 addr=4\nend")))
    for tile in range(2):
        for r in range(config.rows):
            for c in range(config.columns):
                byte = memory[128 + (tile * config.columns + c) * config.rows + r]
                assert machine.vcache[0, 5 + tile, r, c] == byte.astype(np.int8)
    assert machine.tags[0, 5:7].tolist() == [7, 7]
    assert machine.counters["read_beats_0"] == 2 * config.tile_bytes // 4
    assert machine.counters["fill_words"] == 2 * config.fill_words
    assert machine.counters["read_bytes_columns"] == 2 * config.tile_bytes


def test_stores_skip_rows_and_memory() -> None:
    machine = machine_with(PRESETS["nano"])
    for group in (0, 1):
        machine.memory[group][:] = 0xEE
    machine.combine[:16] = np.arange(16)[:, None] * 8 + np.arange(4)
    line = "store format=int8 row=1 rows=3 row_gap=4 addr=2 offset=12 addr_gap=2 clear=1\nend"
    machine.run(to_binary(assemble(line)))
    expected = np.full(8192, 0xEE, dtype=np.uint8)
    for place, row in ((76, 1), (88, 6), (100, 11)):
        expected[place : place + 4] = row * 8 + np.arange(4)
    np.testing.assert_array_equal(machine.memory[0], expected)
    assert (machine.memory[1] == 0xEE).all()
    assert np.flatnonzero(~machine.combine[:16].any(axis=1)).tolist() == [1, 6, 11]
    assert machine.counters["write_beats_0"] == 3 and machine.counters["write_bytes"] == 12
    # DISCARD takes rows with gaps, and no address.
    line = "store format=discard row=0 rows=2 row_gap=1 clear=1 addr=0xffffffff addr_gap=0xffff\nend"
    machine.run(to_binary(assemble(line)))
    assert np.flatnonzero(~machine.combine[:16].any(axis=1)).tolist() == [0, 1, 2, 6, 11]


def test_param_hold_uses_one_word() -> None:
    machine = filled()
    machine.parameters[:, :] = np.arange(1, 129)[:, None]
    line = GEMM.format("n") + " param=2"
    machine.run(to_binary(assemble(line + " param_hold=1\nend")))
    assert [int(machine.combine[n, 0]) for n in range(4)] == [3 * v for v in (40, 88, 64, 112)]
    machine.run(to_binary(assemble(line + "\nend")))
    assert [int(machine.combine[n, 0]) for n in range(4)] == [3 * 40, 4 * 88, 3 * 64, 4 * 112]


def test_scalars_survive_a_stream_and_count() -> None:
    machine = machine_with(PRESETS["nano"], strict=True)
    machine.run(to_binary(assemble("store format=discard rows=8 clear=1\nvector op=max first=1 vectors=2 rows=3\nend")))
    machine.run(to_binary(assemble("vector op=rescale vectors=2 rows=1 dest_kind=rows a_stride=1 dest_stride=1\nend")))
    assert machine.counters["vector_rows"] == 8 and machine.scalars[:2].tolist() == [0, 0]
    gather = "vector op=gather vectors=2 rows=2 length=1 dest_kind=rows dest_stride=1\nend"
    machine.run(to_binary(assemble(gather)))
    assert machine.counters["vector_rows"] == 10
    with pytest.raises(UninitialisedError, match="instruction 0: scalar is read but never written"):
        machine.run(to_binary(assemble("vector op=max vectors=3 rows=1\nend")))
    with pytest.raises(UninitialisedError, match="instruction 0: combine row is read but never written"):
        machine.run(to_binary(assemble("vector op=mul b=7 b_rows=2 vectors=1 rows=2 dest_kind=rows\nend")))


def test_gather_reports_its_range_at_its_place() -> None:
    machine = machine_with(PRESETS["nano"])
    text = "vector op=argmax first=1 vectors=1 rows=1 masked=1\n"
    text += "vector op=gather vectors=1 rows=1 length=1 dest_kind=rows\n"
    with pytest.raises(ExecutionError, match="RANGE.*element 65535 is chosen") as caught:
        machine.run(to_binary(assemble(text + "end")))
    assert (caught.value.code, caught.value.pc) == (ErrorCode.RANGE, 1)


def test_planes_merge_nibble_by_nibble() -> None:
    # Every pair of a high and a low byte, so every pair of nibbles in both places.
    high, low = (np.ascontiguousarray(a.reshape(-1)) for a in np.mgrid[0:256, 0:256].astype(np.uint8))
    nibbles = [np.stack([plane & 15, plane >> 4], axis=-1).astype(np.int64) for plane in (high, low)]
    signed, own = (((nibbles[0] ^ 8) - 8).reshape(-1), nibbles[1].reshape(-1))
    np.testing.assert_array_equal(merge_planes(high, low), merge_nibbles(signed, own))
    np.testing.assert_array_equal(merge_planes(high), merge_nibbles(signed))


@pytest.mark.parametrize("depth", [1, 1024, 1025, 2048, 1023 * 64])
def test_products_of_whole_reductions_are_exact(depth: int) -> None:
    """At the largest sums, where float32 would round: 1,023 slices of `medium` are the most that a GEMM takes."""
    acts = np.full((3, depth), -128, dtype=np.int8)
    acts[1, ::2], acts[2] = 127, 127
    weights = np.full((depth, 3), -128, dtype=np.int8)
    weights[:, 1], weights[::3, 2] = 127, 1
    np.testing.assert_array_equal(_product(acts, weights), acts.astype(np.int64) @ weights.astype(np.int64))
