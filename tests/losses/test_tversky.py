from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.tversky import (
    dice,
    focal_tversky,
    generalised_dice,
    jaccard,
    log_cosh_dice,
    sensitivity_specificity,
    tversky,
    tversky_index,
)
from pixelwise.task import Task

FLAG = Task.of(["wet"], kind="overlapping")
FLAGS = Task.of(["road", "wet"], kind="overlapping")
THREE = Task.of(["a", "b", "c"])
GENERATOR = torch.Generator().manual_seed(0)
# The worked example: true positives 1.4, false negatives 0.6, false positives 0.2.
LOGITS = torch.tensor([0.8, 0.6, 0.1, 0.1], dtype=torch.float64).logit().view(1, 1, 1, 4)
MASK = torch.tensor([1, 1, 0, 0]).view(1, 1, 1, 4)


def random_case(classes: int = 3) -> tuple[Tensor, Tensor]:
    logits = torch.randn(2, classes, 3, 4, dtype=torch.float64, generator=GENERATOR)
    return logits, torch.randint(0, classes, (2, 3, 4), generator=GENERATOR)


# Hand-worked values


@pytest.mark.parametrize(
    ("missed", "invented", "index"),
    [(0.5, 0.5, 0.777778), (1.0, 1.0, 0.636364), (0.7, 0.3, 0.744681), (0.3, 0.7, 0.813953), (1.0, 0.0, 0.7)],
)
def test_the_index_of_the_worked_example(missed, invented, index):
    found = tversky_index(LOGITS, MASK, FLAG, missed=missed, invented=invented, smooth=0.0)
    assert found.tolist() == pytest.approx([index], abs=1e-6)


def test_dice_and_jaccard_of_the_worked_example():
    assert dice(LOGITS, MASK, FLAG).item() == pytest.approx(0.173913, abs=1e-6)
    assert jaccard(LOGITS, MASK, FLAG).item() == pytest.approx(1 - 1.9 / 2.7, abs=1e-6)


def both_classes() -> Tensor:
    """The worked example as two exclusive classes."""
    return torch.cat([torch.zeros_like(LOGITS), LOGITS], dim=1)


BOTH = Task.of(["background", "wet"])


@pytest.mark.parametrize(
    ("loss", "arguments", "expected"),
    [
        (dice, {"smooth": 0.0}, 0.222222),
        (dice, {"smooth": 0.0, "squared": True}, 0.072848),
        (jaccard, {"smooth": 0.0}, 0.363636),
        (tversky, {"smooth": 0.0}, 0.255319),
        (tversky, {"smooth": 0.0, "missed": 0.3, "invented": 0.7}, 1 - 0.813953),
        (focal_tversky, {"smooth": 0.0}, 0.359180),
        (focal_tversky, {"smooth": 0.0, "gamma": 4 / 3}, 0.161974),
        (log_cosh_dice, {"smooth": 0.0}, 0.024491),
        (sensitivity_specificity, {"sensitivity": 0.5, "squared": False}, 0.2),
        # Squared errors 0.04 and 0.16 of two pixels that are there, 0.01 and 0.01 of two that are not.
        (sensitivity_specificity, {}, 0.05 * 0.1 + 0.95 * 0.01),
        (sensitivity_specificity, {"sensitivity": 1.0, "squared": False}, 1 - 0.7),
        (sensitivity_specificity, {"sensitivity": 0.0, "squared": False}, 1 - 0.9),
    ],
)
def test_the_losses_of_the_worked_example(loss, arguments, expected):
    assert loss(LOGITS, MASK, FLAG, **arguments).item() == pytest.approx(expected, abs=1e-6)


def test_the_generalised_dice_of_the_worked_example():
    found = generalised_dice(both_classes(), MASK[:, 0], BOTH, smooth=0.0)
    assert found.item() == pytest.approx(0.2, abs=1e-6)


