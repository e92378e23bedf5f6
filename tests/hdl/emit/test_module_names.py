# SPDX-License-Identifier: Apache-2.0
"""A module's name says what it is: machines that agree in what a block uses share the block, names never lie."""

from __future__ import annotations

import functools
import inspect
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
from amaranth.lib import wiring

from hdl.config import PRESETS, MachineConfig
from hdl.emit import verilog
from hdl.emit.verilog import emit
from hdl.machine import Machine
from hdl.memory.bursts import BurstSplitter
from hdl.vector.lookup import IndexLookup
from sim.stimulus.random_config import CORNERS, random_config
from tests.support.emit.config_reads import ConfigReads

BASE = PRESETS["nano"].replace(name="base", tiers=2, rows=8, row_fifo_depth=40)
TOP = "a3d_top"
WHOLE = ("csr", "a3d_machine", TOP)
"""Modules that hold the whole configuration; the top has its name for the user's sake."""

IN_KEY: Mapping[type, set[str]] = {BurstSplitter: {"burst_beats"}, IndexLookup: {"columns"}}
"""What blocks have in their keys by a parameter that they make of it when they are constructed."""

EDGE = PRESETS["tiny"].replace(name="edge", stationary_feed="edge", vertical_links=False)
WIDE = BASE.replace(name="wide", channels_per_group=2)

CHANGES: Mapping[str, Any] = {
    "rows": 4, "stationary_feed": "edge", "vertical_links": False, "k_link_stages": 2, "vcache_tiles": 128,
    "activation_words": 512, "accumulator_depth": 64, "list_depth": 128, "parameter_words": 128, "combine_rows": 512,
    "scalar_depth": 128, "expert_slots": 16, "row_fifo_depth": 41, "channels_per_group": 2, "channel_bytes": 8,
    "address_bits": 25, "burst_beats": 16, "outstanding_bursts": 16, "skew_fifo_beats": 64, "queue_depth": 8,
    "semaphores": 32, "semaphore_bits": 9,
}  # fmt: skip
"""One other value for each field of the base that may change alone."""


@pytest.mark.parametrize("config", [BASE, EDGE, WIDE], ids=lambda c: c.name)
def test_blocks_read_of_the_configuration_only_what_is_in_their_keys(
    config: MachineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then two configurations that agree in a block's key cannot differ in its text."""
    reads = ConfigReads(monkeypatch)
    built: dict[type, set[str]] = defaultdict(set)
    keys: dict[type, set[str]] = {}

    def watch(cls: type) -> None:
        init = cls.__init__  # type: ignore[misc]

        @functools.wraps(init)
        def watched(self: Any, *args: Any, **kwargs: Any) -> None:
            with reads.collect() as mine:
                init(self, *args, **kwargs)
            built[type(self)] |= mine

        monkeypatch.setattr(cls, "__init__", watched)

    for cls in _components():
        if "__init__" in cls.__dict__:
            watch(cls)
    begin = verilog._begin

    def watched_begin(component: Any, name: str, emitter: Any) -> Any:
        with reads.collect() as key:
            component.module_key()
        keys[type(component)] = key
        with reads.collect() as mine:
            result = begin(component, name, emitter)
        built[type(component)] |= mine
        return result

    monkeypatch.setattr(verilog, "_begin", watched_begin)
    monkeypatch.setattr(verilog, "_to_verilog", _stop)
    with pytest.raises(InterruptedError):
        emit(Machine(config.replace(name="fresh")), TOP)
    assert len(keys) > 60
    missing = {
        cls.__name__: left
        for cls, key in keys.items()
        if "digest" not in key
        and (left := sorted(name for name in built[cls] if not reads.given(name, key | IN_KEY.get(cls, set()))))
    }
    assert not missing, "read, but not in the module's key"
    assert {cls.__name__ for cls, key in keys.items() if "digest" in key} == {"CsrBlock", "Machine"}


def _components() -> list[type]:
    found, left = [], [wiring.Component]
    while left:
        for cls in left.pop().__subclasses__():
            left.append(cls)
            if inspect.getmodule(cls) is not None and cls.__module__.startswith("hdl."):
                found.append(cls)
    return found


def _stop(rtlil: Any) -> Any:
    raise InterruptedError


def _check_names(known: dict[str, str], config: MachineConfig) -> dict[str, str]:
    """Emit a machine, compare with the texts of the same names so far, and return its modules but the top."""
    modules = emit(Machine(config), TOP).modules
    del modules[TOP]
    for name, text in modules.items():
        assert known.setdefault(name, text) == text, f"{name} of {config.name} differs from that of a machine before"
    return modules


def _canonical(name: str, text: str) -> str:
    """Return a module's text without the digest in its own name; those in the names of its children stay."""
    own = re.match(r"(.*?_[0-9a-f]{8})(?:__|$)", name)
    return text if own is None else text.replace(own[1], own[1][:-8])


def _check_shared(base: Mapping[str, str], other: Mapping[str, str], what: str) -> None:
    """Check that no module has another name without another text; private submodules are named after their owner."""
    texts = {_canonical(name, text): name for name, text in base.items()}
    for name, text in other.items():
        same = texts.get(_canonical(name, text), name)
        assert same == name or "__" in name, f"{what}: {name} and {same} are the same module"


@pytest.mark.slow
@pytest.mark.parametrize("field", ["scalar_depth", "queue_depth", "k_link_stages"])
def test_a_field_renames_what_uses_it(field: str) -> None:
    """The fast part of what follows; the blocks of the array, loads and stores do not know the scalars or queues."""
    known: dict[str, str] = {}
    base = _check_names(known, BASE)
    other = _check_names(known, BASE.replace(**{field: CHANGES[field]}))
    _check_shared(base, other, field)
    renamed = {re.sub(r"_[0-9a-f]{8}$", "", name) for name in set(other) - set(base)}
    assert "csr" in renamed and "load_unit" not in renamed and "collector" not in renamed
    assert ("stack" in renamed) == (field == "k_link_stages")


@pytest.mark.slow
def test_names_are_functions_of_what_modules_use() -> None:
    known: dict[str, str] = {}
    base = _check_names(known, BASE)
    assert set(CHANGES) | {"name", "tiers", "columns", "result_lanes"} == set(BASE.to_dict())
    for field, value in CHANGES.items():
        _check_shared(base, _check_names(known, BASE.replace(**{field: value})), field)
    for name in ("tiny", "small"):
        _check_names(known, PRESETS[name])
    for config in CORNERS:
        _check_names(known, config)
    for seed in range(24):
        _check_names(known, random_config(seed, most_depth=256))
