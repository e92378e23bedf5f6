# SPDX-License-Identifier: Apache-2.0
"""The RTL simulators: tools, compiled simulators and their cache, the test bench around a machine, results of runs."""