def test_the_generalised_dice_weighs_by_the_inverse_of_the_square():
    logits, mask = random_case()
    mask[..., 0], mask[0, 0, 0] = 1, 2
    scores = logits.softmax(1).movedim(1, 0).flatten(1)
    truth = torch.nn.functional.one_hot(mask, 3).movedim(-1, 0).flatten(1)
    weights = 1 / truth.sum(1).double() ** 2
    expected = 1 - 2 * (weights * (scores * truth).sum(1)).sum() / (weights * (scores + truth).sum(1)).sum()
    torch.testing.assert_close(generalised_dice(logits, mask, THREE, smooth=0.0), expected)


def test_an_absent_class_weighs_as_the_rarest_in_the_generalised_dice():
    # One pixel of a, three of b, none of c, all scores 1/3: weights 1, 1/9 and 1.
    found = generalised_dice(torch.zeros(1, 3, 1, 4), torch.tensor([[[0, 1, 1, 1]]]), THREE, smooth=0.0)
    hits, sizes = 1 / 3 + 1 / 9, (4 / 3 + 1) + (4 / 3 + 3) / 9 + 4 / 3
    assert found.item() == pytest.approx(1 - 2 * hits / sizes, abs=1e-6)


def test_dice_and_jaccard_are_points_of_tversky():
    logits, mask = random_case()
    torch.testing.assert_close(tversky(logits, mask, THREE, missed=0.5, invented=0.5), dice(logits, mask, THREE))
    torch.testing.assert_close(tversky(logits, mask, THREE, missed=1.0, invented=1.0), jaccard(logits, mask, THREE))
    focal = focal_tversky(logits, mask, THREE, gamma=1.0)
    torch.testing.assert_close(focal, tversky(logits, mask, THREE))


def test_missing_costs_more_than_inventing_unless_asked_otherwise():
    mask = torch.tensor([1, 1, 0, 0]).view(1, 1, 1, 4)
    missing, inventing = (torch.tensor(row).view(1, 1, 1, 4) for row in ([9.0, -9, -9, -9], [9.0, 9, 9, -9]))
    assert tversky(missing, mask, FLAG) > tversky(inventing, mask, FLAG)
    assert tversky(missing, mask, FLAG, missed=0.1, invented=0.9) < tversky(
        inventing, mask, FLAG, missed=0.1, invented=0.9
    )


def test_an_index_of_nothing_by_nothing_is_one():
    logits, mask = torch.full((1, 1, 1, 2), -1e4), torch.zeros(1, 1, 1, 2)
    assert tversky_index(logits, mask, FLAG, smooth=0.0).tolist() == [1.0]


@pytest.mark.parametrize(
    ("loss", "arguments", "said"),
    [
        (tversky, {"missed": -1.0}, "missed = -1: choose a number of at least 0"),
        (tversky, {"invented": float("inf")}, "invented = inf"),
        (dice, {"smooth": -0.5}, "smooth = -0.5"),
        (focal_tversky, {"gamma": 0.0}, "gamma = 0: choose a number of at least 0.01"),
        (generalised_dice, {"smooth": float("nan")}, "smooth = nan"),
        (sensitivity_specificity, {"sensitivity": 2.0}, "sensitivity = 2: choose a number from 0 to 1"),
    ],
)
def test_arguments_out_of_range_are_refused(loss, arguments, said):
    with pytest.raises(UsageError, match=said):
        loss(LOGITS, MASK, FLAG, **arguments)


@pytest.mark.parametrize("squared", [False, True])
def test_it_is_the_dice_loss_of_monai(squared):
    monai = pytest.importorskip("monai.losses")
    logits, mask = random_case()
    truth = torch.nn.functional.one_hot(mask, 3).movedim(-1, 1)
    theirs = monai.DiceLoss(softmax=True, batch=True, squared_pred=squared, smooth_nr=1, smooth_dr=1)
    torch.testing.assert_close(dice(logits, mask, THREE, squared=squared), theirs(logits, truth.double()))


def test_the_mean_is_over_the_classes():
    logits, mask = random_case()
    indices = tversky_index(logits, mask, THREE)
    assert indices.shape == (3,)
    assert dice(logits, mask, THREE).item() == pytest.approx(1 - sum(indices.tolist()) / 3)


