"""Seeing an image at several sizes."""

from __future__ import annotations

import pytest
import torch

from pixelwise.inference.scales import scaled, seen_at


@pytest.mark.parametrize(
    ("size", "scale", "expected"), [((20, 27), 0.5, (10, 14)), ((1, 1), 0.1, (1, 1)), ((3, 1000), 1.25, (4, 1250))]
)
def test_scaled_sizes(size, scale, expected):
    assert scaled(size, scale) == expected


def test_what_is_seen_has_that_size_and_what_comes_back_the_image_s():
    sizes = []

    def see(image_BCHW: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(image_BCHW.shape))
        return image_BCHW.repeat(1, 4, 1, 1)

    image_BCHW = torch.randn(2, 1, 9, 7)
    for scale in (0.5, 1, 2):
        assert seen_at(scale, image_BCHW, see).shape == (2, 4, 9, 7)
    assert sizes == [(2, 1, 4, 4), (2, 1, 9, 7), (2, 1, 18, 14)]


def test_its_own_size_is_not_resampled():
    image_BCHW = torch.randn(1, 1, 9, 7)
    assert seen_at(1.0, image_BCHW, lambda seen_BCHW: seen_BCHW) is image_BCHW


def test_twice_the_size_and_back_keeps_what_is_linear():
    ramp_BCHW = torch.arange(12.0).expand(1, 1, 12, 12)
    there_and_back = seen_at(2, ramp_BCHW, lambda seen_BCHW: seen_BCHW)
    torch.testing.assert_close(there_and_back[..., 1:-1], ramp_BCHW[..., 1:-1])
