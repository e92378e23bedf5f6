# SPDX-License-Identifier: Apache-2.0
"""Layers of other models than the demo's as programs of the vector unit, and what they cost in accuracy.

Each ``.asm`` file is a program with its contract in comments; :mod:`sim.stimulus.layers.examples` has the float
reference of each.  ``a3d bench layers`` measures the errors; the tests run the programs on the RTL too.
"""

from sim.stimulus.layers.examples import EXAMPLES, Example, LayerError, Outcome, measure_layers, play

__all__ = ["EXAMPLES", "Example", "LayerError", "Outcome", "measure_layers", "play"]
