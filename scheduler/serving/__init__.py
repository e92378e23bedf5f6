# SPDX-License-Identifier: Apache-2.0
"""Serving: requests come, share steps, and leave."""
