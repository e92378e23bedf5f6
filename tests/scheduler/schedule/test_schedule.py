# SPDX-License-Identifier: Apache-2.0
"""Schedules: built, saved, read back, run; sources of routing; nothing half-written."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.errors import A3dError
from scheduler.models.description import DenseMlp, Experts, GroupedAttention, Layer, Model
from scheduler.models.random_model import random_model
from scheduler.ops.steps_file import parse_steps
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import SEQUENTIAL, policy_of
from scheduler.schedule import build
from scheduler.schedule.build import Scheduler
from scheduler.schedule.files import ScheduleError, load_schedule, save_schedule
from scheduler.schedule.routing import MachineRouting, TraceRouting, UniformRouting, given_routing
from scheduler.stream.prove import StreamError
from scheduler.stream.table import COL
from scheduler.system import SystemConfig
from sim.machine.engines import IsaEngine
from sim.machine.replay import replay

CONFIG = PRESETS["small"]
ATTENTION = GroupedAttention(heads=2, kv_heads=2, head_dim=16)
MODEL = Model(
    family="mixtral", name="test", hidden=32, vocabulary=48, context=64,
    layers=(
        Layer(attention=ATTENTION, mlp=DenseMlp(intermediate=16)),
        Layer(attention=ATTENTION, mlp=Experts(count=4, chosen=2, intermediate=16)),
    ),
)  # fmt: skip
LINES = [
    '{"sequences": [{"id": "a", "new": 6}, {"id": "b", "new": 3}]}',
    '{"sequences": [{"id": "b", "cached": 3, "new": 1}]}',
    '{"sequences": [{"id": "c", "tokens": [1, 2]}, {"id": "b", "cached": 4, "new": 1}]}',
]


def system_of(config):
    return SystemConfig(machine=config, policy=SEQUENTIAL)


def scheduler(**options):
    steps = parse_steps(LINES, MODEL)
    source = options.pop("source", None) or UniformRouting(MODEL, 3)
    return Scheduler(system_of(CONFIG), MODEL, steps, source, **options)


def test_weights_that_stay_are_in_the_schedule(tmp_path):
    """The steps that decode find what the one before has left; read from the directory they do too."""
    lines = [f'{{"sequences": [{{"id": "a", "cached": {n}, "new": 1}}]}}' for n in range(1, 5)]
    steps = parse_steps(['{"sequences": [{"id": "a", "new": 1}]}', *lines], MODEL)
    system = SystemConfig(machine=CONFIG, policy=policy_of("residency"))
    made = Scheduler(system, MODEL, steps, UniformRouting(MODEL, 3), quantised=random_model(MODEL, 1))
    about = save_schedule(made, tmp_path / "out")
    kept = [entry["kept_tiles"] for entry in about["steps"]]
    assert kept[:2] == [0, 0] and 0 < kept[2] == kept[3] == kept[4] < CONFIG.vcache_tiles
    saved = load_schedule(tmp_path / "out")
    assert saved.system.policy.name == "residency"
    with IsaEngine(CONFIG, verify=True) as engine:
        assert len(list(replay(saved, engine))) == 5
    index = tmp_path / "out" / "schedule.json"
    index.write_text(index.read_text().replace('"kept_tiles": 0', f'"kept_tiles": {kept[2]}', 1))
    with pytest.raises(ScheduleError, match=r"steps\[0\].kept_tiles is .*, expected 0: no step has left any before"):
        load_schedule(tmp_path / "out")


def test_a_prefix_lies_in_the_place_of_its_own_sequence(tmp_path):
    """It is kept after the sequence's last step; all that look at it give the same logits as with keys of their own."""
    prefix = {"id": "a", "tokens": 16}
    first, more = list(range(16)), [3, 5, 7]
    lines = [
        {"sequences": [{"id": "a", "tokens": first}]},
        {"sequences": [{"id": name, "cached": 16, "tokens": more, "prefix": prefix} for name in "bc"]},
        {"sequences": [{"id": name, "cached": 19, "tokens": [9]} for name in "bc"]},
        {"sequences": [{"id": "d", "tokens": [*first, *more, 9]}]},
    ]  # fmt: skip
    steps = parse_steps([json.dumps(line) for line in lines], MODEL)
    system = SystemConfig(machine=CONFIG, policy=policy_of("prefixes"))
    made = Scheduler(system, MODEL, steps, MachineRouting(), quantised=random_model(MODEL, 1))
    about = save_schedule(made, tmp_path / "out")
    assert [[own["place"] for own in step["sequences"]] for step in about["steps"]] == [[0], [1, 2], [1, 2], [0]]
    assert {"sequence": 0, "tokens": 16} == about["steps"][2]["sequences"][0]["prefix"]
    with IsaEngine(CONFIG) as engine:
        *_, (_, decoded), (_, whole) = replay(load_schedule(tmp_path / "out"), engine)
    assert np.array_equal(decoded.logits[0], whole.logits[0]) and np.array_equal(decoded.logits[1], whole.logits[0])


