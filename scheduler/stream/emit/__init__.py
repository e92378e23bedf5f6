# SPDX-License-Identifier: Apache-2.0
"""From planned operations to instructions: one emitter for each kind of operation."""
