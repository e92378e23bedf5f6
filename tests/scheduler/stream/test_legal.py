# SPDX-License-Identifier: Apache-2.0
"""The compiled legality checks: the verdict of ``hdl.isa.legality`` on every field, at its limits and beyond."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import BODIES, Instruction, Opcode, fields_of
from hdl.isa.legality import Limits, check_instruction, check_load_addresses
from hdl.isa.slots import slot_load
from scheduler.stream.legal import addresses_fit, illegal, limits_of, why_illegal
from scheduler.stream.machine import machine_of
from scheduler.stream.table import Table
from sim.stimulus.random_config import random_config
from tests.support.streams import CONFIGS, drawn

SMALL_MEMORY = Limits((4096, 8192), ((1024, 4096), (0, 6144)))


def violations(instructions: list[Instruction], config: MachineConfig, limits: Limits) -> Counter[tuple[str, str, str]]:
    """Compare the verdicts on some instructions; return what was wrong with them, by opcode, code and field."""
    seen = Counter[tuple[str, str, str]]()
    table, wanted = Table.of(instructions), []
    for number, instruction in enumerate(instructions):
        wrong = check_instruction(instruction, config, limits)
        if wrong is not None:
            wanted.append(number)
            seen[instruction.opcode.name, wrong.code.name, wrong.field] += 1
            assert why_illegal(table, number, config, limits) == f"{wrong.code.name}: {wrong.message}"
    got = illegal(table, config, limits).tolist()
    for number in set(got) ^ set(wanted):
        wrong = check_instruction(instructions[number], config, limits)
        raise AssertionError(f"{instructions[number]}: {wrong}")
    seen["legal", "", ""] = len(instructions) - len(wanted)
    return seen


def changed(rng: random.Random, instruction: Instruction, config: MachineConfig) -> Instruction:
    """Return an instruction with up to three fields changed, to a limit of the field or of the machine or near one."""
    depths = (
        config.tiers, config.vcache_tiles, config.activation_words, config.accumulator_depth, config.list_depth,
        config.parameter_words, config.combine_rows, config.scalar_depth, config.expert_slots, config.semaphores,
        config.columns, 16, 47,
    )  # fmt: skip
    values = dict(instruction.values)
    fields = [f for f in fields_of(instruction.opcode) if f.name not in ("opcode", "reserved")]
    for field in rng.sample(fields, rng.choice((1, 1, 2, 3))):
        top = 1 << field.width
        if field.enum is not None:
            values[field.name] = int(rng.choice(list(field.enum)))
            continue
        near = rng.choice((*depths, top, values.get(field.name, 0))) + rng.choice((-1, 0, 1))
        values[field.name] = rng.choice((near % top, near % top, 0, 1, top - 1, rng.randrange(top)))
    return Instruction(instruction.opcode, {k: v for k, v in values.items() if v})


EXPECTED = {
    "NOP": {"wait0_count", "wait1_count", "post0_en", "post1_en"},
    "END": {"wait0_count", "wait1_count", "post0_en", "post1_en"},
    "LOAD": {
        "wait0_sem", "wait1_sem", "post0_sem", "post1_sem", "format", "dest_tiers", "shift", "count", "slot_en", "slot",
        "dest_base", "addr", "addr_low", "scored",
    },
    "STORE": {"wait0_sem", "wait1_sem", "post0_sem", "post1_sem", "rows", "row_base", "addr"},
    "GEMM": {
        "wait0_sem", "wait1_sem", "post0_sem", "post1_sem", "tier_count", "mapping", "tokens", "k_slices", "n_tiles",
        "shift", "post_shift", "mode", "slot_en", "slot", "dest_tiers", "vcache_base", "act_base", "list_base",
        "param_base", "dest_base",
    },
    "VECTOR": {
        "wait0_sem", "wait1_sem", "post0_sem", "post1_sem", "vectors", "rows", "fn", "sum", "b_rows", "length",
        "masked", "dest_kind", "dest_tiers", "bits", "a_base", "b_base", "s_base", "d_scalar", "dest_base",
    },
    "ROUTE": {
        "wait0_sem", "wait1_sem", "post0_sem", "post1_sem", "tokens", "choices", "experts", "s_base", "a_base",
        "list_base", "source_base", "slot_base", "dest_base",
    },
}  # fmt: skip
"""Fields that can be wrong."""


def test_every_field_of_every_opcode() -> None:
    """Instructions near legal ones, on machines of all kinds: every way to be wrong occurs, and as many are legal."""
    rng, seen = random.Random(7), Counter[tuple[str, str, str]]()
    edge = PRESETS["tiny"].replace(name="edge", stationary_feed="edge", vertical_links=False)
    for number, config in enumerate((*CONFIGS.values(), edge)):
        base = [i for seed in range(2) for i in drawn(config, seed, 40, slots=True)[0]]
        base.append(Instruction(Opcode.NOP, {}))
        assert {i.opcode for i in base} == set(Opcode)
        by_opcode = {opcode: [i for i in base if i.opcode == opcode] for opcode in Opcode}
        limits = SMALL_MEMORY if number % 2 else Limits.whole(config)
        stream = [changed(rng, rng.choice(by_opcode[rng.choice(list(Opcode))]), config) for _ in range(4000)]
        seen += violations(base + stream, config, limits)
    for opcode, fields in EXPECTED.items():
        found = {field for name, _, field in seen if name == opcode}
        assert found == fields, opcode
    assert {code for _, code, _ in seen} == {"", "ILLEGAL_FIELD", "RANGE", "ADDRESS"}
    assert seen["legal", "", ""] > sum(seen.values()) // 5


@pytest.mark.parametrize("seed", range(6))
def test_any_fields_on_any_machine(seed: int) -> None:
    config, rng = random_config(seed), random.Random(seed)
    stream = []
    for _ in range(600):
        opcode = rng.choice(list(BODIES))
        values = {}
        for field in fields_of(opcode):
            if field.name in ("opcode", "reserved") or rng.random() < 0.4:
                continue
            few = min(1 << field.width, rng.choice((2, 4, 64, 1 << field.width)))
            values[field.name] = int(rng.choice(list(field.enum))) if field.enum else rng.randrange(few)
        stream.append(Instruction(opcode, {k: v for k, v in values.items() if v}))
    violations(stream, config, Limits.whole(config))


def test_addresses_of_every_expert() -> None:
    config, rng, seen = PRESETS["tiny"], random.Random(3), Counter[bool]()
    machine, limits = machine_of(config), limits_of(SMALL_MEMORY)
    for _ in range(400):
        values = {
            "dest_tiers": 1, "count": rng.choice((1, 3)), "format": rng.randrange(5), "group": rng.randrange(2),
            "addr": rng.randrange(128), "addr_low": rng.randrange(128), "slot_en": 1,
            "slot_stride": rng.choice((0, 1, 7, (1 << 24) - 1)),
        }  # fmt: skip
        load, expert = Instruction(Opcode.LOAD, {k: v for k, v in values.items() if v}), rng.randrange(16)
        fits = addresses_fit(Table.of([load]).rows, 0, expert, machine, limits)
        assert fits == (check_load_addresses(slot_load(load, expert), config, SMALL_MEMORY) is None)
        seen[fits] += 1
    assert min(seen.values()) > 50


@pytest.mark.parametrize("name", ["nano", "small"])
def test_stores_are_aligned_to_rows_or_beats(name: str) -> None:
    """A row of int8 is as long as a beat in `nano`, and half of one in `small`."""
    config = PRESETS[name]
    stores = [
        Instruction(Opcode.STORE, {"rows": 1, "offset": offset, "format": form, "addr_gap": gap})
        for offset in range(32)
        for form in range(4)
        for gap in (0, 1)
    ]
    stores = [Instruction(i.opcode, {k: v for k, v in i.values.items() if v}) for i in stores]
    seen = violations(stores, config, Limits.whole(config))
    assert seen["STORE", "ADDRESS", "addr"] and seen["legal", "", ""] > 64
