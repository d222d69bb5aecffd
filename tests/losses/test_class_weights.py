from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixelwise.errors import UsageError
from pixelwise.losses.class_weights import effective_number, inverse_frequency, median_frequency, weight_map
from pixelwise.task import Task

COUNTS = st.lists(st.integers(0, 10**7), min_size=1, max_size=8).filter(any)
THREE = Task.of(["a", "b", "c"])
FLAGS = Task.of(["road", "wet"], kind="overlapping")


# Inverse frequency


def test_the_inverse_frequency_of_a_worked_case():
    # 60 pixels of three classes: 60 / (3 * 30), 60 / (3 * 20), 60 / (3 * 10).
    assert inverse_frequency([30, 20, 10]).tolist() == pytest.approx([2 / 3, 1, 2])
    # The square roots of 60 / 30 and of 60 / 10 keep their ratio.
    rooted = inverse_frequency([30, 20, 10], power=0.5)
    assert rooted[2] / rooted[0] == pytest.approx(math.sqrt(3))


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_the_mean_weight_of_a_pixel_is_one(pixels, power):
    weights = inverse_frequency(pixels, power=power)
    assert (weights * pixels).sum() / sum(pixels) == pytest.approx(1)
    assert all((weight == 0) == (count == 0) for weight, count in zip(weights, pixels, strict=True))


@settings(max_examples=30, deadline=None)
@given(COUNTS)
def test_classes_have_the_same_sum_of_weights(pixels):
    sums = (inverse_frequency(pixels) * pixels)[np.array(pixels) > 0]
    np.testing.assert_allclose(sums, sums[0])


# Median frequency


def test_the_median_frequency_of_the_worked_example():
    assert median_frequency([[3, 1, 0], [2, 0, 2]]).tolist() == pytest.approx([0.8, 2.0, 1.0])


def test_void_pixels_count_where_the_sizes_of_the_images_are_given():
    # Two images of 10 pixels: frequencies 5/20, 1/10, 2/10.
    found = median_frequency([[3, 1, 0], [2, 0, 2]], image_pixels_N=[10, 10])
    assert found.tolist() == pytest.approx([0.8, 2.0, 1.0])
    unequal = median_frequency([[3, 1, 0], [2, 0, 2]], image_pixels_N=[10, 5])
    assert unequal.tolist() == pytest.approx([1 / 3 * 3, 1 / 3 / 0.1, 1 / 3 / 0.4])


def test_a_class_without_pixels_is_left_out_of_the_median():
    assert median_frequency([[3, 1, 0, 0], [2, 0, 2, 0]]).tolist() == pytest.approx([0.8, 2.0, 1.0, 0.0])


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.permutations(range(3)))
def test_the_order_of_images_and_classes_does_not_matter(classes, images):
    pixels = np.array([[9, 1, 0, 3], [4, 0, 0, 8], [1, 2, 5, 0]])
    np.testing.assert_allclose(median_frequency(pixels[images][:, classes]), median_frequency(pixels)[classes])


