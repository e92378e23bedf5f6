# SPDX-License-Identifier: Apache-2.0
"""The files of the stack, read by a YAML reader that nobody here wrote, by the rules of a reader of 3Dblox."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hdl.array.bonds import describe_stack
from hdl.config import PRESETS, MachineConfig
from hdl.emit.blox import Geometry, bond_entries, die_entries, render_dbv, render_dbx

CONFIGS = [
    PRESETS["nano"],
    PRESETS["small"],
    PRESETS["tiny"].replace(name="plain", stationary_feed="edge", vertical_links=False),
]
GAPPED = Geometry(pitch=25, thickness=30, gap=5)


def read(text: str) -> Any:
    """Return the contents of a file, its definitions put in as text."""
    defined = dict(re.findall(r"^#!define (\w+) (\S+)$", text, re.MULTILINE))
    for name, value in defined.items():
        text = text.replace(name, value)
    return yaml.safe_load(text)


@pytest.mark.parametrize("geometry", [Geometry(), GAPPED], ids=["default", "gapped"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_the_files_describe_the_stack(config: MachineConfig, geometry: Geometry) -> None:
    stack = describe_stack(config)
    chiplets, design = (read(render("x_top", stack, geometry)) for render in (render_dbv, render_dbx))
    assert chiplets["Header"] == {"version": "2.5", "unit": "micron", "precision": 1000}
    assert design["Header"]["include"] == ["x_top.3dbv"]
    edge = geometry.edge(stack)
    corners = [[0, 0], [edge, 0], [edge, edge], [0, edge]]
    for chiplet in chiplets["ChipletDef"].values():
        assert (chiplet["type"], chiplet["design_area"], chiplet["tsv"]) == ("die", [edge, edge], True)
        assert chiplet["regions"] == {side: {"side": side, "coords": corners} for side in ("front", "back")}
    names = [die.name for die in stack.dies]
    assert design["Design"] == {"name": "x_top_stack"}
    assert list(design["ChipletInst"]) == list(design["Stack"]) == names
    assert {name: one["reference"] for name, one in design["ChipletInst"].items()} == {
        name: "x_top_base" if name == "base" else "x_top_tier" for name in names
    }
    assert set(chiplets["ChipletDef"]) == {"x_top_base", "x_top_tier"}
    connections = design["Connection"]
    assert connections.pop("package") == {"top": "base.regions.back", "bot": None, "thickness": 0}
    assert len(connections) == config.tiers
    for bond in stack.bonds:
        one = connections[bond.name]
        (upper, back), (lower, front) = (one[end].split(".regions.") for end in ("top", "bot"))
        assert (upper, back, lower, front) == (bond.upper, "back", bond.lower, "front")
        assert names.index(upper) == names.index(lower) + 1
        # The gap between the two surfaces is that of the connection, or the connection is none.
        top_of_lower = design["Stack"][lower]["z"] + chiplets["ChipletDef"]["x_top_base"]["thickness"]
        assert design["Stack"][upper]["z"] - top_of_lower == one["thickness"] == geometry.gap
    assert {place["orient"] for place in design["Stack"].values()} == {"R0"}


def test_one_definition_changes_all_sizes() -> None:
    text = render_dbv("top", describe_stack(PRESETS["nano"]))
    chiplet = read(re.sub(r"(#!define DIE_WIDTH) \d+", r"\1 1234", text))["ChipletDef"]["top_tier"]
    assert chiplet["design_area"][0] == 1234 and chiplet["regions"]["back"]["coords"][2][0] == 1234


def test_a_die_has_room_for_the_fullest_bond() -> None:
    stack = describe_stack(PRESETS["nano"])
    most = max(bond.bits for bond in stack.bonds)
    edge = Geometry(pitch=10).edge(stack) // 10
    assert (edge - 1) ** 2 < most <= edge**2


def test_the_example_in_the_documents_is_generated() -> None:
    text = render_dbx("a3d_top", describe_stack(PRESETS["tiny"]))
    page = Path(__file__).resolve().parents[3] / "docs/architecture.md"
    assert text[text.index("Stack:") :] in page.read_text()


def test_manifest_entries_name_modules_and_neighbours() -> None:
    stack = describe_stack(PRESETS["tiny"])
    base, first, second = die_entries("p_top", stack, stem="p_")
    assert (base["module"], base["above"], base["z_um"]) == (None, "tier_0", 0)
    assert first["module"] == second["module"] == f"p_{stack.dies[1].module}" and second["above"] is None
    lower, upper = bond_entries(stack)
    assert (lower["lower"], lower["upper"], upper["lower"]) == ("base", "tier_0", "tier_0")
    for bond in (lower, upper):
        assert bond["bits"] == sum(signal["bits"] for signal in bond["signals"])
        assert bond["used_bits"] == sum(signal["used_bits"] for signal in bond["signals"])
        for signal in bond["signals"]:
            assert signal["bits"] == signal["lanes"] * signal["lane_bits"] and signal["carries"]
