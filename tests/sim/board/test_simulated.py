# SPDX-License-Identifier: Apache-2.0
"""The board's Verilog in simulation, its serial line bit by bit, driven by the host's own code through a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hdl.boards.protocol import Command
from hdl.config import PRESETS
from hdl.errors import CheckError
from hdl.isa.error_codes import ErrorCode
from scheduler.models.random_checkpoint import random_checkpoint
from scheduler.models.random_model import random_model
from scheduler.ops.batch import Chunk
from sim import cli
from sim.board import check
from sim.board.check import check_layer, small_shape
from sim.board.link import BoardError, Link, open_port
from sim.board.session import BoardSession
from sim.board.simulated import build_simulated_board, simulated_board, simulated_wiring
from sim.machine.system import Job
from tests.support.checkpoints import small_model
from tests.support.language import LanguageRun, varied
from tests.support.small_model import write_checkpoint

NANO = PRESETS["nano"]
BOARD = simulated_wiring(128 << 10)
SHAPE = small_model(
    "mixtral", vocabulary=16, hidden=16, intermediate=8, layers=2, heads=2, kv_heads=1, head_dim=8, experts=4, chosen=2,
    context=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    with simulated_board(build_simulated_board(NANO, BOARD), BOARD) as name:
        yield name


@pytest.fixture
def link(port: str) -> Iterator[Link]:
    with Link(open_port(port, BOARD.baud), port) as own:
        yield own


def test_memories_and_registers(link: Link) -> None:
    session = BoardSession(link, NANO)
    assert (session.memory_bytes, session.clock_khz) == (BOARD.memory_bytes, BOARD.clock_hz // 1000)
    rng = np.random.default_rng(1)
    blocks = [rng.integers(0, 1 << 32, 300, dtype=np.uint32) for _ in range(2)]
    for command, block in zip((Command.WRITE_MEMORY0, Command.WRITE_MEMORY1), blocks, strict=True):
        link.write(command, BOARD.memory_bytes - block.nbytes, block)
    for command, block in zip((Command.READ_MEMORY0, Command.READ_MEMORY1), blocks, strict=True):
        assert np.array_equal(link.read(command, BOARD.memory_bytes - block.nbytes, block.size), block)
    assert set(session.counters().values()) == {0} and link.repeated == 0


def test_a_layer_of_experts(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte of both memories is the executor's; a byte that the executor has wrong is found."""
    session, model = BoardSession(link, NANO), random_model(small_shape(NANO, 1), 3)
    result = check_layer(session, NANO, model)
    assert result.cycles > 100 and result.compared_bytes > 4000

    class Wrong(check.Executor):
        def run(self, *stream: object) -> object:
            report = super().run(*stream)  # type: ignore[arg-type]
            self.memory[1][-1] ^= 1
            return report

    monkeypatch.setattr(check, "Executor", Wrong)
    with pytest.raises(CheckError, match="^layer of experts: group 1, address .*; 1 bytes differ from the executor's$"):
        check_layer(session, NANO, model)


def test_a_language_model_writes_tokens(link: Link) -> None:
    """A prompt, then three tokens of two layers, each chosen from the logits that the board computed."""
    session = BoardSession(link, NANO)
    run = LanguageRun(NANO, varied(SHAPE, 1), slots=True, sequences=1, step_bytes=1 << 14)
    tokens, length, written = (1, 2, 3, 4, 5), 0, []
    for step in range(3):
        program = run.step([Chunk(0, length, tokens)])
        length += len(tokens)
        result = session.run(run.job(program))
        assert result.done and not result.semaphores_left
        run.check_memory(result.memory, f"step {step}")
        assert result.memory is not None
        written.append(int(program.read_logits(result.memory)[0].argmax()))
        tokens = (written[-1],)
        assert result.counters["cycles"] > 1000
    assert len(written) == 3


def test_an_error_of_the_machine(link: Link) -> None:
    """A stream of ones: the machine says what is wrong and where, and runs the next one."""
    session = BoardSession(link, NANO)
    result = session.run(Job(images=(b"\xff" * 64, bytes(64)), stream_base=0))
    assert not result.done and isinstance(result.error, ErrorCode) and result.error_pc == 0
    assert check_layer(session, NANO, random_model(small_shape(NANO, 1), 3)).cycles > 100


def test_another_machine(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["board", "check", "--config", "tiny", "--port", port]) == 2
    assert f"error: {port}: the machine on the board is of configuration " in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_that_simulates() -> None:
    """It prints its port, answers there, and leaves nothing behind when it is interrupted."""
    command = [sys.executable, "-m", "sim.cli", "board", "sim", "--memory-kib", str(BOARD.memory_bytes >> 10)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        own = process.stdout.readline().strip()
        with Link(open_port(own, BOARD.baud), own) as link:
            assert link.identify()["memory_bytes"] == BOARD.memory_bytes
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    with pytest.raises(BoardError, match="no device can be opened there"):
        open_port(own, BOARD.baud)


@pytest.mark.slow
def test_the_commands(port: str, tmp_path: Path) -> None:
    """`a3d board check`, and text from `a3d run --engine board`, which is that of the engine isa."""
    report = tmp_path / "check.json"
    assert cli.main(["board", "check", "--port", port, "--json", str(report)]) == 0
    assert [each["cycles"] > 100 for each in json.loads(report.read_text())["checks"]] == [True, True]
    shape = small_model(
        "mixtral", vocabulary=128, hidden=16, intermediate=8, layers=2, heads=2, kv_heads=1, head_dim=8, experts=4,
        chosen=2, context=32,
    )  # fmt: skip
    write_checkpoint(tmp_path / "model", random_checkpoint(shape, seed=5))
    command = ["run", "--model", str(tmp_path / "model"), "--config", "nano", "--prompt", "hello", "--tokens", "3"]
    texts = []
    for engine in (["--engine", "board", "--port", port], ["--engine", "isa"]):
        out = tmp_path / engine[1]
        assert cli.main([*command, *engine, "-o", str(out)]) == 0
        texts.append(json.loads((out / "report.json").read_text()))
    assert texts[0]["sequences"][0]["tokens"] == texts[1]["sequences"][0]["tokens"]
    assert texts[0]["total"]["cycles"] > 1000 and texts[0]["mismatched_bytes"] == 0 < texts[0]["compared_bytes"]
