# SPDX-License-Identifier: Apache-2.0
"""What instructions cost: cycle model, timing of the vector unit, counts of arithmetic and data movement."""
