# SPDX-License-Identifier: Apache-2.0
"""The drain of a tier: requantisation and SwiGLU of finished output rows, one row per cycle."""

from hdl.drain.drain import Drain

__all__ = ["Drain"]
