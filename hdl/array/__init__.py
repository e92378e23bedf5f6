# SPDX-License-Identifier: Apache-2.0
"""The stacked systolic array: processing elements, rows, accumulators, links, tiers and the stack of tiers."""
