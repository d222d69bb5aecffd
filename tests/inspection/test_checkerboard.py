from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pixelwise.inspection.checkerboard import Checkerboard, checkerboard, upsampling_layers
from pixelwise.models.unet import UNet
from pixelwise.models.upsample import UPSAMPLING, upsampling


def transposed(kernel: int, stride: int, padding: int = 0) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(3, 2, kernel, stride=stride, padding=padding)


# Overlap counts


def test_kernel_3_stride_2_overlaps_once_twice_or_four_times():
    board = checkerboard(transposed(3, 2), 3, size=5)
    line = [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]
    np.testing.assert_array_equal(board.overlaps_HW, np.outer(line, line))
    assert board.counts == [1, 2, 4]
    assert board.score == 0.75
    assert board.to_dict() == {"score": 0.75, "counts": [1, 2, 4]}


@pytest.mark.parametrize(("kernel", "stride", "padding", "count"), [(4, 2, 1, 4), (2, 2, 0, 1), (6, 3, 0, 4)])
def test_a_kernel_that_the_stride_divides_is_even_inside(kernel, stride, padding, count):
    board = checkerboard(transposed(kernel, stride, padding), 3)
    assert board.counts == [count]
    assert board.score == 0


def test_kernel_4_stride_2_is_uneven_at_its_border_only():
    line = checkerboard(transposed(4, 2, 1), 3, size=4).overlaps_HW[3]
    assert line.tolist() == [2, 4, 4, 4, 4, 4, 4, 2]


@given(st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=24, deadline=None)
def test_artefact_free_if_and_only_if_the_stride_divides_the_kernel(kernel, stride):
    assert (checkerboard(transposed(kernel, stride), 3).score == 0) == (kernel % stride == 0)


def test_counts_are_those_of_a_transposed_convolution_of_ones():
    ones, weight = torch.ones(1, 1, 9, 9), torch.ones(1, 1, 5, 3)
    expected = F.conv_transpose2d(ones, weight, stride=(2, 3), output_padding=1)[0, 0]
    layer = nn.ConvTranspose2d(4, 4, (5, 3), stride=(2, 3), output_padding=1, groups=4)
    np.testing.assert_array_equal(checkerboard(layer, 4, size=9).overlaps_HW, expected)


def test_two_layers_multiply_their_patterns():
    path = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 1, 3, stride=2))
    board = checkerboard(path, 3)
    assert board.counts == [1, 2, 3, 4, 6, 9]
    rows = board.inside[0]
    np.testing.assert_array_equal(rows[:-4], rows[4:])  # of period 4
    assert not np.array_equal(rows[:-2], rows[2:])


def test_a_convolution_behind_it_smooths_the_pattern_and_does_not_remove_it():
    alone = checkerboard(transposed(3, 2), 3).score
    smoothed = checkerboard(nn.Sequential(transposed(3, 2), nn.Conv2d(2, 1, 3, padding=1)), 3).score
    assert 0 < smoothed < alone


EVEN = {name for name in UPSAMPLING if name != "bed_of_nails"}


@pytest.mark.parametrize("name", UPSAMPLING)
def test_of_the_ways_to_upsample_only_bed_of_nails_leaves_holes(name):
    assert checkerboard(upsampling(name, 4, 2), 4).score == (0 if name in EVEN else 1)


def test_the_path_of_a_unet_is_even():
    network = UNet(1, 2, width=2, depth=2)
    assert [network.get_submodule(name) for name in upsampling_layers(network)] == [b.up for b in network.decoder]
    assert checkerboard(network, 1, size=128).score == 0


def test_a_transposed_convolution_without_a_stride_upsamples_nothing():
    assert upsampling_layers(nn.Sequential(nn.ConvTranspose2d(1, 1, 3))) == {}


def test_scores_of_nothing_and_of_rounding_errors_are_0():
    assert Checkerboard(overlaps_HW=np.zeros((4, 4))).score == 0
    assert Checkerboard(overlaps_HW=1 + 1e-12 * np.arange(16.0).reshape(4, 4)).score == 0
    assert Checkerboard(overlaps_HW=np.ones((1, 1))).counts == [1]
