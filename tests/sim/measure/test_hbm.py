# SPDX-License-Identifier: Apache-2.0
"""The machine on HBM: every command is the specification's, and a share that is measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.errors import CheckError
from scheduler.cost.hbm.channel import COMMAND
from scheduler.cost.hbm.timing import HBM2, HBM3, MAPPINGS, parameters_of
from scheduler.models.description import Experts
from sim.machine.hbm_record import HbmRecord
from sim.measure.hbm import HbmBench, draw
from sim.measure.timed_streams import LayersAlone

TINY = PRESETS["tiny"]


def measured(timing):
    group = LayersAlone(TINY, 32, Experts(count=4, chosen=2, intermediate=16), (1, 8))
    bench = HbmBench(TINY, timing, 800.0, groups=[group])
    assert sum(1 for _ in bench.run()) == bench.total == 2
    return bench.result()


def test_a_layer_on_hbm(tmp_path):
    result = measured(HBM3)
    for point in result["points"]:
        assert point["latency_cycles"] < point["cycles"] < 1.4 * point["latency_cycles"]
        assert 0.6 < point["asked_share"] < 1 and point["asked_share"] < point["rare_asked_share"] + 0.02 < 1.02
        assert 0.9 < point["row_hits"] < 1
        assert all(0.03 < group["refresh_share"] < 0.06 for group in point["groups"])
        beats = [group["beats"] for group in point["groups"]]
        assert 0.7 < point["derived_activates"] < 1.1 and not point["counts_that_differ"]
        assert point["share"] == max(beats) / point["cycles"]
        assert abs(point["error"]) < 0.01 and point["bytes_compared"] == 2 << 13
    # The same with memories of a latency would be far off: the bench would see it.
    assert min(point["cycles"] / point["latency_cycles"] for point in result["points"]) > 1.03
    draw(result, tmp_path / "hbm.png")
    assert (tmp_path / "hbm.png").stat().st_size > 5000
    slower = measured(dataclasses.replace(HBM2, mapping=MAPPINGS[2]))
    assert all(a["cycles"] < b["cycles"] for a, b in zip(result["points"], slower["points"], strict=True))


@pytest.mark.slow
def test_other_commands_are_noticed(monkeypatch):
    timing = parameters_of(HBM3, 800.0)
    requests = np.array([[0, 0, 0, 16], [3, 0, 1 << 9, 16]], np.int64)
    record = HbmRecord(requests, np.zeros((200, 1 + len(COMMAND)), np.int64))
    right = HbmRecord(requests, record.specified(timing))
    assert len(right.commands) > 32 and right.differs(timing) == 0
    later = HbmRecord(requests, right.commands + (np.arange(len(right.commands)) > 20)[:, None])
    assert later.differs(timing) > 0
    assert HbmRecord(requests, right.commands[:-1]).differs(timing) == 1
    right_run = HbmBench._run

    def run(bench, session, stream, job):
        result = right_run(bench, session, stream, job)
        if job.record_hbm:
            result.memory[1][100] ^= 1
        return result

    monkeypatch.setattr(HbmBench, "_run", run)
    with pytest.raises(CheckError, match="layer alone 1, routing host: 1 bytes of the memories are others"):
        measured(HBM3)
    monkeypatch.setattr(HbmBench, "_run", right_run)
    monkeypatch.setattr(HbmRecord, "differs", lambda *_: 3)
    with pytest.raises(CheckError, match="group 0's channel gave other commands than its specification in 3 cycles"):
        measured(HBM3)
