# SPDX-License-Identifier: Apache-2.0
"""The experts of every layer of a model, for one piece of text, alone on the machine and on its control.

Activations and routing of each layer are those of the integer model, and both machines run the same instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import CheckError
from hdl.scratch import whole_file
from scheduler.models.quantise import QuantisedLayer
from scheduler.models.quantised_model import QuantisedModel
from scheduler.plan.layer import Way
from scheduler.stream.lower_layer import LayerOptions, lower_layer
from scheduler.stream.program import Program
from scheduler.stream.prove import check
from scheduler.stream.table import Table
from sim.golden.executor import Executor
from sim.golden.integer_experts import moe_layer
from sim.golden.integer_model import IntegerModel
from sim.machine.system import Job, JobResult, SimulatedMachine
from sim.measure.crosscheck import compare_counters

__all__ = [
    "DEMO_MODEL", "LayerReport", "LayerWork", "draw", "edge_variant", "layer_works", "lower_layers", "measure_layers",
    "memory_bits", "with_control",
]  # fmt: skip

DEMO_MODEL = Path(__file__).resolve().parents[2] / "models" / "demo"
"""The model that comes with the project."""


@dataclass(frozen=True, eq=False)
class LayerWork:
    """One layer's experts for one batch: operands as the machine gets them.

    Attributes
    ----------
    number : int
        Layer.
    layer : QuantisedLayer
    x : int8 array [tokens, hidden]
    experts : int array [tokens, k]
    gates : uint16 array [tokens, k]
    """

    number: int
    layer: QuantisedLayer
    x: npt.NDArray[np.int8]
    experts: npt.NDArray[np.int64]
    gates: npt.NDArray[np.uint16]

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates: three projections for every chosen expert of every token."""
        return int(self.experts.size) * 3 * self.layer.hidden * self.layer.intermediate


@dataclass(frozen=True)
class LayerReport:
    """What one layer cost on the machine.

    Attributes
    ----------
    layer, tokens, experts : int
        Layer number, tokens of the batch, experts with at least one token.
    cycles : int
        From start to done.
    utilisation : float
        Useful MACs / (PEs x cycles).
    bytes_0, bytes_1 : int
        Bytes moved in each channel group: loads, stores and instruction fetch.
    tile_reads, reuse : int, float
        V-Cache tiles read, and waves per tile read.
    bound_cycles : float
        The larger of useful MACs / PEs and loaded and stored bytes / peak bandwidth.
    gang : str
        Mapping that the scheduler chose.
    edge_cycles : int or None
        Cycles of the same stream on the edge-fed array.
    edge_utilisation : float or None
    """

    layer: int
    tokens: int
    experts: int
    cycles: int
    utilisation: float
    bytes_0: int
    bytes_1: int
    tile_reads: int
    reuse: float
    bound_cycles: float
    gang: str
    edge_cycles: int | None = None
    edge_utilisation: float | None = None


def layer_works(model: QuantisedModel, tokens: Sequence[int]) -> list[LayerWork]:
    """Return every layer's work when the integer model reads some tokens.

    Raises
    ------
    A3dError
        No tokens, more than the model's context, or tokens that it does not have.
    """
    integer = IntegerModel(model)
    result = integer.step([(integer.new_cache(), np.asarray(tokens))], trace=True)
    return [
        LayerWork(number, layer.experts, trace.expert_input, routing.experts, routing.gates)
        for number, (layer, trace, routing) in enumerate(zip(model.layers, result.layers, result.routing, strict=True))
    ]


def _job(program: Program) -> Job:
    return Job(
        images=(program.images[0].tobytes(), program.images[1].tobytes()),
        stream_base=program.stream_base,
        limits=program.limits,
    )


def _mismatches(program: Program, work: LayerWork, result: JobResult) -> int:
    """Return differing bytes of both memories; raise when the machine stopped or a reference disagrees."""
    if not result.done:
        raise CheckError(f"layer {work.number}: the machine stopped with {result.error!r} at {result.error_pc}")
    executor = Executor(program.config, [image.tobytes() for image in program.images], program.limits)
    executor.run(program.instructions)
    expected = moe_layer(work.layer, work.x, work.experts, work.gates)
    if not np.array_equal(program.read_output(executor.memory), expected):
        raise CheckError(f"layer {work.number}: the executor and the integer model disagree")
    assert result.memory is not None
    differing = 0
    for image, seen in zip(executor.memory, result.memory, strict=True):
        wide = np.zeros(seen.size, dtype=np.uint8)
        wide[: image.size] = image
        differing += int((wide != seen).sum())
    for line in compare_counters(program.config, dict(executor.counters), result):
        raise CheckError(f"layer {work.number}: {line}")
    return differing


