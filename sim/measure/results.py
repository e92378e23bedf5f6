# SPDX-License-Identifier: Apache-2.0
"""Renders ``docs/results.md`` from the JSON files that the measuring commands wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hdl.errors import A3dError
from sim.measure.bytes_page import balance_lines, bytes_lines
from sim.measure.energy_page import energy_lines
from sim.measure.flows_page import flows_lines
from sim.measure.policy_parts import LABELS
from sim.measure.results_frontier import frontier_lines
from sim.measure.together_page import shapes_lines, together_lines

__all__ = ["SOURCES", "render_results"]

SOURCES = {
    "demo": ("demo/report.json", "a3d demo"),
    "model": ("bench/model.json", "a3d bench model --json build/bench/model.json"),
    "fusion": ("bench/fusion.json", "a3d bench fusion --json build/bench/fusion.json"),
    "fusion_shapes": ("bench/fusion_shapes.json", "a3d bench fusion-shapes --json build/bench/fusion_shapes.json"),
    "residency": ("bench/residency.json", "a3d bench residency --json build/bench/residency.json"),
    "prefix": ("bench/prefix.json", "a3d bench prefix --json build/bench/prefix.json"),
    "serving": ("bench/serving.json", "a3d bench serving --json build/bench/serving.json"),
    "slots": ("bench/model_slots.json", "a3d bench model --routing slots --json build/bench/model_slots.json"),
    "bytes": (
        "bench/bytes.json",
        "a3d bench bytes --config docs/examples/small_hbm.toml --json build/bench/bytes.json",
    ),
    "together": (
        "bench/together.json",
        "a3d bench together --config docs/examples/small_hbm.toml --json build/bench/together.json",
    ),
    "together_shapes": (
        "bench/together_shapes.json",
        "a3d bench together-shapes --json build/bench/together_shapes.json",
    ),
    "balance": (
        "bench/balance.json",
        "a3d bench balance --routing ROUTING.npy --json build/bench/balance.json",
    ),
    "energy": (
        "bench/energy.json",
        "a3d bench energy --rtl --config docs/examples/small_hbm.toml --json build/bench/energy.json",
    ),
    "hbm": ("bench/hbm.json", "a3d bench hbm --json build/bench/hbm.json"),
    "cycle_model": (
        "bench/cycle_model.json",
        "a3d bench cycle-model --json build/bench/cycle_model.json",
    ),
    "cycle_model_medium": (
        "bench/cycle_medium.json",
        "a3d bench cycle-model --config medium --json build/bench/cycle_medium.json",
    ),
    "exactness": ("bench/exactness.json", "a3d bench exactness --json build/bench/exactness.json"),
    "quality": ("bench/quality.json", "a3d bench quality --bytes 65536 --json build/bench/quality.json"),
    "frontier": ("bench/frontier.json", "a3d bench quality --frontier --json build/bench/frontier.json"),
    "utilisation": ("bench/utilisation.json", "a3d bench utilisation --json build/bench/utilisation.json"),
    "experts": ("bench/experts.json", "a3d bench experts --json build/bench/experts.json"),
    "layer": (
        "bench/layer.json",
        "a3d bench experts --experts 64 --chosen 8 --tokens 8 --json build/bench/layer.json",
    ),
    "mixtral": (
        "bench/mixtral.json",
        "a3d bench experts --config large --hidden 4096 --intermediate 14336 --tokens 1 4 16 --no-edge "
        "--json build/bench/mixtral.json",
    ),
    "schedule": (
        "bench/olmoe.json",
        "a3d schedule --model olmoe-1b-7b --layers 2 --random-weights 1 --config medium "
        "--steps docs/examples/olmoe_two_layers.jsonl -o build/olmoe && "
        "a3d run --schedule build/olmoe --json build/bench/olmoe.json",
    ),
    "utilisation_medium": (
        "bench/utilisation_medium.json",
        "a3d bench utilisation --config medium --json build/bench/utilisation_medium.json",
    ),
    "compile": ("bench/compile.json", "a3d bench compile --json build/bench/compile.json"),
    "simspeed": ("bench/simspeed.json", "a3d bench simspeed --json build/bench/simspeed.json"),
    "flows": (
        "bench/flows.json",
        "a3d bench flows --liberty sky130hd_tt.lib.gz nangate45_typ.lib.gz --before docs/examples/flows_before.json "
        "--json build/bench/flows.json",
    ),
    "generate": ("bench/generate.json", "a3d bench generate --json build/bench/generate.json"),
}
"""Name of a measurement: file below ``build``, and the command that writes it."""


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return [*lines, *("| " + " | ".join(_cell(c) for c in row) + " |" for row in rows)]


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _demo(data: dict[str, Any]) -> list[str]:
    lines = [
        f"Configuration `{data['config']['name']}`, {data['tokens']} tokens in a batch of {data['batch']}, engine "
        f"`{data['engine']}`, routing `{data['routing']}`: {data['ttft_cycles']:,.0f} cycles to the first token, "
        f"{data['tpot_cycles']:,.0f} cycles per output token (means over the sequences).",
        "",
    ]
    phases = [
        [
            phase, own["steps"], own["tokens"], own["cycles"], _percent(own["utilisation"]), own["bytes_0"],
            own["bytes_1"], f"{own['waves_per_tile_read']:.2f}", _percent(own["vcache_hits"]),
        ]
        for phase in ("prefill", "decode")
        if (own := data[phase])["steps"]
    ]  # fmt: skip
    head: Sequence[str] = (
        "phase", "steps", "tokens", "cycles", "PE utilisation", "bytes group 0", "bytes group 1",
        "waves per tile read", "V-Cache hits",
    )  # fmt: skip
    lines += [*_table(head, phases), "", "The experts of each layer alone:", ""]
    rows = [
        [
            e["layer"], e["tokens"], e["experts"], e["gang"], e["cycles"], _percent(e["utilisation"]),
            round(e["bound_cycles"]), e["bytes_0"], e["bytes_1"], f"{e['reuse']:.1f}", e["edge_cycles"] or "-",
            _percent(e["edge_utilisation"]),
        ]
        for e in data["layers"]
    ]  # fmt: skip
    head = (
        "layer", "tokens", "experts", "mapping", "cycles", "PE utilisation", "bound (cycles)", "bytes group 0",
        "bytes group 1", "waves per tile read", "edge cycles", "edge utilisation",
    )  # fmt: skip
    note = f"Mismatched bytes over both memories, all steps and all layers: {data['mismatched_bytes']}."
    return [*lines, *_table(head, rows), "", note]


def _utilisation(data: dict[str, Any]) -> list[str]:
    tokens = sorted({p["m"] for p in data["points"] if p["mapping"] != "mix"})
    rows = []
    for feed in ("vertical", "edge"):
        for mapping in ("alone", "M", "N", "K"):
            found = {p["m"]: p for p in data["points"] if p["feed"] == feed and p["mapping"] == mapping}
            if found:
                rows.append([feed, mapping, *(_percent(found[m]["utilisation"]) for m in tokens)])
    lines = [f"Configuration `{data['config']['name']}`. Operands resident in V-Cache:", ""]
    lines += _table(("feed", "mapping", *(f"M = {m}" for m in tokens)), rows)
    mixes = [p for p in data["points"] if p["mapping"] == "mix"]
    lines += ["", "Mixes of operations with 1 and with 64 tokens, tiers alone:", ""]
    mix_rows = [[p["feed"], _percent(p["gemv_share"]), p["cycles"], _percent(p["utilisation"])] for p in mixes]
    lines += _table(("feed", "MACs in M = 1 operations", "cycles", "utilisation"), mix_rows)
    lines += ["", "All weights from memory, each used once (random stalls off, read latency 40 cycles):", ""]
    memory = [
        [p["m"], p["bytes"], p["cycles"], round(p["bound_cycles"]), _percent(p["fraction"])]
        for p in data["from_memory"]
    ]
    return lines + _table(("M", "bytes", "cycles", "bound (cycles)", "bound / cycles"), memory)


def _fusion(data: dict[str, Any]) -> list[str]:
    rows = [
        [
            p["case"], p["routing"], p["policy"], p["plan"], p["cycles"], round(p["compute_cycles"]),
            round(p["memory_cycles"]), round(p["vector_cycles"]), _percent(p["roofline_fraction"]),
            f"{p['speedup']:.2f}" if p["speedup"] else "-",
        ]
        for p in data["points"]
    ]  # fmt: skip
    columns = (
        "prefill + decode", "routing", "policy", "plan", "cycles", "compute", "memory", "vector", "of the roofline",
        "sequential / cycles",
    )  # fmt: skip
    lines = [
        f"Configuration `{data['config']['name']}`, model {data['model']}, RTL simulation. The three bounds are cycles "
        f"of the compulsory work. Bytes compared: {data['compared_bytes']:,}; differ: {data['mismatched_bytes']}. "
        f"Cycle model: mean error {100 * data['mean_error']:.2f} %, worst {100 * data['worst_error']:.2f} %.", "",
    ]  # fmt: skip
    return lines + _table(columns, rows)


def _fusion_shapes(data: dict[str, Any]) -> list[str]:
    from sim.measure.fusion_shapes import nothing_gained

    rows = [
        [
            p["model"], p["step"], round(p["compute_cycles"]), round(p["memory_cycles"]), round(p["vector_cycles"]),
            p["bound"], p["sequential_cycles"], _percent(p["sequential_fraction"]), p["fused_cycles"],
            _percent(p["fused_fraction"]), f"{p['sequential_cycles'] / p['fused_cycles']:.2f}", p["plan"],
        ]
        for p in data["points"]
    ]  # fmt: skip
    columns = (
        "model", "step", "compute", "memory", "vector", "bound", "sequential", "of the roofline", "fused",
        "of the roofline", "sequential / fused", "plan",
    )  # fmt: skip
    lines = [
        f"Configuration `{data['config']['name']}`, {data['layers']} layers of each shape with embedding and head, "
        "uniform routing that the host knows, cycle model; each stream is proved. The sequential plan reads each "
        f"expert once for all tokens of a step. Measured in {data['seconds'] / 60:.0f} minutes.", "",
        *_table(columns, rows), "",
    ]  # fmt: skip
    lines += [f"Left out: {p['model']}, {p['step']}: {p['why']}" for p in data["left_out"]]
    lines += ["", f"Where fusion gains less than {_percent(data['least_gain'])}:", ""]
    lines += _table(("kind of step", "bound", "steps"), nothing_gained(data["points"]))
    short = [p for p in data["points"] if p["kind"] == "mixed" and p["stalls"]]
    lines += ["", "Where the cycles of fused mixed steps below 90 % of the roofline went:", ""]
    lines += _table(("step", "unit", "parts of its cycles"), [
        [f"{p['model']}, {p['step']}", unit, ", ".join(f"{c} {_percent(v)}" for c, v in causes.items() if v >= 0.005)]
        for p in short for unit, causes in p["stalls"].items() if unit != "store"
    ])  # fmt: skip
    lines += ["", "The number of layers: what belongs to the head becomes less.", ""]
    lines += _table(("model", "step", "layers", "sequential, of the roofline", "fused, of the roofline"), [
        [p["model"], p["step"], p["layers"], _percent(p["sequential_fraction"]), _percent(p["fused_fraction"])]
        for p in data["depth"]
    ])  # fmt: skip
    lines += [
        "", "A prompt in several steps, all layers (composed of layers that were timed alone), cycles for each of its "
        "tokens. Chunked: each step has a part of its tokens. Layered prefill (arXiv 2510.08055): each step brings all "
        "of its tokens through some of the layers. In both, all steps decode the same sequences.", "",
    ]  # fmt: skip
    ways = ("chunked_sequential", "layered_sequential", "chunked_fused", "layered_fused")
    head = (
        "model", "prompt", "steps", "beside", "chunked, sequential", "layered, sequential", "chunked, fused",
        "layered, fused", "least",
    )  # fmt: skip
    return lines + _table(head, [
        [
            p["model"], p["prompt"], p["steps"], f"decode {p['decode']} at {p['keys']:,}",
            *(round(p[f"{way}_per_token"]) for way in ways), p["best"].replace("_", ", "),
        ]
        for p in data["layered"]
    ])  # fmt: skip


def _residency(data: dict[str, Any]) -> list[str]:
    return _part(
        data, "decode steps behind the one that loads what stays", ("first step: bytes", "cycles"),
        ("first_bytes", "first_cycles"),
    )  # fmt: skip


def _prefix(data: dict[str, Any]) -> list[str]:
    return _part(
        data, f"decode steps of sequences whose first {data['common']} tokens are the same",
        ("whole run: tokens", "bytes", "cycles"), ("run_tokens", "run_bytes", "run_cycles"),
    )  # fmt: skip


def _part(data: dict[str, Any], steps: str, titles: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the section of a part of the policy: what `steps` are measured, and further columns."""
    rows = [
        [
            p["batch"], p["routing"], "yes" if p["on"] else "no", round(p["bytes"]), _percent(p["saved_bytes"]),
            round(p["cycles"]), f"{p['speedup']:.2f}", *(p[name] for name in names),
        ]
        for p in data["points"]
    ]  # fmt: skip
    columns = (
        "batch", "routing", LABELS[data["part"]][0], "bytes a step", "saved", "cycles a step", "without / cycles",
        *titles,
    )  # fmt: skip
    lines = [
        f"Configuration `{data['config']['name']}`, model {data['model']}, RTL simulation; means over {data['steps']} "
        f"{steps}. Bytes are the load engines' data beats. Bytes "
        f"compared: {data['compared_bytes']:,}; differ: {data['mismatched_bytes']}. Cycle model: mean error "
        f"{100 * data['mean_error']:.2f} %, worst {100 * data['worst_error']:.2f} %.", "",
    ]  # fmt: skip
    return lines + _table(columns, rows)


