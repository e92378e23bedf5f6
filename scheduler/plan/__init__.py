# SPDX-License-Identifier: Apache-2.0
"""On-chip places of a step, and the shape that says whether a model fits."""
