# SPDX-License-Identifier: Apache-2.0
"""Reads what a cocotb run left behind, and turns failures into one readable exception."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from hdl.errors import CheckError
from sim.simulator.process import TIMED_OUT

_DURATION = "sim_time_duration"  # in units of the timescale, which is 1 ns

__all__ = ["RunResult", "SimulationError", "TestResult", "collect"]


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """Result of one cocotb test.

    Parameters
    ----------
    module, name
        Where it stands, and its name.
    passed, skipped
        What came of it. A skipped test counts as passed.
    message
        The error of a failed test, one line.
    wall_s, sim_ns
        Seconds that it took, and simulated nanoseconds.
    """

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    module: str
    name: str
    passed: bool
    skipped: bool
    message: str
    wall_s: float
    sim_ns: float


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Results of one simulator run.

    Parameters
    ----------
    tests
        The tests in the order in which they ran.
    seed
        cocotb's random seed: give it to `sim.simulator.runner.run` to repeat the run.
    work_dir
        Where it ran: ``sim.log``, ``results.xml``, waves, and whatever the bench wrote.
    waves
        The wave file, when one was recorded.
    wall_s
        Seconds from the simulator's start to its end.
    """

    tests: tuple[TestResult, ...]
    seed: int | None
    work_dir: Path
    waves: Path | None
    wall_s: float

    @property
    def log(self) -> Path:
        """Return the file with the simulator's output."""
        return self.work_dir / "sim.log"

    @property
    def failed(self) -> tuple[TestResult, ...]:
        """Return the tests that failed."""
        return tuple(test for test in self.tests if not test.passed)


class SimulationError(CheckError):
    """A bench failed. `result` holds what is known of the run, or None when it did not start."""

    def __init__(self, message: str, result: RunResult | None = None) -> None:
        super().__init__(message)
        self.result = result


def collect(folder: Path, *, status: int, timeout_s: float, wall_s: float, what: str, waves: Path | None) -> RunResult:
    """Read the results of a run in `folder`.

    Raises
    ------
    SimulationError
        If it timed out, ended abnormally, ran no test, or a test failed. cocotb itself exits with 0 for the last.
    """
    tests, seed = _parse(folder / "results.xml")
    waves = waves if waves is not None and waves.is_file() else None
    result = RunResult(tests=tests, seed=seed, work_dir=folder, waves=waves, wall_s=wall_s)
    where = f"log: {result.log}"
    if status == TIMED_OUT:
        raise SimulationError(f"{what}: killed after timeout_s = {timeout_s:g} seconds; {where}", result)
    if result.failed:
        lines = "".join(f"\n  {test.name}: {test.message}" for test in result.failed)
        lines += "".join(f"\n  {line}" for line in _simulator_errors(result.log))
        raise SimulationError(
            f"{what}: {len(result.failed)} of {len(tests)} tests failed (seed {seed}); {where}{lines}", result
        )
    if status != 0:
        raise SimulationError(f"{what}: the simulator ended with status {status}; {where}\n{_tail(result.log)}", result)
    if all(test.skipped for test in tests):
        raise SimulationError(
            f"{what}: no test ran, check test_module and testcase; {where}\n{_tail(result.log)}", result
        )
    return result


def _parse(file: Path) -> tuple[tuple[TestResult, ...], int | None]:
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError):
        return (), None
    tests = []
    for case in root.iter("testcase"):
        problem = next((e for kind in ("failure", "error") if (e := case.find(kind)) is not None), None)
        text = "" if problem is None else problem.get("message") or (problem.text or "").strip() or "failed"
        kind = "" if problem is None else problem.get("type") or problem.get("error_type") or ""
        lines = text.strip().splitlines() or [""]
        tests.append(
            TestResult(
                module=case.get("classname", ""),
                name=case.get("name", ""),
                passed=problem is None,
                skipped=case.find("skipped") is not None,
                message=f"{kind}: {lines[0]}" if kind else lines[0],
                wall_s=float(case.get("time", 0)),
                sim_ns=float(
                    next((p.get("value", "0") for p in case.iter("property") if p.get("name") == _DURATION), "0")
                ),
            )
        )
    seeds = [p.get("value", "") for p in root.iter("property") if p.get("name") == "random_seed"]
    return tuple(tests), int(seeds[0]) if seeds and seeds[0].isdigit() else None


def _simulator_errors(log: Path, limit: int = 3) -> list[str]:
    """Return what the simulator itself complained about, such as an assertion in the design."""
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if "%Error" in line or line.startswith(("ERROR:", "FATAL:"))][:limit]


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
