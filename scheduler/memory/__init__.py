# SPDX-License-Identifier: Apache-2.0
"""What lies in memory: images, tiles and nibble planes, placement, and the memory of a machine that serves a model."""
