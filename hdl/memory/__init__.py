# SPDX-License-Identifier: Apache-2.0
"""AXI4 side of the machine: group masters, load engines, store engine, instruction fetch."""
