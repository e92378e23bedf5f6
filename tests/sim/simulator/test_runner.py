# SPDX-License-Identifier: Apache-2.0
"""The runner builds once, runs cocotb tests, and reports every way in which they can fail."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from hdl.errors import A3dError
from sim.simulator import tools
from sim.simulator.runner import BuildError, BuiltModel, SimulationError, build, run
from sim.simulator.simcache import CACHE_VARIABLE, content_key, lookup_or_build

HERE = Path(__file__).parent
COUNTER = HERE / "counter.v"
BENCH = "tests.sim.simulator.cocotb_counter"


@pytest.fixture(autouse=True)
def temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Failing runs keep their work directory: let them do it where pytest cleans up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def model(simulator: str) -> BuiltModel:
    return build([COUNTER], "counter", sim=simulator)


def test_passing_tests(model: BuiltModel) -> None:
    result = run(model, BENCH, seed=7)
    ran = [test.name for test in result.tests if not test.skipped]
    assert ran == ["counts", "counts_by_one"]
    assert not result.failed
    assert result.seed == 7
    assert (result.work_dir / "left_behind.txt").read_text() == "here"
    assert result.tests[1].sim_ns == pytest.approx(2030, abs=20)
    assert result.waves is None


def test_one_testcase(model: BuiltModel) -> None:
    result = run(model, BENCH, testcase="counts")
    assert [test.name for test in result.tests if not test.skipped] == ["counts"]


def test_failing_test_is_an_error(model: BuiltModel, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"1 of \d tests failed \(seed 5\)") as caught:
        run(model, BENCH, env={"FAIL": "1"}, seed=5, work_dir=tmp_path / "work")
    assert "fails: AssertionError: the count is not 77" in str(caught.value)
    assert caught.value.result is not None
    assert [test.name for test in caught.value.result.failed] == ["fails"]
    assert "the count is not 77" in (tmp_path / "work" / "sim.log").read_text()


def test_timeout_kills_the_simulator(model: BuiltModel, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(SimulationError, match="killed after timeout_s = 2 seconds"):
        run(model, BENCH, testcase="hangs", env={"HANG": "1"}, timeout_s=2, work_dir=tmp_path / "work")
    assert time.monotonic() - start < 10
    assert not _processes_in(tmp_path / "work")


def test_interrupt_kills_the_simulator(tmp_path: Path) -> None:
    """Ctrl-C in the process that called `run` leaves no simulator behind."""
    model = build([COUNTER], "counter")
    # Shells start background jobs with SIGINT ignored, and children inherit that: the caller asks for it.
    code = f"""
        import signal
        from pathlib import Path
        from sim.simulator.runner import build, run
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run(build([Path({str(COUNTER)!r})], "counter"), {BENCH!r}, testcase="hangs",
            env={{"HANG": "1"}}, work_dir=Path({str(tmp_path / "work")!r}))
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    caller = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    try:
        # A process that has not become the simulator yet has its caller's command line.
        while not any(model.program.name in line for line in _processes_in(tmp_path / "work")):
            assert time.monotonic() < deadline and caller.poll() is None
            time.sleep(0.05)
        caller.send_signal(2)
        assert caller.wait(30) != 0
    finally:
        caller.kill()
    assert not _processes_in(tmp_path / "work")


def test_no_test_ran(model: BuiltModel) -> None:
    with pytest.raises(SimulationError, match="no test ran|ended with status"):
        run(model, BENCH, testcase="absent")


def test_missing_module(model: BuiltModel) -> None:
    with pytest.raises(SimulationError, match="absent_module"):
        run(model, "absent_module")


def test_parameters_reach_the_top(simulator: str) -> None:
    model = build([COUNTER], "counter", sim=simulator, parameters={"WIDTH": 12})
    run(model, BENCH, testcase="counts", env={"EXPECTED_WIDTH": "12"})


def test_assertions_in_the_design_fail_the_run() -> None:
    model = build([COUNTER], "counter", defines={"CHECKED": 1})
    run(model, BENCH, testcase="counts")
    with pytest.raises(SimulationError, match=r"counter\.v:22: Assertion failed"):
        run(model, BENCH, testcase="counts_by_one")


