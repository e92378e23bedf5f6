# SPDX-License-Identifier: Apache-2.0
"""The instruction set: one file an opcode, and what derives from them.

Every public name can be imported from here; the assembler (:mod:`hdl.isa.asm`) and the explanation of streams
(:mod:`hdl.isa.explain`) stand beside.
"""

from hdl.isa.checks import (
    Limits,
    Violation,
)
from hdl.isa.description import (
    OpcodeDescription,
    Work,
    beats,
)
from hdl.isa.encoding import (
    body_layout,
    decode,
    encode,
    field_widths,
    fields_of,
    header_layout,
    instruction_layout,
    most_of,
)
from hdl.isa.error_codes import ERROR_CODE_BITS, ERROR_MEANINGS, ErrorCode
from hdl.isa.fields import (
    HEADER,
    INSTRUCTION_BITS,
    Field,
    Instruction,
    IsaError,
    Opcode,
    tiers_of_mask,
)
from hdl.isa.gemm import (
    MAX_SHIFT,
    Dest,
    Mapping3D,
    Mode,
    Order,
    gang_tiers,
    maker_tiers,
    parameter_count,
    slot_gemm,
    swiglu_channels,
)
from hdl.isa.legality import (
    check_instruction,
    check_word,
    issue_queues,
    read_word,
)
from hdl.isa.load import (
    LIST_ENTRY_BYTES,
    LOAD_TARGETS,
    MAX_ROW_SHIFT,
    PLANES,
    SLOT_DESTS,
    Format,
    LoadDest,
    LoadTarget,
    check_load_addresses,
    has_two_addresses,
    load_bytes,
    load_groups,
    load_item_bytes,
    needs_full,
    slot_load,
    slot_loads,
)
from hdl.isa.memories import (
    MEMORIES,
    Access,
    Memory,
    OnChip,
)
from hdl.isa.queues import (
    LOAD_ENGINES,
    STORE_QUEUE,
    VECTOR_QUEUE,
    load_queue_name,
    queue_names,
    tier_queue_name,
)
from hdl.isa.registry import (
    BODIES,
    OPCODES,
)
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
from hdl.isa.store import (
    StoreFormat,
    element_bytes,
    store_beats,
    store_bytes,
    store_span,
    store_start,
    store_step,
)
from hdl.isa.vector import (
    INDEX_LIMIT,
    a_rows,
    b_rows,
    c_rows,
    check_vector_fields,
    check_vector_ranges,
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
from hdl.isa.vector_operations import (
    REDUCTIONS,
    TWO_OPERANDS,
    VECTOR_OPERATIONS,
    ScalarRead,
    VectorBits,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorOperation,
    VectorSum,
)

__all__ = [
    "BODIES", "ERROR_CODE_BITS", "ERROR_MEANINGS", "HEADER", "INDEX_LIMIT", "INSTRUCTION_BITS", "LIST_ENTRY_BYTES",
    "LOAD_ENGINES", "LOAD_TARGETS", "MAX_CHOICES", "MAX_ROW_SHIFT", "MAX_SHIFT", "MEMORIES", "OPCODES", "PLANES",
    "REDUCTIONS",
    "SLOT_DESTS", "STORE_QUEUE", "TWO_OPERANDS", "VECTOR_OPERATIONS", "VECTOR_QUEUE", "Access", "Dest", "ErrorCode",
    "Field", "Format", "Instruction", "IsaError", "Limits", "LoadDest", "LoadTarget", "Mapping3D", "Memory", "Mode",
    "OnChip", "Opcode", "OpcodeDescription", "Order", "ScalarRead", "StoreFormat", "VectorBits", "VectorDest",
    "VectorFn", "VectorOp", "VectorOperation", "VectorSum", "Violation", "Work", "a_rows", "b_rows", "beats",
    "body_layout", "c_rows", "check_instruction", "check_load_addresses", "check_route_fields", "check_route_ranges",
    "check_vector_fields", "check_vector_ranges", "check_word", "decode", "dest_bytes", "dest_rows", "element_bytes",
    "encode", "field_widths", "fields_of", "gang_tiers", "gate_rows", "has_sum", "has_two_addresses", "header_layout",
    "instruction_layout", "issue_queues", "lengths", "load_bytes", "load_groups", "load_item_bytes",
    "load_queue_name", "maker_tiers", "most_of", "needs_full", "parameter_count", "queue_names", "read_word",
    "reads_scalar", "route_dests", "route_entries", "route_scalars", "route_sources", "row_count", "scalar_span",
    "scalars_read", "scalars_written", "slot_gemm", "slot_load", "slot_loads", "store_beats", "store_bytes",
    "store_span", "store_start", "store_step", "swiglu_channels", "tier_queue_name", "tiers_of_mask", "writes_scalar",
]  # fmt: skip
