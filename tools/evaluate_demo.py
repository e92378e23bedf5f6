# SPDX-License-Identifier: Apache-2.0
"""Print every figure of the demo model's card: held-out bits per byte, expert usage, sample continuations.

Uses the NumPy float model on the float16 weights that are committed; PyTorch is not needed::

    python tools/evaluate_demo.py                    # tables for people
    python tools/evaluate_demo.py --json out.json    # the same for machines
    python tools/evaluate_demo.py --heldout build/demo_data/heldout.txt    # the whole held-out text
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from hdl.errors import A3dError
from scheduler.models.checkpoint import read_checkpoint
from scheduler.models.float_model import FloatModel, bits_per_byte, expert_usage, generate
from sim.net import run_program

#: Prompts of the card, one for each text of the corpus (none of them is a quotation from it).
PROMPTS = (
    b"1 And the king said unto his servants, ",
    b"Emma was not at all surprised to hear that Mr. ",
    b"compiler jock\n n.\n\nA programmer who ",
    b"SOLDIER, n.  ",
)


def sections(folder: Path, text: bytes) -> dict[str, bytes]:
    """Cut the held-out text into its sources, whose lengths the model's data manifest states."""
    manifest = json.loads((folder / "data_manifest.json").read_text())
    for key in ("sample", "heldout"):
        if manifest[key]["sha256"] == hashlib.sha256(text).hexdigest():
            parts: dict[str, bytes] = {}
            at = 0
            for source in manifest["sources"]:
                size = source[f"{key}_bytes"]
                parts[source["name"]] = text[at : at + size]
                at += size
            return parts
    return {}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Evaluate the demo model with the NumPy float model.")
    parser.add_argument("--model", type=Path, default=Path("models/demo"), help="model directory")
    parser.add_argument("--heldout", type=Path, default=None, help="text (default: MODEL/heldout.txt)")
    parser.add_argument(
        "--window",
        type=int,
        action="append",
        default=None,
        help="bytes of each window; may be given several times (default: 256 and 512)",
    )
    parser.add_argument("--limit", type=int, default=None, help="use only the first LIMIT bytes of the text")
    parser.add_argument("--samples", type=int, default=240, help="bytes of each sample continuation; 0 for none")
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="write the results here too")
    args = parser.parse_args(argv)
    began = time.perf_counter()
    try:
        model = FloatModel(read_checkpoint(args.model))
        path = args.heldout or args.model / "heldout.txt"
        if not path.exists():
            raise A3dError(f"{path}: not found; run tools/prepare_data.py or name a text with --heldout")
        whole = path.read_bytes()
        text = whole[: args.limit]
        windows = args.window or [256, 512]
        result: dict[str, object] = {
            "model": str(args.model),
            "config": json.loads((args.model / "config.json").read_text()),
            "text": str(path),
            "text_bytes": len(text),
            "bits_per_byte": {str(w): round(bits_per_byte(model, text, window=w), 4) for w in windows},
        }
        print(f"{path}: {len(text):,} bytes")
        for window, bits in result["bits_per_byte"].items():  # type: ignore[attr-defined]
            print(f"  {bits:.4f} bits per byte in windows of {window} bytes")
        parts = sections(args.model, whole) if args.limit is None else {}
        result["bits_per_byte_by_source"] = {
            name: round(bits_per_byte(model, part, window=windows[0]), 4) for name, part in parts.items()
        }
        for name, bits in result["bits_per_byte_by_source"].items():  # type: ignore[attr-defined]
            print(f"    {name:8s} {bits:.4f} (windows of {windows[0]})")
        counts = expert_usage(model, text, window=windows[0])
        share = counts / counts.sum(axis=1, keepdims=True)
        result["expert_share"] = np.round(share, 5).tolist()
        print("expert usage in per cent of all choices (layers down, experts across):")
        for number, row in enumerate(share):
            print(
                f"  layer {number}: "
                + " ".join(f"{100 * v:5.1f}" for v in row)
                + f"   min {100 * row.min():.1f} max {100 * row.max():.1f}"
            )
        samples = []
        for prompt in PROMPTS if args.samples else ():
            continuation = generate(model, prompt, length=args.samples, temperature=args.temperature, seed=args.seed)
            samples.append({"prompt": prompt.decode("ascii"), "continuation": continuation.decode("ascii", "replace")})
            print(f"--- {prompt.decode('ascii')!r} continues (temperature {args.temperature}, seed {args.seed}):")
            print(samples[-1]["prompt"] + samples[-1]["continuation"])
        result["samples"] = samples
    except A3dError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result["seconds"] = round(time.perf_counter() - began, 1)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
