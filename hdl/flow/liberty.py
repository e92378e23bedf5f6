# SPDX-License-Identifier: Apache-2.0
"""Standard cells out of a liberty file: the file itself, mapping to its cells, and what stands for a memory macro."""

from __future__ import annotations

import gzip
import re
import zlib
from fnmatch import fnmatch
from pathlib import Path

from hdl.errors import A3dError
from hdl.flow.mapped import Target
from hdl.flow.store import hash_text
from hdl.flow.wrapper import port_widths

__all__ = ["DONT_USE", "WHERE", "Liberty", "macro_model"]

WHERE = (
    "name a .lib or .lib.gz file, for example sky130hd_tt.lib.gz or nangate45_typ.lib.gz from the folder examples of "
    "OpenSTA's public repository (github.com/parallaxsw/OpenSTA)"
)
"""Where liberty files are to be had: they are other people's, and not shipped."""

DONT_USE = ("*lpflow*", "*probe*")
"""Cells that are not for logic: those of power domains and of probing in sky130."""

MOST_BYTES = 1 << 28
FILE = "cells.lib"
"""Name of the liberty file in the folder of a run."""

_CONSTRAINTS = "cells.constr"

_SCRIPT = "strash;dch;map,-B,0.9;topo;buffer,-c,-p,-N,16;upsize,{D};dnsize,{D};stime,-p"
"""What ABC does: structural choices, mapping for delay, buffers, sizes."""

_AS_FAST_AS_CAN_BE = 1
"""Delay that ABC aims at, in ps."""

_LIBRARY = re.compile(r"\s*(?:/\*.*?\*/\s*|//[^\n]*\n\s*)*library\s*\(\s*\"?([\w.\-]+)\"?\s*\)\s*\{", re.DOTALL)
_CELL = re.compile(r"\bcell\s*\(\s*\"?(\w+)\"?\s*\)")
_AREA = re.compile(r"\barea\s*:\s*\"?([\d.]+)")
_FUNCTION = re.compile(r"\bfunction\s*:\s*\"?([^\";]+)")
_INVERTED = re.compile(r"\(?\s*(?:!\s*\(?\s*\w+\s*\)?|\w+\s*')\s*\)?")
_FLIP_FLOP = re.compile(r"\bff\s*\(")


class Liberty(Target):
    """The cells of a liberty file.

    Parameters
    ----------
    path : Path
        The file, as it is or compressed by gzip.

    Attributes
    ----------
    library : str
        Name of the library.

    Raises
    ------
    A3dError
        It cannot be read, or is none.
    """

    opaque_memories = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = _read(path)
        found = _LIBRARY.match(self.text)
        if found is None:
            raise A3dError(f"--liberty {path}: is no liberty file: 'library (NAME) {{' is not its first group; {WHERE}")
        self.library = found[1]
        for pattern, what in ((_CELL, "cell"), (_FLIP_FLOP, "flip-flop")):
            if pattern.search(self.text) is None:
                raise A3dError(f"--liberty {path}: library {self.library!r} has no {what}; {WHERE}")
        self.driver = _driver(self.text)
        self.name = f"the cells of {self.library}"
        self.recipe = f"liberty 4 {hash_text(self.text)} {' '.join(DONT_USE)}"

    @property
    def flow(self) -> str:
        """Short name of the library: ``sky130``, ``nangate45``, or its own."""
        name = self.library.lower()
        return next((known for known in ("sky130", "nangate") if known in name), name).replace("nangate", "nangate45")

    def prepare(self, folder: Path) -> None:
        """Write the liberty file, and what ABC needs to buffer and size gates."""
        (folder / FILE).write_text(self.text, encoding="utf-8")
        # Without a cell that drives it, an input port could drive anything, and its net would not be buffered.
        driver = f"set_driving_cell {self.driver}\n" if self.driver else ""
        (folder / _CONSTRAINTS).write_text(f"{driver}set_load 5\n", encoding="utf-8")

    def passes(self, name: str) -> list[str]:
        """Return the passes of one module."""
        return [
            "proc -norom",
            # Resources are not shared, so that they lie where the Verilog has them.
            # Multipliers are of Booth's kind, adders of Kogge's and Stone's: what a timing-driven tool would choose.
            f"synth -top {name} -noshare -booth -run begin:fine",
            "opt -fast -full",
            "memory_map",
            "opt -full",
            "techmap -map +/choices/kogge-stone.v -map +/techmap.v",
            "opt -fast",
            # Flip-flops are called after what they drive, so that paths can be read.
            "rename -wire t:$_*DFF*",
            *self.registers(),
            f"abc {self._dont_use} -liberty {FILE} -constr {_CONSTRAINTS} -D {_AS_FAST_AS_CAN_BE} -script +{_SCRIPT}",
            "opt_clean",
        ]

    def registers(self) -> list[str]:
        """Return the passes that map flip-flops."""
        return [f"dfflibmap {self._dont_use} -liberty {FILE}"]

    @property
    def stat(self) -> str:
        """The pass that counts cells and their area."""
        return f"stat -liberty {FILE}"

    @property
    def _dont_use(self) -> str:
        return " ".join(f"-dont_use {pattern}" for pattern in DONT_USE)


def macro_model(text: str) -> str:
    """Return what stands for a memory macro in timing: a flip-flop at each of its pins.

    Parameters
    ----------
    text : str
        The module of the memory.
    """
    ports = [(kind, name, width) for kind, name, width in port_widths(text) if name not in ("clk", "rst")]
    inputs = [(name, width) for kind, name, width in ports if kind == "input"]
    taken = sum(width for _, width in inputs)
    lines = [re.sub(r"\boutput reg\b", "output wire", text[: text.index(");") + 2])]
    # Nothing in the model needs the flip-flops at its inputs.
    lines += [f"  (* keep *) reg [{width - 1}:0] at_{name};" for _, name, width in ports]
    lines.append(f"  wire [{taken - 1}:0] held = {{{', '.join(f'at_{name}' for name, _ in inputs)}}};")
    lines.append("  always @(posedge clk) begin")
    for kind, name, width in ports:
        # An output comes from some input: what never changes would be taken away.
        source = name if kind == "input" else f"{{{-(-width // taken)}{{held}}}}"
        lines.append(f"    at_{name} <= {source};")
    lines.append("  end")
    lines += [f"  assign {name} = at_{name};" for kind, name, _ in ports if kind == "output"]
    return "\n".join([*lines, "endmodule", ""])


def _driver(text: str) -> str:
    """Return the inverter that is taken to drive input ports: the second smallest, or the only one; empty: none."""
    found = []
    parts = _CELL.split(text)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        functions = _FUNCTION.findall(body)
        area = _AREA.search(body)
        usable = area is not None and not any(fnmatch(name, pattern) for pattern in DONT_USE)
        if usable and len(functions) == 1 and _INVERTED.fullmatch(functions[0].strip()):
            found.append((float(area[1]) if area else 0.0, name))
    return sorted(found)[:2][-1][1] if found else ""


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise A3dError(f"--liberty {path}: has more than {MOST_BYTES:,} bytes; {WHERE}")
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                data = file.read(MOST_BYTES)
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise A3dError(f"--liberty {path}: is no liberty file: it is not text; {WHERE}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise A3dError(f"--liberty {path}: is damaged: gzip cannot unpack it; {WHERE}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no file name"
        raise A3dError(f"--liberty {path}: cannot be read: {reason}; {WHERE}") from None
