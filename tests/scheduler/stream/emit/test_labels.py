# SPDX-License-Identifier: Apache-2.0
"""Marks of instructions and the labels behind them."""

from __future__ import annotations

from scheduler.stream.emit.labels import DIVIDE, HEAD_MARK, KEYS, Label, Labels, job_mark


def test_labels_of_marks() -> None:
    labels = Labels()
    marks = [labels.mark(layer, text) for layer, text in ((-1, "embedding"), (3, "qkv"), (4, "qkv"), (3, "qkv"))]
    marks += [job_mark(7, 200, 0) + 31 * HEAD_MARK + KEYS, job_mark(0, 0, 5) + DIVIDE]
    assert labels.of(marks) == (
        Label(-1, "embedding"), Label(3, "qkv"), Label(4, "qkv"), Label(3, "qkv"),
        Label(7, "keys of sequence 200 head 31"), Label(0, "divide sequence 0 head 5"),
    )  # fmt: skip
    assert len(set(marks)) == len(marks) - 1
