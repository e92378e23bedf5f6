# SPDX-License-Identifier: Apache-2.0
"""The demo model's tooling that needs neither the packages nor PyTorch, and that what is committed fits together."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_data", ROOT / "tools" / "prepare_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_data"] = module
    spec.loader.exec_module(module)
    return module


def test_fold_to_ascii(prepare: ModuleType) -> None:
    text = "\u201cna\u00efve\u201d \u2014 it\u2019s \u0153uvre \u4e2d"
    assert prepare.fold_to_ascii(text) == '"naive" -- it\'s oeuvre '


def test_reflow_joins_prose_and_keeps_verse(prepare: ModuleType) -> None:
    text = "one\ntwo\n\n   \nverse:\n    roses\n    red\n"
    assert prepare.reflow(text, indent=0) == "one two\n\nverse:\n    roses\n    red\n\n"
    assert prepare.reflow("    one\n    two\n\n    a\n      b\nhead\n", indent=4) == "one two\n\na\n  b\nhead\n\n"


def test_split_is_contiguous_and_loses_nothing(prepare: ModuleType) -> None:
    text = b"".join(b"line %d\n" % i for i in range(100))
    kept, held = prepare.split(text, at=0.5, size=50)
    start = text.index(held)
    assert len(held) == 50 and text[start - 1 : start] == b"\n"
    assert kept == text[:start] + text[start + 50 :]


def test_r_character_vector(prepare: ModuleType) -> None:
    def number(value: int) -> bytes:
        return value.to_bytes(4, "big")

    strings = ["", "Emma", "na\u00efve"]
    body = (
        number(16)
        + number(len(strings))
        + b"".join(number(0x40009) + number(len(s.encode())) + s.encode() for s in strings)
    )
    for version, native in ((2, b""), (3, number(5) + b"UTF-8")):
        blob = b"X\n" + number(version) + number(0x40201) + number(0x30500) + native + body
        assert prepare._r_strings(blob) == strings
    with pytest.raises(prepare.DataError, match="not a character vector"):
        prepare._r_strings(b"X\n" + number(2) + number(0) + number(0) + number(13) + number(0))
    with pytest.raises(prepare.DataError, match="not in R's XDR format"):
        prepare._r_strings(b"A\n" + bytes(20))


def test_wrong_package_is_refused(prepare: ModuleType, tmp_path: Path) -> None:
    package = prepare.Package(name="dict-x", version="1:2", arch="all", sha256="0" * 64)
    assert package.filename == "dict-x_1%3a2_all.deb"
    (tmp_path / package.filename).write_bytes(b"other")
    with pytest.raises(prepare.DataError, match=r"package dict-x: .* has SHA-256 .*, expected 0000.*; delete the file"):
        prepare.fetch(package, tmp_path)


def test_committed_files_belong_together(prepare: ModuleType) -> None:
    manifest = json.loads((DEMO / "data_manifest.json").read_text())
    heldout = (DEMO / "heldout.txt").read_bytes()
    assert manifest["sample"] == {"bytes": len(heldout), "sha256": hashlib.sha256(heldout).hexdigest()}
    assert [s["packages"] for s in manifest["sources"]] == json.loads(
        json.dumps([[vars(p) for p in s.packages] for s in prepare.SOURCES])
    )
    log = [json.loads(line) for line in (DEMO / "training_log.jsonl").read_text().splitlines()]
    assert log[0]["event"] == "start" and log[0]["train_bytes"] == manifest["train"]["bytes"]
    best = min(record["bits_per_byte"] for record in log if record["event"] == "heldout")
    card = (DEMO / "README.md").read_text()
    for name, text in (("evaluation.json", "sample"), ("evaluation_full.json", "heldout")):
        evaluation = json.loads((DEMO / name).read_text())
        assert evaluation["text_bytes"] == manifest[text]["bytes"] and evaluation["bits_per_byte"]["256"] < 2.0
        for figure in (*evaluation["bits_per_byte"].values(), *evaluation["bits_per_byte_by_source"].values()):
            assert f"{figure:.4f}" in card, f"README.md does not state {figure:.4f} of {name}"
    # float16 weights in NumPy against float32 weights in the trainer, on the whole held-out text
    assert abs(evaluation["bits_per_byte"]["256"] - best) < 0.002


def test_evaluate_prints_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [
        sys.executable,
        str(ROOT / "tools" / "evaluate_demo.py"),
        "--model",
        str(DEMO),
        "--limit",
        "3000",
        "--window",
        "128",
        "--samples",
        "5",
        "--json",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env={"PYTHONPATH": str(ROOT)})
    result = json.loads(out.read_text())
    assert result["text_bytes"] == 3000 and list(result["bits_per_byte"]) == ["128"]
    assert f"{result['bits_per_byte']['128']:.4f} bits per byte in windows of 128 bytes" in done.stdout
    assert len(result["expert_share"]) == 4 and len(result["samples"]) == 4
    for row in result["expert_share"]:
        assert sum(row) == pytest.approx(1, abs=1e-3)


def test_evaluate_reports_a_missing_model(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "evaluate_demo.py"), "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "config.json: not found" in done.stderr


def test_both_ways_through_the_experts_agree() -> None:
    """The GPU's way trains what the CPU's does: outputs and all gradients."""
    torch = pytest.importorskip("torch", reason="needs the train extra: pip install '.[train]'")
    spec = importlib.util.spec_from_file_location("train_demo", ROOT / "tools" / "train_demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    x, gate = torch.randn(50, 8), torch.rand(50, 2)
    w13, w2 = torch.randn(6, 20, 8), torch.randn(6, 8, 10)
    index = torch.stack([torch.randperm(5)[:2] for _ in range(50)])  # nobody chooses expert 5
    inputs = [tensor.requires_grad_() for tensor in (x, gate, w13, w2)]
    outcomes = []
    for experts in (module.ExpertBlock.apply, module.all_experts):
        out = experts(x, index, gate, w13, w2)
        outcomes.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    for one, other in zip(*outcomes, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * one.abs().max().item())
