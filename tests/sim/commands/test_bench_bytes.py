# SPDX-License-Identifier: Apache-2.0
"""What the benches of published shapes are refused: the message names the options that ask for too much."""

from __future__ import annotations

import pytest

from sim.cli import main


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["balance", "--batches", "1", "--steps", "1"], "--batches 1, --keys 100000000: memory of group 0"),
        (["together-shapes"], "--batch 64, --keys 100000000: memory of group 0"),
    ],
)
def test_more_keys_than_any_memory_holds(command: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *command, "--keys", "100000000"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {named}") and "serve fewer or shorter sequences" in error
