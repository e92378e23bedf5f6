# SPDX-License-Identifier: Apache-2.0
"""The host's side of the line: what is repeated, and what is said about a board that is absent or answers wrongly."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hdl.boards.protocol import Command, Status
from hdl.config import PRESETS
from hdl.errors import A3dError
from sim import cli
from sim.board import link as link_module
from sim.board.link import BoardError, Link, open_port
from sim.board.session import BoardSession, check_images
from tests.support.boards.fake_line import FakeLine

NANO = PRESETS["nano"]
WORDS = np.arange(600, dtype=np.uint32)


@pytest.fixture
def line() -> FakeLine:
    return FakeLine(NANO)


def test_long_transfers_are_split(line: FakeLine) -> None:
    link = Link(line, "port")
    link.write(Command.WRITE_MEMORY1, 64, WORDS)
    assert line.memory[1][64 : 64 + 2400] == WORDS.tobytes() and not any(line.memory[0])
    assert np.array_equal(link.read(Command.READ_MEMORY1, 64, 600), WORDS)
    assert line.asked == [Command.WRITE_MEMORY1] * 3 + [Command.READ_MEMORY1] * 3


FAULTS: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda answer: b"", "no answer within 2 s"),
    (lambda answer: answer[:6], "an answer that ends after"),
    (lambda answer: b"\x55" + answer[1:], "an answer that begins with 0x55, not 0x3a"),
    (lambda answer: answer[:-1] + bytes([answer[-1] ^ 1]), "an answer whose checksum is wrong"),
    (lambda answer: answer[:3] + b"\x09\x00" + answer[5:], "an answer of 9 words to a request of 1"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS)
def test_reads_are_repeated_and_then_given_up(line: FakeLine, fault: Callable[[bytes], bytes], said: str) -> None:
    line.memory[0][:4] = b"\x07\0\0\0"
    link = Link(line, "port")
    line.faults = [fault, fault]
    assert link.read(Command.READ_MEMORY0, 0, 1).tolist() == [7] and link.repeated == 2
    line.faults = [fault] * 3
    with pytest.raises(
        BoardError, match=f"^port: READ_MEMORY0 of 1 words at 0x0: {said}.* \\(3 of 3 attempts\\); check"
    ):
        link.read(Command.READ_MEMORY0, 0, 1)


def test_an_answer_to_another_request(line: FakeLine) -> None:
    stale: list[bytes] = []
    link = Link(line, "port")
    line.faults = [lambda answer: (stale.append(answer), answer)[1], lambda answer: stale[0]]
    link.read(Command.READ_MEMORY0, 0, 1)
    link.read(Command.READ_MEMORY0, 0, 1)
    assert link.repeated == 1


def test_a_write_of_registers_is_not_done_twice(line: FakeLine) -> None:
    """It may start the machine: only a request that the board says it did not take is sent again."""
    link = Link(line, "port")
    line.statuses = [Status.DAMAGED, Status.INCOMPLETE]
    link.write(Command.WRITE_REGISTERS, 0x100, [3])
    assert line.registers == {0x100: 3} and len(line.asked) == 3
    line.faults = [lambda answer: b""]
    with pytest.raises(BoardError, match=r"no answer within 2 s; it is not known whether .* \(1 of 3 attempts\)"):
        link.write(Command.WRITE_REGISTERS, 0x100, [3])
    line.statuses = [Status.REGISTER]
    with pytest.raises(BoardError, match=r"says REGISTER, a register refused: .* \(1 of 3 attempts\)"):
        link.write(Command.WRITE_REGISTERS, 0x100, [3])


def test_a_line_that_goes(line: FakeLine) -> None:
    link = Link(line, "port")
    line.gone = True
    with pytest.raises(BoardError, match="^port: the line is gone .*; plug the board in again$"):
        link.read(Command.READ_MEMORY0, 0, 1)


def test_another_program_and_another_machine(line: FakeLine) -> None:
    with pytest.raises(
        BoardError, match=r"^port: the machine on the board is of configuration \w{16}, tiny is \w{16}: "
    ):
        BoardSession(Link(line, "port"), PRESETS["tiny"])
    line.identity[0] = 0x1234
    with pytest.raises(BoardError, match="^port: says it is 0x00001234, this program speaks to 0xa3d00001: build"):
        BoardSession(Link(line, "port"), NANO)


def test_images_that_are_too_large() -> None:
    check_images([4096, 4096], 4096)
    with pytest.raises(
        A3dError, match="^memory of channel group 1: the model takes 5,000 bytes, the board has 4,096: "
    ):
        check_images([4096, 5000], 4096)


def test_no_device(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BoardError, match="^--port /dev/absent: no device can be opened there .*; plug the board in"):
        open_port("/dev/absent", 1_000_000)
    out = ["-o", str(tmp_path)]
    assert cli.main(["run", "--engine", "board", *out]) == 2
    assert capsys.readouterr().err == (
        "error: --engine board: needs the board's port; add --port DEV, such as --port /dev/ttyUSB0\n"
    )
    assert cli.main(["run", "--port", "/dev/absent", *out]) == 2
    assert capsys.readouterr().err.startswith("error: --port: the engine rtl has no port; leave it out")
    assert cli.main(["run", "--engine", "board", "--port", "/dev/absent", "--config", "nano", *out]) == 2
    assert capsys.readouterr().err.startswith("error: --port /dev/absent: no device")
    assert cli.main(["run", "--engine", "board", "--port", "/dev/absent", "--waves", *out]) == 2
    assert capsys.readouterr().err.startswith("error: --waves: the engine board records nothing; leave it out")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "serial":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BoardError, match="^Python package 'pyserial' not found: .*; fix: pip install 'a3d-moe"):
        open_port("/dev/absent", 1_000_000)


def test_a_device_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real terminal with nobody at its other end."""
    monkeypatch.setattr(link_module, "QUIET_S", 0.01)
    ours, theirs = os.openpty()
    try:
        with (
            Link(open_port(os.ttyname(theirs), 1_000_000), "port", answer_s=0.05) as link,
            pytest.raises(
                BoardError, match=r"^port: READ_IDENTITY of 5 words at 0x0: no answer within 0.05 s \(3 of 3"
            ),
        ):
            link.identify()
    finally:
        os.close(ours)
        os.close(theirs)
