# SPDX-License-Identifier: Apache-2.0
"""How long a preset takes to generate, Python's start-up included, and how large its Verilog is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from hdl.errors import A3dError
from hdl.scratch import scratch_folder

__all__ = ["measure_generation"]


def measure_generation(preset: str) -> dict[str, Any]:
    """Generate a preset in a process of its own and return name, seconds, verilog_bytes, modules, instances."""
    with scratch_folder("a3d-generate-") as folder:
        report = folder / "report.json"
        command = [sys.executable, "-m", "sim.cli", "generate", "--config", preset]
        command += ["-o", str(folder / "rtl"), "--json", str(report)]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise A3dError(f"bench generate: preset {preset} failed: {done.stderr.strip().splitlines()[-1]}")
        result = json.loads(report.read_text())
    return {"name": preset, "seconds": seconds} | {k: result[k] for k in ("verilog_bytes", "modules", "instances")}
