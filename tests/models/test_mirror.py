from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pixelwise.models.mirror import mirror_padded, mirrored_positions


def test_the_edge_is_not_repeated():
    image = torch.tensor([[[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]])
    assert mirror_padded(image, rows=(1, 1), columns=(1, 1)).tolist() == [
        [[[50, 40, 50, 60, 50], [20, 10, 20, 30, 20], [50, 40, 50, 60, 50], [80, 70, 80, 90, 80], [50, 40, 50, 60, 50]]]
    ]


@given(st.integers(1, 6), st.integers(1, 6), *[st.integers(0, 20)] * 4)
@settings(max_examples=100, deadline=None)
def test_it_is_that_of_numpy_however_small_the_image(height, width, above, below, left, right):
    image = np.arange(2 * height * width).reshape(1, 2, height, width)
    expected = np.pad(image, ((0, 0), (0, 0), (above, below), (left, right)), mode="reflect")
    found = mirror_padded(torch.from_numpy(image), rows=(above, below), columns=(left, right))
    np.testing.assert_array_equal(found.numpy(), expected)


def test_it_is_that_of_torch_where_torch_has_it():
    image = torch.randn(2, 3, 6, 8)
    assert torch.equal(mirror_padded(image, rows=(5, 2), columns=(7, 0)), F.pad(image, (7, 0, 5, 2), mode="reflect"))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_every_position_is_a_pixel(length):
    positions = mirrored_positions(length, 13, 17)
    assert positions.shape == (13 + length + 17,)
    assert positions[13 : 13 + length].tolist() == list(range(length))
    assert positions.min() == 0
    assert positions.max() == length - 1


def test_it_works_without_memory():
    padded = mirror_padded(torch.empty(1, 1, 1, 9, device="meta"), rows=(2, 3), columns=(0, 1))
    assert padded.shape == (1, 1, 6, 10)
