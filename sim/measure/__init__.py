# SPDX-License-Identifier: Apache-2.0
"""Measurements on the simulated machine; each has a command ``a3d bench NAME`` that reprints its figures."""
