"""What a training takes, and what is lowered where memory is lacking."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixelwise.config import RunConfig, read_config
from pixelwise.data.synthetic import write_data_set
from pixelwise.files import LAST_FILE, MODEL_FILE
from pixelwise.runtime import LackOfMemoryError, Runtime
from pixelwise.training import estimate
from pixelwise.training.distributed import Ranks
from pixelwise.training.draft import draft_plan, timed_plan
from pixelwise.training.estimate import (
    Probe,
    estimate_training,
    fit_memory,
    probe_training,
    resume_advice,
    smaller,
)
from pixelwise.training.plan import Plan
from pixelwise.training.resume import CHECKPOINT
from pixelwise.training.run import LOG, Services, run
from pixelwise.training.setup import Parts, make_parts

PROBE = Probe(
    step=0.5,
    validation=2.0,
    whole=True,
    one=1000,
    more=100,
    validating=1200,
    kept=50,
    model=10,
    checkpoint=40,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data") / "cells", images=6, size=(48, 48), channels=1, seed=0)


def make(data: Path, runtime: Runtime, *overrides: str) -> Parts:
    small = [f"data.path={data}", "model.width=4", "model.depth=2", "training.steps=4", "training.batch=4"]
    draft = draft_plan(read_config(overrides=[*small, "training.validate_every=2", *overrides]), device="cpu")
    split = draft.split.train, draft.split.validation
    return make_parts(draft.plan.config, draft.dataset, split, runtime=runtime, ranks=Ranks())


def test_the_memory_of_a_batch() -> None:
    assert PROBE.training(1) == 1000
    assert PROBE.training(4) == 1300
    assert PROBE.memory(1) == math.ceil(1.15 * (1200 + 50 + 10)), "a validation takes more than a step of one image"
    assert PROBE.memory(4) == math.ceil(1.15 * (1300 + 50 + 10))


def test_time_and_disk_are_those_of_the_plan() -> None:
    plan = RunConfig().with_values({"training": {"steps": 100, "validate_every": 30, "batch": 4}})
    found = estimate_training(plan, PROBE)
    assert (found.steps, found.validations) == (100, 5), "after 30, 60, 90 and 100 steps, and at the end"
    assert found.seconds == 100 * 0.5 + 5 * 2.0
    assert (found.disk["models"], found.disk["checkpoints"]) == (20, 80)
    assert found.memory == math.ceil(1.15 * 1360)
    assert estimate_training(plan, PROBE, ranks=2).memory == math.ceil(1.15 * 1260)
    assert "1 minutes" not in found.describe()[0]
    assert found.describe()[0].startswith("time: 60 seconds for 100 steps of 0.5 s")


def test_the_disk_is_what_a_run_then_leaves(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    parts = make(data, runtime)
    probe = probe_training(parts, seconds=0.0)
    services = Services(score=lambda _: {"mean_iou": 0.5}, watch=lambda _: None, warn=lambda _: None)
    assert run(parts, tmp_path, services)
    found = estimate_training(parts.plan, probe).disk
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    files = [sizes[MODEL_FILE], sizes[LAST_FILE]]
    # The tensors are counted; names and the description of a file come on top.
    assert 0 <= sum(files) - found["models"] < 2 * 30_000
    assert 0 <= 2 * sizes[CHECKPOINT] - found["checkpoints"] < 2 * 30_000
    assert sizes[LOG] / 2 < found["log"] < 2 * sizes[LOG]


def test_a_probe_leaves_nothing_behind_and_measures_something(data: Path, runtime: Runtime) -> None:
    parts = make(data, runtime)
    torch.manual_seed(5)
    found = probe_training(parts)
    assert found.step > 0
    assert found.validation > 0
    assert found.whole
    assert found.one > 50_000_000, "the process itself is that large"
    assert found.more >= 0
    assert found.validating is not None
    images = len(parts.training) + len(parts.validation)
    assert found.kept == images * 48 * 48 * 2
    assert found.model == sum(tensor.nbytes for tensor in parts.network.build(parts.job.task).state_dict().values())


def test_a_batch_that_does_not_fit_is_not_tried(data: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    original = estimate.update_weights
    monkeypatch.setattr(
        estimate, "update_weights", lambda s, n, batch, j: tried.append(len(batch.names)) or original(s, n, batch, j)
    )
    found = probe_training(make(data, runtime), limit=1000)
    assert tried == [1, 1, 2]
    assert not found.whole
    assert found.step > 0


def test_the_length_is_what_fits_into_the_minutes(data: Path) -> None:
    draft = draft_plan(read_config(overrides=[f"data.path={data}", "training.minutes=2"]), device="cpu")
    plan = timed_plan(draft.plan, PROBE, used=20.0)
    found = estimate_training(plan.config, PROBE)
    assert 90 < found.seconds <= 100
    assert "fit into 2 minutes" in plan.reasons["training.steps"]


# What is lowered


def plain(settled: RunConfig) -> Plan:
    """A plan of the defaults, without data."""
    return Plan(
        config=RunConfig().with_values({"training": {"crop": (256, 128)}}).with_values(dumped(settled)),
        reasons={},
        notes={},
    )


def dumped(config: RunConfig) -> dict:
    return config.model_dump(exclude_unset=True)


def needing(config: RunConfig, _: int | None) -> Probe:
    """A machine on which each pixel of a step takes 10 bytes, and one of a window 1 byte."""
    pixels = math.prod(config.training.crop or ())
    return replace(
        PROBE, one=pixels * 10, more=pixels * 10, validating=(config.predict.tile or 1024) ** 2, kept=0, model=0
    )


@pytest.mark.parametrize(
    ("limit", "batch", "crop", "tile"),
    [
        (None, 8, (256, 128), 0),
        (3_100_000, 8, (256, 128), 0),
        (2_600_000, 4, (256, 128), 0),
        (810_000, 2, (256, 128), 512),
        (390_000, 1, (256, 128), 512),
        (105_000, 1, (128, 64), 256),
        (35_000, 1, (64, 32), 128),
    ],
)
def test_the_batch_is_halved_then_the_crop(limit: int | None, batch: int, crop: tuple[int, int], tile: int) -> None:
    fitted = fit_memory(RunConfig(), plan=plain, measure=needing, limit=limit)
    settings = fitted.plan.config.training
    assert (settings.batch, settings.crop, fitted.plan.config.predict.tile) == (batch, crop, tile)
    changed = {
        key
        for key, lowered in {
            "training.batch": batch < 8,
            "training.crop": crop != (256, 128),
            "predict.tile": bool(tile),
        }.items()
        if lowered
    }
    assert set(fitted.lowered) == changed <= set(fitted.plan.reasons)


def test_what_the_user_set_is_not_lowered() -> None:
    asked = read_config(overrides=["training.batch=8"])
    fitted = fit_memory(asked, plan=plain, measure=needing, limit=1_250_000)
    assert (fitted.plan.config.training.batch, fitted.plan.config.training.crop) == (8, (128, 64))
    both = read_config(overrides=["training.batch=8", "training.crop=[256,256]"])
    with pytest.raises(
        LackOfMemoryError, match=r"batch of 8, crops of 256 x 256.*more than 2 MB; lower training.batch"
    ):
        fit_memory(both, plan=plain, measure=needing, limit=1_250_000)


def test_a_lack_of_memory_in_the_probe_is_a_reason_to_lower() -> None:
    def measure(config: RunConfig, _: int | None) -> Probe:
        if config.training.batch > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return PROBE

    fitted = fit_memory(RunConfig(), plan=plain, measure=measure, limit=None)
    assert fitted.plan.config.training.batch == 2
    assert "with a batch of 4" in fitted.lowered["training.batch"]
    assert "not enough memory" in fitted.lowered["training.batch"]

    def broken(config: RunConfig, _: int | None) -> Probe:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fit_memory(RunConfig(), plan=plain, measure=broken, limit=None)


def test_a_validation_that_does_not_fit_lowers_the_window() -> None:
    def measure(config: RunConfig, _: int | None) -> Probe:
        return PROBE if 0 < config.predict.tile < 512 else replace(PROBE, validating=None)

    fitted = fit_memory(RunConfig(), plan=plain, measure=measure, limit=None)
    assert fitted.plan.config.predict.tile == 256
    assert fitted.plan.config.training.batch == 8
    assert set(fitted.lowered) == {"predict.tile"}


def test_a_real_prediction_without_memory_is_no_end(
    data: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(estimate, "predict", lacking)
    found = probe_training(make(data, runtime), seconds=0.0)
    assert found.validating is None
    assert found.memory(1) > 0


def test_nothing_is_lowered_below_the_least() -> None:
    least = RunConfig().with_values({"training": {"batch": 1, "crop": (32, 32)}, "predict": {"tile": 128}})
    assert smaller(least, RunConfig()) == smaller(least, RunConfig(), predicting=True) == ("", None)


def test_what_to_do_in_the_middle_of_a_run() -> None:
    plan = RunConfig().with_values({"training": {"batch": 8}})
    said = resume_advice(plan, "cells-1")
    assert "pixelwise train --resume --name cells-1, or" in said
    assert said.endswith("--force --name cells-1 training.batch=4")
    single = RunConfig().with_values({"training": {"batch": 1, "crop": (96, 64)}})
    assert resume_advice(single, "x").endswith("training.crop=[48,32]")
