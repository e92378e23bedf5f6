# SPDX-License-Identifier: Apache-2.0
"""Models: what a family's model is made of, its checkpoint, float model, calibration and quantisation."""