def _serving(data: dict[str, Any]) -> list[str]:
    rows = [
        [
            p["batching"], p["step_tokens"], *(round(p["between_tokens"][name]) for name in ("p50", "p95", "max")),
            p["ttft_cycles"], p["cycles"], f"{p['tokens_per_million_cycles']:.1f}",
        ]
        for p in data["points"]
    ]  # fmt: skip
    columns = (
        "batching", "tokens a step", "between tokens: p50", "p95", "max", "long prompt: first token", "cycles",
        "tokens per million cycles",
    )  # fmt: skip
    lines = [
        f"Configuration `{data['config']['name']}`, model {data['model']}, routing `{data['routing']}`, RTL "
        f"simulation. {data['decode']} sequences decode when a prompt of {data['prompt']} tokens comes; times are "
        "cycles, from the step on in which all of them decode. Their tokens are the same in all cases. Bytes compared: "
        f"{data['compared_bytes']:,}; differ: {data['mismatched_bytes']}.", "",
    ]  # fmt: skip
    return lines + _table(columns, rows)


def _experts(data: dict[str, Any]) -> list[str]:
    config = data["config"]
    one = data["experts"] == 1
    what = "one expert" if one else f"{data['experts']} experts, {data['chosen']} for each token,"
    rows = [
        [
            p["tokens"], p["experts"], p["bytes_0"] + p["bytes_1"], round(p["bound_cycles"]), p["cycles"],
            _percent(p["bound_cycles"] / p["cycles"]), _percent(p["utilisation"]), p["edge_cycles"] or "-",
            _percent(p["edge_utilisation"]), f"{p['edge_cycles'] / p['cycles']:.2f}" if p["edge_cycles"] else "-",
        ]
        for p in data["points"]
    ]  # fmt: skip
    head: Sequence[str] = (
        "tokens", "experts used", "bytes", "bound (cycles)", "cycles", "bound / cycles", "PE utilisation",
        "edge cycles", "edge utilisation", "edge / vertical",
    )  # fmt: skip
    both = "Both feeds run the same instructions. " if data["points"][0]["edge_cycles"] else ""
    lines = [
        f"Configuration `{config['name']}`, RTL simulation: {what} of hidden size {data['hidden']:,} and intermediate "
        f"size {data['intermediate']:,}, random weights, each streamed from memory once. Memory gives "
        f"{2 * config['channels_per_group'] * config['channel_bytes']:,} bytes a cycle; the edges of the tiers take "
        f"{config['tiers'] * config['columns']:,}. {both}Mismatched bytes over both memories and all runs: "
        f"{data['mismatched_bytes']}.",
        "",
    ]
    return lines + _table(head, rows)


