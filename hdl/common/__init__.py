# SPDX-License-Identifier: Apache-2.0
"""What several blocks use: memory wrapper, FIFOs, queue numbers, copy of the routing table, requantisation."""
