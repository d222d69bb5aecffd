from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.inference.sliding import sliding_logits
from pixelwise.inference.tiling import Tiling


class Recorder:
    """A network that adds 1, and remembers the shapes that it saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        self.shapes.append((image_BCHW.shape[-2], image_BCHW.shape[-1]))
        return image_BCHW + 1


def counting_image(height: int, width: int) -> Tensor:
    return torch.arange(2.0 * height * width).view(1, 2, height, width) / (height * width)


def fading(side: int, overlap: float, stride: int) -> Tiling:
    return Tiling(way="fading", side=side, overlap=overlap, stride=stride)


@pytest.mark.parametrize("tile", [16, 32, 64])
@pytest.mark.parametrize("halo", [0, 1, 3, 7])
@pytest.mark.parametrize("way", ["exact", "inner"])
def test_an_identity_is_exact_and_every_pixel_is_written_once(tile, halo, way):
    for side in range(1, 71):
        image = counting_image(side, 71 - side % 7)
        logits = sliding_logits(image, network=Recorder(), tiling=Tiling(way=way, side=tile, halo=halo))
        assert torch.equal(logits, image + 1)


@pytest.mark.parametrize("tile", [16, 32, 64])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("way", ["fading", "average"])
@pytest.mark.parametrize("stride", [1, 16])
def test_windows_of_an_identity_join_without_seams(tile, overlap, way, stride):
    tiling = Tiling(way=way, side=tile, overlap=overlap, stride=stride)
    for side in range(1, 71):
        image = counting_image(side, 71 - side % 7)
        logits = sliding_logits(image, network=Recorder(), tiling=tiling)
        torch.testing.assert_close(logits, image + 1, atol=0, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 3), (31, 33), (97, 89)])
def test_odd_shapes_give_their_own_size(shape):
    image = counting_image(*shape)
    for tiling in (fading(32, 0.25, 16), Tiling(way="exact", side=64, halo=16, stride=16), None):
        torch.testing.assert_close(
            sliding_logits(image, network=Recorder(), tiling=tiling), image + 1, atol=0, rtol=1e-6
        )


def test_a_constant_network_gives_the_constant():
    def constant(image_BCHW: Tensor) -> Tensor:
        return torch.full_like(image_BCHW[:, :1], 3.0)

    logits = sliding_logits(torch.zeros(1, 3, 70, 70), network=constant, tiling=fading(32, 0.5, 4))
    torch.testing.assert_close(logits, torch.full((1, 1, 70, 70), 3.0))


def test_without_a_tiling_an_image_goes_through_whole():
    network = Recorder()
    sliding_logits(torch.zeros(1, 1, 160, 64), network=network, tiling=None)
    assert network.shapes == [(160, 64)]


def test_a_larger_image_goes_through_in_windows():
    network = Recorder()
    sliding_logits(torch.zeros(1, 1, 64, 65), network=network, tiling=fading(32, 0.0, 16))
    assert network.shapes == [(32, 32), (32, 32), (32, 17)] * 2


def test_exact_windows_see_their_halo_and_the_edge_of_the_image():
    network = Recorder()
    sliding_logits(torch.zeros(1, 1, 40, 100), network=network, tiling=Tiling(way="exact", side=64, halo=16, stride=16))
    rows, columns = [40, 24], [48, 64, 52, 20]  # cores of 32: what is read of each, cut where the image ends
    assert network.shapes == [(height, width) for height in rows for width in columns]


def test_the_middle_of_a_fading_window_counts_more_than_its_edge():
    seen: list[float] = []

    def numbered(image_BCHW: Tensor) -> Tensor:
        seen.append(float(len(seen)))
        return torch.full_like(image_BCHW, seen[-1])

    logits = sliding_logits(torch.zeros(1, 1, 32, 48), network=numbered, tiling=fading(32, 0.5, 16))[0, 0, 16]
    assert seen == [0.0, 1.0]
    assert logits[0] == 0
    assert logits[47] == 1
    assert (logits.diff() >= 0).all()
    assert logits[16] < 0.5 < logits[31]


def test_averaged_windows_count_alike_and_of_inner_parts_one_alone():
    def numbered() -> object:
        count = iter(range(9))
        return lambda image_BCHW: torch.full_like(image_BCHW, float(next(count)))

    image = torch.zeros(1, 1, 32, 48)
    average = Tiling(way="average", side=32, overlap=0.5, stride=16)
    assert sliding_logits(image, network=numbered(), tiling=average)[0, 0, 16, ::16].tolist() == [0, 0.5, 1]
    inner = Tiling(way="inner", side=32, halo=8, stride=8)
    assert sliding_logits(image, network=numbered(), tiling=inner)[0, 0, 0, ::8].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("tiling", [None, fading(32, 0.0, 1), Tiling(way="exact", side=32)])
def test_logits_are_in_float32(tiling):
    def half(image_BCHW: Tensor) -> Tensor:
        return image_BCHW.bfloat16()

    assert sliding_logits(torch.zeros(1, 1, 64, 64), network=half, tiling=tiling).dtype == torch.float32


def test_a_fading_window_smaller_than_the_stride_is_refused():
    with pytest.raises(UsageError, match="choose windows of at least 64 pixels"):
        sliding_logits(torch.zeros(1, 1, 100, 100), network=Recorder(), tiling=fading(32, 0.25, 64))
