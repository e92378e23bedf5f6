# SPDX-License-Identifier: Apache-2.0
"""Names that :mod:`hdl.isa` has itself: for modules that still import them from here."""

from hdl.isa.checks import check_slot
from hdl.isa.gemm import slot_gemm
from hdl.isa.load import has_two_addresses, slot_load, slot_loads
from hdl.isa.route import (
    MAX_CHOICES,
    check_route_fields,
    check_route_ranges,
    gate_rows,
    route_dests,
    route_entries,
    route_scalars,
    route_sources,
)

__all__ = [
    "MAX_CHOICES", "check_route_fields", "check_route_ranges", "check_slot", "gate_rows", "has_two_addresses",
    "route_dests", "route_entries", "route_scalars", "route_sources", "slot_gemm", "slot_load", "slot_loads",
]  # fmt: skip
