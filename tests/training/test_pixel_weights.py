"""The weights of classes and of borders, from the data to the loss."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.config import RunConfig, read_config
from pixelwise.data.dataset import Dataset, open_dataset
from pixelwise.data.loaders import Batch
from pixelwise.data.synthetic import write_data_set
from pixelwise.errors import UsageError
from pixelwise.losses.border import border_weights
from pixelwise.runtime import Runtime
from pixelwise.task import Task
from pixelwise.training.distributed import Ranks
from pixelwise.training.loop import learning_network, update_weights
from pixelwise.training.pixel_weights import WeighBorders, count_pixels, pixel_weights, rounded, with_class_weights
from pixelwise.training.plan import complete_plan
from pixelwise.training.setup import Parts, make_parts, make_state

MASK = torch.tensor([[[0, 1, 2, 255]]])
TASK = Task.of(["a", "b", "c"])
WORKED = ([0, 0, 0, 1], [0, 0, 2, 2])  # facts of median-frequency balancing: weights 0.8, 2, 1


def masks(folder: Path, *rows: list[int]) -> Dataset:
    """A data set of 16 x 16 images, each row of numbers repeated over its mask."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, row in enumerate(rows):
        Image.new("L", (16, 16)).save(folder / "images" / f"{number}.png")
        Image.fromarray(np.resize(np.array(row, np.uint8), (16, 16))).save(folder / "masks" / f"{number}.png")
    return open_dataset(folder)


def plan_of(*overrides: str) -> RunConfig:
    return read_config(overrides=[f"training.{override}" for override in overrides])


# Class weights


def test_pixels_are_counted_by_image_without_void(tmp_path: Path) -> None:
    dataset = masks(tmp_path, [0, 0, 0, 1], [0, 255, 2, 2])
    assert count_pixels(dataset, dataset.samples).tolist() == [[192, 64, 0], [64, 0, 128]]


@pytest.mark.parametrize(
    ("rule", "values"),
    [("none", ()), ("median", (0.8, 2.0, 1.0)), ("inverse", (0.533333, 2.66667, 1.33333)), ("effective", None)],
)
def test_a_rule_becomes_numbers_that_a_rerun_checks(
    tmp_path: Path, rule: str, values: tuple[float, ...] | None
) -> None:
    dataset = masks(tmp_path / "data", *WORKED)
    plan = with_class_weights(plan_of(f"class_weights={rule}"), dataset, dataset.samples)
    found = plan.training.class_weight_values
    assert found == values if values is not None else sum(found) == pytest.approx(3)
    (tmp_path / "plan.toml").write_text(plan.to_toml())
    again = read_config(tmp_path / "plan.toml")
    assert again == plan
    assert with_class_weights(again, dataset, dataset.samples) == plan


def test_only_training_masks_are_weighed(tmp_path: Path) -> None:
    dataset = masks(tmp_path, *WORKED)
    plan = with_class_weights(plan_of("class_weights=inverse"), dataset, dataset.samples[:1])
    assert plan.training.class_weight_values == (0.666667, 2.0, 0.0)


def test_weights_of_your_own(tmp_path: Path) -> None:
    dataset = masks(tmp_path, *WORKED)
    own = plan_of("class_weight_values=[1, 2, 3]")
    assert with_class_weights(own, dataset, dataset.samples) == own
    with pytest.raises(UsageError, match="2 weights for the 3 classes class 0, class 1, class 2"):
        with_class_weights(plan_of("class_weight_values=[1, 2]"), dataset, dataset.samples)
    with pytest.raises(UsageError, match=r"gives \[0.8, 2.0, 1.0\] .*training\.class_weights=none"):
        with_class_weights(plan_of("class_weight_values=[1, 2, 3]", "class_weights=median"), dataset, dataset.samples)


def test_rounding_keeps_six_digits_of_any_size() -> None:
    assert rounded(np.array([1e-9 / 3, 0.0, 123456789.0])) == (3.33333e-10, 0.0, 123457000.0)


# The weight of a pixel


def test_equation_2() -> None:
    border = torch.tensor([[[7.0, 0.5, 0.0, 3.0]]])
    assert pixel_weights(MASK, None, (), TASK) is None
    assert pixel_weights(MASK, border, (), TASK).tolist() == [[[8.0, 1.5, 1.0, 4.0]]]
    assert pixel_weights(MASK, None, (0.5, 2, 3), TASK).tolist() == [[[0.5, 2.0, 3.0, 0.0]]]
    assert pixel_weights(MASK, border, (0.5, 2, 3), TASK)[..., :3].tolist() == [[[7.5, 2.5, 3.0]]]