def test_camvid_is_balanced_by_the_weights_of_its_training_masks(real_data):
    folder = real_data / "camvid" / "trainannot"
    if not folder.is_dir():
        pytest.skip("CamVid is not there")
    masks = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    pixels = np.stack([np.bincount(mask.ravel(), minlength=12)[:11] for mask in masks])
    found = median_frequency(pixels, image_pixels_N=[mask.size for mask in masks])

    frequencies = []
    for number in range(11):
        holding = [mask for mask in masks if (mask == number).any()]
        frequencies.append(sum((mask == number).sum() for mask in holding) / sum(mask.size for mask in holding))
    np.testing.assert_allclose(found, np.median(frequencies) / np.array(frequencies))
    # Road, building and sky are common; poles, pedestrians and bicyclists rare.
    assert max(found[[0, 1, 3]]) < 0.5
    assert min(found[[2, 9, 10]]) > 2
    if len(masks) == 367:
        published = [0.2793, 0.2017, 4.7865, 0.1490, 1.0, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
        np.testing.assert_allclose(found, published, atol=5e-5)


def test_the_weights_of_all_of_camvid_follow_from_its_counts():
    """Pixels of each class in the 367 training masks of 360 x 480, void among them, and how many masks each is in."""
    totals = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967]
    masks = [366, 365, 366, 367, 349, 319, 351, 173, 360, 317, 201]
    pixels = np.zeros((367, 11))
    for number, (total, held) in enumerate(zip(totals, masks, strict=True)):
        pixels[:held, number] = total / held
    expected = [0.2793, 0.2017, 4.7865, 0.1490, 1.0, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
    np.testing.assert_allclose(median_frequency(pixels, image_pixels_N=[360 * 480] * 367), expected, atol=5e-5)


# Effective number


def test_the_effective_number_of_a_worked_case():
    # beta 1/2: effective numbers 1, 1.5 and 1.75, inverses 1, 2/3 and 4/7, scaled to sum to 3.
    expected = np.array([1, 2 / 3, 4 / 7]) * 3 / (1 + 2 / 3 + 4 / 7)
    np.testing.assert_allclose(effective_number([1, 2, 3], beta=0.5), expected)


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_the_effective_number_lies_between_no_weights_and_the_inverse_frequency(pixels):
    there = np.array(pixels) > 0
    np.testing.assert_allclose(effective_number(pixels, beta=0.0), there.astype(float))
    assert effective_number(pixels).sum() == pytest.approx(there.sum())
    inverse = inverse_frequency(pixels)
    nearly = effective_number(pixels, beta=1 - 1e-12)
    np.testing.assert_allclose(nearly / nearly.max(), inverse / inverse.max(), rtol=1e-4)


# The map


def test_the_map_of_exclusive_classes_holds_the_weight_of_the_class():
    mask = torch.tensor([[[0, 1, 2], [255, -1, 2]]])
    assert weight_map(mask, [0.5, 1.0, 4.0], THREE).tolist() == [[[0.5, 1.0, 4.0], [0.0, 0.0, 4.0]]]
    assert weight_map(mask.int(), np.array([0.5, 1.0, 4.0]), THREE).dtype == torch.float32


def test_the_map_of_overlapping_classes_holds_the_largest_weight():
    mask = torch.tensor([[0, 1, 0, 1, 255, 255], [0, 0, 1, 1, 1, 255]]).view(1, 2, 1, 6)
    assert weight_map(mask, [0.5, 3.0], FLAGS).tolist() == [[[1.0, 0.5, 3.0, 3.0, 3.0, 0.0]]]


# What is refused


@pytest.mark.parametrize("weigh", [inverse_frequency, effective_number, lambda pixels: median_frequency([pixels])])
@pytest.mark.parametrize("pixels", [[], [0, 0], [-1, 2], [math.nan, 1], [math.inf, 1], [[[1, 2]]]])
def test_counts_that_are_none_are_refused(weigh, pixels):
    with pytest.raises(UsageError, match="count the masks of the training set"):
        weigh(pixels)


@pytest.mark.parametrize("sizes", [[4], [4, 3], [4, 4, 4]])
def test_sizes_of_images_that_cannot_be_are_refused(sizes):
    with pytest.raises(UsageError, match="image_pixels_N"):
        median_frequency([[3, 1, 0], [2, 0, 2]], image_pixels_N=sizes)


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(UsageError, match="beta = "):
        effective_number([1, 2], beta=beta)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0, 2.0], "2 class weights for 3 classes"),
        ([1.0, -2.0, 1.0], "weight of class 'b' = -2: choose a number of at least 0"),
        ([1.0, math.nan, 1.0], "weight of class 'b' = nan"),
        ([1.0, 1.0, math.inf], "weight of class 'c' = inf"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(weights, said):
    with pytest.raises(UsageError, match=said):
        weight_map(torch.zeros(1, 1, 1, dtype=torch.long), weights, THREE)


def test_values_have_no_class_weights():
    with pytest.raises(UsageError, match="no classes"):
        weight_map(torch.zeros(1, 1, 1, 1), [1.0], Task.of(["height"], kind="values"))
