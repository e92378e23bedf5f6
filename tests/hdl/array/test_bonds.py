# SPDX-License-Identifier: Apache-2.0
"""The description of the bonds against the Verilog that is emitted: ports, widths, and what is wired at both ends."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hdl.array.bonds import StackDescription, describe_stack
from hdl.array.stack import Stack
from hdl.config import PRESETS, MachineConfig
from hdl.emit.verilog import emit
from hdl.flow.yosys import Job, run_jobs

NANO = PRESETS["nano"]
TWO = NANO.replace(name="two", tiers=2, combine_rows=64, vcache_tiles=16, activation_words=16, parameter_words=16)
VARIANTS: dict[str, dict[str, Any]] = {
    "vertical": {},
    "no links": {"vertical_links": False},
    "edge": {"stationary_feed": "edge"},
}

PORT = re.compile(r"^\s*(input|output) wire (?:\[(\d+):0\] )?(\w+),?$", re.MULTILINE)
PIN = re.compile(r"^\s*\.(\w+)\((.*?)\),?$", re.MULTILINE)


def ports_of_module(text: str) -> dict[str, tuple[str, int]]:
    """Return direction and bits of the ports in a module's Verilog."""
    head = text[: text.index(");")]
    return {name: (way, 1 + int(top or 0)) for way, top, name in PORT.findall(head)}


@pytest.mark.parametrize(
    "config",
    [NANO, *(PRESETS["tiny"].replace(**changes) for changes in VARIANTS.values())],
    ids=["nano", *VARIANTS],
)
def test_widths_are_those_of_the_emitted_tier(config: MachineConfig) -> None:
    design, stack = emit(Stack(config), "stack"), describe_stack(config)
    assert [die.name for die in stack.dies] == ["base", *(f"tier_{n}" for n in range(config.tiers))]
    instances = re.findall(r"^  (\w+) (tier_\d+) \(\n(.*?)\n  \);", design.modules["stack"], re.MULTILINE | re.DOTALL)
    assert [(module, name) for module, name, _ in instances] == [(die.module, die.name) for die in stack.dies[1:]]
    for bond, (module, _, pins) in zip(stack.bonds, instances, strict=True):
        ports = ports_of_module(design.modules[module])
        described = {}
        for signal in bond.signals:
            for name, bits in signal.ports:
                name = name if name in ("clk", "rst") else f"below__{name}"
                described[name] = ("input" if signal.direction == "up" else "output", bits)
        above = {name: port for name, port in ports.items() if name.startswith("above__")}
        assert described == {name: port for name, port in ports.items() if name not in above}
        # Seen from the die below the same wires leave where they enter above.
        assert {name.replace("above", "below"): bits for name, (_, bits) in above.items()} == {
            name: bits for name, (_, bits) in described.items() if name not in ("clk", "rst")
        }
        # What is tied to a constant for a tier has no source.
        tied = {name for name, text in PIN.findall(pins) if re.fullmatch(r"\d+'h[0-9a-f]+", text)}
        for signal in bond.signals:
            if all(f"below__{name}" in tied for name, _ in signal.ports):
                assert signal.used == 0, signal.name
            assert signal.used <= signal.bits
    assert json.loads(json.dumps(stack.bonds[0].to_dict()))["bits"] == stack.bonds[0].bits


@pytest.mark.parametrize("variant", ["vertical", pytest.param("no links", marks=pytest.mark.slow), "edge"])
def test_used_bits_are_those_that_synthesis_leaves(variant: str, tmp_path: Path) -> None:
    config = TWO.replace(name="three", tiers=3, **VARIANTS[variant])
    nets, stack = flat_nets(config, tmp_path), describe_stack(config)
    for bond in stack.bonds:
        for signal in bond.signals:
            live = live_bits(nets, bond.upper, signal.ports)
            # What the base offers and a tier never reads has a source in the stack alone.
            assert signal.used == live or (bond.lower == "base" and signal.used < live), (bond.name, signal.name)


def flat_nets(config: MachineConfig, folder: Path) -> dict[str, Any]:
    """Return the nets of a stack after constants have been moved through all its hierarchy."""
    (folder / "stack.v").write_text("\n".join(emit(Stack(config), "stack").modules.values()))
    passes = "read_verilog stack.v; hierarchy -top stack; proc; flatten; opt -full; write_json stack.json"
    assert [job.name for job in run_jobs([Job("stack", tuple(passes.split("; ")))], folder, timeout=120)] == ["stack"]
    nets: dict[str, Any] = json.loads((folder / "stack.json").read_text())["modules"]["stack"]["netnames"]
    return nets


def live_bits(nets: dict[str, Any], tier: str, ports: tuple[tuple[str, int], ...]) -> int:
    """Return how many bits of a tier's ports are not constant."""
    found = (nets.get(f"{tier}.below__{name}") or nets.get(f"{tier}.{name}") for name, _ in ports)
    return sum(isinstance(bit, int) for net in found if net for bit in net["bits"])


def used(stack: StackDescription, bond: int) -> dict[str, int]:
    return {signal.name: signal.used for signal in stack.bonds[bond].signals if signal.used}


def test_links_are_where_the_configuration_has_them() -> None:
    links = {"stationary", "activation", "psum", "edge"}
    rows, columns = TWO.rows, TWO.columns
    of = {name: describe_stack(TWO.replace(**changes)) for name, changes in VARIANTS.items()}
    assert not any(links & used(stack, 0).keys() for stack in of.values())  # nothing of the base takes part
    upper = {name: {k: v for k, v in used(stack, 1).items() if k in links} for name, stack in of.items()}
    assert upper == {
        "vertical": {"stationary": 8 * rows * columns, "activation": 8 * rows, "psum": 32 * columns},
        "no links": {},
        "edge": {"activation": 8 * rows, "psum": 32 * columns, "edge": 8 * columns},
    }


def test_a_stack_of_one_tier_has_one_bond() -> None:
    stack = describe_stack(NANO)
    assert (len(stack.dies), [(bond.lower, bond.upper) for bond in stack.bonds]) == (2, [("base", "tier_0")])
    assert used(stack, 0).keys() == {"clock", "dispatch", "fill_control", "fill_data", "write", "result"}
