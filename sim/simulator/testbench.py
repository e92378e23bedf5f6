# SPDX-License-Identifier: Apache-2.0
"""Finds the cocotb benches in ``sim.benches`` by name, and runs one on a configuration.

A module of ``sim.benches`` can be run by name, as ``make sim TEST=name`` does, when it has, beside its ``@cocotb.test``
functions, a function that generates what they test:

.. code-block:: python

    def prepare(config: MachineConfig, folder: Path, simulator: str, seed: int | None) -> Design:
        source = folder / "adder.v"
        source.write_text(...)
        return Design(sources=(source,), top="adder", env={"A3D_CONFIG": config.name})
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import sim.benches
from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.scratch import scratch_folder
from sim.simulator.runner import RunResult, build, run
from sim.simulator.tools import require_simulator

__all__ = ["Design", "bench_names", "bench_summary", "run_bench"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a bench tests.

    Parameters
    ----------
    sources
        Verilog files, and Verilator control files.
    top
        Name of the top module.
    env
        Environment variables that the bench reads.
    defines, public
        As in `sim.simulator.runner.build`.
    plusargs
        As in `sim.simulator.runner.run`.
    """

    sources: tuple[Path, ...]
    top: str
    env: Mapping[str, str] = field(default_factory=dict)
    defines: Mapping[str, object] = field(default_factory=dict)
    public: tuple[str, ...] = ()
    plusargs: tuple[str, ...] = ()


def bench_names() -> list[str]:
    """Return the names of the benches that `run_bench` can run."""
    names = (module.name for module in pkgutil.iter_modules(sim.benches.__path__))
    return sorted(name for name in names if hasattr(importlib.import_module(f"sim.benches.{name}"), "prepare"))


def bench_summary(name: str) -> str:
    """Return the first line of a bench's docstring."""
    document = importlib.import_module(f"sim.benches.{name}").__doc__ or ""
    return document.strip().splitlines()[0] if document.strip() else ""


def run_bench(
    name: str,
    config: MachineConfig,
    *,
    simulator: str = "verilator",
    testcase: str | None = None,
    seed: int | None = None,
    waves: bool = False,
    timeout_s: float = 3600.0,
    work_dir: Path | None = None,
    echo: bool = False,
) -> RunResult:
    """Generate a bench's design for `config`, build it, and run the bench; arguments as in `sim.simulator.runner`.

    Raises
    ------
    A3dError
        If there is no such bench, or as `sim.simulator.runner.build` and `sim.simulator.runner.run` do.
    """
    names = bench_names()
    if name not in names:
        raise A3dError(f"TEST = {name!r}: no such bench; there is {', '.join(names) or 'none yet'}")
    module = importlib.import_module(f"sim.benches.{name}")
    require_simulator(simulator)
    # What cocotb's decorators made of functions.
    cases = [name for name, value in vars(module).items() if type(value).__module__.startswith("cocotb.")]
    if testcase is not None and testcase not in cases:
        raise A3dError(f"TESTCASE = {testcase!r}: bench {name!r} has no such test; use one of {', '.join(cases)}")
    with scratch_folder("a3d-design-") as folder:
        design: Design = module.prepare(config, folder, simulator, seed)
        model = build(
            design.sources,
            design.top,
            sim=simulator,
            defines=design.defines,
            public=design.public,
            waves=waves,
        )
        return run(
            model,
            module.__name__,
            testcase=testcase,
            env=design.env,
            plusargs=design.plusargs,
            seed=seed,
            waves=waves,
            timeout_s=timeout_s,
            work_dir=work_dir,
            echo=echo,
        )
