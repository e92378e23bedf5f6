# SPDX-License-Identifier: Apache-2.0
"""Names that :mod:`hdl.isa` has itself: for modules that still import them from here."""

from hdl.isa.vector import (
    a_rows,
    b_rows,
    c_rows,
    dest_bytes,
    dest_rows,
    has_sum,
    lengths,
    reads_scalar,
    row_count,
    scalar_span,
    scalars_read,
    scalars_written,
    writes_scalar,
)
from hdl.isa.vector_operations import REDUCTIONS, TWO_OPERANDS

__all__ = [
    "REDUCTIONS", "TWO_OPERANDS", "a_rows", "b_rows", "c_rows", "dest_bytes", "dest_rows", "has_sum", "lengths",
    "reads_scalar", "row_count", "scalar_span", "scalars_read", "scalars_written", "writes_scalar",
]  # fmt: skip
