# SPDX-License-Identifier: Apache-2.0
"""Names that :mod:`hdl.isa` has itself: for modules that still import them from here."""

from hdl.isa.vector import INDEX_LIMIT, check_vector_fields, check_vector_ranges

__all__ = ["INDEX_LIMIT", "check_vector_fields", "check_vector_ranges"]