def _schedule(data: dict[str, Any]) -> list[str]:
    rows = [
        [
            step["name"], step["tokens"], step["instructions"], step["cycles"] or "-",
            round(step["roofline"]["cycles"]), step["roofline"]["bound"],
            _percent(step["roofline"]["cycles"] / step["cycles"] if step["cycles"] else None), step["compared_bytes"],
            step["mismatched_bytes"],
        ]
        for step in data["steps"]
    ]  # fmt: skip
    model = data["model"]
    lines = [
        f"Configuration `{data['config']['name']}`, engine `{data['engine']}`: {model['layers']} layers of "
        f"{model['name']} and its head, all experts, random weights, experts drawn uniformly.",
        "",
    ]
    head: Sequence[str] = (
        "step", "tokens", "instructions", "cycles", "roofline (cycles)", "bound", "of the roofline",
        "bytes compared", "differ",
    )  # fmt: skip
    return lines + _table(head, rows)


def _compile(data: dict[str, Any]) -> list[str]:
    rows: list[list[Any]] = [["generate the Verilog", f"{data['generate_s']:.1f}", "", ""]]
    for name, cost in (("Verilator", data["verilator"]), ("C++ compiler", data["compiler"])):
        rows.append(
            [name, f"{cost['wall_s']:.1f}", f"{cost['cpu_s']:.1f}", f"{cost['peak_bytes'] / 1e9:.2f}"]
        )  # fmt: skip
    name = data["config"]["name"]
    lines = [f"Configuration `{name}` ({data['pes']:,} PEs), anew, on two cores beside other work:", ""]
    lines += _table(("step", "seconds", "CPU seconds", "largest process (GB)"), rows)
    speed = f"{data['cycles_per_s']:,.0f} cycles/s with all PEs busy ({data['cycles']:,} cycles)"
    return [*lines, "", f"{data['cpp_bytes'] / 1e6:.0f} MB of C++; {speed}."]


