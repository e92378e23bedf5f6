# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of docs/start.md and docs/glossary.md: ``python tools/draw_pictures.py [FOLDER]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

HDL, SCHEDULER, SIM, DATA, PLAIN = "#cfe3f7", "#fde3c0", "#d6efd3", "#eeeeee", "#ffffff"
EDGE, TERM = "#444444", "#a01818"


def canvas(width: float, height: float) -> Axes:
    """Return axes on which one unit is a tenth of an inch, with the origin at the bottom left."""
    figure = plt.figure(figsize=(width / 10, height / 10), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return axes


def box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str = "", colour: str = PLAIN, *,
    size: float = 9, top: bool = False, bold: bool = False, line: str = "-",
) -> None:  # fmt: skip
    """Draw a box with a text in its middle, or at its top left."""
    shape = "round,pad=0,rounding_size=0.6"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, edgecolor=EDGE, lw=0.9, ls=line)
    )
    weight = "bold" if bold else "normal"
    if top:
        axes.text(x + 1, y + height - 0.8, text, ha="left", va="top", fontsize=size, weight=weight)
    else:
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, weight=weight)


def arrow(
    axes: Axes, start: Sequence[float], end: Sequence[float], text: str = "", *, at: tuple[float, float] = (0, 0),
    colour: str = EDGE, both: bool = False, width: float = 1.2, size: float = 8, ha: str = "center",
) -> None:  # fmt: skip
    """Draw an arrow; its text stands in its middle, moved by `at`."""
    style = "<|-|>" if both else "-|>"
    axes.add_patch(
        FancyArrowPatch(
            tuple(start), tuple(end), arrowstyle=style, mutation_scale=10, color=colour, lw=width, shrinkA=0, shrinkB=0
        )
    )
    if text:
        x, y = (start[0] + end[0]) / 2 + at[0], (start[1] + end[1]) / 2 + at[1]
        axes.text(x, y, text, ha=ha, va="center", fontsize=size, color=colour)


def term(
    axes: Axes, word: str, said: str, place: Sequence[float], target: Sequence[float], *, ha: str = "left"
) -> None:
    """Write a word with what it means, and a line from it to what it names."""
    axes.text(place[0], place[1], word, ha=ha, va="bottom", fontsize=10, weight="bold", color=TERM)
    axes.text(place[0], place[1] - 0.2, said, ha=ha, va="top", fontsize=7.6, color="#222222", linespacing=1.15)
    side = place[0] - 0.5 if ha == "left" else place[0] + 0.5
    axes.plot([side, target[0]], [place[1] + 0.2, target[1]], color=TERM, lw=0.8)
    axes.plot([target[0]], [target[1]], "o", color=TERM, ms=3)


