# SPDX-License-Identifier: Apache-2.0
"""Lowers one mixture-of-experts layer alone."""