def _simspeed(data: dict[str, Any]) -> list[str]:
    rows = [
        ["this project's build", f"{data['cycles_per_s']:,.0f}", data["cycles"]],
        ["cocotb's default build", f"{data['default_cycles_per_s']:,.0f}", data["default_cycles"]],
    ]
    name = data["config"]["name"]
    lines = [f"Configuration `{name}`, all PEs busy, wall-clock on two cores (one run; noisy):", ""]
    return [*lines, *_table(("simulator", "cycles/s", "cycles run"), rows), "", f"Ratio: {data['ratio']:.1f}."]


def _generate(data: dict[str, Any]) -> list[str]:
    rows = [
        [p["name"], f"{p['seconds']:.1f}", p["verilog_bytes"], p["modules"], p["instances"]] for p in data["presets"]
    ]
    lines = ["Whole command in a process of its own, Python's start-up included (wall-clock, noisy):", ""]
    return lines + _table(("preset", "seconds", "Verilog bytes", "modules", "instances"), rows)


def _model(data: dict[str, Any]) -> list[str]:
    points = data["points"]
    rows = [
        [
            p["phase"], p["batch"], p["tokens"], p["cycles"], p["model_cycles"], round(p["roofline_cycles"]),
            p["bound"],
            _percent(p["roofline_fraction"]), _percent(p["utilisation"]), p["bytes"], p["compulsory_bytes"],
        ]
        for p in points
    ]  # fmt: skip
    head: Sequence[str] = (
        "phase", "batch", "tokens", "cycles", "cycle model", "roofline (cycles)", "bound", "of the roofline",
        "PE utilisation", "bytes", "compulsory bytes",
    )  # fmt: skip
    lines = [
        f"Configuration `{data['config']['name']}`, policy `{data['system']['policy']}`, routing `{data['routing']}`.",
        "",
    ]
    lines += [*_table(head, rows), "", "Where the cycles of each unit went (each row adds up to 100 %):", ""]
    parts = [
        [f"{p['phase']} {p['batch']}", unit, _shares(cycles)] for p in points for unit, cycles in p["stalls"].items()
    ]
    return lines + _table(("step", "unit", "cycles"), parts)


