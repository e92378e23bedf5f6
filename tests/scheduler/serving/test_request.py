# SPDX-License-Identifier: Apache-2.0
"""Files of requests: what is read, and that each wrong line is refused with its number and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.plan.limits import LoweringError
from scheduler.serving.request import Request, RequestsError, check_requests, parse_requests, read_requests

VOCABULARY, CONTEXT = 128, 16


def test_lines_are_numbered_requests() -> None:
    lines = ['{"prompt": "To be", "tokens": 3}', "", '{"prompt": [0, 127], "tokens": 15, "arrival": 250000}']
    assert parse_requests(lines, VOCABULARY, CONTEXT) == [
        Request(0, tuple(b"To be"), 3), Request(1, (0, 127), 15, 250000),
    ]  # fmt: skip
    assert Request(0, (1, 2), 15).length == CONTEXT


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON object"),
        ('"x"', "'x'; write an object with prompt and tokens"),
        ('{"prompt": "a", "tokens": 1, "tokens": 2}', "tokens: is there twice"),
        ({"tokens": 1}, "prompt: is missing; use a text or a list of token numbers"),
        ({"prompt": "a"}, "tokens: is missing; use an integer from 1 to 16: the prompt takes 1 of the"),
        ({"prompt": 5, "tokens": 1}, "prompt: 5; use a text or a list"),
        ({"prompt": "", "tokens": 1}, "prompt: ''; use 1 to 16 tokens, the model's context: it has 0"),
        ({"prompt": [], "tokens": 1}, "prompt: \\[\\]; use 1 to 16 tokens"),
        ({"prompt": "a" * 17, "tokens": 1}, "use 1 to 16 tokens, the model's context: it has 17"),
        (
            {"prompt": "aé", "tokens": 1},
            "prompt: 'aé'; use bytes from 0 to 127, .*: byte 1 is 0xc3",
        ),
        ('{"prompt": "a\\ud800", "tokens": 1}', "use text without the lone surrogate at 1"),
        ({"prompt": [1, 128], "tokens": 1}, "prompt\\[1\\]: 128; use an integer from 0 to 127"),
        ({"prompt": [True], "tokens": 1}, "prompt\\[0\\]: True; use an integer"),
        ({"prompt": "abcd", "tokens": 14}, "tokens: 14; use an integer from 1 to 13: the prompt takes 4"),
        ({"prompt": "a", "tokens": 0}, "tokens: 0; use an integer from 1"),
        ({"prompt": "a", "tokens": 1.5}, "tokens: 1.5; use an integer from 1"),
        ({"prompt": "a", "tokens": 1, "arrival": -1}, "arrival: -1; use an integer from 0"),
        ({"prompt": "a", "tokens": 1, "arrival": "now"}, "arrival: 'now'; use an integer from 0"),
        ({"prompt": "a", "tokens": 1, "at": 5}, "'at': no such field; use prompt, tokens, arrival"),
    ],
)
def test_a_wrong_line_is_named(line: object, message: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    with pytest.raises(RequestsError, match=message) as caught:
        parse_requests(['{"prompt": "a", "tokens": 1}', text], VOCABULARY, CONTEXT)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("requests, line 2: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "No such file"),
        (b"\n \n", "no requests; write at least one, such as"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'{"prompt": "a", "tokens": 1}\n{"prompt": "a"}', "requests.jsonl, line 2: tokens: is missing"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "requests.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(RequestsError, match=message):
        read_requests(path, VOCABULARY, CONTEXT)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "prompts: none"),
        ([Request(0, (), 1)], "prompt 0: empty"),
        ([Request(0, (1,), 0)], "tokens: 0; generate at least 1"),
        ([Request(0, (1,), 1, -5)], "arrival: -5; requests come in cycle 0 or later"),
        ([Request(0, (1,), 1), Request(1, (128,), 1)], "prompt 1: token 128; the model's vocabulary is 0 to 127"),
        (
            [Request(0, (1,), 9), Request(1, (1,) * 9, 9)],
            "a prompt of 9 tokens and 9 new ones; the model's context is 16: shorten the prompt to 8 tokens or "
            "generate 8$",
        ),
    ],
)
def test_requests_that_no_machine_serves(requests: list[Request], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        check_requests(requests, VOCABULARY, CONTEXT)
