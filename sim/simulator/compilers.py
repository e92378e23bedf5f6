# SPDX-License-Identifier: Apache-2.0
"""Compiles Verilog with Verilator or Icarus, into a folder, for use by cocotb.

What was measured on a 16x16 int8 array, free-running under cocotb (cycles per second, two cores, +-10 %):

==================================================  =======
only the top's ports public, ``-O3``                230,000
the same with ``-march=native``                     242,000
the same with ``-O2``, ``-O1``, ``-Os``             226,000, 206,000, 200,000
the same with ``--output-split 2000``               184,000
the same with ``--flatten``                         217,000
as cocotb's own runner does it (all public, -Os)     61,000
Icarus 11                                            10,000
==================================================  =======

``-march=native`` is left out: five percent do not pay for a cache that breaks on the next machine.

On `small` (1,024 PEs), driven from C++ instead of cocotb: cycles per second of processor time with all PEs busy and in
a language model's prefill (best of three, beside other work), and the processor time of the C++ compiler:

==================================================  =======  =======  =====
flat, ``-O3``                                        79,000   97,000  199 s
flat, ``-O1``                                        68,000   78,000   90 s
``-O3`` without the bench's register for the reset   54,000   66,000  304 s
code shared by equal instances (``no_inline``,
``-fno-gate``, ``-fno-dfg-scoped``)                  25,000   24,000  110 s
==================================================  =======  =======  =====

`docs/decisions/0009-registered-bench-inputs.md` says why. Larger machines (`-O1`, tiers that are compiled once) are
measured in `docs/decisions/0013-how-medium-and-large-are-compiled.md`.
"""

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cocotb
import cocotb_tools.config

from hdl.errors import A3dError
from hdl.scratch import whole_file
from sim.simulator import tools
from sim.simulator.plainpaths import Links, make_word, plain_folder
from sim.simulator.simcache import cache_root, content_key

__all__ = ["TIMESCALE", "BuildError", "BuildRequest", "compile_icarus", "compile_verilator"]

TIMESCALE = "1ns/1ps"
"""Unit and precision of every simulation."""

LARGE_CPP_BYTES = 50_000_000
"""From here on the C++ is compiled with ``-O1``: `small` has 14 MB of it, `medium` 143 (decision 13)."""

_VERILATOR_MAIN = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"

Execute = Callable[[list[str], Path], None]
"""Runs a command in a folder, and raises when it fails."""


class BuildError(A3dError):
    """The simulator did not accept or did not compile the sources."""


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """Everything that a build depends on; the fields are those of `sim.simulator.runner.build`."""

    sim: str
    sources: tuple[Path, ...]
    top: str
    includes: tuple[Path, ...]
    defines: dict[str, object]
    parameters: dict[str, object]
    waves: str | None
    fast: bool
    quick: bool
    public: tuple[str, ...]
    extra_args: tuple[str, ...]
    main: Path | None = None

    def key(self) -> str:
        """Return the content key: equal for requests that give the same simulator."""
        headers = sorted(
            path
            for folder in self.includes
            for path in folder.rglob("*")
            if path.suffix in (".v", ".vh", ".sv", ".svh")
        )
        settings: list[object] = [
            self.top,
            [path.name for path in headers],
            sorted(self.defines.items()),
            sorted(self.parameters.items()),
            self.waves,
            self.fast,
            self.quick,
            self.public,
            self.extra_args,
            *_environment_of(self.sim),
        ]
        return content_key([*self.sources, *headers, *([self.main] if self.main else [])], settings)


def compile_icarus(request: BuildRequest, folder: Path, execute: Execute) -> None:
    """Write ``sim.vvp`` into `folder`."""
    (folder / "timescale.f").write_text(f"+timescale+{TIMESCALE}\n")
    command = [str(_icarus().iverilog), "-g2012", "-o", "sim.vvp", "-s", request.top, "-f", "timescale.f"]
    command += [f"-D{name}={value}" for name, value in request.defines.items()]
    command += [f"-P{request.top}.{name}={value}" for name, value in request.parameters.items()]
    command += [f"-I{include}" for include in request.includes]
    command += [*request.extra_args, *(str(s) for s in request.sources if s.suffix != ".vlt")]
    if request.waves:
        # Where the waves go is known only when the simulation runs.
        (folder / "waves.v").write_text(
            "module a3d_waves;\n"
            "  reg [8*4096-1:0] path;\n"
            '  initial if ($value$plusargs("a3d_waves=%s", path)) begin\n'
            f"    $dumpfile(path);\n    $dumpvars(0, {request.top});\n"
            "  end\n"
            "endmodule\n"
        )
        command += ["-s", "a3d_waves", "waves.v"]
    execute(command, folder)


def compile_verilator(request: BuildRequest, folder: Path, execute: Execute) -> None:
    """Write the executable ``simulator`` into `folder`."""
    with plain_folder(folder) as plain:
        _compile_plain(request, plain, execute)


