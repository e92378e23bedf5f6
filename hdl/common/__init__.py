# SPDX-License-Identifier: Apache-2.0
"""What several blocks use: memory wrapper, FIFOs, queue numbers, semaphore ports, routing table, requantisation."""
