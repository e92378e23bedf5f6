# SPDX-License-Identifier: Apache-2.0
"""What ``a3d run`` and ``a3d demo`` share: options, the generation with its stream of tokens, tables, files."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from hdl.errors import A3dError, one_line
from hdl.scratch import keep, scratch_folder
from scheduler.cost.energy.count import DEFAULT_MHZ
from scheduler.models.checkpoint import read_config
from scheduler.models.description import Model
from scheduler.ops.precision_file import PrecisionFile, read_precision_file
from scheduler.plan.policy import Policy
from scheduler.serving.batcher import PHASES
from scheduler.serving.batching import BATCHINGS, STEP_TOKENS, check_batching, default_step_tokens
from scheduler.serving.request import Request, read_requests
from scheduler.system import SystemConfig
from sim.board.engine import BoardEngine
from sim.commands._board import check_board_options
from sim.commands._common import add_policy_option, check_files, count, fraction, output_file, print_table, read_limited
from sim.commands._stream import TokenStream
from sim.machine.byte_model import ByteModel, read_byte_model, to_tokens
from sim.machine.engines import ENGINES, IsaEngine, RtlEngine
from sim.machine.generator import ROUTINGS, Generator, no_time
from sim.machine.sampling import Sampler
from sim.machine.system import SimulatedMachine
from sim.simulator.results import SimulationError
from sim.simulator.tools import require_simulator, waves_line
from sim.view.draw import PICTURES, write_pictures
from sim.view.report import Tally, loss_rows
from sim.view.timeline import TimelineFile

__all__ = [
    "add_generation_options",
    "check_options",
    "generate",
    "make_generator",
    "print_report",
    "read_model",
    "requests_of",
    "say",
    "write_files",
]  # fmt: skip

COMPILING = "{}: compiling the simulator (minutes, once for a configuration)"

MOST_BATCH = 1 << 16
MOST_PROMPT = 1 << 24
"""Bytes of a prompt's file."""

SHORTEST_EXCERPT = 16
LONGEST_EXCERPT = 48
"""Tokens of the held-out excerpts that are used where no prompt is given."""


def say(line: str) -> None:
    """Tell what is going on, on standard error."""
    print(line, file=sys.stderr, flush=True)


def announce_compiling(config: MachineConfig) -> Callable[[], None]:
    """Return what tells that a simulator of a machine is compiled."""
    return lambda: say(COMPILING.format(config.name))


ENGINE_WORDS = {
    "rtl": "the simulated machine, every byte compared with the executor (default)",
    "isa": "the executor alone",
    "board": "the machine on the FPGA board at --port, every byte compared",
}


def add_generation_options(
    parser: argparse.ArgumentParser, *, tokens: int, batch: int | None, engines: Sequence[str] = ENGINES
) -> None:
    """Add the options of a generation, with default numbers of tokens and sequences."""
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="text to continue; may be given several times"
    )
    parser.add_argument(
        "--prompt-file", action="append", default=[], type=Path, metavar="FILE",
        help="a file whose contents are a prompt; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--requests", type=Path, metavar="FILE",
        help='a request a line instead, such as {"prompt": "To be", "tokens": 32, "arrival": 250000}: new tokens, and '
        "the cycle in which it comes (default 0)",
    )  # fmt: skip
    parser.add_argument("--tokens", type=count(1), metavar="N", help=f"new tokens each; default {tokens}")
    parser.set_defaults(default_tokens=tokens)
    parser.add_argument(
        "--batch", type=count(1, MOST_BATCH), default=batch, metavar="B",
        help="sequences that run at the same time: fewer prompts are repeated, more wait for their turn; without "
        "prompts, B excerpts of different lengths of the model's held-out text; "
        + (f"default {batch}" if batch else "default: as many as there are prompts"),
    )  # fmt: skip
    parser.add_argument(
        "--batching", choices=list(BATCHINGS), default="mixed",
        help="mixed (default): every step has a token of each sequence that decodes, prompts get the rest; "
        "prefill-first: decoding stops while there are prompts",
    )  # fmt: skip
    parser.add_argument(
        "--step-tokens", type=count(1, MOST_BATCH), metavar="N",
        help=f"most new tokens of a step: longer prompts come in pieces; default {STEP_TOKENS}, or the batch if larger",
    )  # fmt: skip
    parser.add_argument(
        "--engine", choices=engines, default="rtl",
        help="; ".join(f"{name}: {ENGINE_WORDS[name]}" for name in engines),
    )  # fmt: skip
    parser.add_argument(
        "--routing",
        choices=ROUTINGS,
        default="slots",
        help="who finds the experts: host, or the machine; default slots",
    )
    add_policy_option(parser)
    parser.add_argument(
        "--ignore-eos", action="store_true",
        help="go on after the token that ends a text (eos_token_id of the model's config.json)",
    )  # fmt: skip
    parser.add_argument("--temperature", type=fraction(0), default=0.0, help="0 (default): the most probable token")
    parser.add_argument("--seed", type=count(0), default=0, metavar="N", help="of the choice of tokens; default 0")
    parser.add_argument(
        "--clock-mhz", type=fraction(0, exclusive=True), metavar="F", help="also give times and rates for this clock"
    )
    parser.add_argument(
        "--trace", type=output_file, metavar="FILE",
        help="timeline of all steps, for Perfetto (default: of the first step of each phase, OUT/run.trace.json)",
    )  # fmt: skip
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="text for the ranges; default: heldout.txt")
    parser.add_argument(
        "--precision", type=Path, metavar="FILE",
        help="thresholds that `a3d bench quality --frontier --save-precision` wrote: steps that decode read less of "
        "experts that matter little; default: all experts with both planes",
    )  # fmt: skip


