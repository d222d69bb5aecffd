from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.class_weights import weight_map
from pixelwise.losses.cross_entropy import balanced_cross_entropy, cross_entropy
from pixelwise.task import Task

TWO = Task.of(["background", "cell"])
FLAG = Task.of(["wet"], kind="overlapping")
FLAGS = Task.of(["road", "wet"], kind="overlapping")
GENERATOR = torch.Generator().manual_seed(0)


def logits_for(truth_scores: list[float]) -> Tensor:
    """Logits of one row of pixels of class 0, whose softmax gives class 0 these scores."""
    scores = torch.tensor(truth_scores, dtype=torch.float64)
    return torch.stack([scores.log(), (1 - scores).log()])[None, :, None]


def zeros(pixels: int) -> Tensor:
    return torch.zeros(1, 1, pixels, dtype=torch.long)


# Hand-worked values


def test_the_mean_of_three_pixels():
    loss = cross_entropy(logits_for([0.9, 0.6, 0.2]), zeros(3), TWO)
    assert loss.item() == pytest.approx(0.741875, abs=1e-6)


def test_weights_multiply_and_the_mean_divides_by_the_number_of_pixels():
    weight = torch.tensor([[[1.0, 1.0, 3.0]]])
    loss = cross_entropy(logits_for([0.9, 0.6, 0.2]), zeros(3), TWO, weight)
    assert loss.item() == pytest.approx(1.814833, abs=1e-6)


def test_the_worked_example_of_two_classes():
    logits = torch.tensor([[[[2.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [1.0, 3.0]]]])
    assert cross_entropy(logits, torch.tensor([[[0, 1], [0, 1]]]), TWO).item() == pytest.approx(0.268483, abs=1e-6)


def test_overlapping_classes_take_the_binary_form():
    scores = torch.tensor([0.8, 0.6, 0.1, 0.1], dtype=torch.float64)
    mask = torch.tensor([1, 1, 0, 0]).view(1, 1, 1, 4)
    assert cross_entropy(scores.logit().view(1, 1, 1, 4), mask, FLAG).item() == pytest.approx(0.236173, abs=1e-6)


def test_overlapping_classes_are_summed():
    mask = torch.tensor([1, 0]).view(1, 2, 1, 1)
    assert cross_entropy(torch.zeros(1, 2, 1, 1), mask, FLAGS).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_cross_entropy_of_torch(weighted):
    task = Task.of(["a", "b", "c"])
    logits = torch.randn(2, 3, 4, 5, generator=GENERATOR)
    mask = torch.randint(0, 3, (2, 4, 5), generator=GENERATOR)
    mask[:, 0] = 255
    weight = torch.rand(2, 4, 5, generator=GENERATOR) if weighted else torch.ones(2, 4, 5)
    per_pixel = torch.nn.functional.cross_entropy(logits, mask, ignore_index=255, reduction="none")
    expected = (per_pixel * weight).sum() / (mask != 255).sum()
    torch.testing.assert_close(cross_entropy(logits, mask, task, weight if weighted else None), expected)


# Void


@pytest.mark.parametrize("void", [255, -1])
def test_void_pixels_have_no_say_and_no_gradient(void):
    logits = logits_for([0.9, 0.6, 0.2, 0.01]).requires_grad_()
    mask = zeros(4)
    mask[..., 3] = void
    loss = cross_entropy(logits, mask, TWO)
    loss.backward()
    assert loss.item() == pytest.approx(0.741875, abs=1e-6)
    assert logits.grad is not None
    assert not logits.grad[..., 3].any()
    assert logits.grad[..., :3].all()


def test_void_of_overlapping_classes_is_void_class_by_class():
    # Of three pixels the first counts for both classes, the second for one of them, the third for none.
    logits = torch.zeros(1, 2, 1, 3)
    mask = torch.tensor([1, 1, 255, 0, 255, 255]).view(1, 2, 1, 3)
    assert cross_entropy(logits, mask, FLAGS).item() == pytest.approx(3 * math.log(2) / 2)


@pytest.mark.parametrize(("task", "shape"), [(TWO, (1, 3, 3)), (FLAGS, (1, 2, 3, 3))])
def test_a_batch_that_is_all_void_gives_zero_and_zero_gradient(task, shape):
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.full(shape, 255), task)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


