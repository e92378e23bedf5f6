# SPDX-License-Identifier: Apache-2.0
"""Lowering: on any layer and routing, the executor's memory equals the integer model, and the stream is proved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Format, LoadDest, Mapping3D, Opcode
from scheduler.memory.image import ImageError
from scheduler.memory.layout import LayerShape, pack_planes, tiles_of
from scheduler.memory.placement import Part, Placement, high_plane_group
from scheduler.models.quantise import QuantisedExpert, QuantisedLayer
from scheduler.moe.lower import LowerError, Options, lower_moe_layer
from scheduler.moe.plan import Gang, PlanError, make_plan
from scheduler.stream.program import Program, ProgramError
from scheduler.stream.verify import check_stream
from sim import cli
from sim.golden.executor import Executor
from sim.golden.integer_model import moe_layer

NANO, TINY, SMALL = (PRESETS[name] for name in ("nano", "tiny", "small"))
WIDE = TINY.replace(name="wide", tiers=4, rows=8, columns=4, row_fifo_depth=64)
GANGS = {
    "nano": [None, Gang(Mapping3D.ALONE, 1)],
    "tiny": [None, *(Gang(m, 2) for m in (Mapping3D.M, Mapping3D.N))],
    "wide": [None, *(Gang(m, g) for m in (Mapping3D.M, Mapping3D.N) for g in (2, 4))],
}


def random_layer(rng: np.random.Generator, experts: int, hidden: int, intermediate: int) -> QuantisedLayer:
    """Return a layer of random integers whose results use most of their range."""

    def expert() -> QuantisedExpert:
        weights = [rng.integers(-119, 120, s) for s in ((intermediate, hidden), (intermediate, hidden))]
        weights.append(rng.integers(-119, 120, (hidden, intermediate)))
        up_shift = 19 + int(np.log2(hidden)) // 2
        mults = [rng.integers(0, 65536, n).astype(np.uint16) for n in (intermediate, intermediate, hidden)]
        gate, up, down = (w.astype(np.int8) for w in weights)
        shifts = int(rng.integers(26, 34)), 17 + int(np.log2(intermediate)) // 2
        return QuantisedExpert(
            gate, up, down, mults[0], mults[1], up_shift, int(rng.integers(1, 65536)), shifts[0], mults[2], shifts[1]
        )

    return QuantisedLayer(tuple(expert() for _ in range(experts)))


def run_and_compare(
    config: MachineConfig,
    layer: QuantisedLayer,
    x: np.ndarray,
    chosen: np.ndarray,
    gates: np.ndarray,
    options: Options | None = None,
) -> Program:
    program = lower_moe_layer(config, layer, x, chosen, gates, options)
    check_stream(program.instructions, config, program.images, program.limits)
    machine = Executor(config, program.images, program.limits, strict=True)
    report = machine.run(program.stream)
    assert report.semaphores_left == {}
    high_only = options.high_only if options else ()
    expected = moe_layer(layer, x, chosen, gates, high_only=high_only)
    np.testing.assert_array_equal(program.read_output(machine.memory), expected)
    assert not machine.combine.any()  # the next layer finds the buffer clear
    # Nothing but the output regions was written.
    for group, (before, after) in enumerate(zip(program.images, machine.memory, strict=True)):
        for index in np.flatnonzero(before != after):
            low, high = program.window[group]
            assert low <= index < high
    return program


def batch(
    rng: np.random.Generator, layer: QuantisedLayer, tokens: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = rng.integers(-128, 128, (tokens, layer.hidden)).astype(np.int8)
    chosen = np.stack([rng.permutation(len(layer.experts))[:k] for _ in range(tokens)])
    return x, chosen, rng.integers(0, 16385, chosen.shape).astype(np.uint16)


@settings(max_examples=60)
@given(st.data())
def test_any_layer_equals_the_integer_model(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from([NANO, TINY, WIDE]))
    hidden, intermediate = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    experts = data.draw(st.integers(1, 9))
    k = data.draw(st.integers(1, min(3, experts)))
    tokens = data.draw(st.sampled_from([1, 2, 3, 7, 20, 45]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    layer = random_layer(rng, experts, hidden, intermediate)
    high = frozenset(data.draw(st.sets(st.integers(0, experts - 1), max_size=2)))
    placement = data.draw(st.sampled_from(list(Placement)))
    gang = data.draw(st.sampled_from(GANGS[config.name]))
    options = Options(placement=placement, gang=gang, high_only=high)
    try:
        run_and_compare(config, layer, *batch(rng, layer, tokens, k), options)
    except PlanError as error:
        # Only what N cannot divide may be refused here, and only when it was asked for.
        assert gang is not None and "not a multiple of" in str(error)


@pytest.mark.parametrize("name", ["alone", "n2", "m2", "n4", "m4"])
def test_the_demo_models_layer_in_every_mapping(name: str) -> None:
    rng = np.random.default_rng(5)
    layer = random_layer(rng, 16, 128, 128)
    mapping = {"a": Mapping3D.ALONE, "n": Mapping3D.N, "m": Mapping3D.M}[name[0]]
    gang = Gang(mapping, 1 if name == "alone" else int(name[1]))
    program = run_and_compare(SMALL, layer, *batch(rng, layer, 24, 2), Options(gang=gang))
    assert program.meta["gang"] == name


@pytest.mark.parametrize("config", [NANO, TINY, WIDE], ids=lambda c: c.name)
@pytest.mark.parametrize("tokens", [1, 50])
def test_all_tokens_on_one_expert(config: MachineConfig, tokens: int) -> None:
    rng = np.random.default_rng(6)
    layer = random_layer(rng, 4, 16, 24)
    x, _, gates = batch(rng, layer, tokens, 1)
    program = run_and_compare(config, layer, x, np.full((tokens, 1), 2), gates)
    assert program.meta["active_experts"] == {"2": tokens}
    loaded = {name.split(".")[0] for name in program.symbols if name.startswith("expert")}
    assert loaded == {"expert2"}  # the others cost nothing, not even memory


def test_many_blocks_reuse_resident_weights() -> None:
    rng = np.random.default_rng(7)
    layer = random_layer(rng, 2, 8, 8)
    few = NANO.replace(combine_rows=16)  # 8 tokens a block
    program = run_and_compare(few, layer, *batch(rng, layer, 64, 2))
    assert program.meta["blocks"] == 8
    weight_loads = [i for i in program.instructions if i.opcode == Opcode.LOAD and i["dest_kind"] == LoadDest.VCACHE]
    assert len(weight_loads) < 8 * 4  # two experts, two matrices: not again for every block


def test_high_only_experts_cost_half_the_bytes() -> None:
    rng = np.random.default_rng(8)
    layer = random_layer(rng, 4, 32, 32)
    work = batch(rng, layer, 12, 2)
    beats = []
    for high in ((), (0, 1, 2, 3)):
        program = lower_moe_layer(TINY, layer, *work, Options(high_only=high))
        machine = Executor(TINY, program.images, program.limits)
        machine.run(program.stream)
        beats.append(machine.counters["read_bytes_pair"] + machine.counters["read_bytes_high"])
    assert beats[0] == 2 * beats[1]


def test_even_odd_placement_spreads_high_planes() -> None:
    groups = {p: [high_plane_group(p, e, part) for e in (0, 1) for part in Part] for p in Placement}
    assert groups == {
        Placement.EVEN_ODD: [0, 0, 1, 1],
        Placement.INTERLEAVED: [0, 1, 0, 1],
        Placement.ONE_GROUP: [0, 0, 0, 0],
    }
    rng = np.random.default_rng(9)
    layer = random_layer(rng, 2, 8, 8)
    program = lower_moe_layer(TINY, layer, *batch(rng, layer, 4, 2))
    pairs = [i for i in program.instructions if i.opcode == Opcode.LOAD and i["format"] == Format.PAIR]
    assert {i["group"] for i in pairs} == {0, 1}
    assert program.symbols["expert0.up.high"].group == 0 and program.symbols["expert1.up.high"].group == 1


def test_tiles_hold_gate_and_up_side_by_side() -> None:
    rng = np.random.default_rng(10)
    expert = random_layer(rng, 1, 10, 6).experts[0]
    shape = LayerShape(TINY, 10, 6)
    up = tiles_of(shape, Part.UP, expert)
    assert up.shape == (shape.tiles(Part.UP), 8, 8) == (4, 8, 8)
    # Tile 2 is output tile 1, slice 0: channels 4 to 7 (two of them padding), inputs 0 to 7.
    np.testing.assert_array_equal(up[2, :, :2], expert.gate[4:6, :8].T)
    np.testing.assert_array_equal(up[2, :, 4:6], expert.up[4:6, :8].T)
    assert not up[2, :, 2:4].any() and not up[3, 2:].any()
    high, low = pack_planes(up)
    assert len(high) == len(low) == up.size // 2
    nibble = high[0] & 15
    assert (nibble - 16 if nibble > 7 else nibble) == (int(up.flat[0]) + 8) >> 4


def test_plans_follow_the_load() -> None:
    shape = LayerShape(SMALL, 128, 128)
    light = make_plan(shape, 32, dict.fromkeys(range(16), 4))
    assert light.gang.tiers == 1 and len(light.lanes) == 4  # bound by loads: every tier its own expert
    heavy = make_plan(shape, 64, {3: 128})
    assert heavy.gang.tiers == 4  # one expert: all tiers share it
    assert heavy.cycles < make_plan(shape, 64, {3: 128}, Gang(Mapping3D.ALONE, 1)).cycles / 2


def test_what_cannot_fit_is_refused_with_the_limit() -> None:
    few_rows = NANO.replace(combine_rows=8)
    with pytest.raises(PlanError, match=r"size 64: one token takes 16 combine rows; 'nano' has 8: at most 32 fits"):
        make_plan(LayerShape(few_rows, 64, 8), 4, {0: 4})
    small_cache = NANO.replace(vcache_tiles=16)
    with pytest.raises(PlanError, match=r"hidden size 128: 2 output tiles of 32 slices do not fit one of 2 V-Cache"):
        make_plan(LayerShape(small_cache, 128, 8), 4, {0: 4})
    with pytest.raises(PlanError, match=r"one token takes 4 \+ 2 x 64 activation words; 'nano' has 64: raise"):
        make_plan(LayerShape(NANO.replace(activation_words=64, vcache_tiles=256), 16, 256), 4, {0: 4})
    with pytest.raises(PlanError, match="gang n4: 2 tiers are not a multiple of 4"):
        make_plan(LayerShape(TINY, 16, 16), 4, {0: 4}, Gang(Mapping3D.N, 4))
    with pytest.raises(PlanError, match="gang m2: 'flat' has no vertical links; use alone"):
        flat = TINY.replace(name="flat", vertical_links=False)
        make_plan(LayerShape(flat, 16, 16), 4, {0: 4}, Gang(Mapping3D.M, 2))
    layer = random_layer(np.random.default_rng(0), 8, 64, 64)
    tight = TINY.replace(address_bits=14)
    with pytest.raises(ImageError, match="memory of group .: .* address_bits = 14 gives 16384: raise address_bits"):
        lower_moe_layer(tight, layer, *batch(np.random.default_rng(0), layer, 8, 2))


def test_wrong_shapes_are_refused() -> None:
    rng = np.random.default_rng(11)
    layer = random_layer(rng, 2, 8, 8)
    x, chosen, gates = batch(rng, layer, 4, 2)
    with pytest.raises(LowerError, match=r"x: int8 of shape \(4, 7\); the layer takes int8 \[1 or more tokens, 8\]"):
        lower_moe_layer(TINY, layer, x[:, :7], chosen, gates)
    with pytest.raises(LowerError, match="both must be"):
        lower_moe_layer(TINY, layer, x, chosen[:3], gates[:3])
    with pytest.raises(LowerError, match="experts: 0 to 2; the layer has 0 to 1"):
        lower_moe_layer(TINY, layer, x, np.full((4, 2), 2) - np.eye(4, 2, dtype=int) * 2, gates)


def test_programs_save_and_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(12)
    layer = random_layer(rng, 3, 12, 20)
    program = lower_moe_layer(TINY, layer, *batch(rng, layer, 5, 2))
    directory = tmp_path / "p"
    program.save(directory)
    program.save(directory)  # replaces what is there
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p"]
    again = Program.load(directory)
    assert again.instructions == program.instructions and again.outputs == program.outputs
    assert again.config == program.config and again.symbols == dict(program.symbols)
    assert (again.window, again.stream_base, again.meta) == (program.window, program.stream_base, program.meta)
    assert all((a == b).all() for a, b in zip(again.images, program.images, strict=True))
    stream = program.images[0][program.stream_base :][: len(program.stream)]
    assert stream.tobytes() == program.stream == (directory / "stream.bin").read_bytes()
    assert cli.main(["disasm", str(directory), "--explain", "--verify"]) == 0
    out = capsys.readouterr().out
    assert "addr=@expert" in out and "; verified" in out


def test_damaged_programs_are_refused(tmp_path: Path) -> None:
    layer = random_layer(np.random.default_rng(13), 1, 4, 4)
    program = lower_moe_layer(NANO, layer, *batch(np.random.default_rng(13), layer, 1, 1))
    directory = tmp_path / "p"
    with pytest.raises(ProgramError, match="cannot read"):
        Program.load(directory)
    program.save(directory)
    description = json.loads((directory / "program.json").read_text())
    for text, message in (
        ("{", "program.json is damaged"),
        ("[]", "not of format 1"),
        (json.dumps({**description, "format": 2}), "not of format 1"),
        (json.dumps({k: v for k, v in description.items() if k != "window"}), "damaged .'window'"),
    ):
        (directory / "program.json").write_text(text)
        with pytest.raises(ProgramError, match=message):
            Program.load(directory)
    other = tmp_path / "notes"
    other.mkdir()
    (other / "keep.txt").write_text("mine")
    with pytest.raises(ProgramError, match="exists and is no program; name another"):
        program.save(other)
    assert (other / "keep.txt").read_text() == "mine"
