# SPDX-License-Identifier: Apache-2.0
"""The sequencers' emitted Verilog does in every cycle what Amaranth's simulator does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hdl.control.sequencers import SequencerBlock
from hdl.emit.verilog import emit
from tests.support.control.sequencer_bench import Bench, Streaming, rng_of, small_config
from tests.support.control.sequencer_model import random_gemm, random_lists
from tests.support.emit.bench import testbench as verilog_testbench


@pytest.mark.parametrize("feed", ["vertical", "edge"])
def test_emitted_verilog(feed: str, tmp_path: Path, icarus: str) -> None:
    """Icarus knows four states: the memories' unknown first contents must not reach a port."""
    rng = rng_of("verilog", feed)
    config = small_config(3, vcache_tiles=64, stationary_feed=feed, queue_depth=4)
    lists = random_lists(rng, config)
    program = [random_gemm(rng, config, lists, least=1, most=20, tag=9) for _ in range(15)]
    vectors: list[tuple[str, str]] = []
    bench = Bench(
        config, program, lists, fills=Streaming(config, program, rng, rate=0.9), pending_until=10**9, resident=False,
        room=2, vectors=vectors, credit_delay=lambda: 30, grant=lambda cycle, tier: rng.random() < 0.5,
    )  # fmt: skip
    bench.run()
    block = SequencerBlock(config)
    design = emit(block, "sequencer_block")
    # Three tiers share one module.
    assert sum("tier_sequencer" in name for name in design.modules) == 1
    (tmp_path / "design.v").write_text("\n".join(design.modules.values()))
    stimuli, responses = zip(*vectors, strict=True)
    text = verilog_testbench(block, "sequencer_block", list(stimuli), list(responses), 1)
    (tmp_path / "bench.v").write_text(text)
    (tmp_path / "stimuli.txt").write_text("\n".join(stimuli))
    (tmp_path / "responses.txt").write_text("\n".join(responses))
    assert icarus == "icarus"
    command = ["iverilog", "-g2005", "-o", "bench.vvp", "-s", "bench", "bench.v", "design.v"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    run = subprocess.run(
        ["vvp", "-n", "bench.vvp"], cwd=tmp_path, check=True, timeout=240, capture_output=True, text=True
    )
    assert "EQUAL" in run.stdout, run.stdout[-2000:]
