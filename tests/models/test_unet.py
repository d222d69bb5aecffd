from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.unet import (
    MirrorPadded,
    UNet,
    UNetEncoder,
    UNetValid,
    crop_middle,
    initialise,
    unet_paper,
    up_operator,
    valid_size,
)
from pixelwise.models.upsample import UPSAMPLING


@pytest.fixture(scope="module")
def valid() -> UNetValid:
    torch.manual_seed(0)
    return UNetValid(1, 2).eval()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_paper(build: type[nn.Module], *arguments: int, **options: int) -> nn.Module:
    """A network without memory behind its weights, to count and to ask for shapes."""
    with torch.device("meta"):
        return build(*arguments, **options)


# The network of the paper


@pytest.mark.parametrize(
    ("in_channels", "classes", "count"),
    [(1, 2, 31_030_658), (1, 1, 31_030_593), (3, 2, 31_031_810), (3, 1, 31_031_745), (3, 21, 31_033_045)],
)
def test_the_paper_network_has_its_number_of_parameters(in_channels, classes, count):
    assert parameters(on_paper(UNetValid, in_channels, classes)) == count


def test_the_paper_network_has_23_convolutional_layers():
    layers = [
        layer for layer in on_paper(UNetValid, 1, 2).modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert len(layers) == 23
    assert not [layer for layer in on_paper(UNetValid, 1, 2).modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize(("side", "out"), [(572, 388), (188, 4), (204, 20), (700, 516)])
def test_the_paper_network_crops_92_pixels_on_each_side(side, out):
    logits = on_paper(UNetValid, 1, 2)(torch.zeros(1, 1, side, 188, device="meta"))
    assert logits.shape == (1, 2, out, 4)


@pytest.mark.parametrize(("side", "following"), [(1, 188), (172, 188), (187, 188), (189, 204), (512, 524), (571, 572)])
def test_other_sizes_are_refused_with_the_next_one(side, following):
    network = on_paper(UNetValid, 1, 2)
    for shape in ((side, 188), (188, side)):
        with pytest.raises(UsageError, match=f"not {side}; the next is {following}, or use unet_paper"):
            network(torch.zeros(1, 1, *shape, device="meta"))


@given(st.integers(1, 5000))
@settings(max_examples=100, deadline=None)
def test_valid_sizes_survive_four_halvings(length):
    size = valid_size(length)
    assert length <= size < max(length + 16, 189)
    for _ in range(4):
        size -= 4
        assert size % 2 == 0
        size //= 2
    assert size - 4 >= 4


def test_fresh_weights_have_the_standard_deviation_of_the_paper(valid):
    second = valid.down[0][2]
    assert second.weight.shape == (64, 64, 3, 3)
    assert second.weight.std().item() == pytest.approx(0.0589256, rel=0.03)
    assert valid.up[0].weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.03)
    assert not second.bias.any()


def test_the_paper_network_drops_out_after_the_fourth_and_the_fifth_level():
    network, dropped = on_paper(UNetValid, 1, 2), []
    network.dropout.register_forward_hook(lambda layer, inputs, output: dropped.append(output.shape[1]))
    network(torch.zeros(1, 1, 188, 188, device="meta"))
    assert dropped == [512, 1024]


def seen_rows(output: Tensor, image: Tensor) -> tuple[int, int]:
    """First and last row of the image that a single output depends on."""
    (gradient,) = torch.autograd.grad(output, image, retain_graph=True)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    return int(rows[0]), int(rows[-1])


def test_the_receptive_field_is_that_of_the_paper(monkeypatch):
    # All weights positive and the mean in place of the maximum: then no path from the image cancels out.
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    network, bottom = UNetValid(1, 1).eval(), []
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.weight.fill_(2 / layer.weight[0].numel())
    network.down[-1].register_forward_hook(lambda layer, inputs, output: bottom.append(output))
    image = torch.ones(1, 1, 204, 188, requires_grad=True)
    logits = network(image)

    first, last = seen_rows(bottom[0][0, 0, 0, 0], image)
    assert last - first + 1 == 140
    # An output pixel sees 188 or 204 pixels, by its place among the 16 that share a pixel of the bottom.
    fields = [seen_rows(logits[0, 0, row, 0], image) for row in (0, 10)]
    assert [last - first + 1 for first, last in fields] == [188, 204]
    assert all(first <= row + 92 <= last for row, (first, last) in zip((0, 10), fields, strict=True))


# The mirrored border


class Crop(nn.Module):
    """Stands for the valid network: keeps what it was given, and crops as it does."""

    margin, stride = 92, 16

    def forward(self, image_BCHW: Tensor) -> Tensor:
        self.seen = image_BCHW
        return image_BCHW[..., 92:-92, 92:-92]


@pytest.mark.parametrize("length", range(1, 41))
def test_the_border_is_mirrored_as_numpy_does(length):
    image, network = torch.arange(2.0 * length).view(1, 1, 2, length), Crop()
    assert torch.equal(MirrorPadded(network)(image), image)  # type: ignore[arg-type]
    after = [valid_size(n + 184) - n - 92 for n in (2, length)]
    expected = np.pad(image[0, 0].numpy(), ((92, after[0]), (92, after[1])), mode="reflect")
    np.testing.assert_array_equal(network.seen[0, 0].numpy(), expected)


def test_mirroring_is_all_that_unet_paper_adds(valid):
    image = torch.randn(1, 1, 12, 20)
    padded = np.pad(image[0, 0].numpy(), ((92, 100), (92, 92)), mode="reflect")
    with torch.inference_mode():
        expected = valid(torch.from_numpy(padded)[None, None])[..., :12, :20]
        torch.testing.assert_close(MirrorPadded(valid)(image), expected)


def test_unet_paper_wraps_the_network_of_the_paper():
    with torch.device("meta"):
        network = unet_paper(1, 2, dropout=0.25)
    assert parameters(network) == 31_030_658
    assert network.stride == 16
    assert network.network.dropout.p == 0.25


def test_the_middle_is_cropped():
    feature = torch.arange(7.0).expand(1, 1, 5, 7)
    assert crop_middle(feature, torch.Size([1, 3])).tolist() == [[[[2, 3, 4]]]]
    assert torch.equal(crop_middle(feature, feature.shape[-2:]), feature)


# The padded network


def closed_form(in_channels: int, classes: int, *, width: int, depth: int) -> int:
    """Parameters of the padded U-Net: convolutions without bias, two numbers per channel for each norm."""

    def two(before: int, after: int) -> int:
        return 9 * before * after + 9 * after * after + 2 * 2 * after

    channels = [width << level for level in range(depth + 1)]
    down = sum(two(before, after) for before, after in zip([in_channels, *channels], channels, strict=False))
    up = sum(4 * deep * skip + skip + two(2 * skip, skip) for skip, deep in pairwise(channels))
    return down + up + width * classes + classes


@pytest.mark.parametrize(("in_channels", "count"), [(3, 31_037_698), (1, 31_036_546)])
def test_the_padded_network_has_the_usual_number_of_parameters(in_channels, count):
    network = on_paper(UNet, in_channels, 2, width=64, depth=4)
    assert parameters(network) == closed_form(in_channels, 2, width=64, depth=4) == count


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (8, 3), (16, 8)])
def test_width_and_depth_do_what_they_say(width, depth):
    network = on_paper(UNet, 4, 5, width=width, depth=depth)
    assert parameters(network) == closed_form(4, 5, width=width, depth=depth)
    assert network.stride == 2**depth
    assert network.encoder.channels == tuple(width * 2**level for level in range(depth + 1))


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_the_padded_network_takes_any_size(height, width):
    network = UNet(2, 3, width=1, depth=3).eval()
    assert network(torch.randn(1, 2, height, width)).shape == (1, 3, height, width)


