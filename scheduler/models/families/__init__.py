# SPDX-License-Identifier: Apache-2.0
"""Families of models, one file each, and the table of them."""
