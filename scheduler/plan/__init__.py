# SPDX-License-Identifier: Apache-2.0
"""Plans: how a step's operations use a machine, and where their data lie on the chip."""
