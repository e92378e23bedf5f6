# SPDX-License-Identifier: Apache-2.0
"""Benches of the machine alone: its array, its experts, its simulators."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping

from hdl.config import PRESETS, load_config
from hdl.errors import A3dError
from hdl.isa import Mapping3D
from scheduler.cost.hbm.timing import MAPPINGS
from scheduler.cost.hbm.timing import PRESETS as HBM_PRESETS
from scheduler.plan.policy import POLICIES
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    count,
    machine_of,
    picture_file,
    print_table,
    progress,
    write_json,
)
from sim.commands._generation import announce_compiling
from sim.machine.system import SimulatedMachine
from sim.measure.simspeed import measure_speed
from sim.measure.timed_streams import CONFIGS
from sim.measure.utilisation import MIX_SHARES, TOKENS, as_json, draw, measure_from_memory, measure_resident
from sim.simulator.tools import require_simulator

__all__ = ["BENCHES", "add_benches"]

LEAST_UTILISATION = 0.95
"""What the vertical feed must reach at every point."""

MOST_WAVES, MOST_ROUNDS, MOST_CYCLES = 10_000_000, 1_000_000, 1_000_000_000
"""Longest measurements: more would take days."""


def add_benches(kinds: Subparsers) -> None:
    """Add their parsers."""
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
    hbm = kinds.add_parser(
        "hbm", help="the machine on HBM: shares of the bandwidth, commands against the specification"
    )
    hbm.add_argument("--config", choices=tuple(CONFIGS), default="small", help="default small")
    hbm.add_argument("--timing", choices=tuple(HBM_PRESETS), default="hbm3", help="default hbm3")
    hbm.add_argument("--mapping", choices=MAPPINGS, default=MAPPINGS[0], help=f"default {MAPPINGS[0]}")
    hbm.add_argument("--mhz", type=count(50, 4000), default=800, help="the machine's clock; default 800")
    hbm.add_argument(
        "--policy", choices=tuple(POLICIES), default="fused",
        help="what the planner may do to steps, planned for HBM, if that makes them shorter; default fused",
    )  # fmt: skip
    hbm.add_argument("--picture", type=picture_file, default="build/bench/hbm.png", metavar="FILE")
    add_json_option(hbm)
    generation = kinds.add_parser("generate", help="seconds, bytes and modules of every preset's Verilog")
    add_json_option(generation)


def _utilisation(args: argparse.Namespace) -> int:
    config = machine_of(args, "bench utilisation")
    require_simulator("verilator")
    feeds = ("vertical", "edge") if args.feed == "both" else (args.feed,)
    points = []
    memory = []
    for feed in feeds:
        machine = SimulatedMachine(
            config.replace(stationary_feed=feed, name=f"{config.name}_{feed}"), announce=announce_compiling(config)
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

    config = machine_of(args, "bench experts")
    if args.chosen > args.experts:
        raise A3dError(f"bench experts: --chosen {args.chosen} of --experts {args.experts}; use at most {args.experts}")
    require_simulator("verilator")
    works = draw_works(
        args.hidden, args.intermediate, args.tokens, experts=args.experts, chosen=args.chosen, seed=args.seed
    )
    result = measure_experts(config, works, edge=not args.no_edge, announce=announce_compiling(config))
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


def _hbm(args: argparse.Namespace) -> int:
    from sim.measure.hbm import HbmBench
    from sim.measure.hbm import draw as draw_hbm

    require_simulator("verilator")
    config = PRESETS[args.config]
    timing = dataclasses.replace(HBM_PRESETS[args.timing], mapping=args.mapping)
    policy = POLICIES[args.policy]
    bench = HbmBench(config, timing, args.mhz, policy=policy, announce=announce_compiling(config))
    for _ in progress(bench.run(), "streams", bench.total):
        pass
    result = bench.result()
    print_table(
        [
            [p["stream"], p["routing"], p["latency_cycles"], p["cycles"], round(p["cycles"] / p["latency_cycles"], 3),
             round(100 * p["share"], 1), round(100 * p["asked_share"], 1),
             round(100 * p["rare_asked_share"], 1), round(100 * p["row_hits"], 1),
             round(100 * max(one["refresh_share"] for one in p["groups"]), 1), p["model_cycles"],
             f"{100 * p['error']:+.2f}"]
            for p in result["points"]
        ],
        ("stream", "routing", "latency", "HBM", "ratio", "share %", "asked %", "rare refreshes %", "row hits %",
         "refresh %", "cycle model", "error %"),
        title=f"{config.name} at {args.mhz} MHz on {args.timing}, {args.mapping}: cycles and shares of the peak",
    )  # fmt: skip
    print(f"{result['commands']:,} commands of the channels, all as in the specification")
    print(
        f"in the mean {result['mean_ratio']:.3f} of the cycles with a constant latency, and a beat in "
        f"{result['mean_asked_share']:.0%} of the cycles in which HBM is asked; where refreshes are rare, in "
        f"{result['mean_rare_asked_share']:.0%}"
    )
    derived = sorted(p["derived_activates"] for p in result["points"])
    differ = sum(bool(p["counts_that_differ"]) for p in result["points"])
    print(
        f"rows opened by the addresses alone: {derived[0]:.2f} to {derived[-1]:.2f} of those of the channels; counters "
        f"unlike the stream's own work: in {differ} of {len(derived)} streams"
    )
    print(
        f"the cycle model is off by {100 * result['mean_error']:.2f} % in the mean and "
        f"{100 * result['worst_error']:.2f} % at worst; all bytes of the memories are those of the runs without HBM"
    )
    draw_hbm(result, args.picture)
    print(f"picture: {args.picture}")
    write_json(args.json, result)
    return 0


def _simspeed(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    require_simulator("verilator")
    result = measure_speed(config, args.cycles, announce=announce_compiling(config))
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


BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "utilisation": _utilisation,
    "experts": _experts,
    "hbm": _hbm,
    "simspeed": _simspeed,
    "compile": _compile,
    "generate": _generate,
}
"""What runs each of them."""
