# SPDX-License-Identifier: Apache-2.0
"""The C driver: it compiles without a warning, and drives the emitted machine through its registers."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from hdl.generate import c_header
from hdl.isa.error_codes import ErrorCode
from sim.simulator import runner
from tests.support.foreign.machine import CONFIG, bare_machine

ROOT = Path(__file__).resolve().parents[3]
DRIVER = ROOT / "docs" / "examples" / "driver"
SESSION = ROOT / "tests" / "support" / "driver" / "session.c"
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "a3d.h").write_text(c_header(CONFIG))
    includes = [f"-I{folder}", f"-I{DRIVER}"]
    command = ["gcc", *STRICT, *includes, "-shared", "-fPIC", "-o", folder / "driver.so", DRIVER / "a3d_driver.c"]
    done = subprocess.run([*command, SESSION], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return folder / "driver.so"


def test_it_refuses_what_is_no_such_machine(library: Path) -> None:
    """And reads a counter whole that moves meanwhile: registers are an array, there is no machine."""
    assert ctypes.CDLL(str(library)).without_machine() == 0, "line of session.c"


def test_it_drives_the_machine(library: Path) -> None:
    """A stream by polling, an error, a stream by interrupt, counters, tiles that stay: bytes compared."""
    runner.run(bare_machine(), "tests.sim.driver.cocotb_driver", env={"A3D_DRIVER": str(library)}, seed=1)


def test_it_names_every_error(library: Path) -> None:
    name = ctypes.CDLL(str(library)).a3d_error_name
    name.restype = ctypes.c_char_p
    assert {int(code): name(int(code)).decode() for code in ErrorCode if code} == {
        int(code): code.name for code in ErrorCode if code
    }


def test_the_guide_shows_the_driver() -> None:
    """Every function of the header has its line in the guide, and none that is not there."""
    functions = set(re.findall(r"^[\w ]+?\*?\b(a3d_\w+)\(", (DRIVER / "a3d_driver.h").read_text(), flags=re.MULTILINE))
    guide = (ROOT / "docs" / "programming.md").read_text()
    assert functions and functions == set(re.findall(r"\b(a3d_\w+)\(", guide))
