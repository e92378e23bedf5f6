# SPDX-License-Identifier: Apache-2.0
"""The order of a stream, one instruction at a time and with sets as Python integers: slow, and plain to read.

The independent reference of the proof in :mod:`scheduler.stream`, and what drawn streams (:mod:`sim.stimulus`) are
ordered with.
"""