def _compile_plain(request: BuildRequest, folder: Path, execute: Execute) -> None:
    """Compile in a folder whose path ``make`` takes."""
    verilator = tools.find_verilator()
    links = Links(folder / "links")
    command = [str(verilator.executable)]
    if verilator.root is not None:
        root = links.plain(verilator.root)
        # As Verilator's own script does, which does not work in every path.
        command = ["sh", "-c", 'ulimit -s unlimited 2>/dev/null; exec "$@"', "sh", "env", f"VERILATOR_ROOT={root}"]
        command += [str(root / "bin" / verilator.executable.name)]
    command += ["--cc", "--exe", "-Mdir", "obj", "-o", "simulator", "--prefix", "Vtop"]
    command += ["--top-module", request.top, "--assert", "--timescale", TIMESCALE]
    if request.main is None:
        libs = make_word(str(cocotb_tools.config.libs_dir))
        command += ["--vpi", "-LDFLAGS", f"-Wl,-rpath,{libs} -L{libs} -lcocotbvpi_verilator"]
    # Lint is a target of its own, with its own waivers; a simulation does not fail over a style warning.
    command += ["-Wno-fatal", "-Wno-lint", "-Wno-style"]
    if request.fast:
        (folder / "public.vlt").write_text(_control_file(request, verilator))
        command += ["-O3", "--x-assign", "fast", "--x-initial", "fast", "public.vlt"]
    else:
        command += ["--public-flat-rw"]
    if request.waves:
        command += ["--trace-fst" if request.waves == "fst" else "--trace-vcd"]
    command += [f"-D{name}={value}" for name, value in request.defines.items()]
    command += [f"-G{name}={value}" for name, value in request.parameters.items()]
    command += [f"-I{links.plain(include)}" for include in request.includes]
    if any(b"hier_block" in path.read_bytes() for path in request.sources if path.suffix == ".vlt"):
        command += ["--hierarchical"]
    command += [
        *request.extra_args,
        *(str(links.plain(path)) for path in (request.main or _VERILATOR_MAIN, *request.sources)),
    ]
    execute(command, folder)

    # A quick build runs beside other work.
    make = ["make", "-s", "-j", "1" if request.quick else str(min(os.cpu_count() or 1, 8)), "-C", "obj"]
    cpp_bytes = sum(path.stat().st_size for path in (folder / "obj").rglob("*.cpp"))
    make += ["-f", "Vtop.mk", *_optimisation(request, cpp_bytes)]
    if ccache := tools.ccache():
        make += [f"OBJCACHE={ccache}"]
    runtime = _runtime_folder(request)
    ready = [folder / "obj" / kept.name for kept in runtime.glob("verilated*.o")]
    for copy in ready:
        shutil.copyfile(runtime / copy.name, copy)
    try:
        execute(make, folder)
    except BuildError:
        if not ready:
            raise
        # Kept objects may be damaged: once more without them.
        shutil.rmtree(runtime, ignore_errors=True)
        for copy in ready:
            copy.unlink(missing_ok=True)
        execute(make, folder)
    _keep_runtime(folder / "obj", runtime)
    # Objects and generated C++ are most of the bytes, and nothing needs them again.
    (folder / "obj" / "simulator").replace(folder / "simulator")
    shutil.rmtree(folder / "obj")
    shutil.rmtree(folder / "links", ignore_errors=True)


def _optimisation(request: BuildRequest, cpp_bytes: int) -> list[str]:
    """Return ``make``'s variables for the C++ compiler, given how much C++ Verilator wrote."""
    if request.quick:
        return ["OPT_FAST=-O0", "OPT_GLOBAL=-Os"]
    if not request.fast:
        return []
    if request.waves:
        # Who looks at waves waits for the compiler more than for the simulation.
        return ["OPT_FAST=-O1", "OPT_GLOBAL=-Os"]
    # Code that does not fit the caches runs no faster for being optimised further.
    return ["OPT_FAST=-O3" if cpp_bytes < LARGE_CPP_BYTES else "OPT_FAST=-O1", "OPT_GLOBAL=-O2"]


def _runtime_folder(request: BuildRequest) -> Path:
    """Return where the objects of Verilator's own runtime are kept.

    They are the same for every model that is compiled with the same options, and compiling them takes eight of the
    ten seconds that a small model needs.
    """
    settings = [request.waves, request.fast, request.quick, request.extra_args, *_environment_of("verilator")]
    if request.main is not None:
        settings.append("a main program without VPI")
    return cache_root() / f"verilator-runtime-{content_key([], settings)}"


def _keep_runtime(obj: Path, runtime: Path) -> None:
    for built in obj.glob("verilated*.o"):
        if not (runtime / built.name).exists():
            with whole_file(runtime / built.name) as scratch:
                shutil.copyfile(built, scratch)


def _control_file(request: BuildRequest, verilator: tools.Verilator) -> str:
    # `-port` was tried with 5.048 only; `-var` makes all of the top's variables public, which any version can.
    version = tuple(int(part) for part in verilator.version.split(".")[:2])
    lines = [f'public_flat_rw -module "{request.top}" {"-port" if version >= (5, 48) else "-var"} "*"']
    for name in request.public:
        module, dot, variable = name.rpartition(".")
        if not dot:
            raise BuildError(f"public = {name!r}: write it as 'module.variable'")
        lines.append(f'public_flat_rw -module "{module}" -var "{variable}"')
    return "\n".join(["`verilator_config", *lines, ""])


def _icarus() -> tools.Icarus:
    tools.require_simulator("icarus")
    icarus = tools.find_icarus()
    assert icarus is not None
    return icarus


def _environment_of(sim: str) -> tuple[str, ...]:
    """Return what a compiled simulator depends on beside the design."""
    if sim == "icarus":
        return ("icarus", _icarus().version)
    verilator = tools.find_verilator()
    return (
        "verilator",
        verilator.version,
        verilator.origin,
        *verilator.make_args,
        tools.cxx_version(),
        platform.machine(),
        cocotb.__version__,
        str(cocotb_tools.config.libs_dir),  # the executable's run path
    )
