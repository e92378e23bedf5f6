# SPDX-License-Identifier: Apache-2.0
"""What instructions cost in cycles, bytes and arithmetic: the one interface, the blocks' timing, the cycle model."""
