# SPDX-License-Identifier: Apache-2.0
"""One file describes machine, memories, clock and policy; what is wrong in it is named."""

import dataclasses
from pathlib import Path

import pytest

from hdl.config import PRESETS, ConfigError, load_config
from scheduler.cost.hbm.timing import HBM2, HBM3
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.plan.policy import FUSED, POLICIES, SEQUENTIAL, Policy, policy_of
from scheduler.system import SystemConfig, load_system


def written(folder: Path, text: str) -> Path:
    path = folder / "board.toml"
    path.write_text(text)
    return path


def test_a_preset_has_the_default_of_all_else():
    assert load_system("tiny") == SystemConfig(machine=PRESETS["tiny"])
    assert load_system("tiny").policy == FUSED and load_system("tiny").clock_mhz is None


def test_a_file_of_the_machine_alone_is_a_system(tmp_path):
    path = written(tmp_path, 'preset = "tiny"\nqueue_depth = 8')
    assert load_system(path) == SystemConfig(machine=load_config(path))


def test_sections_say_all(tmp_path):
    path = written(
        tmp_path,
        '[machine]\npreset = "tiny"\n[memory]\nlatency = 90\nstall_rate = 8\n[clock]\nmhz = 800\n'
        '[policy]\nname = "fused"\nmicro_batches = false',
    )
    assert load_system(path) == SystemConfig(
        machine=PRESETS["tiny"].replace(name="board"), memory=MemoryTiming(latency=90, stall_rate=8), clock_mhz=800,
        policy=Policy(list_schedule=True, residency=True, prefixes=True),
    )  # fmt: skip
    memory = {"latency": 90, "random_latency": 0, "stall_rate": 8, "seed": 1}
    assert load_system(path).to_dict() == {"memory": memory, "clock_mhz": 800, "policy": "list+residency+prefixes"}


def test_hbm_in_place_of_the_memory(tmp_path):
    head = '[machine]\npreset = "tiny"\n[clock]\nmhz = 800\n'
    plain = load_system(written(tmp_path, head + "[hbm]"))
    assert plain.memory == MemoryTiming(hbm=HBM3, mhz=800) and plain.memory.hbm.name == "hbm3"
    path = written(tmp_path, head + '[hbm]\npreset = "hbm2"\nmapping = "row-bank-column-group"\nrcd_rd = 20')
    system = load_system(path)
    assert system.memory.hbm.to_dict() == HBM2.to_dict() | {
        "mapping": "row-bank-column-group", "rcd_rd": 20, "name": "hbm2 with other mapping, rcd_rd",
    }  # fmt: skip
    assert MemoryTiming.of(system.to_dict()["memory"]) == system.memory, "a schedule's files keep it"
    assert MemoryTiming.of(MemoryTiming(latency=50).to_dict()) == MemoryTiming(latency=50)
    faster = system.at(1600.0)
    assert faster.clock_mhz == faster.memory.mhz == 1600.0
    assert (faster.memory.hbm_parameters() >= system.memory.hbm_parameters()).all()
    with pytest.raises(ConfigError, match="config clock.mhz: 900; use that of the memories' HBM, 800"):
        dataclasses.replace(system, clock_mhz=900)


@pytest.mark.parametrize("name", [*POLICIES, "list+prefixes", "micro-batches+list"])
def test_every_policy_has_its_name(tmp_path, name):
    path = written(tmp_path, f'[machine]\npreset = "tiny"\n[policy]\nname = "{name}"')
    assert load_system(path).policy == policy_of(name) and policy_of(name).name == name


def test_parts_of_a_policy_give_one_with_a_name(tmp_path):
    path = written(
        tmp_path,
        '[machine]\npreset = "tiny"\n[policy]\nmicro_batches = false\nlist_schedule = false\nresidency = false\n'
        "prefixes = false",
    )
    assert load_system(path).policy == SEQUENTIAL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[memory]\nlatency = 1", "config memory.latency: 1; use a whole number from 2 to 4,096"),
        ('[memory]\nlatency = "slow"', "config memory.latency: 'slow'; use a whole number"),
        ("[memory]\nlatency = true", "config memory.latency: True; use a whole number"),
        ("[memory]\nstall_rate = 251", "config memory.stall_rate: 251; use a whole number from 0 to 250"),
        ("[memory]\nseed = 0", "config memory.seed: 0; use a whole number from 1 to 4,294,967,295"),
        ("[memory]\nlatenzy = 4", r"config memory.latenzy: no such field \(in .*board.toml\); use one of latency, "),
        ("[clock]\nmhz = 0", "config clock.mhz: 0; use a number above 0"),
        ("[clock]\nmhz = inf", "config clock.mhz: inf; use a number above 0"),
        ("[clock]\nmhz = nan", "config clock.mhz: nan; use a number above 0"),
        ("[clock]\nghz = 1", "config clock.ghz: no such field"),
        (
            '[policy]\nname = "best"',
            "config policy.name: 'best' in .*; use sequential, micro-batches, list, residency, prefixes, fused",
        ),
        ("[policy]\nname = 3", "config policy.name: 3 in "),
        ("[policy]\nlist_schedule = 1", "config policy.list_schedule: 1 in .*; use true or false"),
        ("[policy]\nfusion = true", "config policy.fusion: no such field"),
        ("[energy]\nx = 1", r"config energy: stands outside of the sections of .*; put it into one of \[machine\]"),
        ("[hbm]", r"config clock.mhz: missing; HBM's times are turned into cycles with it, so \[hbm\] needs it"),
        ('[hbm]\npreset = "hbm4"\n[clock]\nmhz = 800', "config hbm.preset: 'hbm4' in .*board.toml; use hbm3, hbm2"),
        ("[hbm]\nrcd = 9\n[clock]\nmhz = 800", "config hbm.rcd: no such field .*; use one of preset, tck_ps, cl, "),
        ('[hbm]\nmapping = "row"\n[clock]\nmhz = 800', "config hbm.mapping: 'row'; use one of row-group-bank"),
        ("[hbm]\nrc = 20\n[clock]\nmhz = 800", "config hbm.ras: 45 is more than rc, 20; use at most 20"),
        ("[hbm]\nrefi = 100\n[clock]\nmhz = 800", "config hbm.refi: in 100 clocks 16 banks cannot be closed"),
        ("[hbm]\n[clock]\nmhz = 5", r"config clock.mhz: 5; with \[hbm\] use 50 to 4,000"),
        ("[hbm]\n[memory]\nlatency = 50\n[clock]\nmhz = 800", r"config memory: means nothing beside \[hbm\]"),
        (
            "[hbm]\ntck_ps = 10000\nrefi = 60000\n[clock]\nmhz = 800",
            "config hbm.refi: 480,000 cycles at 800 MHz, and a channel counts 65,535; use a shorter time",
        ),
        ("memory = 3", "config machine.memory|config memory"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_system(written(tmp_path, f'[machine]\npreset = "tiny"\n{text}'))
    assert "\n" not in str(caught.value)


def test_a_clock_is_checked_without_a_file_too():
    with pytest.raises(ConfigError, match="config clock.mhz: -1; use a number above 0"):
        SystemConfig(machine=PRESETS["tiny"], clock_mhz=-1)
