# SPDX-License-Identifier: Apache-2.0
"""``a3d bench``: the measurements behind every figure in the documents."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from hdl.config import PRESETS, MachineConfig, load_config
from hdl.errors import A3dError
from hdl.isa import Mapping3D
from scheduler.models.shapes import shape_names
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    check_page,
    count,
    new_parser,
    picture_file,
    print_table,
    progress,
    write_json,
)
from sim.commands._docs import markdown_tables, rewrite_section
from sim.commands._generation import COMPILING, say
from sim.machine.generator import ROUTINGS
from sim.machine.system import SimulatedMachine
from sim.measure.simspeed import measure_speed
from sim.measure.utilisation import MIX_SHARES, TOKENS, as_json, draw, measure_from_memory, measure_resident
from sim.simulator.tools import require_simulator
from sim.stimulus.moe_demo import DEMO_MODEL

LEAST_UTILISATION = 0.95
"""What the vertical feed must reach at every point."""

MOST_WAVES, MOST_ROUNDS, MOST_CYCLES = 10_000_000, 1_000_000, 1_000_000_000
"""Longest measurements: more would take days."""

PRIMITIVES_DOCS = Path("docs") / "primitives.md"
"""The page that ``a3d bench primitives --docs`` rewrites; its picture goes to ``images/`` beside it."""

SCHEDULER_DOCS = Path("docs") / "scheduling.md"
"""The page that ``a3d bench scheduler --docs`` rewrites."""

LAYERS_DOCS = Path("docs") / "layers.md"
"""The page that ``a3d bench layers --docs`` rewrites."""

MOST_LOSS = 1.0
"""Percent of the float model's bits per byte that the integers may cost."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(
        subparsers,
        "bench",
        "measure: utilisation, experts, simspeed, compile, generate, quality, exactness, model, primitives, layers",
    )
    kinds = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    utilisation = kinds.add_parser("utilisation", help="PE utilisation over tokens, mappings, feeds and mixes")
    add_config_option(utilisation, "small")
    utilisation.add_argument(
        "--waves", type=count(1, MOST_WAVES), default=8192, help="waves per tier and point; default 8192"
    )
    utilisation.add_argument(
        "--rounds", type=count(1, MOST_ROUNDS), default=40, help="weight chunks of the memory points; default 40"
    )
    utilisation.add_argument("--feed", choices=("vertical", "edge", "both"), default="both", help="default both")
    utilisation.add_argument("--picture", type=picture_file, default="build/bench/utilisation.png", metavar="FILE")
    add_json_option(utilisation)
    experts = kinds.add_parser("experts", help="experts alone, weights from memory: vertical feed beside edge feed")
    add_config_option(experts, "medium")
    experts.add_argument("--hidden", type=count(1), default=2048, metavar="N", help="default 2048, as in OLMoE")
    experts.add_argument("--intermediate", type=count(1), default=1024, metavar="N", help="default 1024, as in OLMoE")
    experts.add_argument("--tokens", type=count(1), nargs="+", default=[1, 8, 16, 32, 64], metavar="M",
                         help="tokens of each run; default 1 8 16 32 64")  # fmt: skip
    experts.add_argument("--experts", type=count(1), default=1, metavar="N", help="experts of the layer; default 1")
    experts.add_argument("--chosen", type=count(1), default=1, metavar="K", help="experts of a token; default 1")
    experts.add_argument("--seed", type=count(0), default=1, help="of weights, activations and routing; default 1")
    experts.add_argument("--no-edge", action="store_true", help="leave out the edge-fed control")
    add_json_option(experts)
    speed = kinds.add_parser("simspeed", help="simulated cycles per second, against cocotb's default build")
    add_config_option(speed, "small")
    speed.add_argument(
        "--cycles", type=count(1, MOST_CYCLES), default=200_000, help="cycles of the fast run; default 200000"
    )
    add_json_option(speed)
    compiling = kinds.add_parser("compile", help="seconds and memory of compiling a simulator anew, and its speed")
    add_config_option(compiling, "medium")
    compiling.add_argument(
        "--cycles", type=count(1, MOST_CYCLES), default=10_000, help="cycles of the run; default 10000"
    )
    compiling.add_argument(
        "--memory-bits", type=count(12, 37), default=20, metavar="N", help="memory of a group: 2**N bytes; default 20"
    )
    add_json_option(compiling)
    generation = kinds.add_parser("generate", help="seconds, bytes and modules of every preset's Verilog")
    add_json_option(generation)
    quality = kinds.add_parser("quality", help="bits per byte of the integer language model against the float model")
    quality.add_argument(
        "--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="checkpoint; default: the demo's"
    )
    quality.add_argument("--bytes", type=count(1), default=32768, metavar="N", help="held-out bytes; default 32768")
    quality.add_argument("--window", type=count(1), default=256, help="bytes of a sequence; default 256")
    quality.add_argument(
        "--calibration", type=count(1), default=8192, metavar="N", help="calibration bytes; default 8192"
    )
    quality.add_argument("--no-clip", action="store_true", help="int8 ranges hold the largest value seen")
    quality.add_argument(
        "--key-block", type=count(1), default=128, help="keys that attention takes at once; default 128"
    )
    add_json_option(quality)
    exactness = kinds.add_parser("exactness", help="the RTL's bytes over prefill and decode of held-out text")
    exactness.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(exactness, "small")
    exactness.add_argument("--batch", type=count(1), default=8, help="sequences of different lengths; default 8")
    exactness.add_argument(
        "--prefill", type=count(1), default=256, metavar="N", help="least tokens of prompts; default 256"
    )
    exactness.add_argument("--steps", type=count(1), default=128, help="decode steps; default 128")
    exactness.add_argument("--routing", choices=ROUTINGS, default="slots", help="who finds the experts; default slots")
    add_json_option(exactness)
    model = kinds.add_parser("model", help="steps of a language model on the RTL, against the roofline")
    model.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(model, "small")
    model.add_argument("--batches", type=count(1), nargs="+", default=[1, 8, 32], metavar="B", help="default 1 8 32")
    model.add_argument("--prefill", type=count(1), default=128, metavar="N", help="tokens of the prompt; default 128")
    model.add_argument("--routing", choices=ROUTINGS, default=ROUTINGS[0], help=f"default {ROUTINGS[0]}")
    add_json_option(model)
    primitives = kinds.add_parser("primitives", help="worst errors of the arithmetic primitives over their ranges")
    primitives.add_argument("--picture", type=picture_file, metavar="FILE", help="draw the error curves")
    primitives.add_argument(
        "--docs",
        type=Path,
        nargs="?",
        const=PRIMITIVES_DOCS,
        metavar="FILE",
        help=f"rewrite the table in FILE and the picture beside it; default {PRIMITIVES_DOCS}",
    )
    add_json_option(primitives)
    scheduler = kinds.add_parser(
        "scheduler", help="speed of planning, lowering and timing; published shapes' rooflines"
    )
    add_config_option(scheduler, "large")
    scheduler.add_argument(
        "--shapes", nargs="+", choices=shape_names(), default=list(shape_names()), metavar="NAME",
        help=f"default all: {', '.join(shape_names())}",
    )  # fmt: skip
    scheduler.add_argument(
        "--layers", type=count(1), metavar="N", help="layers with experts of each shape; default: all of its layers"
    )
    scheduler.add_argument("--picture", type=picture_file, default="build/bench/scheduler.png", metavar="FILE")
    scheduler.add_argument(
        "--docs", type=Path, nargs="?", const=SCHEDULER_DOCS, metavar="FILE",
        help=f"rewrite the table in FILE; default {SCHEDULER_DOCS}",
    )  # fmt: skip
    add_json_option(scheduler)
    layers = kinds.add_parser("layers", help="errors of the example programs for other models' layers")
    layers.add_argument("--draws", type=count(1, 20_000), default=500, help="random inputs of each; default 500")
    layers.add_argument(
        "--docs", type=Path, nargs="?", const=LAYERS_DOCS, metavar="FILE",
        help=f"rewrite the table in FILE; default {LAYERS_DOCS}",
    )  # fmt: skip
    add_json_option(layers)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    kinds = {
        "utilisation": _utilisation, "experts": _experts, "simspeed": _simspeed, "compile": _compile,
        "generate": _generate, "quality": _quality, "exactness": _exactness, "model": _model,
        "primitives": _primitives, "layers": _layers, "scheduler": _scheduler,
    }  # fmt: skip
    return kinds[args.bench](args)