def test_second_build_is_cached(simulator: str) -> None:
    unique = {"UNIQUE": uuid.uuid4().hex}
    first = build([COUNTER], "counter", sim=simulator, defines=unique)
    second = build([COUNTER], "counter", sim=simulator, defines=unique)
    assert not first.cached and second.cached
    assert second.build_s < 0.5
    assert second.program == first.program and second.key == first.key


def test_key_follows_content(tmp_path: Path, icarus: str) -> None:
    source = tmp_path / "a.v"
    source.write_text('(* src = "here.py:1" *)\nmodule a; endmodule\n')
    first = build([source], "a", sim=icarus)
    source.write_text('(* src = "there.py:99" *)\nmodule a; endmodule\n')
    assert build([source], "a", sim=icarus).key == first.key, "source positions do not matter"
    source.write_text("module a; wire w; endmodule\n")
    assert build([source], "a", sim=icarus).key != first.key
    assert build([source], "a", sim=icarus, waves=True).key != build([source], "a", sim=icarus).key


def test_headers_are_content(tmp_path: Path, icarus: str) -> None:
    (tmp_path / "size.vh").write_text("`define SIZE 3\n")
    source = tmp_path / "a.v"
    source.write_text('`include "size.vh"\nmodule a; wire [`SIZE:0] w; endmodule\n')
    first = build([source], "a", sim=icarus, includes=[tmp_path])
    (tmp_path / "size.vh").write_text("`define SIZE 4\n")
    assert build([source], "a", sim=icarus, includes=[tmp_path]).key != first.key


def test_explicit_build_folder(tmp_path: Path, icarus: str) -> None:
    first = build([COUNTER], "counter", tmp_path / "here", sim=icarus)
    assert first.build_dir == tmp_path / "here" and not first.cached
    assert build([COUNTER], "counter", tmp_path / "here", sim=icarus).cached
    other = build([COUNTER], "counter", tmp_path / "here", sim=icarus, parameters={"WIDTH": 9})
    assert not other.cached, "another design replaces it"


