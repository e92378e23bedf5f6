# SPDX-License-Identifier: Apache-2.0
"""The host of a board: frames on a serial line, jobs on the machine behind it, and a simulated board."""
