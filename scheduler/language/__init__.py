# SPDX-License-Identifier: Apache-2.0
"""Lowers whole language-model steps (prefill and decode) to instruction streams; ``docs/vector.md`` has the plan."""