def test_a_perfect_prediction_loses_nothing_and_the_opposite_almost_all():
    mask = torch.tensor([[[0, 1, 2] * 100]])
    logits = 50.0 * torch.nn.functional.one_hot(mask, 3).movedim(-1, 1)
    assert dice(logits, mask, THREE).item() == pytest.approx(0, abs=1e-6)
    assert dice(logits.roll(1, dims=1), mask, THREE).item() > 0.99
    assert jaccard(logits.roll(1, dims=1), mask, THREE).item() > 0.99


def test_overlap_is_counted_over_the_whole_batch():
    logits, mask = random_case()
    side_by_side = torch.cat(list(logits), dim=-1)[None], torch.cat(list(mask), dim=-1)[None]
    torch.testing.assert_close(dice(logits, mask, THREE), dice(*side_by_side, THREE))


# Void and weights


@pytest.mark.parametrize("loss", [dice, jaccard])
def test_void_pixels_have_no_say_and_no_gradient(loss):
    logits, mask = random_case()
    expected = loss(logits[..., 1:], mask[..., 1:], THREE)
    mask[..., 0] = 255
    logits.requires_grad_()
    found = loss(logits, mask, THREE)
    found.backward()
    torch.testing.assert_close(found.detach(), expected)
    assert logits.grad is not None
    assert not logits.grad[..., 0].any()


@pytest.mark.parametrize("loss", [dice, jaccard])
def test_a_weight_of_zero_is_void_and_a_weight_of_two_is_two_pixels(loss):
    logits, mask = random_case()
    weight = torch.ones(2, 3, 4, dtype=torch.float64)
    weight[..., 0], weight[..., 1] = 0, 2
    doubled = [torch.cat([part[..., 1:], part[..., 1:2]], dim=-1) for part in (logits, mask)]
    torch.testing.assert_close(loss(logits, mask, THREE, weight), loss(*doubled, THREE))


@pytest.mark.parametrize("loss", [dice, jaccard])
@pytest.mark.parametrize(("task", "shape"), [(THREE, (1, 2, 2)), (FLAGS, (1, 2, 2, 2))])
def test_a_batch_that_is_all_void_gives_zero_and_zero_gradient(loss, task, shape):
    logits = torch.randn(1, task.outputs, 2, 2, requires_grad=True)
    found = loss(logits, torch.full(shape, 255), task)
    found.backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


# Absent classes


def test_an_absent_class_that_is_not_predicted_loses_nothing():
    logits = torch.tensor([40.0, -40.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    mask = torch.tensor([1, 0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert tversky_index(logits, mask, FLAGS).tolist() == pytest.approx([1.0, 1.0])


def test_an_absent_class_is_pushed_down_where_it_is_predicted():
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    mask = torch.tensor([1, 0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    dice(logits, mask, FLAGS).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 1e-3).all()
    assert (logits.grad[:, 0] < -1e-3).all()


# Numbers at the edge


@pytest.mark.parametrize("loss", [dice, jaccard])
def test_large_logits_stay_finite(loss):
    logits = torch.tensor([1e4, -1e4, 0.0, -1e4, 1e4, 0.0]).view(1, 3, 1, 2).requires_grad_()
    found = loss(logits, torch.zeros(1, 1, 2, dtype=torch.long), THREE)
    found.backward()
    assert 0 <= found.item() <= 1
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [dice, jaccard])
@pytest.mark.parametrize("kind", ["exclusive", "overlapping"])
def test_the_gradient_is_that_of_finite_differences(loss, kind):
    task = Task.of(["a", "b"], kind=kind)
    logits = torch.randn(1, 2, 2, 3, dtype=torch.float64, generator=GENERATOR).requires_grad_()
    mask = torch.randint(0, 2, (1, 2, 3) if kind == "exclusive" else (1, 2, 2, 3), generator=GENERATOR)
    mask[..., 0, 0] = 255
    weight = torch.rand(1, 2, 3, dtype=torch.float64, generator=GENERATOR)
    assert torch.autograd.gradcheck(lambda x: loss(x, mask, task, weight), (logits,))


def test_values_are_refused():
    with pytest.raises(UsageError, match="use the losses l1 or l2"):
        dice(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), Task.of(["height"], kind="values"))