def _cycle_model(data: dict[str, Any]) -> list[str]:
    points = data["points"]
    rows = []
    for config, memory in dict.fromkeys((p["config"], p["memory"]) for p in points):
        for routing in ("host", "slots"):
            own = [p for p in points if (p["config"], p["memory"], p["routing"]) == (config, memory, routing)]
            if own:
                worst = max(own, key=lambda p: abs(p["error"]))
                mean = sum(abs(p["error"]) for p in own) / len(own)
                rows.append([
                    config, memory, routing, len(own), f"{100 * mean:.2f} %", f"{100 * worst['error']:+.2f} %",
                    worst["stream"], worst["rtl_cycles"], worst["model_cycles"],
                ])  # fmt: skip
    stalls = data["memories"]["stalls"]
    lines = [
        f"{len(points)} streams: mean error {100 * data['mean_error']:.2f} %, worst {100 * data['worst_error']:.2f} %. "
        f"Memory `stalls`: a channel pauses in {stalls['stall_rate']} of 256 cycles, and latencies get up to "
        f"{stalls['random_latency']} cycles longer, at random.",
        "",
    ]
    head = ("config", "memory", "routing", "streams", "mean error", "worst", "of", "RTL cycles", "cycle model")
    return lines + _table(head, rows)


def _model_of(point: dict[str, Any]) -> tuple[Any, ...]:
    """Return the cycle model's cycles and their error, as far as they were measured."""
    if "error" not in point:
        return ("-", "-")
    return (point["model_cycles"], f"{100 * point['error']:+.2f} %")


