# SPDX-License-Identifier: Apache-2.0
"""The stacked systolic array: memories, processing elements, rows, tiers and the stack of tiers."""
