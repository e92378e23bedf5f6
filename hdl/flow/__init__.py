# SPDX-License-Identifier: Apache-2.0
"""Synthesis of generated designs with Yosys: cells, registers, memory bits, multipliers, longest paths, area."""
