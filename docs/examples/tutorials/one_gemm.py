# SPDX-License-Identifier: Apache-2.0
"""Runs ``gemm.asm`` on the instruction executor and on the RTL of ``nano``, and compares every byte of both memories.

    python docs/examples/tutorials/one_gemm.py [OUT]

OUT (default ``build/gemm``) gets a timeline as a picture and as a file for a viewer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hdl.config import PRESETS
from hdl.isa.asm import assemble
from scheduler.cost.model import simulate
from sim.golden.executor import Executor
from sim.machine.system import Job, SimulatedMachine, place_stream
from sim.view.pictures import draw_timeline
from sim.view.timeline import TracedStep, slices_of, write_timeline

CONFIG = PRESETS["nano"]
SIZE = 4096
X, MULTIPLIERS, W, RESULT = 0x20 * 32, 0x21 * 32, 0x20 * 32, 0x40 * 32
"""Byte addresses: the stream's ``addr`` fields in units of 32 bytes. Weights and results lie in group 1."""


def main(out: Path) -> int:
    """Run the example; return the number of bytes that differ."""
    stream = assemble(Path(__file__).with_name("gemm.asm").read_text(encoding="utf-8"))

    # What the host writes into the two memories before the start.
    x = np.arange(16, dtype=np.int8).reshape(4, 4)
    w = np.array([[1, 0, 0, 3], [0, 1, 0, -1], [0, 0, 1, 2], [0, 0, 0, 5]], dtype=np.int8)
    multipliers = np.array([256, 256, 256, 128], dtype="<u2")
    images = (bytearray(SIZE), bytearray(SIZE))
    for group, address, data in ((0, X, x), (0, MULTIPLIERS, multipliers), (1, W, w)):
        images[group][address : address + data.nbytes] = data.tobytes()
    place_stream(images, 0, stream)

    # The executor: what the stream means.
    machine = Executor(CONFIG, images, strict=True)
    machine.run(stream)
    rows = machine.memory[1][RESULT : RESULT + 32].view("<i2").reshape(4, 4)
    exact = x.astype(np.int64) @ w * multipliers
    print("x @ w * multipliers / 256:", ((exact + 128) >> 8).tolist())
    print("rows of the executor:     ", rows.tolist())

    # The RTL: what the machine does.
    job = Job(images=(bytes(images[0]), bytes(images[1])), stream_base=0, trace=True)
    (result,) = SimulatedMachine(CONFIG, memory_bits=18).run([job])
    assert result.done and result.memory is not None and result.trace is not None
    print("bytes of the RTL:         ", bytes(result.memory[1][RESULT : RESULT + 16]).hex(" "))
    print("bytes of the executor:    ", machine.memory[1][RESULT : RESULT + 16].tobytes().hex(" "))
    differ = sum(int((result.memory[g][:SIZE] != machine.memory[g]).sum()) for g in range(2))
    print(f"{2 * SIZE} bytes compared, {differ} differ")

    # When it did it.
    print(
        f"{result.counters['cycles']} cycles; the cycle model says {simulate(CONFIG, stream, memory=job.knobs).cycles}"
    )
    step = TracedStep(name="one GEMM", instructions=stream, trace=result.trace)
    for piece in slices_of(step, CONFIG):
        print(f"{piece.track:6}  {piece.opcode:5}  cycles {piece.start:4} to {piece.end:4}")
    write_timeline(out / "gemm.trace.json", [step], CONFIG)
    draw_timeline(step, CONFIG, out / "gemm.png")
    return differ


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/gemm"))))
