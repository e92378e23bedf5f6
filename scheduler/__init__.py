# SPDX-License-Identifier: Apache-2.0
"""The first floor: models, traces, placement, planning, fusion, lowering and the cycle model (imports hdl)."""
