# SPDX-License-Identifier: Apache-2.0
"""Software makes the whole configuration of the capability registers, and refuses what is no machine of its version."""

from __future__ import annotations

import hashlib
import json

import pytest

from hdl.capabilities import MAGIC, VERSION, CapabilityError, config_from_capabilities
from hdl.config import PRESETS, MachineConfig, field_words
from hdl.isa import ERROR_MEANINGS, HEADER, OPCODES, ErrorCode, Field
from hdl.regs import COUNTER_BASE, register_map
from sim.stimulus.random_config import CORNERS, random_config

INTERFACE = {
    (1, 0): "6b489027e95ee9b8", (2, 0): "a4931a4494be4bfb", (3, 0): "78bcca70e639034e", (4, 0): "501e2540980c56f9",
}  # fmt: skip
"""Digest of what software relies on, by the version that it has."""


def registers(config: MachineConfig) -> dict[str, int]:
    return {r.name: r.value for r in register_map(config) if r.value is not None}


@pytest.mark.parametrize("config", [*PRESETS.values(), *CORNERS], ids=lambda c: c.name)
def test_presets_and_corners_come_back(config: MachineConfig) -> None:
    assert config_from_capabilities(registers(config), config.name) == config


def test_drawn_configurations_come_back() -> None:
    edges, links = set(), set()
    for seed in range(300):
        config = random_config(seed, most_pes=1 << 19)
        assert config_from_capabilities(registers(config), config.name) == config
        edges.add(config.stationary_feed)
        links.add(config.vertical_links)
    assert edges == {"vertical", "edge"} and links == {True, False}


def test_every_field_has_a_register_and_words() -> None:
    names = registers(PRESETS["small"])
    for field, words in field_words().items():
        assert (f"CAP_{field.upper()}" in names) == (field != "name")
        assert len(words) > 8 and words != field and not words.endswith("."), field


def test_capabilities_stay_below_the_other_registers() -> None:
    offsets = {r.name: r.offset for r in register_map(PRESETS["small"])}
    assert max(offsets[name] for name in registers(PRESETS["small"])) < offsets["CONTROL"] < COUNTER_BASE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ID": 0}, "register ID: 0x0 is not 0x4133444d; is there a machine at this address"),
        ({"VERSION": 5 << 16}, "register VERSION: the machine has version 5.0, this software is for 4.x; use software"),
        ({"CAP_STATIONARY_FEED": 2}, "register CAP_STATIONARY_FEED: 2 is not defined; it is 0 to 1"),
        ({"CAP_TIERS": 9}, "capability registers: config tiers: 9; use an integer from 1 to 8"),
        ({"CAP_QUEUE_DEPTH": 16}, "register CONFIG_HASH: 0x.* is not the 0x.* of the capabilities"),
    ],
)
def test_what_is_no_machine_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(CapabilityError, match=message):
        config_from_capabilities(registers(PRESETS["small"]) | changes)


def test_a_register_that_was_not_read_is_named() -> None:
    for name in registers(PRESETS["small"]).keys() - {"CAP_COUNTERS"}:
        values = registers(PRESETS["small"])
        del values[name]
        with pytest.raises(CapabilityError, match=f"register {name}: not read"):
            config_from_capabilities(values)


def test_newer_minor_versions_are_understood() -> None:
    values = registers(PRESETS["small"])
    values["VERSION"] += 3
    assert config_from_capabilities(values, "small") == PRESETS["small"]


def test_the_version_says_what_software_relies_on() -> None:
    """Registers, instructions and error codes are what they were; if not, change VERSION and the digest here."""

    def fields(some: tuple[Field, ...]) -> list[object]:
        return [(f.name, f.width, [(v.name, int(v)) for v in f.enum] if f.enum else None) for f in some]

    interface = {
        "magic": MAGIC,
        "registers": [
            (r.name, r.offset, r.access, [(f.name, f.lsb, f.width) for f in r.fields])
            for r in register_map(PRESETS["nano"])
        ],
        "header": fields(HEADER),
        "instructions": [(name.name, int(name), fields(about.body)) for name, about in OPCODES.items()],
        "errors": [(code.name, int(code)) for code in ErrorCode],
    }
    digest = hashlib.sha256(json.dumps(interface, sort_keys=True).encode()).hexdigest()[:16]
    assert INTERFACE[VERSION] == digest


def test_every_error_code_has_a_meaning() -> None:
    assert list(ERROR_MEANINGS) == list(ErrorCode)
    assert len(set(ERROR_MEANINGS.values())) == len(ErrorCode)