def _errors_of_model(data: dict[str, Any]) -> str:
    if "mean_error" not in data:
        return ""
    mean, worst = (f"{100 * data[key]:.2f} %" for key in ("mean_error", "worst_error"))
    return f"The cycle model is off by {mean} in the mean and {worst} at worst."


def _hbm(data: dict[str, Any]) -> list[str]:
    timing = data["timing"]
    rows = [
        [
            p["stream"], p["routing"], p["latency_cycles"], p["cycles"], f"{p['cycles'] / p['latency_cycles']:.3f}",
            _percent(p["latency_share"]), _percent(p["share"]), _percent(p["asked_share"]),
            _percent(p["rare_asked_share"]) if "rare_asked_share" in p else "-", _percent(p["row_hits"]),
            _percent(max(group["refresh_share"] for group in p["groups"])), *_model_of(p),
        ]
        for p in data["points"]
    ]  # fmt: skip
    head = (
        "stream", "routing", "cycles, constant latency", "cycles, HBM", "ratio", "beats / cycles, constant latency",
        "beats / cycles, HBM", "beats / cycles in which HBM was asked", "the same, refreshes rare", "row hits",
        "refresh", "cycle model", "error",
    )  # fmt: skip
    lines = [
        f"Configuration `{data['config']['name']}` at {data['mhz']:g} MHz, `{timing['name']}` ({timing['source']}), "
        f"mapping `{timing['mapping']}`, steps planned for it by the policy `{data.get('policy', 'sequential')}` "
        f"without residency. Emitted Verilog; {data['commands']:,} commands of the channels, each the one "
        f"that the specification gives in that cycle. In the mean {data['mean_ratio']:.3f} of the cycles with a "
        f"constant latency, and a beat in {_percent(data['mean_asked_share'])} of the cycles in which HBM is asked. "
        "Beats are those of the busier group. " + _errors_of_model(data),
        "",
    ]
    return lines + _table(head, rows)