def test_the_encoder_keeps_its_promise():
    encoder = UNetEncoder(1, width=2, depth=3).eval()
    features = encoder(torch.zeros(1, 1, 21, 8))
    assert encoder.strides == (1, 2, 4, 8)
    assert [tuple(f.shape[1:]) for f in features] == [(2, 21, 8), (4, 11, 4), (8, 6, 2), (16, 3, 1)]


def test_dropout_acts_while_training_only():
    torch.manual_seed(0)
    network, image = UNet(1, 2, width=2, depth=1, dropout=0.5), torch.randn(2, 1, 8, 8)
    assert not torch.equal(network.train()(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": 9}, {"dropout": 1.0}, {"dropout": float("nan")}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} = .*: choose a value from"):
        UNet(1, 2, **options)


# The operator that doubles a map on the way up


def test_the_up_convolution_is_the_default_and_keeps_its_names_and_weights():
    torch.manual_seed(0)
    network = UNet(1, 2, width=2, depth=2)
    torch.manual_seed(0)
    named = UNet(1, 2, width=2, depth=2, upsampling="up_convolution")
    assert network.state_dict()["decoder.0.up.weight"].shape == (8, 4, 2, 2)
    assert all(torch.equal(value, named.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", UPSAMPLING)
def test_every_operator_doubles_maps_in_the_padded_network(name):
    torch.manual_seed(0)
    network = UNet(2, 3, width=4, depth=2, upsampling=name)
    assert network.eval()(torch.randn(1, 2, 13, 6)).shape == (1, 3, 13, 6)
    network.train()(torch.randn(1, 2, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.decoder.parameters())
    kept = UNet(2, 3, width=4, depth=2)
    assert network.encoder.state_dict().keys() == kept.encoder.state_dict().keys()
    assert network.decoder[0].convolutions[0].weight.shape == kept.decoder[0].convolutions[0].weight.shape


def test_the_pixel_shuffle_keeps_its_start_without_a_checkerboard():
    up = UNet(1, 2, width=3, depth=1, upsampling="pixel_shuffle").decoder[0].up(torch.randn(1, 6, 4, 5))
    blocks = up.unflatten(3, (5, 2)).unflatten(2, (4, 2))
    assert torch.equal(blocks, blocks[..., :1, :, :1].expand_as(blocks))
    assert up.std() > 0


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_an_up_convolution_makes_blocks_that_do_not_overlap(factor):
    layer = up_operator("up_convolution", 2, 1, factor=factor)
    image = torch.zeros(1, 2, 3, 3)
    image[0, 1, 1, 2] = 1
    block = (layer(image) - layer.bias)[0, 0]
    inside = (slice(factor, 2 * factor), slice(2 * factor, 3 * factor))
    torch.testing.assert_close(block[inside], layer.weight[1, 0])
    assert block.count_nonzero() == factor**2


def test_unknown_operators_are_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="upsampling = cubic: choose one of up_convolution, nearest, bilinear"):
        UNet(1, 2, width=2, depth=1, upsampling="cubic")


def test_parts_may_keep_their_start():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Conv2d(1, 1, 1)))
    before = [p.clone() for p in network.parameters()]
    initialise(network, keep=[network[1]])
    unchanged = [torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True)]
    assert unchanged == [False, False, True, True]
