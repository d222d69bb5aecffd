from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import distance_transform_edt

from pixelwise.errors import UsageError
from pixelwise.losses.cross_entropy import cross_entropy
from pixelwise.losses.distance import (
    distance_cross_entropy,
    distance_to_boundary,
    hausdorff_distance_loss,
    shape_aware,
)
from pixelwise.task import Task

FLAG = Task.of(["wet"], kind="overlapping")
TWO = Task.of(["dry", "wet"])
GENERATOR = torch.Generator().manual_seed(0)
ROW = torch.tensor([1, 1, 1, 0, 0]).view(1, 1, 1, 5)


def sure(*presence: int) -> torch.Tensor:
    return 50.0 * (2 * torch.tensor(presence).view(1, 1, 1, -1).double() - 1)


# The distance itself


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_distance_is_that_of_scipy_on_both_sides(inside):
    if inside.all() or not inside.any():
        return
    expected = np.where(inside, distance_transform_edt(inside), distance_transform_edt(~inside))
    np.testing.assert_allclose(distance_to_boundary(inside, ~inside), expected, rtol=1e-5)


def test_void_is_on_neither_side():
    inside, outside = np.array([[True, False, False, False]]), np.array([[False, False, False, True]])
    assert distance_to_boundary(inside, outside).tolist() == [[3, 0, 0, 3]]


@pytest.mark.parametrize("present", [True, False])
def test_without_a_boundary_it_is_the_distance_to_the_outside_of_the_image(present):
    side = np.full((3, 5), present)
    assert distance_to_boundary(side, ~side).tolist() == [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]


# Distance-penalised cross-entropy


def test_terms_weigh_more_beside_the_boundary():
    # Distances 3, 2, 1 | 1, 2, so the nearness is 0, 1/3, 2/3 | 1/2, 0; every term is log 2.
    found = distance_cross_entropy(torch.zeros(1, 1, 1, 5), ROW, FLAG)
    assert found.item() == pytest.approx(math.log(2) * (5 + 1.5) / 5, abs=1e-6)
    exclusive = distance_cross_entropy(torch.zeros(1, 2, 1, 5), ROW[:, 0], TWO, penalty=2.0)
    assert exclusive.item() == pytest.approx(math.log(2) * (5 + 3) / 5, abs=1e-6)


def test_it_is_cross_entropy_without_a_boundary_or_a_penalty():
    logits = torch.randn(1, 2, 3, 4, generator=GENERATOR)
    one_class = torch.zeros(1, 3, 4, dtype=torch.long)
    torch.testing.assert_close(distance_cross_entropy(logits, one_class, TWO), cross_entropy(logits, one_class, TWO))
    mask = torch.randint(0, 2, (1, 3, 4), generator=GENERATOR)
    found = distance_cross_entropy(logits, mask, TWO, penalty=0.0)
    torch.testing.assert_close(found, cross_entropy(logits, mask, TWO))


# Hausdorff distance


def test_the_worked_example_of_the_hausdorff_loss():
    # One pixel too many: its distance is 1 in the truth and 1 in the prediction, so (0 - 1)² (1² + 1²) / 5.
    found = hausdorff_distance_loss(sure(1, 1, 1, 1, 0), ROW, FLAG)
    assert found.item() == pytest.approx(2 / 5, abs=1e-6)
    # The last pixel instead: 2 to the truth, 1 to its own boundary.
    far = hausdorff_distance_loss(sure(1, 1, 1, 0, 1), ROW, FLAG)
    assert far.item() == pytest.approx((4 + 1) / 5, abs=1e-6)
    assert hausdorff_distance_loss(sure(1, 1, 1, 0, 1), ROW, FLAG, alpha=1.0).item() == pytest.approx(3 / 5, abs=1e-6)
    assert hausdorff_distance_loss(sure(1, 1, 1, 0, 0), ROW, FLAG).item() == pytest.approx(0, abs=1e-6)


def test_it_is_the_hausdorff_loss_of_monai():
    monai = pytest.importorskip("monai.losses")
    logits = torch.randn(2, 1, 9, 9, generator=GENERATOR)
    mask = torch.randint(0, 2, (2, 1, 9, 9), generator=GENERATOR)
    theirs = monai.HausdorffDTLoss(sigmoid=True, include_background=True)(logits, mask.float())
    torch.testing.assert_close(hausdorff_distance_loss(logits, mask, FLAG), theirs, rtol=1e-4, atol=1e-4)


def test_a_far_mistake_costs_more_than_a_near_one():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 3:6, 3:6] = 1
    near, far = 50 * (2 * mask - 1), 50 * (2 * mask - 1)
    near[..., 4, 6], far[..., 0, 0] = 50, 50
    assert hausdorff_distance_loss(far, mask, FLAG) > 2 * hausdorff_distance_loss(near, mask, FLAG)


def test_predictions_at_void_pixels_do_not_move_the_boundary():
    mask, logits = ROW.clone(), sure(1, 1, 1, 0, 0)
    mask[..., 4] = 255
    loud = logits.clone()
    loud[..., 4] = 50
    for loss in (hausdorff_distance_loss, shape_aware):
        torch.testing.assert_close(loss(loud, mask, FLAG), loss(logits, mask, FLAG))


# Shape-aware loss


def test_the_worked_example_of_the_shape_aware_loss():
    # The prediction ends one pixel late. Beside its boundary the true distances are 1 and 2, so E = 1/2; the one wrong
    # pixel weighs 1 + E.
    logits = 2.0 * (2 * torch.tensor([1, 1, 1, 1, 0]).view(1, 1, 1, 5) - 1)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    found = shape_aware(logits, ROW, FLAG)
    assert found.item() == pytest.approx((4 * right + 1.5 * wrong) / 5, abs=1e-6)
    doubled = shape_aware(logits, ROW, FLAG, factor=2.0)
    assert doubled.item() == pytest.approx((4 * right + 2 * wrong) / 5, abs=1e-6)


def test_where_outlines_agree_it_is_cross_entropy():
    logits = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0]).view(1, 1, 1, 5)
    torch.testing.assert_close(shape_aware(logits, ROW, FLAG), cross_entropy(logits, ROW, FLAG))
    wrong = torch.randn(1, 2, 5, 5, generator=GENERATOR)
    mask = torch.randint(0, 2, (1, 5, 5), generator=GENERATOR)
    torch.testing.assert_close(shape_aware(wrong, mask, TWO, factor=0.0), cross_entropy(wrong, mask, TWO))
    assert shape_aware(wrong, mask, TWO) > cross_entropy(wrong, mask, TWO)


# All three


@pytest.mark.parametrize("loss", [distance_cross_entropy, hausdorff_distance_loss, shape_aware])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
def test_thin_images_are_no_exception(loss, size):
    logits = torch.randn(2, 2, *size, generator=GENERATOR).requires_grad_()
    found = loss(logits, torch.randint(0, 2, (2, *size), generator=GENERATOR), TWO)
    found.backward()
    assert found.isfinite()
    assert logits.grad is not None
    assert logits.grad.any()


@pytest.mark.parametrize(
    ("loss", "argument"),
    [(distance_cross_entropy, "penalty"), (hausdorff_distance_loss, "alpha"), (shape_aware, "factor")],
)
def test_arguments_out_of_range_are_refused(loss, argument):
    with pytest.raises(UsageError, match=f"{argument} = -1: choose a number of at least 0"):
        loss(sure(1, 0), ROW[..., :2], FLAG, **{argument: -1.0})
