# SPDX-License-Identifier: Apache-2.0
"""Result rows on the base die: row FIFOs, result bus, activation writes, combine buffer."""

from hdl.result.collector import Collector

__all__ = ["Collector"]