# Numbers at the edge


@pytest.mark.parametrize(("task", "shape"), [(TWO, (1, 1, 2)), (FLAGS, (1, 2, 1, 2))])
def test_large_logits_stay_finite(task, shape):
    logits = torch.tensor([1e4, -1e4, -1e4, 1e4]).view(1, 2, 1, 2).requires_grad_()
    loss = cross_entropy(logits, torch.ones(shape, dtype=torch.long), task)
    loss.backward()
    assert loss.item() > 1000
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["exclusive", "overlapping"])
def test_the_gradient_is_that_of_finite_differences(kind):
    task = Task.of(["a", "b"], kind=kind)
    logits = torch.randn(1, 2, 2, 3, dtype=torch.float64, generator=GENERATOR).requires_grad_()
    mask = torch.randint(0, 2, (1, 2, 3) if kind == "exclusive" else (1, 2, 2, 3), generator=GENERATOR)
    mask[..., 0, 0] = 255
    weight = torch.rand(1, 2, 3, dtype=torch.float64, generator=GENERATOR)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, mask, task, weight), (logits,))


def test_half_precision_logits_are_scored_in_float32():
    loss = cross_entropy(torch.tensor([60.0, 0.0], dtype=torch.float16).view(1, 2, 1, 1), zeros(1) + 1, TWO)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(60)


def test_values_are_refused():
    with pytest.raises(UsageError, match="use the losses l1 or l2"):
        cross_entropy(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), Task.of(["height"], kind="values"))


# The sum, and the two means


def test_the_sum_of_the_worked_example():
    logits = torch.tensor([[[[2.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [1.0, 3.0]]]])
    mask = torch.tensor([[[0, 1], [0, 1]]])
    assert cross_entropy(logits, mask, TWO, reduction="sum").item() == pytest.approx(1.073931, abs=1e-6)


@pytest.mark.parametrize(
    ("reduction", "expected"), [("mean", 1.814833), ("weighted_mean", 1.088900), ("sum", 3 * 1.814833)]
)
def test_the_two_conventions_of_class_weights(reduction, expected):
    # Scores of the truth 0.9, 0.6 of class 0 and 0.2 of class 1, which weighs 3.
    logits, mask = logits_for([0.9, 0.6, 0.8]), torch.tensor([[[0, 0, 1]]])
    weight = weight_map(mask, [1.0, 3.0], TWO)
    found = cross_entropy(logits, mask, TWO, weight, reduction=reduction)
    assert found.item() == pytest.approx(expected, abs=4e-6)


@pytest.mark.parametrize(
    ("scores", "truth", "weights", "expected"),
    [
        ([0.9, 0.3, 0.2], [1, 0, 1], [0.5, 2.0], 1.202645),
        ([0.8, 0.6, 0.1, 0.1], [1, 1, 0, 0], [1.0, 2.0], 0.419665),
        ([0.8, 0.6, 0.1, 0.1], [1, 1, 0, 0], [0.3, 0.7], 0.144249),
    ],
)
def test_the_worked_examples_of_weighted_binary_cross_entropy(scores, truth, weights, expected):
    logits, mask = logits_for(scores).flip(1), torch.tensor([[truth]])
    assert cross_entropy(logits, mask, TWO, weight_map(mask, weights, TWO)).item() == pytest.approx(expected, abs=1e-6)


def test_the_weighted_mean_is_that_of_torch_with_class_weights():
    task, classes = Task.of(["a", "b", "c"]), torch.tensor([0.5, 2.0, 4.0])
    logits = torch.randn(2, 3, 4, 5, generator=GENERATOR)
    mask = torch.randint(0, 3, (2, 4, 5), generator=GENERATOR)
    mask[:, 0] = 255
    expected = torch.nn.functional.cross_entropy(logits, mask, weight=classes, ignore_index=255)
    found = cross_entropy(logits, mask, task, weight_map(mask, classes.tolist(), task), reduction="weighted_mean")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("task", [TWO, FLAGS])
def test_weights_of_one_make_no_difference_to_any_reduction(task):
    logits = torch.randn(1, 2, 3, 3, generator=GENERATOR)
    mask = torch.randint(0, 2, (1, 3, 3) if task is TWO else (1, 2, 3, 3), generator=GENERATOR)
    mask[..., 0, 0] = 255
    for reduction in ("mean", "weighted_mean", "sum"):
        found = cross_entropy(logits, mask, task, torch.ones(1, 3, 3), reduction=reduction)
        torch.testing.assert_close(found, cross_entropy(logits, mask, task, reduction=reduction))
    mean, weighted = (cross_entropy(logits, mask, task, reduction=r) for r in ("mean", "weighted_mean"))
    torch.testing.assert_close(mean, weighted)


def test_a_reduction_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="reduction = avg: choose one of mean, weighted_mean, sum"):
        cross_entropy(torch.zeros(1, 2, 1, 1), zeros(1), TWO, reduction="avg")


