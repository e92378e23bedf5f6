# SPDX-License-Identifier: Apache-2.0
"""Times one model and load on several machines by the cycle model; writes a JSON file and a picture.

    python docs/examples/tutorials/design_space.py MODEL STEPS OUT TOML...

Of each configuration: multipliers, bytes a cycle, cycles of all steps, and the share of the roofline.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from scheduler.cost.model import simulate
from scheduler.models.shapes import load_shape
from scheduler.ops.steps_file import read_steps
from scheduler.schedule.build import Scheduler
from scheduler.schedule.routing import UniformRouting
from scheduler.system import load_system


def measure(path: Path, model_name: str, steps_file: Path) -> dict[str, Any]:
    """Return what the cycle model says of one configuration."""
    system, model = load_system(str(path)), load_shape(model_name)
    scheduler = Scheduler(system, model, read_steps(steps_file, model), UniformRouting(model, 0))
    cycles, least = [], []
    for planned in scheduler.run():
        cycles.append(simulate(system.machine, planned.program.table, memory=system.memory).cycles)
        least.append(round(planned.roofline.cycles))
    machine = system.machine
    return {
        "name": path.stem, "tiers": machine.tiers, "rows": machine.rows, "multipliers": machine.pes,
        "bytes_a_cycle": machine.peak_bytes, "cycles": cycles, "roofline": least,
        "vcache_bytes": machine.tiers * machine.vcache_tiles * machine.tile_bytes,
    }  # fmt: skip


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw the cycles of each step over the multipliers."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for step in range(len(results[0]["cycles"])):
        for rows in sorted({each["rows"] for each in results}):
            own = sorted((each for each in results if each["rows"] == rows), key=lambda each: each["multipliers"])
            points = [each["multipliers"] for each in own], [each["cycles"][step] for each in own]
            axes.plot(*points, marker="os^D"[step % 4], label=f"step {step}, {rows} x {rows}")
            for each, x, y in zip(own, *points, strict=True):
                axes.annotate(f"{each['tiers']}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="multipliers (number at a point: tiers)", ylabel="cycles")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(model: str, steps: Path, out: Path, configurations: list[Path]) -> None:
    """Measure, print and draw."""
    results = [measure(path, model, steps) for path in configurations]
    print("configuration  multipliers  bytes/cycle  " + "  ".join(f"step {n}: cycles, of roofline" for n in range(2)))
    for each in results:
        shares = [
            f"{c:>15,} {100 * r / c:>8.0f} %" for c, r in zip(each["cycles"], each["roofline"], strict=True)
        ]  # fmt: skip
        print(f"{each['name']:13}  {each['multipliers']:11,}  {each['bytes_a_cycle']:11}  " + "  ".join(shares))
    out.mkdir(parents=True, exist_ok=True)
    (out / "sweep.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, out / "sweep.png")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
