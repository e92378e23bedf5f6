# SPDX-License-Identifier: Apache-2.0
"""Reference models: the instruction executor and the integer model."""