# Label smoothing


def test_label_smoothing_is_that_of_torch():
    task = Task.of(["a", "b", "c"])
    logits = torch.randn(2, 3, 4, 5, generator=GENERATOR)
    mask = torch.randint(0, 3, (2, 4, 5), generator=GENERATOR)
    mask[:, 0] = 255
    expected = torch.nn.functional.cross_entropy(logits, mask, ignore_index=255, label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy(logits, mask, task, label_smoothing=0.1), expected)


def test_label_smoothing_of_overlapping_classes_is_between_yes_and_no():
    scores = torch.tensor([0.8, 0.3]).view(1, 1, 1, 2)
    expected = -(0.95 * math.log(0.8) + 0.05 * math.log(0.2) + 0.05 * math.log(0.3) + 0.95 * math.log(0.7)) / 2
    found = cross_entropy(scores.logit(), torch.tensor([1, 0]).view(1, 1, 1, 2), FLAG, label_smoothing=0.1)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_label_smoothing_out_of_range_is_refused(share):
    with pytest.raises(UsageError, match=r"label_smoothing = .*: choose a number from 0 to 1"):
        cross_entropy(torch.zeros(1, 2, 1, 1), zeros(1), TWO, label_smoothing=share)


# Balance by the batch


def test_balanced_classes_weigh_alike():
    # Three pixels of class 0 weigh 4 / (2 * 3), the one of class 1 weighs 4 / (2 * 1).
    logits, mask = logits_for([0.9, 0.6, 0.5, 0.8]), torch.tensor([[[0, 0, 0, 1]]])
    expected = -(2 / 3 * math.log(0.9 * 0.6 * 0.5) + 2 * math.log(0.2)) / 4
    assert balanced_cross_entropy(logits, mask, TWO).item() == pytest.approx(expected, abs=1e-6)


def test_balanced_overlapping_classes_are_there_and_not_there_alike():
    scores = torch.tensor([0.8, 0.3, 0.3, 0.3]).view(1, 1, 1, 4)
    expected = -(2 * math.log(0.8) + 3 * 2 / 3 * math.log(0.7)) / 4
    found = balanced_cross_entropy(scores.logit(), torch.tensor([1, 0, 0, 0]).view(1, 1, 1, 4), FLAG)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_two_balanced_classes_are_those_of_the_survey_up_to_its_factor():
    # There a presence weighs the share of absence and the reverse: 2 * share * (1 - share) times ours.
    scores, truth = torch.tensor([0.8, 0.6, 0.1, 0.1, 0.4]), torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    surveyed = -(0.6 * truth * scores.log() + 0.4 * (1 - truth) * (1 - scores).log()).mean()
    found = balanced_cross_entropy(scores.logit().view(1, 1, 1, 5), truth.view(1, 1, 1, 5), FLAG)
    torch.testing.assert_close(2 * 0.4 * 0.6 * found, surveyed)


def test_a_batch_of_one_class_is_balanced():
    logits = logits_for([0.9, 0.6])
    torch.testing.assert_close(balanced_cross_entropy(logits, zeros(2), TWO), cross_entropy(logits, zeros(2), TWO))


def test_the_weights_of_pixels_are_kept_beside_those_of_the_balance():
    logits, mask, weight = logits_for([0.9, 0.6]), torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 3.0]]])
    torch.testing.assert_close(
        balanced_cross_entropy(logits, mask, TWO, weight), cross_entropy(logits, mask, TWO, weight)
    )
    found = balanced_cross_entropy(logits, mask, TWO, weight, reduction="weighted_mean")
    torch.testing.assert_close(found, cross_entropy(logits, mask, TWO, weight, reduction="weighted_mean"))
