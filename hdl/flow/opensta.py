# SPDX-License-Identifier: Apache-2.0
"""Static timing with OpenSTA (``sta``) of mapped modules, each with all that is in it, without wires.

Ports are taken to change with the clock and to be read by it, so a module alone shows the paths from register to
register and those from and to its ports.  The reset is no path: its tree is made when a chip is laid out.  Memories
are macros nobody has here: a flip-flop of the library stands for each of their pins.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hdl.flow.liberty import FILE, Liberty, macro_model
from hdl.flow.mapped import MappedModules, is_sram
from hdl.flow.timing import PORT, TimedPath, place_of, tidy
from hdl.flow.yosys import Job, SynthError, run_jobs
from hdl.process import guarded

__all__ = ["find_sta", "time_modules"]

PERIOD = 1.0
"""Period of the clock, in ns, from which slacks are counted; which one does not matter."""

MOST_ENDS = 100_000
"""End points that are reported of a module."""

_DONE = "@@timed"
_PATH = re.compile(r"^(\S.*?) \((\S+)\)\s+(\S.*?) \((\S+)\)\s+(-?\d+\.\d+)$")


def find_sta() -> str:
    """Return the path of OpenSTA.

    Raises
    ------
    SynthError
        There is none.
    """
    found = shutil.which("sta")
    if found is None:
        raise SynthError("OpenSTA not found: no program 'sta'; fix: apt-get install opensta, or leave out --sta")
    return found


def time_modules(
    mapped: MappedModules, names: Sequence[str], *, ends: Mapping[str, int] | None = None, flat: Sequence[str] = ()
) -> Iterator[tuple[str, list[TimedPath]]]:
    """Yield modules and their paths, worst first.

    Parameters
    ----------
    mapped : MappedModules
        The modules, mapped to a liberty file's cells.
    names : sequence of str
        Modules to time.
    ends : mapping of str to int, optional
        How many end points are wanted of a module; 1 by default.
    flat : sequence of str
        Those of them that are flattened before they are mapped, so that what drives much in other modules is buffered.

    Raises
    ------
    SynthError
        OpenSTA is missing or fails.
    """
    target = mapped.target
    assert isinstance(target, Liberty)
    program = find_sta()
    wanted = {name: (ends or {}).get(name, 1) for name in names}
    store = mapped.store
    todo = []
    for name in names:
        entry = store.read(_key(mapped, name, wanted[name], name in flat))
        if entry is None:
            todo.append(name)
        else:
            yield name, [TimedPath(**path) for path in entry]
    if not todo:
        return
    with store.folder() as folder:
        target.prepare(folder)
        jobs = _flatten_jobs(mapped, todo, folder, flat)
        for _ in run_jobs(jobs, folder, timeout=mapped.timeout):
            pass
        (folder / "time.tcl").write_text(_script([(name, wanted[name]) for name in todo]), encoding="utf-8")
        for name, paths in _run(program, folder, todo):
            store.write(_key(mapped, name, wanted[name], name in flat), [vars(path) for path in paths])
            yield name, paths


def _key(mapped: MappedModules, name: str, ends: int, flat: bool) -> str:
    inner = sorted((module, mapped.store.keys[module]) for module in mapped.hierarchy.contents(name))
    return mapped.store.key_of("timed 2", name, ends, inner, flat)


def _flatten_jobs(mapped: MappedModules, names: Sequence[str], folder: Path, flat: Sequence[str]) -> list[Job]:
    """Write the mapped modules and return the jobs that make a flat netlist ``NAME.flat.v`` of each."""
    assert isinstance(mapped.target, Liberty)
    jobs = []
    for module in {module for name in names for module in mapped.hierarchy.contents(name)}:
        if is_sram(module):
            (folder / f"{module}.macro.v").write_text(macro_model(mapped.store.texts[module]), encoding="utf-8")
            passes = [f"read_verilog {module}.macro.v", f"hierarchy -top {module}", "proc", "techmap", "opt_clean"]
            passes += ["rename -wire t:$_*DFF*", *mapped.target.registers(), "opt_clean"]
            jobs.append(Job(module, (*passes, f"write_rtlil {module}.il")))
        else:
            (folder / f"{module}.il").write_text(mapped.netlist(module), encoding="utf-8")
    for name in names:
        contents = list(mapped.hierarchy.contents(name))
        passes = _mapped_flat(mapped, name, contents, folder) if name in flat else []
        passes += [f"read_rtlil -overwrite {m}.il" for m in contents if name not in flat or is_sram(m)]
        # What had to keep its hierarchy so as not to be merged has been mapped.
        passes += [f"hierarchy -top {name}", "setattr -mod -unset keep_hierarchy", "flatten"]
        passes += ["opt_clean -purge", "splitnets -ports", "opt_clean -purge"]
        # OpenSTA's older parser knows neither concatenations on the left nor constants in expressions.
        passes.append(f"write_verilog -simple-lhs -norename -noattr -noexpr {name}.flat.v")
        jobs.append(Job(name, tuple(passes)))
    return jobs


def _mapped_flat(mapped: MappedModules, name: str, contents: Sequence[str], folder: Path) -> list[str]:
    """Write the modules in `name` and return the passes that flatten and then map it; memories stay black boxes."""
    passes = []
    for module in contents:
        kind = "box" if is_sram(module) else "v"
        text = mapped.store.stub(module) if is_sram(module) else mapped.store.texts[module]
        (folder / f"{module}.{kind}.v").write_text(text, encoding="utf-8")
        passes.append(f"read_verilog {'-lib ' if is_sram(module) else ''}{module}.{kind}.v")
    return [
        *passes,
        f"hierarchy -check -top {name}",
        "proc -norom",
        "flatten",
        "opt_clean",
        *mapped.target.passes(name),
    ]


def _script(modules: Sequence[tuple[str, int]]) -> str:
    lines = [f"read_liberty {FILE}"]
    for name, ends in modules:
        lines += [
            f"read_verilog {name}.flat.v",
            f"link_design {name}",
            # Some modules are combinational: their clock is not there, or drives nothing.
            f"if {{[llength [get_ports -quiet clk]]}} {{create_clock -name clk -period {PERIOD} [get_ports clk]}} "
            f"else {{create_clock -name clk -period {PERIOD}}}",
            "set_input_delay 0 -clock clk [all_inputs]",
            "set_output_delay 0 -clock clk [all_outputs]",
            "if {[llength [get_ports -quiet rst]]} {set_false_path -from [get_ports rst]}",
            f"report_checks -path_delay max -format summary -group_count {min(ends, MOST_ENDS)} -digits 4",
            f'puts "{_DONE} {name}"',
            "flush stdout",
        ]
    return "\n".join([*lines, "exit", ""])


def _run(program: str, folder: Path, names: Sequence[str]) -> Iterator[tuple[str, list[TimedPath]]]:
    paths: list[TimedPath] = []
    said: list[str] = []
    position = 0
    command = [program, "-no_splash", "-exit", "time.tcl"]
    with guarded(command, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with process.stdout:
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                if line.startswith(_DONE):
                    yield names[position], sorted(paths, key=lambda path: -path.ns)
                    position += 1
                    paths, said = [], []
                elif found := _PATH.match(line):
                    paths.append(_path(found))
                elif line:
                    said = [*said[-50:], line]
        process.wait()
    if position < len(names):
        errors = [line for line in said if "Error" in line] or said or [f"ended with status {process.returncode}"]
        raise SynthError(f"timing of {names[position]!r} failed: OpenSTA says {errors[-1].strip()!r}")


def _path(found: re.Match[str]) -> TimedPath:
    start, _, end, kind, slack = found.groups()
    block = PORT if kind == "output" else place_of(tidy(_cell(end)))
    return TimedPath(ns=round(PERIOD - float(slack), 4), start=tidy(_cell(start)), end=tidy(_cell(end)), block=block)


def _cell(pin: str) -> str:
    """Name of the cell of a pin; of a port, the port's."""
    return pin.rsplit("/", 1)[0]
