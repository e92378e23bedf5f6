# SPDX-License-Identifier: Apache-2.0
"""A liberty file of five cells whose delays do not depend on anything, so that paths can be added up by hand."""

INVERTER, NAND, XOR, BUFFER, CLOCK_TO_Q, SETUP = 0.1, 0.2, 0.4, 0.15, 0.5, 0.25
"""Delays in ns."""

AREAS = {"INV": 1.0, "NAND2": 2.0, "XOR2": 4.0, "BUF": 1.5, "DFF": 10.0}


def _gate(name: str, function: str, delay: float, inputs: str) -> str:
    arcs = "".join(
        f'      timing () {{ related_pin : {pin}; cell_rise (scalar) {{ values ("{delay}"); }} '
        f'cell_fall (scalar) {{ values ("{delay}"); }} rise_transition (scalar) {{ values ("0.01"); }} '
        f'fall_transition (scalar) {{ values ("0.01"); }} }}\n'
        for pin in inputs
    )
    pins = "".join(f"    pin ({pin}) {{ direction : input; capacitance : 1; }}\n" for pin in inputs)
    return (
        f"  cell ({name}) {{\n    area : {AREAS[name]};\n{pins}"
        f'    pin (Y) {{ direction : output; function : "{function}";\n{arcs}    }}\n  }}\n'
    )


_CHECK = "".join(f'{edge}_constraint (scalar) {{ values ("{SETUP}"); }} ' for edge in ("rise", "fall"))
_CLOCKED = "".join(
    f'cell_{edge} (scalar) {{ values ("{CLOCK_TO_Q}"); }} {edge}_transition (scalar) {{ values ("0.01"); }} '
    for edge in ("rise", "fall")
)

CELLS = (
    "/* Made for tests. */\n"
    "library (five_cells) {\n"
    "  delay_model : table_lookup;\n"
    '  time_unit : "1ns";\n  capacitive_load_unit (1, ff);\n  voltage_unit : "1V";\n  current_unit : "1mA";\n'
    '  pulling_resistance_unit : "1kohm";\n  leakage_power_unit : "1nW";\n'
    + _gate("INV", "!A", INVERTER, "A")
    + _gate("BUF", "A", BUFFER, "A")
    + _gate("NAND2", "!(A B)", NAND, "AB")
    + _gate("XOR2", "A^B", XOR, "AB")
    + "  cell (DFF) {\n"
    f"    area : {AREAS['DFF']};\n"
    "    ff (IQ, IQN) { clocked_on : CK; next_state : D; }\n"
    "    pin (CK) { direction : input; clock : true; capacitance : 1; }\n"
    "    pin (D) { direction : input; capacitance : 1;\n"
    f"      timing () {{ related_pin : CK; timing_type : setup_rising; {_CHECK}}}\n    }}\n"
    "    pin (Q) { direction : output; function : IQ;\n"
    f"      timing () {{ related_pin : CK; timing_type : rising_edge; {_CLOCKED}}}\n    }}\n  }}\n"
    "}\n"
)
"""The file."""