def read_model(args: argparse.Namespace, config: MachineConfig) -> tuple[ByteModel, PrecisionFile | None]:
    """Return the model that the options name, and the thresholds of its experts.

    Raises
    ------
    A3dError
        Either cannot be read.
    """
    found = None
    if args.precision is not None:
        found = read_precision_file(args.precision, len(read_config(args.model).layers))
    model = read_byte_model(
        args.model, config, calibration=args.calibration, reach=None if found is None else found.reach
    )  # fmt: skip
    return model, found


def requests_of(args: argparse.Namespace, model: Model) -> list[Request]:
    """Return what is asked for with prompts, or with a file of requests; nothing where excerpts are wanted.

    Raises
    ------
    A3dError
        A file that cannot be read, an empty prompt, a byte without a token, options that contradict each other.
    """
    if args.requests is not None:
        for name in ("prompt", "prompt_file", "tokens"):
            if getattr(args, name) not in (None, []):
                option = f"--{name.replace('_', '-')}"
                raise A3dError(f"{option}: the file of --requests says which prompts and tokens; leave {option} out")
        requests = read_requests(args.requests, model.vocabulary, model.context)
        late = next((request for request in requests if request.arrival), None)
        if late is not None and args.engine == "isa":
            raise A3dError(f"--requests {one_line(args.requests)}: {no_time(late, args.engine)}")
        return requests
    prompts = [to_tokens(os.fsencode(text), model.vocabulary, f"--prompt {n}") for n, text in enumerate(args.prompt)]
    for path in args.prompt_file:
        data = read_limited(path, f"--prompt-file {path}", MOST_PROMPT)
        prompts.append(to_tokens(data, model.vocabulary, f"--prompt-file {path}"))
    if args.batch and prompts:  # fewer are repeated
        prompts = [prompts[n % len(prompts)] for n in range(max(args.batch, len(prompts)))]
    return [Request(number, prompt, new_tokens(args)) for number, prompt in enumerate(prompts)]


def new_tokens(args: argparse.Namespace) -> int:
    """Return the new tokens of each prompt that is not of a file of requests."""
    return int(args.default_tokens if args.tokens is None else args.tokens)


NOT_WITH = {
    "isa": {"trace": "has no time", "waves": "has no time", "clock_mhz": "has no time", "energy": "has no time"},
    "board": {
        "trace": "records nothing",
        "waves": "records nothing",
        "clock_mhz": "has its own clock",
        "energy": "is no chip",
    },
}  # fmt: skip
"""Options that an engine cannot do, and why."""


def check_options(args: argparse.Namespace, files: Sequence[str] = ()) -> Sampler:
    """Check that the options go together, before anything is read, and return the sampler.

    Parameters
    ----------
    args : argparse.Namespace
        The options of `add_generation_options`.
    files : sequence of str
        What the command writes into OUT beside the pictures of a generation and its report.

    Raises
    ------
    A3dError
        An option that does not apply to the engine; a file that cannot be written, or is written twice.
    """
    if args.batch is not None:
        step_tokens = default_step_tokens(args.batch) if args.step_tokens is None else args.step_tokens
        check_batching(args.batching, step_tokens, args.batch)
    for name, why in NOT_WITH.get(args.engine, {}).items():
        if getattr(args, name, None):
            option = f"--{name.replace('_', '-')}"
            raise A3dError(f"{option}: the engine {args.engine} {why}; leave it out, or use --engine rtl")
    check_board_options(args)
    files = [args.out / name for name in files] + ([] if args.json else [args.out / "report.json"])
    if args.engine != "isa":
        files += [args.out / name for name in PICTURES]
    if args.engine == "rtl":
        require_simulator("verilator")
        files += [] if args.trace else [args.out / "run.trace.json"]
    check_files(args, files)
    return Sampler(args.temperature, args.seed)