def test_border_weights_are_those_of_the_instances(tmp_path: Path) -> None:
    dataset = masks(tmp_path, [1] * 5 + [0] * 3 + [1] * 5 + [0] * 3, *WORKED)
    weigh = WeighBorders(dataset=dataset, samples=dataset.samples, weight=4, sigma=2)
    sent = pickle.loads(pickle.dumps(weigh))  # noqa: S301
    expected = border_weights(dataset.read_instances(dataset.samples[0]), weight=4, sigma=2)
    assert expected.max() == pytest.approx(4 * np.exp(-16 / 8))
    np.testing.assert_array_equal(sent(0), expected)


# In a run


def make(folder: Path, runtime: Runtime, *overrides: str, border: int = 0) -> Parts:
    """The parts of a run on pictures of cells, with their instances as masks."""
    if not folder.exists():
        write_data_set(folder, images=3, size=(96, 96), channels=1, seed=3)
        for path in (folder / "masks").iterdir():
            (folder / "instances" / path.name).replace(path)
    dataset = open_dataset(folder, masks="instances", border=border)
    target = f"data.target={'borders' if border else 'classes'}"
    small = ["training.steps=3", "training.batch=2", "model.width=4", "model.depth=2", "augment.balance=0"]
    asked = read_config(overrides=[target, f"data.border={border or 2}", *small, *overrides])
    plan = complete_plan(asked, dataset, training_images=2, device="cpu")
    split = list(dataset.samples[:2]), list(dataset.samples[2:])
    return make_parts(plan, dataset, split, runtime=runtime, ranks=Ranks())


def test_inside_and_border_are_learned_with_weights(tmp_path: Path, runtime: Runtime) -> None:
    weights = ("training.class_weights=inverse", "training.border_weight=10", "training.border_sigma=3")
    parts = make(tmp_path / "cells", runtime, *weights, border=1)
    assert parts.job.task.names == ("background", "object", "border")
    assert parts.network.build(parts.job.task)(torch.zeros(1, 1, 16, 16)).shape[1] == 3
    assert len(parts.job.settings.class_weight_values) == 3
    assert parts.plan.training.class_weight_values == parts.job.settings.class_weight_values
    batch = parts.samples.batch(range(2))
    assert set(batch.mask_BHW.unique().tolist()) - {-1, 255} == {0, 1, 2}
    assert 1 < float(batch.weight_BHW.max()) <= 10
    # The term belongs to background: where a crop shows the inside of objects, it is all but gone.
    deep = torch.nn.functional.max_pool2d((batch.mask_BHW != 1).float(), 3, 1, 1) == 0
    assert float(batch.weight_BHW[deep].max()) == 0


def test_nothing_is_weighed_unless_asked(tmp_path: Path, runtime: Runtime) -> None:
    parts = make(tmp_path / "cells", runtime)
    assert parts.samples.weigh is None
    assert parts.samples.batch(range(1)).weight_BHW is None
    assert parts.plan.training.class_weight_values == ()


def test_a_data_set_that_was_opened_in_another_way_is_noticed(tmp_path: Path, runtime: Runtime) -> None:
    parts = make(tmp_path / "cells", runtime)
    plan = parts.plan.with_values({"data": {"target": "borders"}})
    with pytest.raises(AssertionError, match="opened as the plan says"):
        make_parts(plan, parts.dataset, (parts.training, parts.validation), runtime=runtime, ranks=Ranks())


@pytest.mark.parametrize("auxiliary", [0.0, 0.4])
def test_the_loss_of_a_step_has_the_weights(tmp_path: Path, runtime: Runtime, auxiliary: float) -> None:
    """Weights of 3 for all classes make all losses but one by overlap three times as large."""
    settings = ("training.loss=ce", f"training.auxiliary={auxiliary}", "training.scales=[0.5, 1]")
    plain = make(tmp_path / "cells", runtime, *settings)
    heavy = make(tmp_path / "cells", runtime, *settings, "training.class_weight_values=[3, 3]")
    batch = plain.samples.batch(range(2))
    unit = Batch(batch.image_BCHW, batch.mask_BHW, batch.names, torch.full(batch.mask_BHW.shape, 2.0))
    losses = []
    for parts, given in ((plain, batch), (heavy, batch), (plain, unit)):
        state = make_state(parts)
        losses.append(update_weights(state, learning_network(state, parts.job), given, parts.job))
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(3 * losses[0], rel=1e-5)
