# SPDX-License-Identifier: Apache-2.0
"""From components to Verilog: every distinct module once, with a manifest and a C header.

>>> from hdl.emit import Emitter, instantiate, StructuralComponent, Structure     # in components
>>> from hdl.emit.verilog import emit, write                                      # in the generator
"""

from hdl.emit.hierarchy import EmitError, Emitter, Hierarchical, digest, instantiate
from hdl.emit.structural import StructuralComponent, Structure

__all__ = ["EmitError", "Emitter", "Hierarchical", "StructuralComponent", "Structure", "digest", "instantiate"]
