# SPDX-License-Identifier: Apache-2.0
"""Streams of instructions: emitted, synchronised, verified, encoded."""