SCHEDULER_COLUMNS = (
    "model", "phase", "tokens", "cached", "layers", "instructions", "cycles", "roofline", "bound", "of it", "padding"
)  # fmt: skip

STALL_COLUMNS = ("step", "unit", "parts of its cycles")


def _scheduler(args: argparse.Namespace) -> int:
    from sim.measure.scheduler import ENOUGH, SchedulerBench
    from sim.measure.scheduler import draw as draw_scheduler

    config = load_config(args.config)
    check_page(args.docs)
    bench = SchedulerBench(config, args.shapes, layers=args.layers)
    for _ in progress(bench.run(), "scheduling", bench.total):
        pass
    result = bench.result()
    rows: list[list[object]] = [
        [
            p["model"], p["phase"], p["tokens"], p["keys"], p["layers"], p["instructions"], p["cycles"],
            round(p["roofline_cycles"]), p["bound"], f"{100 * p['roofline_fraction']:.1f} %",
            f"{100 * p['padding_waste']:.1f} %",
        ]
        for p in result["shapes"]
    ]  # fmt: skip
    print_table(rows, SCHEDULER_COLUMNS, title=f"published shapes on {config.name}, sequential plan")
    short: list[list[object]] = [
        [f"{p['model']}, {p['phase']} {p['tokens']}, {p['keys']} cached", unit, _parts(causes)]
        for p in result["shapes"]
        for unit, causes in p["stalls"].items()
    ]
    if short:
        print_table(short, STALL_COLUMNS, title=f"where the cycles of what stays below {ENOUGH:.0%} went")
    print(f"lowered, synchronised, verified, encoded: {result['lower_instructions_per_s']:,.0f} instructions/s")
    print(f"cycle model: {result['model_instructions_per_s']:,.0f} instructions/s")
    print(f"plan of a DeepSeek-V3 layer, 256 tokens at 4,096 keys: {result['layer_plan_s']:.3f} s")
    draw_scheduler(result, args.picture)
    print(f"picture: {args.picture}")
    if args.docs:
        title = f"`a3d bench scheduler` on `{config.name}`, sequential plan, cycle model"
        stalls = f"Where the cycles of what stays below {ENOUGH:.0%} of its roofline went"
        tables = [(title, SCHEDULER_COLUMNS, rows), *([(stalls, STALL_COLUMNS, short)] if short else [])]
        rewrite_section(args.docs, "a3d bench scheduler", markdown_tables(tables))
        print(f"rewritten: {args.docs}")
    write_json(args.json, result)
    return 0


