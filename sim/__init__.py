# SPDX-License-Identifier: Apache-2.0
"""The top floor: golden models, cocotb benches, memory model, reports, command line (imports the two below)."""
