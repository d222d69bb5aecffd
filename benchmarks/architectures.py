"""Every network of MODELS on one data set, at one equal small budget, from the command line as a user would.

    python benchmarks/architectures.py ../shared/data/camvid docs/architectures.md

Same steps, same crops, same optimiser, same seed, random starts, and each network in its small form (the arguments that
`MODELS` gives for a first try), so that all of them are done within half an hour on one core. At such a budget the
table tells how fast each network learns from few images, not how good it becomes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pixelwise.models.registry import MODELS, build_model

STEPS = 200
TRAINING = ("training.batch=4", "training.crop=[128,128]", f"training.validate_every={STEPS}")
Row = tuple[str, str, float, float, float]
"""Name, arguments, thousands of learnable parameters, mean IoU, pixel accuracy."""


def main(data: Path, page: Path) -> None:
    """Train every network, one after the other, and write the table as a page."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            rows.append(row(name, data.resolve(), Path(folder)))
            print(rows[-1], flush=True)
    page.write_text(text(rows, data), "utf-8")


def row(name: str, data: Path, folder: Path) -> Row:
    """What one network reached."""
    options = MODELS[name].small
    settings = [f"model.name={name}", *(f"model.{key}={value}" for key, value in options.items()), *TRAINING]
    command = [sys.executable, "-m", "pixelwise", "train", str(data), *settings, "--steps", str(STEPS), "--name", name]
    began = time.monotonic()
    ended = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{name}: {ended.stderr[-2000:]}")
    scores = json.loads(ended.stdout)
    with torch.device("meta"):
        network = build_model(name, in_channels=3, classes=len(scores["classes"]), options=options)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e3
    said = ", ".join(f"{key} {value}" for key, value in options.items())
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return name, said, parameters, scores["mean_iou"], scores["pixel_accuracy"]


def text(rows: list[Row], data: Path) -> str:
    """The page, best network first."""
    assert __doc__ is not None, "python -OO leaves the docstring out"
    lines = [
        f"# Every network on {data.name}, at one equal small budget",
        "",
        f"{STEPS} steps of 4 crops of 128 x 128, seed 0, from random weights; scored on the validation images.",
        *("", "```", "python benchmarks/architectures.py DATA docs/architectures.md", "```", ""),
        *__doc__.strip().splitlines()[4:],
        *("", "| network | arguments | parameters, thousands | mean IoU | pixel accuracy |"),
        "|---|---|---|---|---|",
    ]
    for name, said, parameters, mean_iou, accuracy in sorted(rows, key=lambda entry: -entry[3]):
        lines.append(f"| `{name}` | {said} | {parameters:.0f} | {mean_iou:.3f} | {accuracy:.3f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
