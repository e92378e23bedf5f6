# SPDX-License-Identifier: Apache-2.0
"""Builds Verilog into a simulator, once, and runs cocotb benches on it.

.. code-block:: python

    model = build([Path("counter.v")], "counter")
    result = run(model, "my_cocotb_tests", env={"DEPTH": "4"})
    print(result.tests, result.work_dir)

Why not ``cocotb_tools.runner``: its Verilator runner makes every signal of the design public (4 to 28 times slower,
see `a3d bench simspeed`), reports failing tests through ``sys.exit`` or not at all depending on who calls it, and
has no timeout. What is used of cocotb here is what it documents for other flows: the places of its libraries, its
Verilator main program, and its environment variables.

**Speed.** Models are compiled with ``-O3`` and with only the top module's ports public. What remains is Python in the
loop: resolve handles once, await many cycles at a time (``ClockCycles``), keep ports wide, and let
``cocotb.clock.Clock`` drive the clock. It is the compiled one (``impl="gpi"``) by default under Verilator.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cocotb_tools.config
import find_libpython

from sim.simulator import tools
from sim.simulator.compilers import BuildError, BuildRequest, compile_icarus, compile_verilator
from sim.simulator.process import run_logged
from sim.simulator.results import RunResult, SimulationError, TestResult, collect
from sim.simulator.simcache import CACHE_VARIABLE, cache_root, lookup_or_build
from sim.simulator.workdir import make_work_dir

__all__ = [
    "SIMULATORS",
    "BuildError",
    "BuiltModel",
    "RunResult",
    "SimulationError",
    "TestResult",
    "build",
    "run",
]

SIMULATORS = ("verilator", "icarus")
"""What `build` accepts as `sim`."""


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """A compiled simulator, ready for `run`.

    Parameters
    ----------
    sim
        ``"verilator"`` or ``"icarus"``.
    top
        Name of the top module: cocotb's ``dut``.
    program
        The executable (Verilator) or the ``.vvp`` file (Icarus).
    waves
        Format of the waves it can write: ``"fst"``, ``"vcd"``, or None when it was built without.
    key
        Content key: equal keys, equal behaviour.
    cached
        Whether it was found rather than built.
    build_s
        Seconds that the call to `build` took.
    """

    sim: str
    top: str
    program: Path
    waves: str | None
    key: str
    cached: bool
    build_s: float

    @property
    def build_dir(self) -> Path:
        """Return the folder with the program and the build log."""
        return self.program.parent


def build(
    sources: Sequence[Path],
    top: str,
    build_dir: Path | None = None,
    *,
    sim: str = "verilator",
    includes: Sequence[Path] = (),
    defines: Mapping[str, object] | None = None,
    parameters: Mapping[str, object] | None = None,
    waves: bool = False,
    fast: bool = True,
    quick: bool = False,
    public: Iterable[str] = (),
    extra_args: Sequence[str] = (),
    main: Path | None = None,
    stop: threading.Event | None = None,
    announce: Callable[[], None] | None = None,
) -> BuiltModel:
    """Compile Verilog into a simulator, or return the one that was compiled from the same content before.

    Parameters
    ----------
    sources
        Verilog files, and Verilator control files (``.vlt``, which Icarus does not get). Their contents matter,
        their names do not.
    top
        Name of the top module.
    build_dir
        Where the simulator goes. By default a folder named by content below ``build/simcache`` (environment
        variable ``A3D_SIM_CACHE``), shared by all who build the same.
    sim
        ``"verilator"`` or ``"icarus"``.
    includes
        Folders for `` `include ``.
    defines, parameters
        Preprocessor macros; parameters of the top module. Values are passed literally.
    waves
        Compile wave recording in. Verilator writes FST, or VCD where zlib's and lz4's headers are not installed.
    fast
        False compiles as cocotb's own runner does, with every signal public: the control in speed measurements, and
        a way to look at inner signals while debugging.
    quick
        Compile on one core and without optimisation, for short simulations: a tenth of the speed after a third of the
        work.
    public
        Inner variables to make accessible in a fast Verilator model, as ``"module.variable"`` in the source's names.
        Each one costs speed. Icarus gives access to everything.
    extra_args
        More arguments for the simulator's compiler.
    main
        C++ file of a main program that drives ``Vtop`` itself, in place of cocotb's (Verilator only); `run` is not for
        such a model.
    stop
        Another thread sets it to have the compiler killed.
    announce
        Called before the compiler starts; not where the simulator is there already.

    Raises
    ------
    BuildError
        If a source is missing or the simulator refuses it; the message holds the end of the build log.
    ToolError
        If the simulator is not there.
    """
    start = time.perf_counter()
    if sim not in SIMULATORS:
        raise BuildError(f"sim = {sim!r}: there is {' and '.join(SIMULATORS)}")
    if main is not None and sim != "verilator":
        raise BuildError(f"sim = {sim!r} with a main program: use 'verilator'")
    for source in (*sources, *([] if main is None else [main])):
        if not Path(source).is_file():
            raise BuildError(f"Verilog source {str(source)!r} does not exist")
    request = BuildRequest(
        sim=sim,
        sources=tuple(Path(s).absolute() for s in sources),
        top=top,
        includes=tuple(Path(i).absolute() for i in includes),
        defines=dict(defines or {}),
        parameters=dict(parameters or {}),
        waves=_wave_format(sim) if waves else None,
        fast=fast,
        quick=quick,
        public=tuple(public),
        extra_args=tuple(extra_args),
        main=None if main is None else main.absolute(),
    )
    key = request.key()
    folder = Path(build_dir).absolute() if build_dir is not None else cache_root() / f"{sim}-{top}-{key}"
    env = tools.subprocess_env() if sim == "icarus" else tools.find_verilator().env()

    def build_in(scratch: Path) -> None:
        if announce is not None:
            announce()

        def execute(command: list[str], cwd: Path) -> None:
            log = scratch / "build.log"
            # A compiler that is killed leaves its temporary files: they go with the folder.
            status = run_logged(command, cwd=cwd, env=env | {"TMPDIR": str(cwd)}, log=log, stop=stop)
            if stop is not None and stop.is_set():
                raise BuildError(f"{sim}: the build of {top!r} was stopped")
            if status != 0:
                kept = folder.with_name(folder.name + ".failed.log")
                shutil.copyfile(log, kept)
                raise BuildError(f"{sim} could not build {top!r}; log: {kept}\n{_errors_of(kept)}")

        compile_model = compile_icarus if sim == "icarus" else compile_verilator
        compile_model(request, scratch, execute)

    try:
        cached = lookup_or_build(folder, key, build_in)
    except OSError as error:
        raise BuildError(
            f"cache of simulators {folder.parent}: {error.strerror} ({error.filename or 'while it was written'}); make "
            f"room, or set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
    return BuiltModel(
        sim=sim,
        top=top,
        program=folder / ("sim.vvp" if sim == "icarus" else "simulator"),
        waves=request.waves,
        key=key,
        cached=cached,
        build_s=time.perf_counter() - start,
    )


def run(
    model: BuiltModel,
    test_module: str,
    *,
    testcase: str | Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    seed: int | None = None,
    waves: bool = False,
    plusargs: Sequence[str] = (),
    timeout_s: float = 600.0,
    work_dir: Path | None = None,
    echo: bool = False,
    stop: threading.Event | None = None,
) -> RunResult:
    """Run the cocotb tests of a Python module on a model.

    Parameters
    ----------
    model
        What `build` returned.
    test_module
        Import name of the module with the ``@cocotb.test`` functions. It is found as the caller would find it.
    testcase
        Names of the tests to run; all of them by default.
    env
        Environment variables for the bench, beside the caller's.
    seed
        cocotb's random seed; by default cocotb picks one, and the result says which.
    waves
        Record waves into the work directory; the model must have been built with them.
    plusargs
        Arguments for ``$value$plusargs``, with their plus sign.
    timeout_s
        Wall-clock limit in seconds. The simulator is killed when it passes, and also when the caller is interrupted.
    work_dir
        Directory to run in. By default a fresh temporary one, which goes away when this process ends, unless the run
        failed, recorded waves, or the environment variable ``A3D_KEEP`` is set.
    echo
        Copy the simulator's output to standard output as it comes.
    stop
        Another thread sets it to have the simulator killed.

    Returns
    -------
    RunResult
        Results of each test, the seed, and the work directory with ``sim.log``, ``results.xml`` and the waves.

    Raises
    ------
    SimulationError
        If a test fails, none is found, the simulator crashes or runs out of time. It carries the `RunResult`.
    """
    if waves and model.waves is None:
        raise SimulationError("waves: the model was built without them; fix: build(..., waves=True)")
    with make_work_dir(work_dir, prefix=f"a3d-{model.top}-", keep_it=waves) as folder:
        results_file = folder / "results.xml"
        results_file.unlink(missing_ok=True)
        wave_file = folder / f"{model.top}.{model.waves}" if waves else None
        run_env = _run_env(model, test_module, env or {})
        run_env["COCOTB_RESULTS_FILE"] = str(results_file)
        if testcase is not None:
            names = [testcase] if isinstance(testcase, str) else list(testcase)
            # cocotb matches this against "module.test", and against "module.test/parameters" of a parametrised one.
            run_env["COCOTB_TEST_FILTER"] = rf"\.({'|'.join(names)})($|/)"
        if seed is not None:
            run_env["COCOTB_RANDOM_SEED"] = str(seed)
        started = time.perf_counter()
        status = run_logged(
            _run_command(model, wave_file, plusargs),
            cwd=folder,
            env=run_env,
            log=folder / "sim.log",
            timeout_s=timeout_s,
            echo=echo,
            stop=stop,
        )
        return collect(
            folder,
            status=status,
            timeout_s=timeout_s,
            wall_s=time.perf_counter() - started,
            what=f"{test_module} on {model.top} ({model.sim})",
            waves=wave_file,
        )


def _wave_format(sim: str) -> str:
    return "vcd" if sim == "verilator" and tools.missing_fst_headers() else "fst"


def _run_env(model: BuiltModel, test_module: str, extra: Mapping[str, str]) -> dict[str, str]:
    libpython = os.environ.get("LIBPYTHON_LOC") or find_libpython.find_libpython()
    if libpython is None:
        name = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        raise tools.ToolError(f"{name}.so not found: cocotb needs Python as a library; fix: apt-get install {name}")
    env = {name: value for name, value in tools.subprocess_env().items() if not name.startswith("COCOTB_TEST")}
    env |= {
        "GPI_USERS": f"{libpython};{cocotb_tools.config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join(str(Path(p).absolute()) for p in sys.path),
        "COCOTB_TOPLEVEL": model.top,
        "COCOTB_TEST_MODULES": test_module,
        "TOPLEVEL_LANG": "verilog",
    }
    if model.sim == "verilator":
        # Writes reach Verilator at the right moment by themselves; it also selects the compiled clock.
        env["COCOTB_TRUST_INERTIAL_WRITES"] = "1"
    return env | {name: str(value) for name, value in extra.items()}


def _run_command(model: BuiltModel, wave_file: Path | None, plusargs: Sequence[str]) -> list[str]:
    if model.sim == "verilator":
        waves = ["--trace", "--trace-file", str(wave_file)] if wave_file else []
        return [str(model.program), *waves, *plusargs]
    library = cocotb_tools.config.lib_name_path("vpi", "icarus")
    waves = ["-fst", f"+a3d_waves={wave_file}"] if wave_file else ["-none"]
    return ["vvp", "-m", str(library), str(model.program), *waves, *plusargs]


def _errors_of(log: Path, limit: int = 12) -> str:
    """Return the lines of a build log that say what is wrong, or its end when none stands out."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if "rror" in line and not line.startswith("make")]
    return "\n".join((errors or lines[-limit:])[:limit])
