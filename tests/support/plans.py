# SPDX-License-Identifier: Apache-2.0
"""A machine with room for any plan of a small model, and a chooser that takes the plans that it is told."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.ops.batch import Chunk
from scheduler.plan.policy import FUSED
from scheduler.plan.residence import Residence
from scheduler.stream.choose import Chooser, Plan
from tests.support.language import TINY

__all__ = ["ROOMY", "Forced"]

ROOMY = TINY.replace(
    name="roomy", vcache_tiles=1024, combine_rows=2048, activation_words=2048, scalar_depth=512, list_depth=256
)


class Forced(Chooser):
    """Takes the plans that it is told, one for each step."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        super().__init__(FUSED)
        self._plans = list(plans)

    def plans(
        self, residence: Residence, chunks: Sequence[Chunk], slots: bool, pinned: object = None, scored: bool = False
    ) -> list[Plan]:
        return [self._plans.pop(0)]
