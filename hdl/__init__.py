# SPDX-License-Identifier: Apache-2.0
"""The ground floor: configuration, instruction set, numerics, RTL, Verilog emission and synthesis."""
