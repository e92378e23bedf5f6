# SPDX-License-Identifier: Apache-2.0
"""What commands share that say how much energy a run takes: the option, the clock, tables and pictures."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scheduler.cost.energy.count import DEFAULT_MHZ
from scheduler.cost.energy.table import EnergyTable, load_table
from sim.commands._common import print_table
from sim.view.energy import COMPONENT_COLUMNS, component_rows, draw_energy

__all__ = ["add_energy_option", "clock_of", "print_energy", "table_of"]

PACKAGES = Path("default")
"""What the option without a file stands for."""


def add_energy_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that asks for energy; `table_of` reads it."""
    parser.add_argument(
        "--energy", type=Path, nargs="?", const=PACKAGES, metavar="TABLE",
        help="also say the energy by component; TABLE: a TOML file instead of the table of the package "
        "(scheduler/cost/energy/default.toml)",
    )  # fmt: skip


def table_of(args: argparse.Namespace) -> EnergyTable | None:
    """Return the energy table that the options name; None: energy is not asked for.

    Raises
    ------
    EnergyTableError
        See `load_table`.
    """
    if args.energy is None:
        return None
    return load_table(None if args.energy == PACKAGES else args.energy)


def clock_of(clock_mhz: float | None) -> float:
    """Return the clock that turns power into energy, and say so if it is not the system's own."""
    if clock_mhz is None:
        print(
            f"energy: the system has no clock ([clock] mhz); static power and refresh are those at {DEFAULT_MHZ:g} MHz"
        )
        return DEFAULT_MHZ
    return clock_mhz


def print_energy(
    energies: Sequence[tuple[str, Mapping[str, Any], int]], title: str, picture: Path | None = None
) -> None:
    """Print a table of each energy, and draw all of them into one picture.

    Parameters
    ----------
    energies : sequence of (str, dict, int)
        Name, energy as `scheduler.cost.energy.energy.Energy.to_dict` has it, tokens that it is divided by.
    title : str
        What it is the energy of.
    picture : path, optional
        Where the picture goes.
    """
    for name, energy, tokens in energies:
        per = f"pJ per token, {tokens:,} tokens" if tokens > 1 else "pJ"
        print_table(
            component_rows(energy, tokens), COMPONENT_COLUMNS,
            title=f"energy of {name}: {per}; table {energy['table']}, {energy['mhz']:g} MHz",
        )  # fmt: skip
    if picture is not None and energies:
        draw_energy(energies, title, picture)
        print(f"picture: {picture}")