def _report(work: LayerWork, program: Program, result: JobResult) -> LayerReport:
    config = program.config
    counters = result.counters
    cycles = counters["cycles"]
    reads = sum(counters[f"tier{t}_new_own"] for t in range(config.tiers))
    waves = sum(counters[f"tier{t}_wave"] for t in range(config.tiers))
    data = [(counters[f"read_beats_{g}"] + counters[f"write_beats_{g}"]) * config.group_bytes for g in range(2)]
    fetched = counters["fetch_beats"] * config.group_bytes
    bound = max(work.macs / config.pes, (sum(data) + 32 * len(program.instructions)) / config.peak_bytes)
    return LayerReport(
        layer=work.number,
        tokens=int(work.x.shape[0]),
        experts=len(np.unique(work.experts)),
        cycles=cycles,
        utilisation=work.macs / (config.pes * cycles),
        bytes_0=data[0] + fetched,
        bytes_1=data[1],
        tile_reads=reads,
        reuse=waves / reads,
        bound_cycles=bound,
        gang=str(program.meta["gang"]),
    )


def lower_layers(config: MachineConfig, works: Sequence[LayerWork], way: Way | None = None) -> list[Program]:
    """Return every layer's program, proved free of races, the experts run one way or the faster one."""
    programs = []
    for work in works:
        program = lower_layer(config, work.layer, work.x, work.experts, work.gates, LayerOptions(way=way))
        check(Table.of(program.instructions), config, program.images, program.limits)
        programs.append(program)
    return programs


def measure_layers(
    machine: SimulatedMachine, works: Sequence[LayerWork], way: Way | None = None
) -> tuple[list[LayerReport], int]:
    """Run all layers' programs on a machine; return reports and the differing bytes.

    Raises
    ------
    CheckError
        The machine stopped, or a model disagrees with another.
    """
    programs = lower_layers(machine.config, works, way)
    results = machine.run([_job(program) for program in programs])
    mismatched = sum(_mismatches(p, w, r) for p, w, r in zip(programs, works, results, strict=True))
    return [_report(w, p, r) for w, p, r in zip(works, programs, results, strict=True)], mismatched


def with_control(reports: Sequence[LayerReport], control: Sequence[LayerReport]) -> list[LayerReport]:
    """Return the reports with the cycles and utilisation of the edge-fed control."""
    return [
        replace(report, edge_cycles=edge.cycles, edge_utilisation=edge.utilisation)
        for report, edge in zip(reports, control, strict=True)
    ]


def edge_variant(config: MachineConfig) -> MachineConfig:
    """Return the control: the same machine with the plain array's feed."""
    return config.replace(stationary_feed="edge", name=f"{config.name}_edge")


def memory_bits(programs: Sequence[Program]) -> int:
    """Return log2 of a memory that holds every program's images."""
    return (max(image.size for program in programs for image in program.images) - 1).bit_length()


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw cycles and PE utilisation of every layer, vertical feed beside edge feed, with the bound."""
    from matplotlib.figure import Figure

    layers = report["layers"]
    numbers = np.arange(len(layers))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    with_edge = layers[0]["edge_cycles"] is not None
    width = 0.38 if with_edge else 0.6
    shift = width / 2 if with_edge else 0.0
    left.bar(numbers - shift, [entry["cycles"] for entry in layers], width, label="vertical feed", color="C0")
    right.bar(
        numbers - shift, [100 * entry["utilisation"] for entry in layers], width, label="vertical feed", color="C0"
    )
    if with_edge:
        left.bar(
            numbers + shift, [entry["edge_cycles"] for entry in layers], width, label="edge feed (control)", color="C1"
        )
        right.bar(
            numbers + shift, [100 * entry["edge_utilisation"] for entry in layers], width, label="edge feed (control)",
            color="C1",
        )  # fmt: skip
    bounds = [entry["bound_cycles"] for entry in layers]
    left.hlines(bounds, numbers - 0.45, numbers + 0.45, colors="black", label="bound (MACs or bytes)")
    for axis in (left, right):
        axis.set_xticks(numbers, [f"layer {entry['layer']}\n{entry['experts']} experts" for entry in layers])
        axis.grid(axis="y", alpha=0.3)
    left.set_ylabel("cycles")
    right.set_ylabel("PE utilisation (%)")
    right.set_ylim(0, 100)
    left.legend(loc="lower right", fontsize=8)
    config = report["config"]
    figure.suptitle(
        f"The experts of each layer alone, {layers[0]['tokens']} tokens, on {config['name']}: "
        f"{config['tiers']} x {config['rows']} x {config['columns']} PEs, RTL simulation"
    )
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
