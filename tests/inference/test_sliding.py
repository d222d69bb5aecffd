from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.inference.sliding import sliding_logits
from pixelwise.models.unet import UNet


class Recorder:
    """A network that adds 1, and remembers the shapes that it saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        self.shapes.append((image_BCHW.shape[-2], image_BCHW.shape[-1]))
        return image_BCHW + 1


def counting_image(height: int, width: int) -> Tensor:
    return torch.arange(2.0 * height * width).view(1, 2, height, width) / (height * width)


@pytest.mark.parametrize("tile", [16, 32, 64])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("stride", [1, 16])
def test_windows_of_an_identity_join_without_seams(tile, overlap, stride):
    for side in range(1, 71):
        image = counting_image(side, 71 - side % 7)
        logits = sliding_logits(image, network=Recorder(), tile=tile, overlap=overlap, stride=stride)
        torch.testing.assert_close(logits, image + 1, atol=0, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 3), (31, 33), (97, 89)])
def test_odd_shapes_give_their_own_size(shape):
    image = counting_image(*shape)
    logits = sliding_logits(image, network=Recorder(), tile=32, overlap=0.25, stride=16)
    torch.testing.assert_close(logits, image + 1, atol=0, rtol=1e-6)


def test_a_constant_network_gives_the_constant():
    def constant(image_BCHW: Tensor) -> Tensor:
        return torch.full_like(image_BCHW[:, :1], 3.0)

    logits = sliding_logits(torch.zeros(1, 3, 70, 70), network=constant, tile=32, overlap=0.5, stride=4)
    torch.testing.assert_close(logits, torch.full((1, 1, 70, 70), 3.0))


def test_an_image_of_no_more_pixels_than_a_window_goes_through_whole():
    network = Recorder()
    sliding_logits(torch.zeros(1, 1, 16, 64), network=network, tile=32, overlap=0.5, stride=16)
    assert network.shapes == [(16, 64)]


def test_a_larger_image_goes_through_in_windows():
    network = Recorder()
    sliding_logits(torch.zeros(1, 1, 64, 65), network=network, tile=32, overlap=0.0, stride=16)
    assert network.shapes == [(32, 32), (32, 32), (32, 17)] * 2


def test_the_middle_of_a_window_counts_more_than_its_edge():
    seen: list[float] = []

    def numbered(image_BCHW: Tensor) -> Tensor:
        seen.append(float(len(seen)))
        return torch.full_like(image_BCHW, seen[-1])

    logits = sliding_logits(torch.zeros(1, 1, 32, 48), network=numbered, tile=32, overlap=0.5, stride=16)[0, 0, 16]
    assert seen == [0.0, 1.0]
    assert logits[0] == 0
    assert logits[47] == 1
    assert (logits.diff() >= 0).all()
    assert logits[16] < 0.5 < logits[31]


def test_logits_are_in_float32():
    def half(image_BCHW: Tensor) -> Tensor:
        return image_BCHW.bfloat16()

    for side in (16, 64):
        image = torch.zeros(1, 1, side, side)
        assert sliding_logits(image, network=half, tile=32, overlap=0.0, stride=1).dtype == torch.float32


def test_a_window_smaller_than_the_stride_is_refused():
    with pytest.raises(UsageError, match="choose windows of at least 64 pixels"):
        sliding_logits(torch.zeros(1, 1, 100, 100), network=Recorder(), tile=32, overlap=0.25, stride=64)


def test_tiled_equals_whole_where_a_window_holds_the_receptive_field():
    torch.manual_seed(0)
    network = UNet(1, 2, width=4, depth=1).eval()  # 2 levels: each pixel depends on fewer than 16 around it
    image = torch.randn(1, 1, 32, 96)
    with torch.inference_mode():
        whole = network(image)
        tiled = sliding_logits(image, network=network, tile=48, overlap=0.0, stride=network.stride)
    torch.testing.assert_close(tiled[..., :32], whole[..., :32])
    torch.testing.assert_close(tiled[..., 64:], whole[..., 64:])