def test_two_processes_build_once(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from sim.simulator.simcache import lookup_or_build
        def slow(folder):
            time.sleep(0.5)
            (folder / "program").write_text("x")
            print("built", flush=True)
        lookup_or_build(Path(sys.argv[1]) / "model", "key", slow)
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(outputs) == ["", "built\n"]
    assert (tmp_path / "model" / "program").is_file()


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lookup_or_build(tmp_path / "model", "key", interrupted)
    assert not (tmp_path / "model").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model.lock"]
    assert not lookup_or_build(tmp_path / "model", "key", lambda folder: None)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _truncate(folder: Path) -> None:
    (folder / "program").write_bytes(b"")


def _replace(folder: Path) -> None:
    mode = (folder / "program").stat().st_mode
    (folder / "program").unlink()
    (folder / "program").write_text("xxx", encoding="ascii")
    (folder / "program").chmod(mode)


def _flip(folder: Path) -> None:
    """Change a byte and hide it from whoever looks at sizes and times."""
    path = folder / "program"
    times = path.stat()
    path.write_text("abd")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _be_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@pytest.mark.parametrize(
    "harm",
    [
        _empty,
        _truncate,
        _replace,
        _flip,
        _be_a_file,
        shutil.rmtree,
        lambda folder: (folder / "program").unlink(),
        lambda folder: (folder / "program").chmod(0o600),
        lambda folder: (folder / ".complete").write_text("key"),
        lambda folder: (folder / ".complete").write_text('{"key": "key", "files": []}'),
    ],
)
def test_a_damaged_entry_is_built_again(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    def compile_it(folder: Path) -> None:
        (folder / "program").write_text("abc")
        (folder / "program").chmod(0o755)

    folder = tmp_path / "model"
    assert not lookup_or_build(folder, "key", compile_it)
    assert lookup_or_build(folder, "key", compile_it)
    harm(folder)
    assert not lookup_or_build(folder, "key", compile_it)
    assert (folder / "program").read_text() == "abc"
    assert lookup_or_build(folder, "key", compile_it)


def test_a_copied_cache_is_used(tmp_path: Path) -> None:
    assert not lookup_or_build(tmp_path / "one", "key", lambda folder: (folder / "program").write_text("abc"))
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copy)
    os.utime(tmp_path / "two" / "program", (1, 1))
    assert lookup_or_build(tmp_path / "two", "key", lambda folder: None)


@pytest.mark.slow  # the runtime is compiled
def test_damaged_objects_of_the_runtime_are_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in build([COUNTER], "counter").build_dir.parent.glob("verilator-runtime-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    for path in tmp_path.glob("*/*.o"):
        path.write_bytes(path.read_bytes()[:100])
    assert not build([COUNTER], "counter", defines={"UNIQUE": uuid.uuid4().hex}).cached
    healed = [
        folder for folder in tmp_path.glob("*-runtime-*") if all(f.stat().st_size > 100 for f in folder.iterdir())
    ]
    assert len(healed) == 1


def test_content_key_sees_order_and_settings(tmp_path: Path) -> None:
    one, two = tmp_path / "1.v", tmp_path / "2.v"
    one.write_text("a")
    two.write_text("b")
    keys = {content_key(*args) for args in (([one, two], []), ([two, one], []), ([one, two], ["x"]), ([one], []))}
    assert len(keys) == 4


@pytest.mark.slow
def test_waves(simulator: str, tmp_path: Path) -> None:
    model = build([COUNTER], "counter", sim=simulator, waves=True)
    result = run(model, BENCH, testcase="counts", waves=True, work_dir=tmp_path / "work")
    assert result.waves == tmp_path / "work" / f"counter.{model.waves}"
    assert result.waves.stat().st_size > 100
    expected = "vcd" if simulator == "verilator" and tools.missing_fst_headers() else "fst"
    assert model.waves == expected
    assert run(model, BENCH, testcase="counts").waves is None


def test_waves_must_be_built_in(model: BuiltModel) -> None:
    with pytest.raises(SimulationError, match=r"build\(\.\.\., waves=True\)"):
        run(model, BENCH, waves=True)


def test_fast_model_shows_ports_and_what_was_asked_for() -> None:
    hidden = build([COUNTER], "counter")
    with pytest.raises(SimulationError, match="inner"):
        run(hidden, BENCH, testcase="peeks", env={"PEEK": "1"})
    run(build([COUNTER], "counter", public=["counter.inner"]), BENCH, testcase="peeks", env={"PEEK": "1"})
    run(build([COUNTER], "counter", fast=False), BENCH, testcase="peeks", env={"PEEK": "1"})


def test_clock_is_the_compiled_one() -> None:
    run(build([COUNTER], "counter"), BENCH, testcase="clock_is_compiled", env={"CLOCK": "1"})


def test_broken_source(simulator: str, tmp_path: Path) -> None:
    source = tmp_path / "broken.v"
    source.write_text("module broken; wire w = ; endmodule\n")
    with pytest.raises(BuildError, match=r"could not build 'broken'; log: .*\n.*broken\.v:1"):
        build([source], "broken", tmp_path / "out", sim=simulator)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([HERE / "absent.v"], {}, "absent.v' does not exist"),
        ([COUNTER], {"sim": "ghdl"}, "sim = 'ghdl': there is verilator and icarus"),
        ([COUNTER], {"public": ["inner"]}, "public = 'inner': write it as 'module.variable'"),
    ],
)
def test_bad_requests(sources: list[Path], options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(A3dError, match=message):
        build(sources, "counter", tmp_path / "out", **options)  # type: ignore[arg-type]


def test_outer_make_does_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-rR -j4 --jobserver-auth=3,4")
    assert "MAKEFLAGS" not in tools.subprocess_env()
    assert "--jobserver-auth" not in tools.find_verilator().env().get("MAKEFLAGS", "")


def test_cache_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, icarus: str) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "elsewhere"))
    assert build([COUNTER], "counter", sim=icarus).program.is_relative_to(tmp_path / "elsewhere")


def test_missing_icarus_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find_icarus", lambda: None)
    with pytest.raises(tools.ToolError, match="apt-get install iverilog"):
        build([COUNTER], "counter", sim="icarus")


def _processes_in(folder: Path) -> list[str]:
    """Return the command lines of the processes that run in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
