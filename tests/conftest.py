"""Settings for all tests: one thread each, and where the real data is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

from pixelwise.bundle import Bundle, Network
from pixelwise.config import PredictConfig, RuntimeConfig
from pixelwise.data.masks import Coding
from pixelwise.data.normalise import Normalisation
from pixelwise.runtime import Runtime, prepare
from pixelwise.task import Task

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
cv2.setNumThreads(0)
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real data sets are not beside the project (../shared/data)")
    return REAL_DATA


@pytest.fixture
def runtime() -> Runtime:
    """The processor in float32, one thread."""
    return prepare(RuntimeConfig(device="cpu", precision="fp32", threads=1))


@pytest.fixture
def make_bundle() -> Callable[..., Bundle]:
    """Makes a model with random weights: a small U-Net of two classes."""

    def make(*, channels: int = 1, predict: PredictConfig | None = None, seed: int = 0) -> Bundle:
        torch.manual_seed(seed)
        task = Task.of(["background", "cell"])
        network = Network(name="unet", in_channels=channels, options={"width": 4, "depth": 2})
        return Bundle(
            task=task,
            network=network,
            normalisation=Normalisation(mean=(100.0,) * channels, std=(50.0,) * channels),
            coding=Coding(kind="index", values=(0, 1)),
            predict=predict or PredictConfig(),
            weights=network.build(task).state_dict(),
            provenance={"trained_on": []},
        )

    return make