def make_generator(
    args: argparse.Namespace, system: SystemConfig, model: ByteModel, requests: list[Request], sampler: Sampler,
    precision: PrecisionFile | None = None,
) -> Generator:  # fmt: skip
    """Return the generator of the requests; without any, of excerpts as the options say."""
    batch = args.batch or max(1, len(requests))
    tokens = new_tokens(args)
    prompts: list[Request] | list[tuple[int, ...]] = requests
    if not requests:
        room = model.model.description.context + 1 - tokens
        longest = min(LONGEST_EXCERPT, model.text.shape[1], max(1, room))
        prompts = model.excerpts(batch, min(SHORTEST_EXCERPT, longest), longest)
    stop = () if args.ignore_eos else model.model.description.end_tokens
    return Generator(
        model.model, system.machine, prompts, tokens, batch=min(batch, len(prompts)), routing=args.routing,
        sampler=sampler, step_tokens=args.step_tokens, batching=args.batching, stop=stop, policy=system.policy,
        timing=system.memory, precision=None if precision is None else precision.layers,
    )  # fmt: skip


def generate(
    generator: Generator,
    args: argparse.Namespace,
    system: SystemConfig,
    *,
    beside: Policy | None = None,
    machine: SimulatedMachine | None = None,
    waves_to: Path | None = None,
    board: BoardEngine | None = None,
) -> tuple[dict[str, Any], Tally]:
    """Run a generation, show its tokens as they come, and return the report and what it is made of.

    The timeline is written on the way.

    Parameters
    ----------
    generator : Generator
        What to run.
    args : argparse.Namespace
        The options of `add_generation_options`.
    system : SystemConfig
        What the generator was made for.
    machine : SimulatedMachine, optional
        For the engine rtl; default: one is compiled.
    waves_to : path, optional
        Folder for waves; none are recorded without.
    beside : Policy, optional
        Another policy that the first mixed step runs by too.
    board : BoardEngine, optional
        What `open_board` returned, for the engine board.
    """
    tally = Tally(generator, args.engine)
    config = generator.config
    trace = args.trace or args.out / "run.trace.json"
    with contextlib.ExitStack() as stack:
        engine: IsaEngine | RtlEngine
        timeline = scratch = None
        if args.engine == "isa":
            engine = stack.enter_context(IsaEngine(config))
        elif board is not None:
            engine = stack.enter_context(board)
            system = system.at(board.clock_mhz)
        else:
            timeline = stack.enter_context(TimelineFile(trace, config))
            # Waves move to their place when all is done: an interrupted run leaves no half file there.
            scratch = stack.enter_context(scratch_folder("a3d-run-"))
            engine = stack.enter_context(
                RtlEngine(
                    config,
                    machine=machine,
                    waves=waves_to is not None,
                    work_dir=scratch,
                    announce=announce_compiling(config),
                    timing=system.memory,
                )
            )
        stream = TokenStream(generator)
        engine.start(generator.memory)
        # The log that such an error names lies there.
        stack.enter_context(_kept_on(SimulationError, scratch))
        with stream:
            steps = generator.run(
                engine, trace="all" if args.trace else "first", beside=beside,
                activity_mhz=(system.clock_mhz or DEFAULT_MHZ) if getattr(args, "energy", None) else None,
            )  # fmt: skip
            for record in steps:
                for traced in (record.beside.traced if record.beside else None, record.traced):
                    if timeline is not None and traced is not None:
                        timeline.add(traced)
                tally.add(record)
                stream.add(record)
        if waves_to is not None and scratch is not None:
            engine.__exit__(None, None, None)  # the simulator must close its file
            waves_to.mkdir(parents=True, exist_ok=True)
            for wave in (*scratch.glob("*.fst"), *scratch.glob("*.vcd")):
                shutil.move(wave, waves_to / wave.name)
                say(waves_line(waves_to / wave.name))
    if timeline is not None:
        print(f"timeline: {trace} (open it in https://ui.perfetto.dev)")
    report = tally.report(clock_mhz=system.clock_mhz if args.engine != "isa" else None)
    for number, sequence in enumerate(report["sequences"]):
        if sequence["stopped"]:
            own, most = sequence["tokens"], generator.requests[number].tokens
            say(
                f"sequence {number} ended after {len(own)} of {most} tokens: token {own[-1]} is an eos_token_id of the "
                "model (--ignore-eos goes on)"
            )
    return report, tally