def test_a_prefix_ends_where_a_load_can_end():
    lines = [
        '{"sequences": [{"new": 20}]}',
        '{"sequences": [{"id": "b", "cached": 20, "new": 1, "prefix": {"id": 0, "tokens": 20}}]}',
    ]
    steps = parse_steps(lines, MODEL)
    with pytest.raises(
        LoweringError, match="line 2: sequence 'b': prefix of 20 tokens; use a multiple of 16, what small"
    ):
        Scheduler(system_of(CONFIG), MODEL, steps, UniformRouting(MODEL, 3))


def test_a_stream_that_could_race_is_not_written(tmp_path, monkeypatch):
    real = build.lower_step

    def broken(*args, **options):
        program = real(*args, **options)
        program.table.rows[:, COL.wait0_count] = 0
        return program

    monkeypatch.setattr(build, "lower_step", broken)
    with pytest.raises(StreamError, match="race"):
        save_schedule(scheduler(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sequence_keeps_its_place_in_the_cache_and_gives_it_up():
    places = [[chunk.sequence for chunk in planned.chunks] for planned in scheduler().run()]
    assert places == [[0, 1], [1], [0, 1]]  # c takes the place that a has left


@pytest.mark.parametrize("source", [UniformRouting(MODEL, 3), MachineRouting()], ids=["known", "machine"])
def test_what_is_saved_runs_as_what_was_built(tmp_path, source):
    weights = random_model(MODEL, 5)
    made = scheduler(quantised=weights, source=source)
    programs = []
    about = save_schedule(made, tmp_path / "out", each=lambda planned, entry: programs.append(planned.program))
    saved = load_schedule(tmp_path / "out")
    assert saved.about == json.loads(json.dumps(about)) and saved.config == CONFIG and len(saved) == 3
    with IsaEngine(CONFIG, verify=True) as engine:
        for program, (step, outcome) in zip(programs, replay(saved, engine), strict=True):
            assert step.instructions == program.instructions and step.labels == program.labels
            assert outcome.logits.shape == (len(program.chunks), MODEL.vocabulary)
            assert np.array_equal(outcome.logits, program.read_logits(engine.contents))
            assert outcome.logits.any()


def test_a_schedule_without_weights_has_no_images_and_does_not_run(tmp_path):
    save_schedule(scheduler(), tmp_path / "out", assembler=False)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"schedule.json"} | {
        f"step000{n}.{end}" for n in range(3) for end in ("bin", "patch.bin", "labels.json")
    }
    with IsaEngine(CONFIG) as engine, pytest.raises(A3dError, match="has no weights"):
        next(replay(load_schedule(tmp_path / "out"), engine))


def test_nothing_is_written_when_a_step_does_not_fit(tmp_path):
    steps = parse_steps(LINES, MODEL)
    config = CONFIG.replace(activation_words=16, name="narrow")
    with pytest.raises(LoweringError):
        save_schedule(Scheduler(system_of(config), MODEL, steps, UniformRouting(MODEL, 3)), tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_a_schedule_is_replaced(tmp_path):
    save_schedule(scheduler(), tmp_path / "out")
    save_schedule(scheduler(), tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(ScheduleError, match="exists and is no schedule"):
        save_schedule(scheduler(), tmp_path / "other")
    assert (tmp_path / "other" / "letter.txt").read_text() == "mine"


def test_what_lies_beside_a_schedule_is_not_lost(tmp_path):
    save_schedule(scheduler(), tmp_path / "out")
    (tmp_path / "out" / "steps.jsonl").write_text("mine")
    with pytest.raises(ScheduleError, match="steps.jsonl, which is none of its files and would be lost"):
        save_schedule(scheduler(), tmp_path / "out")
    assert (tmp_path / "out" / "steps.jsonl").read_text() == "mine"


def test_a_link_to_a_schedule_stays_one(tmp_path):
    save_schedule(scheduler(), tmp_path / "out.v1")
    (tmp_path / "link").symlink_to("out.v1")
    save_schedule(scheduler(), tmp_path / "link", assembler=False)
    assert (tmp_path / "link").is_symlink() and not (tmp_path / "out.v1" / "step0000.asm").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"link", "out.v1"}


def test_an_old_schedule_stays_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    save_schedule(scheduler(), tmp_path / "out")
    rename = Path.rename

    def fail(path, target):
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        save_schedule(scheduler(), tmp_path / "out")
    assert len(load_schedule(tmp_path / "out")) == 3 and [p.name for p in tmp_path.iterdir()] == ["out"]


def changed(table, *path):
    """Return a table with the last of `path` as the value at the rest of it; None: without it."""
    *way, last, value = path
    own = table
    for key in way:
        own = own[key]
    own[last] = value
    if value is None:
        del own[last]
    return table


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("schedule.json", "{", "schedule.json is damaged"),
        ("schedule.json", '{"format": 99}', "not of format 2"),
        ("schedule.json", '{"format": 1}', "damaged"),
        ("schedule.json", "[" * 100_000, "schedule.json is damaged"),
        ("schedule.json", ("model", "name", None), "damaged .model.name is missing"),
        ("schedule.json", ("config", "tiers", 99), "damaged .config tiers: 99"),
        ("schedule.json", ("steps", []), "damaged .steps is \\[\\], expected at least one"),
        ("schedule.json", ("steps", 7), "damaged .steps is 7, expected a list"),
        ("schedule.json", ("steps", 1, "roofline", None), "damaged .steps\\[1\\].roofline is missing"),
        ("schedule.json", ("steps", 1, "tokens", -1), "damaged .steps\\[1\\].tokens is -1, expected a natural number"),
        ("schedule.json", ("steps", 1, "name", "../x"), "damaged .steps\\[1\\].name is '../x'"),
        ("schedule.json", ("steps", 1, "patch", "address", 1 << 60), "damaged .steps\\[1\\].patch is .* outside"),
        ("schedule.json", ("steps", 1, "logits", "columns", 0), "damaged .steps\\[1\\].logits is"),
        ("schedule.json", ("steps", 1, "window", [[0]]), "damaged .steps\\[1\\].window is"),
        ("step0001.labels.json", "[[0]]", "step 1 is damaged"),
        ("step0001.labels.json", '[[0, 0, "a"], [99999, 0, "b"]]', "step 1 is damaged .labels do not go"),
        ("step0001.bin", "", "step 1 is damaged .step0001.bin has 0 instructions, expected"),
        ("step0001.bin", "odd", "step 1 is damaged .stream: 3 bytes"),
        ("step0001.patch.bin", "few", "step 1 is damaged .step0001.patch.bin has 3 bytes"),
        ("step0001.bin", None, "cannot read .*step0001.bin"),
    ],
)
def test_a_damaged_schedule_is_refused(tmp_path, file, change, message):
    save_schedule(scheduler(), tmp_path / "out")
    path = tmp_path / "out" / file
    if change is None:
        path.unlink()
    elif isinstance(change, tuple):
        path.write_text(json.dumps(changed(json.loads(path.read_text()), *change)))
    else:
        path.write_text(change)
    with pytest.raises(ScheduleError, match=message):
        saved = load_schedule(tmp_path / "out")
        for number in range(len(saved)):
            saved.step(number)


