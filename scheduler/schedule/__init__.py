# SPDX-License-Identifier: Apache-2.0
"""Schedules: the streams of a file of steps, with all that a machine or a cycle model needs to run them."""
