# SPDX-License-Identifier: Apache-2.0
"""Reference models: the instruction executor, the integer model and the float model."""
