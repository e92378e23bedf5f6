# SPDX-License-Identifier: Apache-2.0
"""The machine on an FPGA board: memories in block RAM, a host on a serial line, a clock from the board's crystal."""