def draw_machine(path: Path) -> None:
    """Draw the stack: memory, base die, tiers."""
    axes = canvas(110, 76)
    for tier, y in ((0, 41), (1, 58)):
        box(axes, 14, y, 92, 12.5, f"tier {tier}", HDL, top=True, bold=True)
        box(axes, 16, y + 1.5, 10, 7.5, "hub\ntakes what\ncrosses", size=8)
        box(axes, 28, y + 1.5, 14, 7.5, "activation buffer,\ntoken list", size=8)
        box(axes, 44, y + 1.5, 30, 7.5, "R rows of C PEs,\na V-Cache bank over each row", bold=True)
        box(axes, 76, y + 1.5, 13, 7.5, "accumulators", size=8)
        box(axes, 91, y + 1.5, 13, 7.5, "drain\n(requantises)", size=8)
        for x, to in ((26, 28), (42, 44), (74, 76), (89, 91)):
            arrow(axes, (x, y + 5), (to, y + 5))
    axes.text(60, 73, "... more tiers, each the same module", ha="center", fontsize=9, style="italic")
    box(axes, 14, 17, 92, 19, "base die", HDL, top=True, bold=True)
    box(axes, 16, 26.5, 13, 6, "fetch,\ndispatcher", size=8)
    box(axes, 31, 26.5, 19, 6, "queues: load0, load1,\nstore, vector, tier0, ...", size=8)
    box(axes, 52, 26.5, 16, 6, "sequencers, one a tier\nsemaphores, tags", size=8)
    box(axes, 16, 18.5, 13, 6, "load engines\n0 and 1", size=8)
    box(axes, 31, 18.5, 19, 6, "fill lanes\n(merge the two planes)", size=8)
    box(axes, 52, 18.5, 16, 6, "store unit", size=8)
    box(axes, 72, 26.5, 32, 6, "collector: row FIFOs, result bus", size=8)
    box(axes, 72, 18.5, 15, 6, "combine buffer", size=8, bold=True)
    box(axes, 89, 18.5, 15, 6, "vector unit", size=8, bold=True)
    arrow(axes, (29, 29.5), (31, 29.5))
    arrow(axes, (50, 29.5), (52, 29.5))
    arrow(axes, (29, 21.5), (31, 21.5))
    arrow(axes, (80, 26.5), (80, 24.5))
    arrow(axes, (87, 21.5), (89, 21.5), both=True)
    arrow(axes, (72, 21.5), (68, 21.5))
    # bonds
    arrow(axes, (60, 36), (60, 41), "waves", at=(1, 0), ha="left")
    arrow(axes, (40, 36), (40, 41), "weights, activations, lists", at=(-1, 0), ha="right")
    arrow(axes, (97, 41), (97, 36), "result rows", at=(-1, 0), ha="right")
    arrow(
        axes,
        (52, 53.5),
        (52, 58),
        "links of gangs: stationary words (M), activations (N), partial sums (K)",
        at=(1, 0),
        ha="left",
    )
    arrow(axes, (20, 53.5), (20, 58))
    axes.text(13, 55.7, "bond 1", ha="right", fontsize=9, weight="bold")
    axes.text(13, 38.5, "bond 0", ha="right", fontsize=9, weight="bold")
    for x, name in (
        (16, "channel group 0:\nstreams, and one plane of each weight tile"),
        (62, "channel group 1:\nthe other plane of each weight tile"),
    ):
        box(axes, x, 5, 42, 6, name, DATA, size=8)
        arrow(axes, (x + 21, 11), (x + 21, 17), "AXI4", at=(1, 0), both=True, ha="left")
    axes.text(60, 2.2, "memory (HBM or any other behind AXI4)", ha="center", fontsize=9, style="italic")
    box(axes, 1, 20, 9, 9, "host:\nregisters,\ninterrupt", DATA, size=8)
    arrow(axes, (10, 24.5), (14, 24.5), both=True)
    axes.text(12, 21, "AXI4-Lite", ha="center", fontsize=7, rotation=90, va="top")
    plt.savefig(path, bbox_inches="tight", pad_inches=0.1)
    plt.close()


