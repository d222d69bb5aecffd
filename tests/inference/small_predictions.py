"""One small large prediction, done in this process or in children that are killed, for tests of both."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tifffile
import torch

from pixelwise.bundle import Bundle, Network
from pixelwise.config import PredictConfig
from pixelwise.data.masks import Coding
from pixelwise.data.normalise import Normalisation
from pixelwise.data.synthetic import draw_cells
from pixelwise.inference import large_plan
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.task import Task

PREDICTOR = Path(__file__).with_name("large_predictor.py")
INPUTS = ("cells.tif", "model.safetensors")


def write_inputs(folder: Path) -> None:
    """Cells, 400 x 500 pixels, and a model with random weights that finds objects and divides them at necks."""
    picture = draw_cells(size=(400, 500), seed=4)
    tifffile.imwrite(folder / "cells.tif", picture.image_HWC[..., 0], tile=(64, 64), compression="zlib")
    torch.manual_seed(0)
    task = Task.of(["background", "cell"])
    network = Network(name="unet", in_channels=1, options={"width": 4, "depth": 2})
    Bundle(
        task=task,
        network=network,
        normalisation=Normalisation(mean=(100.0,), std=(50.0,)),
        coding=Coding(kind="instances"),
        predict=PredictConfig(tile=96),
        weights=network.build(task).state_dict(),
        provenance={"trained_on": []},
        instances=InstanceSettings(form="plain", foreground=0.45, neck=0.7, smallest=8),
    ).save(folder / "model.safetensors")


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Cores of 128 pixels."""
    patch.setattr(large_plan, "CORES", (128,))
    patch.setattr(large_plan, "CHUNK", 32)


def obey(folder: Path, *orders: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """What became of each order to `large_predictor.py`, and what was said on the way."""
    command = [sys.executable, "-W", "error", str(PREDICTOR), str(folder), json.dumps(orders)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def result_of(folder: Path) -> dict[str, str]:
    """SHA-256 of all files of the result but the lock, by their paths."""
    store = folder / "out.zarr"
    paths = {str(path.relative_to(store)): path for path in store.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items() if path.name != ".lock"}
