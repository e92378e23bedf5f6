# SPDX-License-Identifier: Apache-2.0
"""The unified 3D dataflow controller: registers, dispatcher, semaphores, sequencers, counters and error handling."""
