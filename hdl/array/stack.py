# SPDX-License-Identifier: Apache-2.0
"""The stack of array tiers over the base die."""

from __future__ import annotations

from itertools import pairwise

from amaranth.lib.wiring import In, Out

from hdl.array.tier import Tier
from hdl.config import MachineConfig
from hdl.drain.drain import Drain
from hdl.emit.hierarchy import parameter_key
from hdl.emit.structural import StructuralComponent, Structure
from hdl.interfaces import dispatch_layout, fill_control_layout, result_layout, write_layout

__all__ = ["Stack", "arrival_latency", "result_latency"]


def arrival_latency(tier: int) -> int:
    """Return the cycles from a word at the stack's base ports to the same word behind the hub of `tier`.

    It holds for waves (behind the hub is row 0's input), fill words and writes alike.
    """
    return tier + 1


def result_latency(config: MachineConfig, tier: int) -> int:
    """Return the cycles from a `last` wave on lane `tier` of ``dispatch`` to its row on ``result[tier]``.

    It is the same in every mapping: in a K gang it counts from the dispatch of the tier that accumulates, whose lane
    runs ``config.skew_k - 1`` cycles behind the next lower tier's.
    """
    return config.rows + Drain.LATENCY + 5 + 2 * tier


class Stack(StructuralComponent):
    """All tiers; the base die sees its lower bond.

    Latency: :func:`arrival_latency` upwards, :func:`result_latency` from a wave to its result row.  Throughput: per
    cycle a wave, an activation write and a result row for each tier, and two fill words, for two tiers or for
    different rows of one.

    Parameters
    ----------
    config : MachineConfig
        Sizes of the machine.

    Members
    -------
    dispatch : In(dispatch_layout).array(tiers)
        Lane i goes to tier i.
    fill_control : In(fill_control_layout).array(2)
        V-Cache fill words, one lane per channel group; bit i of ``tiers`` is tier i.
    fill_data : In(8 * columns).array(2, fill_rows)
        Their data.
    write : In(write_layout).array(result_lanes + 1)
        Activation and requantisation writes; bit i of ``tiers`` is tier i.
    result : Out(result_layout).array(tiers)
        Finished rows; no back-pressure.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "dispatch": In(dispatch_layout(config)).array(config.tiers),
                "fill_control": In(fill_control_layout(config)).array(2),
                "fill_data": In(8 * config.columns).array(2, config.fill_rows),
                "write": In(write_layout(config)).array(config.result_lanes + 1),
                "result": Out(result_layout(config)).array(config.tiers),
            }
        )

    PARAMETERS = Tier.PARAMETERS
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("stack", self.config, self.PARAMETERS)

    def structure(self) -> Structure:
        """Describe the stack: a chain of tiers."""
        s = Structure(self)
        config = self.config
        tiers = [s.add(f"tier_{index}", Tier(config)) for index in range(config.tiers)]
        for lower, upper in pairwise(tiers):
            s.link(lower.above, upper.below)
        bottom = tiers[0].below
        for lane in range(config.tiers):
            s.connect(bottom.dispatch[lane], self.dispatch[lane])
            s.connect(self.result[lane], bottom.result[lane])
        for lane in range(2):
            s.connect(bottom.fill_control[lane], self.fill_control[lane])
            for index in range(config.fill_rows):
                s.connect(bottom.fill_data[lane][index], self.fill_data[lane][index])
        for lane in range(config.result_lanes + 1):
            s.connect(bottom.write[lane], self.write[lane])
        return s
