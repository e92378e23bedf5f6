# SPDX-License-Identifier: Apache-2.0
"""Text generation: the engines, the batch, what is refused, and the command line."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.errors import A3dError, CheckError
from scheduler.models.calibration import quantise_checkpoint
from scheduler.models.constants import constants_of
from scheduler.models.quantised_model import QuantisedModel
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from scheduler.stream.lower import lower_step
from scheduler.stream.step_program import StepProgram
from sim import cli
from sim.golden.integer_model import IntegerModel
from sim.machine.byte_model import show, to_tokens
from sim.machine.engines import IsaEngine, Outcome, RtlEngine, find_writer
from sim.machine.generator import ROUTINGS, Generator, StepRecord
from sim.machine.sampling import Sampler
from sim.machine.system import Job, SimulatedMachine
from sim.measure.crosscheck import MismatchError
from sim.view.report import stalls_of, summarise
from tests.support.small_model import CHECKPOINT, SHAPE, write_checkpoint

TINY = PRESETS["tiny"]
MEMORY_BITS = 18
"""What the simulated memories of so small a model have."""


@pytest.fixture(scope="module")
def model() -> QuantisedModel:
    tokens = np.random.default_rng(1).integers(0, SHAPE.vocabulary, (4, 32))
    return quantise_checkpoint(CHECKPOINT, tokens, key_block=64)


@pytest.fixture(scope="module")
def machine() -> SimulatedMachine:
    return SimulatedMachine(TINY, memory_bits=MEMORY_BITS)


def prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, SHAPE.vocabulary, n).tolist() for n in lengths]


def run_isa(generator: Generator, *, verify: bool = False) -> list[StepRecord]:
    with IsaEngine(TINY, verify=verify) as engine:
        engine.start(generator.memory)
        return list(generator.run(engine))


def tokens_of(records: list[StepRecord], count: int) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in range(count)]
    for record in records:
        for number, token in record.chosen.items():
            texts[number].append(token)
    return texts


def expected_tokens(model: QuantisedModel, generator: Generator, prompt: list[int], count: int) -> list[int]:
    """Return what the integer model writes when it runs the whole text anew for every token."""
    integer = IntegerModel(model, key_block=generator.key_block)
    text = list(prompt)
    for _ in range(count):
        text.append(int(integer.prefill(text).last_logits[0].argmax()))
    return text[len(prompt) :]


def test_a_batch_writes_what_each_prompt_alone_gives(model: QuantisedModel) -> None:
    own = prompts(9, 3, 17, 5)
    generator = Generator(model, TINY, own, 6, step_tokens=12)
    records = run_isa(generator, verify=True)
    assert tokens_of(records, 4) == [expected_tokens(model, generator, prompt, 6) for prompt in own]
    assert sum(r.tokens for r in records if r.phase == "prefill") == 9 + 3 + 17 + 5
    assert any(len(r.sequences) > 1 for r in records if r.phase == "prefill"), "several prompts share a step"
    assert max(r.tokens for r in records) <= 12
    decode = [r for r in records if r.phase == "decode"]
    assert len(decode) == 5 and all(r.sequences == (0, 1, 2, 3) for r in decode)
    assert decode[-1].lengths == (14, 8, 22, 10)


def test_waiting_prompts_get_free_slots(model: QuantisedModel) -> None:
    own = prompts(4, 6, 2, 8, 3)
    generator = Generator(model, TINY, own, 3, batch=2)
    records = run_isa(generator)
    assert tokens_of(records, 5) == [expected_tokens(model, generator, prompt, 3) for prompt in own]
    assert generator.memory.sequences == 2 and max(len(r.sequences) for r in records) == 2


def test_a_sequence_ends_at_a_token_that_stops_it(model: QuantisedModel) -> None:
    own = prompts(4, 6, 2)
    whole = tokens_of(run_isa(Generator(model, TINY, own, 4, batch=2)), 3)
    stop = {whole[0][2], whole[2][0]}
    expected = [text[: next((n + 1 for n, t in enumerate(text) if t in stop), 4)] for text in whole]
    assert len(expected[2]) == 1 and len(expected[0]) < 4 and 4 in map(len, expected)
    generator = Generator(model, TINY, own, 4, batch=2, stop=stop)
    records = run_isa(generator)
    assert tokens_of(records, 3) == expected
    report = summarise(generator, records, "isa")
    assert [s["tokens"] for s in report["sequences"]] == expected
    assert [s["stopped"] for s in report["sequences"]] == [text[-1] in stop for text in expected]
    assert report["tokens"] == sum(map(len, expected)) < generator.total == 12


def test_sampling_depends_on_nothing_but_seed_sequence_and_position(model: QuantisedModel) -> None:
    own = prompts(5, 5)
    warm = Sampler(temperature=2.0, seed=3)
    together = tokens_of(run_isa(Generator(model, TINY, own, 8, sampler=warm)), 2)
    in_turn = tokens_of(run_isa(Generator(model, TINY, own, 8, batch=1, sampler=warm)), 2)
    assert together == in_turn
    other = tokens_of(run_isa(Generator(model, TINY, own, 8, sampler=Sampler(temperature=2.0, seed=4))), 2)
    greedy = tokens_of(run_isa(Generator(model, TINY, own, 8)), 2)
    assert together != other and together != greedy
    logits = np.array([0, 700, 700, 100], dtype=np.int16)
    assert Sampler().pick(logits, 0.01, 0, 0) == 1
    drawn = [Sampler(temperature=1.0).pick(logits, 0.01, 0, p) for p in range(400)]
    assert 150 < drawn.count(1) < 250 and 150 < drawn.count(2) < 250, "the larger two have 99.6 % of the probability"


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_rtl_writes_the_executors_tokens(model: QuantisedModel, machine: SimulatedMachine, routing: str) -> None:
    own = prompts(9, 3, 17)
    expected = tokens_of(run_isa(Generator(model, TINY, own, 3)), 3)
    generator = Generator(model, TINY, own, 3, routing=routing)
    with RtlEngine(TINY, machine=machine) as engine:
        engine.start(generator.memory)
        records = list(generator.run(engine))
    assert tokens_of(records, 3) == expected
    report = summarise(generator, records, "rtl", clock_mhz=500.0)
    cycles = [r.cycles for r in records if r.cycles is not None]
    assert report["mismatched_bytes"] == 0 and report["compared_bytes"] == len(records) * 2 << MEMORY_BITS
    assert report["tokens"] == 9 and report["total"]["cycles"] == sum(cycles)
    prefill = [r.number for r in records if r.phase == "prefill"]
    assert report["sequences"][2]["ttft_cycles"] == sum(cycles[: len(prefill)])
    assert report["sequences"][2]["tpot_cycles"] == sum(cycles[-2:]) / 2
    assert report["decode"]["utilisation"] == pytest.approx(
        sum(r.macs for r in records[-2:]) / (TINY.pes * sum(cycles[-2:]))
    )
    assert report["decode_tokens_per_s"] == pytest.approx(6 * 500e6 / sum(cycles[-2:]))
    for unit, parts in report["total"]["stalls"].items():
        share = TINY.tiers if unit == "tiers" else 1
        assert sum(parts.values()) == share * sum(cycles), unit
    for record in records:
        check_links(record)
    assert report["total"]["links"]["offchip"] == report["total"]["bytes_0"] + report["total"]["bytes_1"]
    json.dumps(report)


def check_links(record: StepRecord) -> None:
    """Compare a step's bytes with the machine's counters, where these say them."""
    counters, links = record.counters, record.links
    beats = [counters["fetch_beats"], *(counters[f"{way}_beats_{g}"] for way in ("read", "write") for g in range(2))]
    assert links.offchip == sum(beats) * TINY.group_bytes
    taken = {
        link: sum(counters[f"tier{t}_{link}"] for t in range(TINY.tiers)) for link in ("link_m", "link_n", "link_k")
    }
    assert links.vertical_by["stationary"] == taken["link_m"] * TINY.tile_bytes
    assert links.vertical_by["activation"] == taken["link_n"] * TINY.rows
    assert links.vertical_by["psum"] == taken["link_k"] * 4 * TINY.columns
    assert links.lateral_by["rows"] == counters["rows"] * 2 * TINY.columns
    waves = sum(counters[f"tier{t}_wave"] for t in range(TINY.tiers))
    assert links.lateral_by["array"] == waves * (TINY.rows + 4 * TINY.columns)
    fills = counters["fill_words"] * TINY.fill_bytes
    assert fills < links.vertical_by["fill"] and fills <= links.lateral_by["launch"]


class FaultyEngine(RtlEngine):
    """Runs a machine whose memory has one wrong byte, which the executor does not see."""

    fault: tuple[int, int, bytes]

    def _job(self, program: StepProgram, trace: bool) -> Job:
        job = super()._job(program, trace)
        return Job(**{**vars(job), "patches": [*job.patches, self.fault]})


def test_a_wrong_byte_stops_the_run_and_names_its_instruction(model: QuantisedModel, machine: SimulatedMachine) -> None:
    generator = Generator(model, TINY, prompts(5), 3)
    embedding = generator.memory.embedding(generator.prompts[0][4])
    beat = TINY.group_bytes
    start = embedding.address // beat * beat
    wrong = bytearray(generator.memory.images[embedding.group][start : start + beat].tobytes())
    wrong[1] ^= 0x7F
    with FaultyEngine(TINY, machine=machine) as engine:
        engine.fault = (embedding.group, start, bytes(wrong))
        engine.start(generator.memory)
        with pytest.raises(MismatchError) as caught:
            list(generator.run(engine))
    message = str(caught.value)
    assert message.startswith("step 0: group ") and "expected 0x" in message and ", got 0x" in message
    # What is written first after the embedding: the keys of layer 0. The embedding itself differs too, unwritten.
    assert "L0 append keys" in message
    assert caught.value.exit_status == 1


def test_the_writer_of_a_byte_is_found(model: QuantisedModel) -> None:
    memory = Generator(model, TINY, prompts(5), 1).memory
    integer = IntegerModel(model, key_block=64)
    chunk = Chunk(0, 0, (1, 2, 3))
    routing = integer.step([(integer.new_cache(), chunk.tokens)]).routing
    program = lower_step(constants_of(model), memory, [chunk], routing)
    logits = program.logits
    number = find_writer(program, TINY, logits.group, logits.address + 7)
    assert number is not None and str(program.labels[number]) == "logits"
    assert find_writer(program, TINY, logits.group, logits.address + logits.size) is None


@pytest.mark.parametrize(
    ("own", "tokens", "options", "message"),
    [
        ([], 1, {}, "prompts: none"),
        ([[]], 1, {}, "prompt 0: empty"),
        ([[1], [2, 128]], 1, {}, "prompt 1: token 128; the model's vocabulary is 0 to 127"),
        ([[1]], 0, {}, "tokens: 0; generate at least 1"),
        ([[1]], 1, {"batch": 0}, "batch: 0; run at least 1"),
        ([[1]], 1, {"routing": "oracle"}, "routing: 'oracle'; use host or slots"),
        (
            [[1] * 60],
            6,
            {},
            "a prompt of 60 tokens and 6 new ones; the model's context is 64: shorten the prompt to",
        ),
        ([[1] * 70], 6, {}, "context is 64: shorten the prompt to 59 tokens$"),
        ([[1] * 30], 70, {}, "context is 64: generate 35$"),
    ],
)
def test_what_is_refused(
    model: QuantisedModel, own: list[list[int]], tokens: int, options: dict[str, object], message: str
) -> None:
    with pytest.raises(LoweringError, match=message):
        Generator(model, TINY, own, tokens, **options)  # type: ignore[arg-type]


def test_a_batch_that_is_larger_than_the_buffers_runs_in_parts(model: QuantisedModel) -> None:
    own = prompts(*[2] * 40)
    generator = Generator(model, TINY, own, 2)
    parts: list[int] = []

    class Counting(IsaEngine):
        def run(self, program: StepProgram, *, trace: bool = False) -> Outcome:
            parts.append(len(program.parts))
            return super().run(program, trace=trace)

    with Counting(TINY, verify=True) as engine:
        engine.start(generator.memory)
        records = list(generator.run(engine))
    assert max(parts) > 1
    some = (0, 17, 39)
    assert [tokens_of(records, 40)[n] for n in some] == [expected_tokens(model, generator, own[n], 2) for n in some]


def test_the_batch_that_is_named_fits(model: QuantisedModel) -> None:
    config = TINY.replace(address_bits=18)
    with pytest.raises(LoweringError, match=r"^batch: 500 sequences with room for 64 tokens each do not fit") as caught:
        Generator(model, config, [[1]] * 500, 40)
    fitting = int(str(caught.value).split("--batch ")[1].split()[0])
    assert fitting >= 2 and "raise address_bits" in str(caught.value)
    Generator(model, config, [[1]] * fitting, 40)
    with pytest.raises(LoweringError, match="do not fit the memory"):
        Generator(model, config, [[1]] * (fitting + 1), 40)


def test_text_and_tokens() -> None:
    assert to_tokens(b"ab", 128) == (97, 98)
    with pytest.raises(A3dError, match="--prompt 1: byte 0xc3 at position 1; the model's vocabulary is 0 to 127"):
        to_tokens("aé".encode(), 128, "--prompt 1")
    with pytest.raises(A3dError, match="prompt: empty"):
        to_tokens(b"", 128)
    assert show("é\n".encode() + b"\xff\x1b[0m\x07") == "é\n\\xff\\x1b[0m\\x07"


# The command line.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random"
    write_checkpoint(path, CHECKPOINT)
    return path


def command(folder: Path, out: Path, *more: str, engine: str = "isa") -> list[str]:
    return ["run", "--model", str(folder), "--config", "tiny", "--engine", engine, "-o", str(out), *more]


def test_the_command_streams_one_text(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(folder, tmp_path, "--prompt", "To be", "--tokens", "5")) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["tokens"] == 5 and report["batch"] == 1 and report["ttft_cycles"] is None
    assert printed.startswith("To be" + report["sequences"][0]["text"] + "\n")
    assert "prefill" in printed and "decode" in printed
    assert not list(tmp_path.glob("*.png")), "without time there is nothing to draw"


def test_the_command_stops_at_the_models_eos(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--prompt", "To be", "--tokens", "5", "--json", "-")
    assert cli.main(command(folder, tmp_path, *options)) == 0
    whole = json.loads(capsys.readouterr().out)["sequences"][0]["tokens"]
    ending = whole[1]
    copy = tmp_path / "ending"
    shutil.copytree(folder, copy)
    fields = json.loads((copy / "config.json").read_text()) | {"eos_token_id": [ending, 999]}
    (copy / "config.json").write_text(json.dumps(fields))
    assert cli.main(command(copy, tmp_path, *options)) == 0
    captured = capsys.readouterr()
    count = whole.index(ending) + 1
    assert json.loads(captured.out)["sequences"][0]["tokens"] == whole[:count]
    assert f"sequence 0 ended after {count} of 5 tokens: token {ending} is an eos_token_id of the model" in captured.err
    assert cli.main(command(copy, tmp_path, *options, "--ignore-eos")) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["sequences"][0]["tokens"] == whole and "eos" not in captured.err


def test_the_command_takes_a_batch(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("or not\n")
    options = ("--prompt", "To be", "--prompt-file", str(file), "--batch", "3", "--tokens", "2", "--json", "-")
    assert cli.main(command(folder, tmp_path / "out", *options)) == 0
    report = json.loads(capsys.readouterr().out)
    assert [s["prompt"] for s in report["sequences"]] == ["To be", "or not\n", "To be"]
    assert report["sequences"][0]["tokens"] == report["sequences"][2]["tokens"]
    assert cli.main(command(folder, tmp_path / "out", "--batch", "3", "--tokens", "2", "--json", "-")) == 0
    report = json.loads(capsys.readouterr().out)
    assert len({s["prompt_tokens"] for s in report["sequences"]}) == 3, "excerpts of different lengths"
    few = str(SHAPE.context - 5)
    assert cli.main(command(folder, tmp_path / "out", "--tokens", few, "--json", "-")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sequences"][0]["prompt_tokens"] == 6, "what the context leaves"


def test_the_command_on_the_rtl(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--prompt", "To be", "--tokens", "3", "--clock-mhz", "500", "--trace", str(tmp_path / "all.json"))
    assert cli.main(command(folder, tmp_path, *options, engine="rtl")) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mismatched_bytes"] == 0 and report["ttft_cycles"] > 1000 < report["tpot_cycles"]
    assert "mismatched bytes: 0 of " in printed and "time to first token: " in printed and "at 500 MHz" in printed
    assert "stall_tag" in printed
    timeline = json.loads((tmp_path / "all.json").read_text())["traceEvents"]
    steps = [event["name"] for event in timeline if event.get("cat") == "step"]
    assert steps == ["prefill 0", "decode 1", "decode 2"]
    assert not (tmp_path / "run.trace.json").exists()


def demo(folder: Path, out: Path, *more: str) -> int:
    options = ["--prompt", "To be", "--tokens", "2", "--layer-tokens", "9", *more]
    return cli.main(["demo", "--model", str(folder), "--config", "tiny", "-o", str(out), *options])


def test_the_demo(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(folder, tmp_path, "--no-edge") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mismatched_bytes"] == 0 and report["tokens"] == 2
    assert report["ttft_cycles"] > 0 < report["tpot_cycles"]
    assert [entry["layer"] for entry in report["layers"]] == [0, 1]
    for entry in report["layers"]:
        assert entry["tokens"] == 9 and 1 <= entry["experts"] <= 4 and entry["edge_cycles"] is None
        assert entry["bound_cycles"] < entry["cycles"] and 0 < entry["utilisation"] < 1
    assert capsys.readouterr().out.startswith("To be")
    for name in ("steps.png", "cycles.png", "timeline_prefill.png", "timeline_decode.png", "utilisation.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_demo_with_its_control(folder: Path, tmp_path: Path) -> None:
    assert demo(folder, tmp_path) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mismatched_bytes"] == 0
    assert all(entry["edge_cycles"] > entry["cycles"] for entry in report["layers"])


@pytest.mark.slow
def test_the_exactness_bench(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "exactness.json"
    options = ["--model", str(folder), "--config", "tiny", "--batch", "3", "--prefill", "24", "--steps", "2"]
    assert cli.main(["bench", "exactness", *options, "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["mismatched_bytes"] == 0 and result["decode_steps"] == 2 and result["decode_tokens"] == 6
    assert result["prefill_tokens"] >= 24 and len(set(result["lengths"])) == 3
    assert sum(result["lengths"]) == result["prefill_tokens"] + 6
    steps = result["prefill_steps"] + 2
    assert result["compared_bytes"] == steps * 2 << MEMORY_BITS
    assert "mismatched_bytes" in capsys.readouterr().out
    assert cli.main(["bench", "exactness", *options[:-1], "0"]) == 2
    assert "--steps: 0: use a whole number, 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "--prompt 0: empty"),
        (["--prompt", "é"], "--prompt 0: byte 0xc3 at position 0; the model's vocabulary is 0 to 127"),
        (["--prompt-file", "absent.txt"], "--prompt-file absent.txt: No such file"),
        (["--tokens", "0"], "--tokens: 0: use a whole number, 1 or more"),
        (["--batch", "0"], "--batch: 0: use a whole number from 1 to 65,536"),
        (["--temperature", "-1"], "--temperature: -1: use a number from 0"),
        (["--temperature", "nan"], "--temperature: nan: use a number from 0"),
        (["--clock-mhz", "0"], "--clock-mhz: 0: use a number above 0"),
        (["--clock-mhz", "inf"], "--clock-mhz: inf: use a number above 0"),
        (["--engine", "isa", "--clock-mhz", "100"], "--clock-mhz: the engine isa has no time"),
        (["--engine", "isa", "--trace", "t.json"], "--trace: the engine isa has no time"),
        (["--engine", "isa", "--waves"], "--waves: the engine isa has no time"),
        (["--prompt", "To be", "--tokens", "80"], "the model's context is 64: generate 60"),
        (["--prompt", "To be", "--batch", "65536"], "batch: 65536 sequences with room for 64 tokens each do not fit"),
        (["--calibration", "absent.txt"], "calibration text absent.txt: No such file"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli.main(command(folder, tmp_path / "out", *options, engine="rtl")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value, message in (
        ("architectures", ["LlamaForCausalLM"], "architectures is ['LlamaForCausalLM'], expected"),
        ("model_type", "qwen3_moe", "model_type is 'qwen3_moe'"),
        ("vocab_size", 32000, "use a byte-level model"),
        ("head_dim", 72, "model head_dim: 72"),
    ):
        other = tmp_path / name
        other.mkdir()
        fields = json.loads((folder / "config.json").read_text()) | {name: value}
        (other / "config.json").write_text(json.dumps(fields))
        assert cli.main(command(other, tmp_path / "out", "--prompt", "x")) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_engines_stop_with_what_the_machine_reports(model: QuantisedModel, machine: SimulatedMachine) -> None:
    generator = Generator(model, TINY, prompts(5), 1)

    class ShortMemory(RtlEngine):
        def _job(self, program: StepProgram, trace: bool) -> Job:
            job = super()._job(program, trace)
            assert job.limits is not None
            return Job(**{**vars(job), "limits": type(job.limits)(job.limits.memory_bytes, ((0, 32), (0, 32)))})

    with ShortMemory(TINY, machine=machine) as engine:
        engine.start(generator.memory)
        with pytest.raises(CheckError, match=r"step 0: the machine stopped with \w+ at instruction \d+ \(L0 append "):
            list(generator.run(engine))


def test_stalls_are_sums_of_counters() -> None:
    counters = {f"tier{t}_{name}": t + 1 for t in range(2) for name in ("wave", "stall_tag", "idle")}
    units = stalls_of(TINY, Counter(counters))
    assert units["tiers"]["wave"] == 3 and units["tiers"]["stall_credit"] == 0