def test_routing_that_the_file_gives_goes_before_a_draw():
    line = '{"sequences": [{"new": 2}], "routing": [[[3, 0], [1, 2]]]}'
    (step,) = parse_steps([line], MODEL)
    given = given_routing(MODEL, step)
    assert given is not None and given[0] is None and given[1].experts.tolist() == [[3, 0], [1, 2]]
    assert UniformRouting(MODEL, 1).routing(step)[1].experts.tolist() == [[3, 0], [1, 2]]


def test_a_draw_repeats_with_its_seed_and_has_different_experts():
    (step,) = parse_steps(['{"sequences": [{"new": 50}]}'], MODEL)
    first, again, other = (UniformRouting(MODEL, seed).routing(step)[1].experts for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert all(len(set(row)) == 2 for row in first.tolist())
    assert set(first.ravel().tolist()) == {0, 1, 2, 3}


def test_a_trace_gives_its_tokens_in_order_and_begins_again(tmp_path):
    np.save(tmp_path / "r.npy", np.array([[[0, 1]], [[2, 3]], [[1, 0]]], dtype=np.uint8))
    trace = TraceRouting(MODEL, tmp_path / "r.npy")
    steps = parse_steps(['{"sequences": [{"new": 2}]}', '{"sequences": [{"new": 3}]}'], MODEL)
    assert trace.routing(steps[0])[1].experts.tolist() == [[0, 1], [2, 3]]
    assert trace.routing(steps[1])[1].experts.tolist() == [[1, 0], [0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "No such file"),
        (b"junk", "is no .npy array"),
        (np.zeros((3, 1)), "not an array of integers"),
        (np.zeros((3, 1, 2)), "not an array of integers"),
        (np.zeros((3, 0, 2), np.int64), "has 0 layers"),
        (np.zeros((3, 1, 1), np.int64), "1 experts a token"),
        (np.full((3, 1, 2), 4), "token 0, layer 0: expert 4; test has experts 0 to 3"),
        (np.array([[[0, 1]], [[2, -1]]]), "token 1, layer 0: expert -1; test has experts 0 to 3"),
        (np.full((3, 1, 2), (1 << 63) + 1, np.uint64), "expert 9223372036854775809; test has"),
        (np.array([[[0, 1]], [[2, 2]]]), "token 1, layer 0: expert 2 is there twice"),
    ],
    ids=str,
)
def test_a_wrong_trace_is_named(tmp_path, array, message):
    path = tmp_path / "r.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(A3dError, match=message):
        TraceRouting(MODEL, path)


def test_a_model_with_more_layers_than_fit_memory_is_refused():
    many = dataclasses.replace(MODEL, layers=MODEL.layers * 2000)
    steps = parse_steps(LINES, many)
    with pytest.raises(LoweringError, match="address_bits.*fewer layers"):
        Scheduler(system_of(CONFIG.replace(address_bits=20, name="less")), many, steps, UniformRouting(many, 1))


def test_weights_of_other_sizes_are_refused(tmp_path):
    save_schedule(scheduler(quantised=random_model(MODEL, 5)), tmp_path / "out")
    (tmp_path / "out" / "group0.bin").write_bytes(b"short")
    with pytest.raises(ScheduleError, match="group0.bin and group1.bin have \\[5, "):
        load_schedule(tmp_path / "out")
