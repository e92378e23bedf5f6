# SPDX-License-Identifier: Apache-2.0
"""The V-Cache fill path in a tier, in slices: the bond register of one row's data, and the wiring of transposed tiles.

A fill word covers ``fill_rows`` adjacent rows of a tile; slice ``j`` carries row ``word * fill_rows + j`` of both lanes
(channel groups).  A tier has one slice for each, so that no module is wider than a row.  The hub registers the control
part of the same fill words in step and decodes it.

A fill word of a transposed tile (``columns`` in its control part) holds the tile column by column, R bytes each: byte
``j`` of word ``w`` is byte ``n = w * W + j`` of the tile, column ``n // R`` of row ``n % R``, where a word has ``W``
bytes.  R and W are powers of two, so the word that a byte comes in depends on its column only (and, if a column takes
several words, on which part of the rows its row is in), and its place in the word on what is left: wires.  A word with
``W >= R`` brings ``column_run`` = W / R whole columns, so every row takes that many bytes of it.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.structural import StructuralComponent, Structure

__all__ = ["FillSlice", "FillTurn", "column_run", "column_words", "turned_bytes"]


def column_run(config: MachineConfig) -> int:
    """Return how many adjacent bytes of a row's word one fill word of a transposed tile writes."""
    return max(1, config.fill_rows * config.columns // config.rows)


def column_words(config: MachineConfig) -> int:
    """Return how many fill words of a transposed tile one column takes; each is for as many adjacent rows."""
    return max(1, config.rows // (config.fill_rows * config.columns))


def turned_bytes(config: MachineConfig, row: int) -> list[tuple[int, int]]:
    """Return where in a fill word of a transposed tile the bytes of `row` are: (slice, byte of the slice) each."""
    first = row % (config.fill_rows * config.columns)
    return [divmod(first + k * config.rows, config.columns) for k in range(column_run(config))]


class FillSlice(wiring.Component):
    """Register one row slice of both fill lanes, and pick a lane.

    Latency: one cycle from ``below`` to ``above`` and to ``row``.  Throughput: one slice per lane and cycle.

    Parameters
    ----------
    columns : int
        Bytes of a slice.

    Members
    -------
    valid : In(1).array(2)
        The lane carries a fill word this cycle (from the tier below; other words are not taken in).
    below : In(8 * columns).array(2)
        Data of the lanes from the tier below.
    above : Out(8 * columns).array(2)
        The same for the tier above, and for this tier's rows, registered.
    select : In(1)
        Registered by the hub in step with the data: lane 1 hits this tier, else lane 0.
    row : Out(8 * columns)
        Data of that lane, for transposed tiles and for the edge feed, whose words come one at a time.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        width = 8 * columns
        super().__init__(
            {
                "valid": In(1).array(2),
                "below": In(width).array(2),
                "above": Out(width).array(2),
                "select": In(1),
                "row": Out(width),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"fill_slice_c{self.columns}"

    def elaborate(self, platform: object) -> Module:
        """Build the registers and the multiplexer."""
        m = Module()
        lanes = [Signal(8 * self.columns, name=f"lane_{lane}", reset_less=True) for lane in range(2)]
        for lane, register in enumerate(lanes):
            with m.If(self.valid[lane]):
                m.d.sync += register.eq(self.below[lane])
            m.d.comb += self.above[lane].eq(register)
        m.d.comb += self.row.eq(Mux(self.select, lanes[1], lanes[0]))
        return m


class FillTurn(StructuralComponent):
    """Regroups some columns of the fill slices byte by byte; wires only.

    What the rows take of a transposed tile's word is one byte of many slices each.  Described for each row on its own
    that would be a long list of bytes; some columns turned here make it a short list of wider parts.

    Parameters
    ----------
    slices : int
        Fill slices (``fill_rows``).
    columns : int
        Columns.
    rows_per_column : int
        Rows of the tile per column, R / C: the slices are put in the order in which a row takes them.

    Members
    -------
    slices : In(8 * columns * slices)
        These columns of every slice, slice 0 lowest.
    turned : Out(8 * slices * columns)
        The slices' bytes of each column, column 0 lowest; see :meth:`position`.
    """

    def __init__(self, slices: int, columns: int, rows_per_column: int) -> None:
        self.count = slices
        self.columns = columns
        self.rows_per_column = rows_per_column
        self.order = sorted(range(slices), key=lambda index: (index % rows_per_column, index))
        super().__init__({"slices": In(8 * columns * slices), "turned": Out(8 * slices * columns)})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"fill_turn_s{self.count}_c{self.columns}_{self.rows_per_column}"

    def position(self, index: int, column: int) -> int:
        """Return the place in ``turned`` of the byte of slice `index` and `column`."""
        return column * self.count + self.order.index(index)

    def structure(self) -> Structure:
        """Describe the wires."""
        s = Structure(self)
        places = [i * self.columns + column for column in range(self.columns) for i in self.order]
        s.connect(self.turned, [self.slices[8 * place : 8 * place + 8] for place in places])
        return s