def _shares(cycles: dict[str, int]) -> str:
    total = sum(cycles.values())
    return ", ".join(f"{name} {_percent(n / total)}" for name, n in cycles.items() if n)


def _facts(data: dict[str, Any]) -> list[str]:
    rows = [
        [f"`{name}`", f"{value:.4f}" if isinstance(value, float) else value]
        for name, value in data.items()
        if name != "config"
    ]
    return _table(("quantity", "value"), rows)


_SECTIONS = {
    "model": ("Steps of the language model, routing known to the host", _model),
    "slots": ("Steps of the language model, routed by the machine", _model),
    "fusion": ("Steps of serving by each policy of the planner", _fusion),
    "fusion_shapes": ("Fused steps of published shapes, and layered prefill", _fusion_shapes),
    "residency": ("Weights that stay in V-Cache from step to step", _residency),
    "prefix": ("Sequences that begin with the same tokens", _prefix),
    "serving": ("A long prompt comes while others decode", _serving),
    "bytes": ("Bytes of experts in decode, by scores and placement", bytes_lines),
    "together": ("All ideas together, and each switched off alone", together_lines),
    "together_shapes": ("The same on published shapes, by the cycle model", shapes_lines),
    "balance": ("How evenly the two channel groups are read, by the placement of experts", balance_lines),
    "energy": ("Energy of steps, by component", energy_lines),
    "hbm": ("The machine on HBM", _hbm),
    "cycle_model": ("The cycle model against the RTL", _cycle_model),
    "cycle_model_medium": ("The cycle model against the RTL, on `medium`", _cycle_model),
    "exactness": ("The RTL against the executor", _facts),
    "quality": ("The machine's integers against the float model", _facts),
    "frontier": ("Bytes of experts against loss", frontier_lines),
    "demo": ("The demo: text, and the experts alone", _demo),
    "utilisation": ("PE utilisation", _utilisation),
    "experts": ("One expert of OLMoE's shape, weights from memory", _experts),
    "layer": ("The experts of a layer of OLMoE's shape, decode of 8 tokens", _experts),
    "mixtral": ("One expert of Mixtral-8x7B's shape on `large`", _experts),
    "schedule": ("Two layers of OLMoE on `medium`: prefill, a mixed step, decode of 8 sequences", _schedule),
    "utilisation_medium": ("PE utilisation on `medium`", _utilisation),
    "compile": ("Compiling a simulator of `medium`", _compile),
    "simspeed": ("Simulation speed", _simspeed),
    "flows": ("FPGA and standard cells", flows_lines),
    "generate": ("Generation", _generate),
}


def render_results(build: Path, previous: str = "") -> tuple[str, list[str]]:
    """Return the Markdown text of ``docs/results.md`` from the reports below `build`, and what was never measured.

    Parameters
    ----------
    build : path
        Folder of the reports.
    previous : str
        The page as it was: sections whose report is not there are taken from it.

    Returns
    -------
    text : str
    missing : list of str
        Commands of the sections that are left out: neither their report nor an older section is there.

    Raises
    ------
    A3dError
        A report that cannot be read, or is another command's.
    """
    missing = []
    kept = {part.partition("\n")[0]: part.rstrip() for part in previous.split("\n## ")[1:]}
    lines = [
        "# Results",
        "",
        "Rendered by `a3d report` from the reports of the commands named here. Cycles are exact, wall-clock is noisy.",
    ]
    for name, (file, command) in SOURCES.items():
        path = build / file
        title, render = _SECTIONS[name]
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if title in kept:
                lines += ["", f"## {kept[title]}"]
            else:
                missing.append(command)
            continue
        except OSError as error:
            raise A3dError(f"report: {path} cannot be read ({error.strerror}); run `{command}` again") from error
        except ValueError as error:
            raise A3dError(f"report: {path} is no JSON ({error}); run `{command}` again") from error
        try:
            rendered = render(data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
            raise A3dError(
                f"report: {path} is not what `{command}` writes ({type(error).__name__}: {error}); run it again"
            ) from error
        lines += ["", f"## {title}", "", f"Command: `{command}`", "", *rendered]
    return "\n".join(lines) + "\n", missing
