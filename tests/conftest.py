# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sim.simulator import tools
from sim.simulator.simcache import CACHE_VARIABLE

ROOT = Path(__file__).resolve().parent.parent

# The same examples every time, so that a failure can be seen again. Wall-clock limits are pytest-timeout's.
settings.register_profile("a3d", derandomize=True, deadline=None, database=None)
settings.load_profile("a3d")


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """Use the Yosys that pip installed, and one cache of simulators, wherever pytest was started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMARANTH_USE_YOSYS", "builtin")
        if CACHE_VARIABLE not in os.environ:
            patch.setenv(CACHE_VARIABLE, str(ROOT / "build" / "simcache"))
        yield


@pytest.fixture
def icarus() -> str:
    """Return ``"icarus"``, or skip the test where it is not installed."""
    if tools.find_icarus() is None:
        pytest.skip("Icarus Verilog is not installed (optional): apt-get install iverilog")
    return "icarus"


@pytest.fixture(params=["verilator", "icarus"])
def simulator(request: pytest.FixtureRequest) -> str:
    """Run a test once for each simulator."""
    if request.param == "icarus":
        return str(request.getfixturevalue("icarus"))
    return str(request.param)
