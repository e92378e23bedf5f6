# SPDX-License-Identifier: Apache-2.0
"""A simulator that is compiled while something else goes on."""

from __future__ import annotations

import threading
from types import TracebackType

from hdl.config import MachineConfig
from sim.machine.system import SimulatedMachine, machine_sources, source_folder
from sim.simulator import runner
from sim.simulator.bench_top import BENCH_TOP

__all__ = ["BackgroundMachine"]


class BackgroundMachine:
    """Compiles a simulator quickly in a thread; a context manager, which ends the compiler when it is left.

    The Verilog is generated at once, because the generator forks, which threads do not like.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    memory_bits : int
        Each group's memory has ``2**memory_bits`` bytes.
    """

    def __init__(self, config: MachineConfig, *, memory_bits: int) -> None:
        self._config = config
        self._memory_bits = memory_bits
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._model: runner.BuiltModel | None = None
        self._sources = machine_sources(config, source_folder(config), memory_bits)
        self._thread = threading.Thread(target=self._build, daemon=True)

    def __enter__(self) -> BackgroundMachine:
        """Start the compiler."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the compiler if it still runs."""
        self._stop.set()
        self._thread.join()

    def machine(self) -> SimulatedMachine:
        """Wait for the compiler and return the simulator.

        Raises
        ------
        BuildError
            It could not be built.
        """
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return SimulatedMachine(self._config, memory_bits=self._memory_bits, model=self._model)

    def _build(self) -> None:
        try:
            self._model = runner.build(self._sources, BENCH_TOP, quick=True, stop=self._stop)
        except BaseException as error:  # handed to the thread that waits for the simulator
            self._failure = error
