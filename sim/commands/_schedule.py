# SPDX-License-Identifier: Apache-2.0
"""What ``a3d schedule`` and ``a3d time`` share: the model that is named, tables of steps and operations."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hdl.errors import A3dError
from scheduler.models.description import Model
from scheduler.models.shapes import load_shape, shape_names
from scheduler.plan.estimate import Estimate
from scheduler.schedule.build import Planned
from sim.commands._common import count, print_table

__all__ = ["add_model_options", "explain", "model_of", "step_rows"]

STEP_COLUMNS = ("step", "sequences", "tokens", "parts", "instructions", "cycles", "roofline", "bound", "of it")
PLAN_COLUMNS = ("plan", "cycles", "sequential / cycles")
OPERATION_COLUMNS = ("operation", "tiers", "places", "cycles", "bound", "waves", "bytes", "rows", "padding")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a model or a shape."""
    parser.add_argument(
        "--model", required=True, metavar="DIR|SHAPE",
        help=f"model directory, config.json, or a published shape: {', '.join(shape_names())}",
    )  # fmt: skip
    parser.add_argument(
        "--layers", type=count(1), metavar="N",
        help="the first N layers only, leading dense ones left out: what one of several machines holds, or a sample",
    )  # fmt: skip


def model_of(args: argparse.Namespace) -> Model:
    """Return the model that the options name, with as many layers as they say."""
    model = load_shape(args.model)
    if args.layers is None:
        return model
    if args.layers > len(model.layers):
        raise A3dError(f"--layers {args.layers}: {model.name} has {len(model.layers)}; use at most that many")
    skipped = next(n for n, layer in enumerate(model.layers) if layer.mlp == model.layers[-1].mlp)
    first = min(skipped, len(model.layers) - args.layers)
    return dataclasses.replace(model, layers=model.layers[first : first + args.layers])


def step_rows(entries: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return the rows of a table of steps."""
    rows = []
    for entry in entries:
        line, cycles = entry["roofline"], entry.get("cycles")
        rows.append(
            [
                entry["name"], len(entry["sequences"]), entry["tokens"], len(entry["parts"]), entry["instructions"],
                cycles, round(line["cycles"]), line["bound"],
                None if not cycles else f"{100 * line['cycles'] / cycles:.1f} %",
            ]
        )  # fmt: skip
    return rows


def explain(planned: Planned) -> None:
    """Print how each operation of a step is planned; of equal layers the first."""
    for number, estimates in enumerate(planned.estimates()):
        part = planned.program.parts[number]
        name = f", part {number + 1} of {len(planned.program.parts)}" if len(planned.program.parts) > 1 else ""
        title = f"step of line {planned.step.line}{name}: {part.tokens} tokens, blocks of {part.places.block}, "
        title += f"{part.places.size.key_block} keys scored at once"
        if part.places.size.sharing:
            title += f", up to {part.places.size.sharing} sequences attend to a prefix together"
        print_table([_row(one, times) for one, times in _distinct(estimates)], OPERATION_COLUMNS, title=title)
    if planned.program.tried:
        best, first = planned.program.plan, planned.program.tried[0].cycles
        rows: list[list[Any]] = [
            [str(one.plan) + (" (taken)" if one.plan == best else ""), one.cycles, round(first / one.cycles, 3)]
            for one in sorted(planned.program.tried, key=lambda one: one.cycles)
        ]
        print_table(rows, PLAN_COLUMNS, title=f"step of line {planned.step.line}: plans, by the cycle model")


def _distinct(estimates: Sequence[Estimate]) -> list[tuple[Estimate, int]]:
    """Return estimates, those of layers that are alike once, with how often they occur."""
    found: dict[tuple[Any, ...], tuple[Estimate, int]] = {}
    for one in estimates:
        name = one.operation.name.split(".", 1)[-1]
        key = (name, one.how, one.where, one.waves, one.bytes, one.rows)
        first, times = found.get(key, (one, 0))
        found[key] = first, times + 1
    return list(found.values())


def _row(one: Estimate, times: int) -> list[Any]:
    name = one.operation.name + (f" (x {times})" if times > 1 else "")
    return [
        name, one.how, one.where, one.cycles, one.bound, one.waves, one.bytes, one.rows, f"{100 * one.padding:.0f} %",
    ]  # fmt: skip