def draw_software(path: Path) -> None:
    """Draw the three packages, and what goes from one to the next."""
    axes = canvas(110, 66)
    columns = (
        (2, HDL, "hdl: the machine"),
        (38, SCHEDULER, "scheduler: what it runs"),
        (74, SIM, "sim: that it is so"),
    )
    for x, colour, name in columns:
        box(axes, x, 9, 34, 48, name, colour, top=True, bold=True, size=11)
    for x, texts in (
        (4, (
            "configuration: a preset or a TOML file",
            "blocks in Amaranth;\ninstruction set, registers",
            "emitter: names, hierarchy,\nconstraints, descriptions",
            "lint, synthesis, boards",
        )),
        (40, (
            "family: what config.json means;\nquantisation to int8",
            "operations of a step, plans, places",
            "streams: emitters, list schedule,\nsemaphores, proof of order",
            "cycle model, HBM timing, energy",
        )),
        (76, (
            "integer model and\ninstruction executor (NumPy)",
            "simulated machine: emitted Verilog,\nVerilator or Icarus, cocotb",
            "comparison of every byte\nof both memories",
            "measurements, timelines, pictures",
        )),
    ):  # fmt: skip
        for i, text in enumerate(texts):
            box(axes, x, 43 - 10.5 * i, 30, 8, text, size=8.5)
            if i == 3:
                arrow(axes, (x + 15, 9), (x + 15, 6))
            else:
                arrow(axes, (x + 15, 43 - 10.5 * i), (x + 15, 40.5 - 10.5 * i))
    box(axes, 4, 60, 30, 4.5, "sizes you choose", DATA)
    box(axes, 40, 60, 30, 4.5, "a model, steps or requests", DATA)
    box(axes, 76, 60, 30, 4.5, "prompts, seeds", DATA)
    for x in (19, 55, 91):
        arrow(axes, (x, 60), (x, 57))
    box(axes, 2, 1, 34, 5, "Verilog, a3d.f, a3d.h, SDC, RDL, core", DATA)
    box(axes, 38, 1, 34, 5, "schedule: stepN.bin, images, cycles", DATA)
    box(axes, 74, 1, 34, 5, "text, waves, reports, mismatched bytes", DATA)
    arrow(axes, (34, 36.5), (40, 36.5))
    arrow(axes, (70, 26), (76, 36.5), width=1.6)
    axes.text(37, 38, "ISA", ha="center", fontsize=7.5)
    axes.text(72.6, 33.6, "streams", ha="center", fontsize=7.5, rotation=60)
    arrow(axes, (36, 7.3), (74, 7.3))
    axes.text(45, 7.9, "Verilog", ha="center", fontsize=7.5)
    plt.savefig(path, bbox_inches="tight", pad_inches=0.1)
    plt.close()


