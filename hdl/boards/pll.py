# SPDX-License-Identifier: Apache-2.0
"""The ECP5's PLL (EHXPLLL): its dividers for a clock, from those that a board's crystal gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from amaranth.hdl import Instance, Value

from hdl.errors import A3dError

__all__ = ["Pll", "find_pll", "pll_instance"]

MOST_DIVIDER = 128
PHASE_DETECTOR_MHZ: Final = (3.125, 400.0)
OSCILLATOR_MHZ: Final = (400.0, 800.0)
OUTPUT_MHZ: Final = (3.125, 400.0)
"""Limits of the family's data sheet (FPGA-DS-02012, sysCLOCK PLL timing)."""

MOST_BELOW = 0.05
"""How far the clock may be below what was asked for; it is never above."""


@dataclass(frozen=True)
class Pll:
    """Dividers of a PLL whose feedback is its own output.

    Attributes
    ----------
    input_mhz : float
        The crystal.
    reference, feedback, output : int
        CLKI_DIV, CLKFB_DIV and CLKOP_DIV.
    """

    input_mhz: float
    reference: int
    feedback: int
    output: int

    @property
    def detector_mhz(self) -> float:
        """Frequency at which the phases are compared."""
        return self.input_mhz / self.reference

    @property
    def output_mhz(self) -> float:
        """The clock: the output, divided by the feedback's divider, is the detector's frequency."""
        return self.detector_mhz * self.feedback

    @property
    def oscillator_mhz(self) -> float:
        """The oscillator, which the output's divider turns into the clock."""
        return self.output_mhz * self.output


def find_pll(input_mhz: float, mhz: float) -> Pll:
    """Return the dividers of the fastest clock up to `mhz`; among equals the fastest phase detector, the middlemost
    oscillator.

    Raises
    ------
    A3dError
        None comes near.
    """
    found = [
        Pll(input_mhz, reference, feedback, output)
        for reference in range(1, MOST_DIVIDER + 1)
        if PHASE_DETECTOR_MHZ[0] <= input_mhz / reference <= PHASE_DETECTOR_MHZ[1]
        for feedback in range(1, min(MOST_DIVIDER, int(min(mhz, OUTPUT_MHZ[1]) * reference / input_mhz + 1e-6)) + 1)
        for output in range(1, MOST_DIVIDER + 1)
        if OSCILLATOR_MHZ[0] <= input_mhz / reference * feedback * output <= OSCILLATOR_MHZ[1]
    ]
    best = max(found, key=_merit, default=None)
    if best is None or best.output_mhz < (1 - MOST_BELOW) * mhz:
        raise A3dError(
            f"--clock-mhz {mhz:g}: no divider of the board's PLL comes near; use {OUTPUT_MHZ[0]:g} to {OUTPUT_MHZ[1]:g}"
        )
    return best


def _merit(pll: Pll) -> tuple[float, int, float]:
    middle = sum(OSCILLATOR_MHZ) / 2
    return round(pll.output_mhz, 6), -pll.reference, -abs(pll.oscillator_mhz - middle)


def pll_instance(pll: Pll, clock_in: Value, clock_out: Value, locked: Value) -> Instance:
    """Return the PLL: `clock_out` has its frequency once `locked` is high."""
    return Instance(
        "EHXPLLL",
        a_FREQUENCY_PIN_CLKI=f"{pll.input_mhz:g}",
        a_FREQUENCY_PIN_CLKOP=f"{pll.output_mhz:g}",
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        p_PLLRST_ENA="DISABLED",
        p_INTFB_WAKE="DISABLED",
        p_STDBY_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED",
        p_FEEDBK_PATH="CLKOP",
        p_CLKI_DIV=pll.reference,
        p_CLKFB_DIV=pll.feedback,
        p_CLKOP_DIV=pll.output,
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_CPHASE=(pll.output - 1) // 2,
        p_CLKOP_FPHASE=0,
        p_OUTDIVIDER_MUXA="DIVA",
        i_CLKI=clock_in,
        i_CLKFB=clock_out,
        i_RST=0,
        i_STDBY=0,
        i_PHASESEL0=0,
        i_PHASESEL1=0,
        i_PHASEDIR=1,
        i_PHASESTEP=1,
        i_PHASELOADREG=1,
        i_PLLWAKESYNC=0,
        i_ENCLKOP=0,
        o_CLKOP=clock_out,
        o_LOCK=locked,
    )
