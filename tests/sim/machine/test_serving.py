# SPDX-License-Identifier: Apache-2.0
"""Requests that come one after the other: tokens, times, reports, pictures, and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.errors import A3dError
from scheduler.models.calibration import quantise_checkpoint
from scheduler.models.quantised_model import QuantisedModel
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, SEQUENTIAL, policy_of
from scheduler.serving.batcher import PHASES
from scheduler.serving.request import Request
from scheduler.stream.step_program import StepProgram
from sim import cli
from sim.commands import _generation
from sim.machine import generator as module
from sim.machine.engines import IsaEngine
from sim.machine.generator import ROUTINGS, Generator, StepRecord
from sim.view import draw
from sim.view.draw import draw_steps
from sim.view.report import between_tokens, summarise
from sim.view.tokens import draw_tokens
from tests.support.small_model import CHECKPOINT, SHAPE, write_checkpoint
from tests.support.timed_executor import TOKEN_CYCLES, TimedExecutor

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def model() -> QuantisedModel:
    tokens = np.random.default_rng(1).integers(0, SHAPE.vocabulary, (4, 32))
    return quantise_checkpoint(CHECKPOINT, tokens, key_block=64)


def prompt(size: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(size).integers(0, SHAPE.vocabulary, size).tolist())


def make(model: QuantisedModel, requests: list[Request], **options: object) -> Generator:
    return Generator(model, TINY, requests, policy=SEQUENTIAL, **options)  # type: ignore[arg-type]


def serve(generator: Generator, *, verify: bool = False) -> list[StepRecord]:
    with TimedExecutor(TINY, verify=verify) as engine:
        engine.start(generator.memory)
        return list(generator.run(engine))


@cache
def alone(model: QuantisedModel, request: Request) -> list[int]:
    generator = make(model, [replace(request, number=0, arrival=0)])
    return [token for record in serve(generator) for token in record.chosen.values()]


REQUESTS = [
    Request(0, prompt(5), 7), Request(1, prompt(3), 6), Request(2, prompt(20), 3, 12_500),
    Request(3, prompt(4), 2, 13_000), Request(4, prompt(2), 1, 900_000),
]  # fmt: skip


@pytest.mark.parametrize("routing", ROUTINGS)
def test_mixed_steps_write_what_each_request_alone_gives(model: QuantisedModel, routing: str) -> None:
    generator = make(model, REQUESTS, batch=3, routing=routing, batching="mixed", step_tokens=8)
    records = serve(generator, verify=True)
    report = summarise(generator, records, "rtl")
    expected = [alone(model, request) for request in REQUESTS]
    assert [own["tokens"] for own in report["sequences"]] == expected
    mixed = [record for record in records if record.phase == "mixed"]
    assert len(mixed) >= 3 and all(record.tokens <= 8 for record in records)
    first = mixed[0]
    assert first.sequences == (2, 0, 1) and first.lengths[0] == 6, (
        "six tokens of the long prompt beside two that decode"
    )
    assert report["mixed"]["steps"] == len(mixed) and report["batching"] == "mixed" and report["step_tokens"] == 8
    assert records[-1].start == 900_000 and report["end_cycle"] == 902_000
    assert report["idle_cycles"] == 902_000 - sum(record.cycles or 0 for record in records)
    assert len(generator._caches) == 3, "one for each place"


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_common_prefix_runs_once(model: QuantisedModel, routing: str) -> None:
    """Tokens are those of each request alone, whatever becomes of the request whose keys the others use."""
    common = prompt(17)
    requests = [
        Request(number, common + prompt(4 + number), tokens, arrival)
        for number, (tokens, arrival) in enumerate([(1, 0), (6, 0), (4, 0), (3, 30_000)])
    ]
    expected = [alone(model, request) for request in requests]
    for policy, shared in ((SEQUENTIAL, 0), (policy_of("prefixes"), 3 * 16), (FUSED, 3 * 16)):
        generator = Generator(
            model, TINY, requests, batch=4, routing=routing, batching="mixed", step_tokens=24, policy=policy
        )
        report = summarise(generator, serve(generator, verify=True), "rtl")
        assert [own["tokens"] for own in report["sequences"]] == expected
        assert report["shared_tokens"] == shared
        assert report["total"]["tokens"] == sum(request.length for request in requests) - shared


def test_requests_follow_one_another_in_a_single_place(model: QuantisedModel) -> None:
    common = prompt(17)
    requests = [Request(number, common + prompt(4 + number), 3) for number in range(3)]
    generator = Generator(model, TINY, requests, batch=1, batching="mixed", policy=policy_of("prefixes"))
    report = summarise(generator, serve(generator, verify=True), "rtl")
    assert [own["tokens"] for own in report["sequences"]] == [alone(model, request) for request in requests]
    assert report["shared_tokens"] == 2 * 16


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_first_mixed_step_by_another_policy_too(model: QuantisedModel, routing: str) -> None:
    """What it writes does not change, its time counts nowhere, and the report says both."""
    requests = REQUESTS[:3]
    plain = make(model, requests, batch=3, routing=routing, batching="mixed", step_tokens=8)
    expected = [(r.chosen, r.start) for r in serve(plain)]
    generator = make(model, requests, batch=3, routing=routing, batching="mixed", step_tokens=8)
    with TimedExecutor(TINY, verify=True) as engine:
        engine.start(generator.memory)
        records = list(generator.run(engine, beside=FUSED))
    assert [(r.chosen, r.start) for r in records] == expected
    (step,) = [r for r in records if r.beside is not None]
    assert step is next(r for r in records if r.phase == "mixed")
    compared = summarise(generator, records, "rtl")["compared"]
    assert compared == {
        "step": step.number,
        "policy": "fused",
        "policy_cycles": TOKEN_CYCLES * step.tokens,
        "cycles": step.cycles,
    }


def test_times_count_from_the_arrival(model: QuantisedModel, tmp_path: Path) -> None:
    """Prompts of 2 tokens; the second request comes in the first decode step, and stops it or does not."""
    requests = [Request(0, prompt(2), 4), Request(1, prompt(6), 2, 2500)]
    found = {}
    for batching in ("prefill-first", "mixed"):
        generator = make(model, requests, batching=batching, step_tokens=4)
        found[batching] = summarise(generator, serve(generator), "rtl", clock_mhz=1.0)
    first, second = found["prefill-first"]["sequences"]
    assert first["token_cycles"] == [2000, 3000, 11_000, 12_000] and first["ttft_cycles"] == 2000
    assert second["token_cycles"] == [9000, 11_000] and second["ttft_cycles"] == 6500 and second["arrival"] == 2500
    first, second = found["mixed"]["sequences"]
    assert first["token_cycles"] == [2000, 3000, 7000, 11_000] and second["token_cycles"] == [11_000, 12_000]
    assert found["mixed"]["between_tokens"] == {"p50": 2500.0, "p95": 4000.0, "max": 4000.0}
    assert found["prefill-first"]["between_tokens"]["max"] == 8000.0
    assert found["mixed"]["ttft_cycles"] == (2000 + 8500) / 2
    for name, report in found.items():
        draw_tokens(report, tmp_path / f"{name}.png")
        draw_steps(report, tmp_path / "steps.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        json.dumps(report)


def test_times_from_token_to_token() -> None:
    assert between_tokens([[5], []]) is None
    assert between_tokens([[0, 10, 30], [7, 8]]) == {"p50": 10.0, "p95": 19.0, "max": 20.0}


def test_a_request_may_come_while_others_run(model: QuantisedModel) -> None:
    generator = make(model, [Request(0, prompt(3), 4)], batch=2, batching="mixed")
    records = []
    with TimedExecutor(TINY) as engine:
        engine.start(generator.memory)
        for record in generator.run(engine):
            records.append(record)
            if record.number == 1:
                late = generator.submit(prompt(5), 2, record.start + 1)
    report = summarise(generator, records, "rtl")
    assert [own["tokens"] for own in report["sequences"]] == [alone(model, r) for r in generator.requests]
    assert late.number == 1 and records[2].phase == "mixed"
    with pytest.raises(LoweringError, match="context: a prompt of 60 tokens and 6 new ones; the model's context is 64"):
        generator.submit(prompt(60), 6, 0)


def test_an_engine_without_time_serves_no_late_request(model: QuantisedModel) -> None:
    generator = make(model, [Request(0, prompt(3), 1), Request(1, prompt(3), 1, 70)])
    with (
        IsaEngine(TINY) as engine,
        pytest.raises(A3dError, match="arrival: 70 of request 1; the engine isa has no time"),
    ):
        engine.start(generator.memory)
        next(generator.run(engine))


def test_a_step_that_does_not_fit_is_made_smaller(model: QuantisedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = module.lower_step, list[int]()

    def small(*args: object, **options: object) -> StepProgram:
        chunks: list[Chunk] = args[2]  # type: ignore[assignment]
        sizes.append(sum(len(chunk.tokens) for chunk in chunks))
        if sizes[-1] > 3:
            raise LoweringError("too many")
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "lower_step", small)
    requests = REQUESTS[:4]
    generator = make(model, requests, batching="mixed")
    report = summarise(generator, serve(generator), "rtl")
    assert max(sizes) > 3 and max(step["tokens"] for step in report["steps"]) == 3
    monkeypatch.undo()
    assert [own["tokens"] for own in report["sequences"]] == [alone(model, request) for request in requests]


# The command line.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random"
    write_checkpoint(path, CHECKPOINT)
    return path


def write_requests(path: Path, *lines: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(folder: Path, out: Path, requests: Path, *more: str) -> list[str]:
    where = ["--model", str(folder), "--config", "tiny", "-o", str(out)]
    return ["run", *where, "--requests", str(requests), *more]


def test_requests_that_come_later(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_generation, "RtlEngine", TimedExecutor)
    monkeypatch.setattr(draw, "draw_cycles", lambda counters, config, path: path.touch())  # there are no such counters
    requests = write_requests(
        tmp_path / "r.jsonl", {"prompt": "To be", "tokens": 5}, {"prompt": [1, 2] * 5, "tokens": 2, "arrival": 5500}
    )
    assert cli.main(command(folder, tmp_path / "out", requests, "--step-tokens", "5")) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["batch"] == 2 and report["batching"] == "mixed" and report["step_tokens"] == 5
    assert [step["phase"] for step in report["steps"]] == ["prefill", "decode", "mixed", "mixed", "mixed", "decode"]
    first, second = report["sequences"]
    assert first["token_cycles"] == [5000, 6000, 11_000, 16_000, 19_000] and first["ttft_cycles"] == 5000
    assert second["arrival"] == 5500 and second["token_cycles"] == [19_000, 20_000] and second["ttft_cycles"] == 13_500
    assert "from token to token: half within 3,000 cycles, 95 % within 5,000, all within 5,000; 20,000 cyc" in printed
    for name in ("tokens.png", "steps.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_requests_on_the_rtl(folder: Path, tmp_path: Path) -> None:
    requests = write_requests(
        tmp_path / "r.jsonl", {"prompt": "To be", "tokens": 5}, {"prompt": [1, 2] * 5, "tokens": 2, "arrival": 6000}
    )
    assert cli.main(command(folder, tmp_path / "out", requests, "--step-tokens", "5")) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mismatched_bytes"] == 0 and {step["phase"] for step in report["steps"]} == set(PHASES)
    assert report["sequences"][1]["ttft_cycles"] == report["sequences"][1]["token_cycles"][0] - 6000 > 0
    for phase in PHASES:
        assert (tmp_path / "out" / f"timeline_{phase}.png").read_bytes().startswith(b"\x89PNG")


def test_both_ways_of_batching_write_the_same(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = write_requests(tmp_path / "r.jsonl", *({"prompt": "To be, or not"[:n], "tokens": 3} for n in (2, 13, 5)))
    texts = []
    for more in (["--batching", "prefill-first"], ["--step-tokens", "6"], ["--batch", "1"]):
        options = [*more, "--engine", "isa", "--policy", "sequential", "--json", "-"]
        assert cli.main(command(folder, tmp_path / "out", requests, *options)) == 0
        report = json.loads(capsys.readouterr().out)
        texts.append([own["tokens"] for own in report["sequences"]])
        assert report["between_tokens"] is None and report["end_cycle"] is None
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "x"], "--prompt: the file of --requests says which prompts and tokens; leave --prompt out"),
        (["--prompt-file", "x"], "leave --prompt-file out"),
        (["--tokens", "5"], "leave --tokens out"),
        (["--engine", "isa"], "arrival: 9 of request 1; the engine isa has no time"),
        (["--step-tokens", "0"], "--step-tokens: 0: use a whole number from 1"),
        (["--batch", "2", "--step-tokens", "1"], "step_tokens: 1; batching mixed gives each of 2 sequences a token in"),
        (["--step-tokens", "1"], "step_tokens: 1; batching mixed gives each of 2 sequences a token in every step"),
        (["--batching", "greedy"], "--batching: invalid choice: 'greedy'"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    requests = write_requests(
        tmp_path / "r.jsonl", {"prompt": "a", "tokens": 1}, {"prompt": "b", "tokens": 2, "arrival": 9}
    )
    assert cli.main(command(folder, tmp_path / "out", requests, *options)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert not (tmp_path / "out").exists()


def test_requests_that_cannot_be_served(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.toml"
    small.write_text('preset = "tiny"\naddress_bits = 18\n')
    many = write_requests(tmp_path / "many.jsonl", *([{"prompt": "ab", "tokens": 40}] * 500))
    long = write_requests(tmp_path / "long.jsonl", {"prompt": "ab", "tokens": 64})
    for requests, message in (
        (many, "batch: 500 sequences with room for 64 tokens each do not fit the memory; at most "),
        (
            long,
            "long.jsonl, line 1: tokens: 64; use an integer from 1 to 63: the prompt takes 2 of the model's context",
        ),
        (tmp_path / "absent.jsonl", "No such file or directory; name a file with a JSON object for each request"),
    ):
        assert cli.main(command(folder, tmp_path / "out", requests, "--config", str(small))) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ") and message in line, line
    assert not (tmp_path / "out").exists()