def draw_words(path: Path) -> None:
    """Draw where the words of the glossary belong."""
    axes = canvas(150, 104)
    left, right = 46, 104
    for tier, y in ((0, 44), (1, 70)):
        box(axes, left, y, right - left, 20, f"tier {tier}", HDL, top=True, bold=True)
        for row in range(4):
            base = y + 12.6 - 3.6 * row
            for tile in range(6):
                chosen = tile == 2
                box(axes, left + 2 + 2.2 * tile, base, 2.0, 2.6, "", "#f7a072" if chosen else PLAIN)
            for column in range(4):
                box(axes, left + 20 + 4.2 * column, base, 3.4, 2.6, "PE", PLAIN, size=7)
            arrow(axes, (left + 15.4, base + 1.3), (left + 20, base + 1.3), width=0.8)
        axes.text(left + 8.4, y + 16.2, "V-Cache", ha="center", fontsize=7.5)
        axes.text(left + 28, y + 16.2, "R rows x C columns", ha="center", fontsize=7.5)
        box(axes, left + 38, y + 2, 8, 13, "accu-\nmulators", size=7.5)
        box(axes, left + 49, y + 2, 7, 13, "drain", size=8)
        arrow(axes, (left + 36.5, y + 4), (left + 38, y + 4))
        arrow(axes, (left + 46, y + 8), (left + 49, y + 8))
        axes.plot([left + 18.7, left + 37.5], [y + 15.6, y + 0.9], color="#1f5fbf", alpha=0.6, lw=2, ls=(0, (4, 2)))
    for y, name in ((38.2, "bond 0"), (64.2, "bond 1")):
        box(axes, left + 8, y, right - left - 16, 5.6, line="--", colour="#f4f4f4")
        axes.text(left + 13, y + 2.8, name, ha="left", va="center", fontsize=8)
    arrow(axes, (left + 28, 62.5), (left + 28, 71.5), "M  N  K", at=(1, -1.1), ha="left", size=8)
    arrow(axes, (right - 1, 78), (right - 1, 36.2), width=1.0)
    axes.plot([right + 1, right + 2.4, right + 2.4, right + 1], [88, 88, 46, 46], color=EDGE, lw=1.2)
    box(axes, left, 14, right - left, 22, "base die", HDL, top=True, bold=True)
    box(axes, left + 2, 24.5, 13, 7, "load engines,\nfill lanes", size=7.5)
    box(axes, left + 17, 24.5, 17, 7, "sequencers\ntags: tile 2 = 5, valid\ncredits: 3", size=7)
    axes.text(left + 27, 33.6, "semaphores", ha="right", va="center", fontsize=7)
    for i in range(5):
        box(axes, left + 28 + 2.2 * i, 32.2, 1.9, 2.8, str((0, 2, 1, 0, 0)[i]), PLAIN, size=7)
    axes.text(left + 2, 22.3, "routing table", fontsize=7)
    for i, text in enumerate(("expert 5 | 3 tokens | entry 0", "expert 2 | 1 token | entry 3")):
        box(axes, left + 2, 18.8 - 3.2 * i, 20, 2.8, text, "#fbe9d6" if i == 0 else PLAIN, size=6.3)
    box(axes, left + 38, 16, 18, 15.5, "", PLAIN)
    for i in range(4):
        box(axes, left + 39, 27 - 3.3 * i, 16, 2.6, "C sums (int32)" if i == 0 else "", "#eef5ea", size=7)
    for group, x in ((0, left + 2), (1, left + 31)):
        box(axes, x, 2, 25, 7.5, "", DATA)
        axes.text(x + 1, 8.6, f"channel group {group}", fontsize=7.5, va="top")
        box(
            axes,
            x + 2,
            2.8,
            21,
            3,
            ("high plane: bits 7..4", "low plane: bits 3..0")[group] + " of a tile",
            "#f7a072",
            size=6.8,
        )
        arrow(axes, (x + 12, 9.5), (x + 12, 14), both=True)
    for word, said, y, target in (
        ("tier", "one die of the array: PEs, V-Cache,\nbuffers, accumulators, drain", 94, (left, 88)),
        ("tile", "rows x columns stationary values under one\nnumber: a word in each bank", 85, (left + 7.4, 84.5)),
        ("word", "stationary word: what a PE row's bank\nhands it in a cycle (C bytes)", 76, (left + 7.4, 76.8)),
        ("bond", "all that crosses from one die to the next", 67, (left + 9, 67)),
        ("wave", "a vector of activations on its way\nthrough the rows, one a cycle", 58, (left + 19.6, 58.9)),
        ("tag", "the number a load gives to tiles,\nand a GEMM asks for", 49, (left + 18, 28)),
        ("semaphore", "a counter: posts add one,\nwaits subtract", 40, (left + 19.2, 33.6)),
        ("slot", "an entry of the routing table: an expert,\nits tokens, its first list entry", 30, (left + 2.4, 20.4)),
        ("expert", "one gated MLP of a layer's many;\nthe router chooses some for each token", 20, (left + 4, 17)),
        ("plane", "half of the bits of each weight of a tile", 11, (left + 4.6, 4.2)),
        ("group", "AXI4 channels that run in lockstep;\nthere are two", 4, (left + 2.4, 8)),
    ):  # fmt: skip
        term(axes, word, said, (40, y), target, ha="right")
    for word, said, y, target in (
        ("column", "PEs of one output, one above the other", 96, (left + 34.2, 85.5)),
        ("row", "PEs of one input; also C values,\nas a result row", 88, (left + 35.8, 83.9)),
        ("PE", "a multiplier with its stationary register", 79.5, (left + 35.4, 80.3)),
        ("gang", "adjacent tiers that execute\none GEMM together", 70, (right + 2.4, 66)),
        ("mapping", "how a gang shares a GEMM: M tokens,\nN outputs, K reduction", 60, (left + 33.4, 66)),
        ("drain", "makes a result row (int8 or int16)\nof a finished row of sums", 51, (left + 54, 50)),
        ("credit", "room for a result row on the base die;\na row's last wave takes one", 41, (left + 31.5, 25.6)),
        ("combine buffer", "rows of C int32 sums, for results,\nvector unit and stores", 31, (left + 54, 28.2)),
    ):  # fmt: skip
        term(axes, word, said, (110, y), target)
    plt.savefig(path, bbox_inches="tight", pad_inches=0.1)
    plt.close()


def main(folder: Path) -> None:
    """Draw all pictures into a folder."""
    draw_machine(folder / "machine.png")
    draw_software(folder / "software.png")
    draw_words(folder / "words.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs" / "images")