def _parts(causes: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * part:.1f} %" for name, part in causes.items() if part >= 0.001)


def _announce(config: MachineConfig) -> Callable[[], None]:
    return lambda: say(COMPILING.format(config.name))


def _utilisation(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    require_simulator("verilator")
    feeds = ("vertical", "edge") if args.feed == "both" else (args.feed,)
    points = []
    memory = []
    for feed in feeds:
        machine = SimulatedMachine(
            config.replace(stationary_feed=feed, name=f"{config.name}_{feed}"), announce=_announce(config)
        )
        mappings = list(Mapping3D) if config.tiers > 1 and config.vertical_links else [Mapping3D.ALONE]
        points += measure_resident(machine, mappings, TOKENS, MIX_SHARES, args.waves)
        if feed == "vertical":
            memory = measure_from_memory(machine, TOKENS, args.rounds)
    print_table(
        [[p.feed, p.mapping, p.m, round(p.gemv_share, 3), p.macs, p.cycles, round(p.utilisation, 4)] for p in points],
        ("feed", "mapping", "m", "gemv share", "macs", "cycles", "utilisation"),
        title=f"{config.name}: operands resident in V-Cache",
    )
    print_table(
        [[p.m, p.bytes, p.macs, p.cycles, round(p.bound_cycles), round(p.fraction, 4)] for p in memory],
        ("m", "bytes", "macs", "cycles", "bound cycles", "bound / cycles"),
        title=f"{config.name}: all weights from memory, used once",
    )
    draw(points, memory, config, args.picture)
    print(f"picture: {args.picture}")
    write_json(args.json, as_json(points, memory, config))
    low = [p for p in points if p.feed == "vertical" and p.utilisation < LEAST_UTILISATION]
    slow = [p for p in memory if p.fraction < LEAST_UTILISATION]
    for point in low:
        print(f"below {LEAST_UTILISATION:.0%}: {point}")
    for late in slow:
        print(f"below {LEAST_UTILISATION:.0%} of the bound: {late}")
    return 1 if low or slow else 0


def _experts(args: argparse.Namespace) -> int:
    from sim.measure.experts import draw_works, measure_experts

    config = load_config(args.config)
    if args.chosen > args.experts:
        raise A3dError(f"bench experts: --chosen {args.chosen} of --experts {args.experts}; use at most {args.experts}")
    require_simulator("verilator")
    works = draw_works(
        args.hidden, args.intermediate, args.tokens, experts=args.experts, chosen=args.chosen, seed=args.seed
    )
    result = measure_experts(config, works, edge=not args.no_edge, announce=_announce(config))
    rows = [
        [p["tokens"], p["experts"], p["gang"], p["bytes_0"] + p["bytes_1"], round(p["bound_cycles"]), p["cycles"],
         round(100 * p["bound_cycles"] / p["cycles"], 1), p["edge_cycles"] or "-",
         round(p["edge_cycles"] / p["cycles"], 2) if p["edge_cycles"] else "-"]
        for p in result["points"]
    ]  # fmt: skip
    columns = ("tokens", "experts", "gang", "bytes", "bound", "cycles", "of bound %", "edge cycles", "edge / cycles")
    print_table(
        rows, columns, title=f"{config.name}: experts of {args.hidden} x {args.intermediate}, weights from memory"
    )
    write_json(args.json, result)
    return 1 if result["mismatched_bytes"] else 0


def _simspeed(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    require_simulator("verilator")
    result = measure_speed(config, args.cycles, announce=_announce(config))
    print_table([[k, v] for k, v in result.items()], ("quantity", "value"), left=("value",), title=config.name)
    write_json(args.json, {"config": config.to_dict(), **result})
    return 0


def _compile(args: argparse.Namespace) -> int:
    from sim.measure.compile import measure_compile

    config = load_config(args.config)
    require_simulator("verilator")
    result = measure_compile(config, args.cycles, args.memory_bits)
    steps = [
        [name, round(cost["wall_s"], 1), round(cost["cpu_s"], 1), round(cost["peak_bytes"] / 1e9, 2)]
        for name, cost in (("Verilator", result["verilator"]), ("C++ compiler", result["compiler"]))
    ]
    columns = ("step", "wall s", "CPU s", "largest process GB")
    print_table([["generate", round(result["generate_s"], 1), "", ""], *steps], columns, title=config.name)
    print(
        f"{result['cpp_bytes'] / 1e6:.0f} MB of C++; {result['cycles_per_s']:,.0f} cycles/s over {result['cycles']:,}"
    )
    write_json(args.json, result)
    return 0


def _generate(args: argparse.Namespace) -> int:
    from sim.measure.generation import measure_generation

    results = [measure_generation(name) for name in PRESETS]
    print_table(
        [[r["name"], round(r["seconds"], 2), r["verilog_bytes"], r["modules"], r["instances"]] for r in results],
        ("preset", "seconds", "Verilog bytes", "modules", "instances"),
    )
    write_json(args.json, {"presets": results})
    return 0


def _quality(args: argparse.Namespace) -> int:
    from sim.measure.quality import QualityBench

    bench = QualityBench(
        args.model, count=args.bytes, window=args.window, calibration=args.calibration, key_block=args.key_block,
        clip=not args.no_clip,
    )  # fmt: skip
    for batch in progress(range(bench.batches), "windows of text"):
        bench.run(batch)
    result = bench.result()
    print_table([[k, v] for k, v in result.items()], ("quantity", "value"), left=("value",), title=str(args.model))
    write_json(args.json, result)
    if result["loss_percent"] > MOST_LOSS:
        print(f"the integers cost {result['loss_percent']:.2f} %: more than {MOST_LOSS:g} %")
        return 1
    return 0


def _exactness(args: argparse.Namespace) -> int:
    from sim.measure.exactness import ExactnessBench

    config = load_config(args.config)
    require_simulator("verilator")
    bench = ExactnessBench(
        args.model,
        config,
        batch=args.batch,
        prefill=args.prefill,
        steps=args.steps,
        routing=args.routing,
        announce=_announce(config),
    )
    for _ in progress(bench.run(), "tokens", bench.total):
        pass
    result = bench.result()
    rows = [[k, v] for k, v in result.items() if k != "config"]
    print_table(rows, ("quantity", "value"), left=("value",), title=f"{result['model']} on {config.name}")
    write_json(args.json, result)
    return 1 if result["mismatched_bytes"] else 0


def _model(args: argparse.Namespace) -> int:
    from sim.measure.model import ModelBench

    config = load_config(args.config)
    require_simulator("verilator")
    bench = ModelBench(
        args.model, config, batches=args.batches, prefill=args.prefill, routing=args.routing, announce=_announce(config)
    )
    for _ in progress(bench.run(), "tokens", bench.total):
        pass
    result = bench.result()
    points = result["points"]
    print_table(
        [
            [
                p["phase"], p["batch"], p["tokens"], p["cycles"], p["model_cycles"], round(p["roofline_cycles"]),
                p["bound"],
                round(100 * p["roofline_fraction"], 1), round(100 * p["utilisation"], 1), p["bytes"],
            ]
            for p in points
        ],
        (
            "phase", "batch", "tokens", "cycles", "cycle model", "roofline", "bound", "of roofline %", "PE util %",
            "bytes",
        ),
        title=f"Steps of {result['model']} on {config.name} (RTL simulation, routing: {result['routing']})",
    )  # fmt: skip
    print_table(
        [
            [f"{p['phase']} {p['batch']}", unit, _shares(c)]
            for p in points
            for unit, c in p["stalls"].items()
        ],
        ("step", "unit", "where its cycles went (%)"),
    )  # fmt: skip
    write_json(args.json, result)
    return 0


def _shares(cycles: dict[str, int]) -> str:
    return ", ".join(f"{name} {100 * n / sum(cycles.values()):.1f}" for name, n in cycles.items() if n)


def _primitives(args: argparse.Namespace) -> int:
    from sim.measure.primitives import draw, measure_primitives

    check_page(args.docs)
    results = measure_primitives()
    columns = ("primitive", "exact", "arguments tried", "cases", "worst error", "bound", "unit", "worst at", "mean")
    rows: list[list[object]] = [
        [p.name, p.what, p.covered, p.cases, f"{p.worst:.4g}", f"{p.bound:g}", p.unit, p.at, f"{p.mean:+.2g}"]
        for p in results
    ]
    print_table(rows, columns, title="arithmetic primitives against float64")
    write_json(args.json, {"primitives": [p.summary() for p in results]})
    if args.picture is not None:
        draw(results, args.picture)
    if args.docs is not None:
        draw(results, args.docs.parent / "images" / "primitives.png")
        cells: list[list[object]] = [[f"`{row[0]}`", f"`{row[1]}`", *row[2:]] for row in rows]
        _write_errors(args.docs, "primitives", columns, cells)
    return _say_broken(
        [f"{p.name}: error {p.worst:g} at {p.at}, more than {p.bound:g}" for p in results if not p.holds]
    )


def _layers(args: argparse.Namespace) -> int:
    from sim.stimulus.layers import measure_layers

    check_page(args.docs)
    results = measure_layers(args.draws)
    columns = ("program", "of", "instructions", "result", "unit", "cases", "worst error", "rms error", "bound")
    rows: list[list[object]] = [
        [r.name, r.origin, r.instructions, r.result, r.unit, r.cases, f"{r.worst:.3g}", f"{r.rms:.3g}", f"{r.bound:g}"]
        for r in results
    ]
    print_table(rows, columns, title="programs of the vector unit against float64")
    write_json(args.json, {"layers": [vars(r) | {"holds": r.holds} for r in results]})
    if args.docs is not None:
        cells: list[list[object]] = [[f"`{row[0]}.asm`", *row[1:]] for row in rows]
        _write_errors(args.docs, "layers", columns, cells)
    return _say_broken(
        [f"{r.name}: {r.result}: error {r.worst:g}, more than {r.bound:g}" for r in results if not r.holds]
    )


def _write_errors(page: Path, bench: str, columns: Sequence[str], cells: list[list[object]]) -> None:
    rewrite_section(page, f"a3d bench {bench} --docs", markdown_tables([("Errors against float64", columns, cells)]))


def _say_broken(lines: list[str]) -> int:
    """Print the bounds that do not hold; return the exit status."""
    for line in lines:
        print(line)
    return 1 if lines else 0
