"""The parts of a run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from pixelwise.config import read_config
from pixelwise.data.dataset import open_dataset
from pixelwise.data.synthetic import write_data_set
from pixelwise.runtime import Runtime
from pixelwise.training.distributed import Ranks
from pixelwise.training.plan import complete_plan
from pixelwise.training.setup import make_parts


def make(folder: Path, runtime: Runtime):
    dataset = open_dataset(write_data_set(folder / "cells", images=3, size=(40, 40), channels=3, seed=0))
    asked = read_config(overrides=["training.steps=3", "training.batch=1", "model.width=4", "model.depth=1"])
    plan = complete_plan(asked, dataset, training_images=2, device="cpu")
    split = list(dataset.samples[:2]), list(dataset.samples[2:])
    return make_parts(plan, dataset, split, runtime=runtime, ranks=Ranks())


def test_samples_can_be_sent_to_worker_processes(tmp_path: Path, runtime: Runtime) -> None:
    parts = make(tmp_path, runtime)
    sent = pickle.loads(pickle.dumps(parts.samples))  # noqa: S301
    np.testing.assert_array_equal(sent.batch(range(2)).image_BCHW, parts.samples.batch(range(2)).image_BCHW)


def test_statistics_are_those_of_the_training_images_alone(tmp_path: Path, runtime: Runtime) -> None:
    parts = make(tmp_path, runtime)
    pixels = np.concatenate([parts.dataset.read(sample)[0].reshape(-1, 3) for sample in parts.training])
    np.testing.assert_allclose(parts.normalisation.mean, pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(parts.normalisation.std, pixels.std(axis=0), rtol=1e-9)