@contextlib.contextmanager
def _kept_on(kind: type[Exception], folder: Path | None) -> Iterator[None]:
    """Keep a scratch folder if the block ends with an error of a kind."""
    try:
        yield
    except kind:
        if folder is not None:
            keep(folder)
        raise


def print_report(report: dict[str, Any], title: str) -> None:
    """Print the tables of a generation."""
    phases = {name: report[name] for name in PHASES if report[name]["steps"]}
    columns = [*phases.values(), report["total"]]
    quantities: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
        ("steps", lambda own: own["steps"]),
        ("tokens through the machine", lambda own: own["tokens"]),
        ("cycles", lambda own: own["cycles"]),
        ("cycles per token", lambda own: None if own["cycles"] is None else round(own["cycles"] / own["tokens"])),
        ("PE utilisation %", lambda own: _percent(own["utilisation"])),
        ("bytes in channel group 0", lambda own: own["bytes_0"]),
        ("bytes in channel group 1", lambda own: own["bytes_1"]),
        ("bytes across bonds", lambda own: own["links"]["vertical"]),
        ("bytes on the dies", lambda own: own["links"]["lateral"]),
        ("bytes off chip", lambda own: own["links"]["offchip"]),
        ("V-Cache tile reads", lambda own: own["tile_reads"]),
        ("waves per tile read", lambda own: _round(own["waves_per_tile_read"])),
        ("V-Cache hits % (tile reads without a load)", lambda own: _percent(own["vcache_hits"])),
        ("wall-clock s", lambda own: round(own["wall_s"], 1)),
        ("simulated cycles per s", lambda own: _round(own["cycles_per_s"], 0)),
    )
    print_table(
        [[name, *(value(own) for own in columns)] for name, value in quantities], ("", *phases, "total"), title=title
    )
    losses = loss_rows(phases)
    if losses:
        print_table(
            losses, ("unit", "cycles in", "", *(f"{name} %" for name in phases)),
            title="Where each unit's cycles went (the shares of a unit add up to 100 %)",
        )  # fmt: skip
    if report["ttft_cycles"] is not None:
        line = f"time to first token: {report['ttft_cycles']:,.0f} cycles"
        if report["tpot_cycles"] is not None:
            line += f"; time per output token: {report['tpot_cycles']:,.0f} cycles"
        print(f"{line} (means over {len(report['sequences'])} sequences)")
    times = report["between_tokens"]
    if times is not None:
        print(
            f"from token to token: half within {times['p50']:,.0f} cycles, 95 % within {times['p95']:,.0f}, all within "
            f"{times['max']:,.0f}; {report['end_cycle']:,} cycles in all, {report['idle_cycles']:,} of them idle"
        )
    if report["shared_tokens"]:
        print(f"tokens of prompts that began as others and did not run again: {report['shared_tokens']:,}")
    if "clock_mhz" in report:
        rates = "; ".join(f"{phase} {report[f'{phase}_tokens_per_s']:,.0f} tokens/s" for phase in phases)
        print(f"at {report['clock_mhz']:g} MHz: {report['ttft_ms']:.3g} ms to the first token; {rates}")
    if report["compared"]:
        own = report["compared"]
        print(
            f"step {own['step']}, a prompt beside the sequences that decode: {own['policy_cycles']:,} cycles by the "
            f"{own['policy']} plan, {own['cycles']:,} by its own ({own['policy_cycles'] / own['cycles']:.2f} times "
            "as fast)"
        )
    if report["compared_bytes"]:
        print(
            f"mismatched bytes: {report['mismatched_bytes']} of {report['compared_bytes']:,} compared (both memories "
            "after every step, against the executor)"
        )


def write_files(report: dict[str, Any], tally: Tally, config: MachineConfig, folder: Path) -> None:
    """Draw the pictures of a generation whose engine has time, and say where they are.

    Raises
    ------
    A3dError
        A file cannot be written.
    """
    try:
        for picture in write_pictures(report, tally, config, folder):
            print(f"picture: {picture}")
    except OSError as error:
        raise A3dError(f"{error.filename}: {error.strerror}; name a writable folder with -o") from error


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def _round(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
