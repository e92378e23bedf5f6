# SPDX-License-Identifier: Apache-2.0
"""The vector unit: norms, rotation, softmax, top-k and scaling on rows of the combine buffer."""
