# SPDX-License-Identifier: Apache-2.0
"""What ``a3d run --schedule`` and ``a3d sim schedule`` share: a saved schedule on an engine, step by step."""

from pathlib import Path
from typing import Any

from hdl.errors import CheckError
from scheduler.cost.energy.count import activity_of_counters
from scheduler.cost.energy.energy import energy_of
from scheduler.cost.energy.table import EnergyTable
from scheduler.schedule.files import load_schedule
from sim.commands._common import print_table
from sim.commands._energy import clock_of, print_energy
from sim.commands._generation import announce_compiling, say
from sim.machine.engines import IsaEngine, RtlEngine
from sim.machine.replay import replay

__all__ = ["run_schedule"]

COLUMNS = ("step", "tokens", "instructions", "cycles", "roofline", "of it", "bytes compared", "differ", "seconds")


def run_schedule(
    folder: Path, engine: str, *, waves_to: Path | None = None, energy: EnergyTable | None = None,
    picture: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run a saved schedule, print a table of its steps and return the figures.

    Parameters
    ----------
    folder : path
        A schedule with weights.
    engine : {"rtl", "isa"}
    waves_to : path, optional
        Record waves of the simulation there.
    energy : EnergyTable, optional
        Also say the energy of each step, for the engine rtl.
    picture : path, optional
        Where its picture goes.

    Raises
    ------
    A3dError
        No weights, or what the engine raises: a byte that differs stops the run.
    """
    saved = load_schedule(folder)
    config = saved.config
    rtl = RtlEngine(
        config,
        waves=waves_to is not None,
        work_dir=waves_to,
        announce=announce_compiling(config),
        timing=saved.system.memory,
    )
    mhz = 0.0 if energy is None else clock_of(saved.system.clock_mhz)
    entries: list[dict[str, Any]] = []
    with rtl if engine == "rtl" else IsaEngine(config, verify=True) as machine:
        for step, outcome in replay(saved, machine):
            about = step.about
            entries.append(
                {
                    "name": step.name, "tokens": about["tokens"], "instructions": len(step.instructions),
                    "cycles": outcome.cycles, "roofline": about["roofline"], "compared_bytes": outcome.compared_bytes,
                    "mismatched_bytes": outcome.mismatched_bytes, "simulated_s": outcome.wall_s,
                    "counters": dict(outcome.counters),
                }
            )  # fmt: skip
            if energy is not None:
                activity = activity_of_counters(config, outcome.counters, step.table, mhz=mhz)
                entries[-1] |= {"activity": activity.to_dict(), "energy": energy_of(activity, energy, mhz).to_dict()}
            cycles = "" if outcome.cycles is None else f", {outcome.cycles:,} cycles"
            compared = f"{outcome.compared_bytes:,} bytes compared"
            say(f"{step.name}: {len(step.instructions):,} instructions{cycles}, {compared}")
    rows = []
    for entry in entries:
        line, cycles = entry["roofline"]["cycles"], entry["cycles"]
        part = None if cycles is None else f"{100 * line / cycles:.1f} %"
        rows.append(
            [
                entry["name"], entry["tokens"], entry["instructions"], cycles, round(line), part,
                entry["compared_bytes"], entry["mismatched_bytes"], round(entry["simulated_s"], 1),
            ]
        )  # fmt: skip
    print_table(rows, COLUMNS, title=f"{saved.about['model']['name']} on {config.name} ({engine})")
    if energy is not None:
        print_energy(
            [(entry["name"], entry["energy"], entry["tokens"]) for entry in entries],
            f"{saved.about['model']['name']} on {config.name} (RTL counters)", picture,
        )  # fmt: skip
    differing = sum(entry["mismatched_bytes"] for entry in entries)
    if differing:
        raise CheckError(f"schedule {folder}: {differing} bytes differ")
    return {"schedule": str(folder), "engine": engine, "config": config.to_dict(), "model": saved.about["model"],
            "steps": entries}  # fmt: skip
