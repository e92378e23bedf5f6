# SPDX-License-Identifier: Apache-2.0
"""What things cost in cycles: the blocks' latencies and rates, the work of instructions, whole streams."""
