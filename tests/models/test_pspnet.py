from __future__ import annotations

import logging
import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.encoders import build_encoder
from pixelwise.models.pspnet import PSPNet, PyramidPooling, pspnet, region_averages


class Encoder(nn.Module):
    """An encoder as a user may write it, with strides that are no powers of two."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides, self.timm_name = (4, 8), (3, 6), ""
        self.first, self.second = nn.Conv2d(2, 4, 3, stride=3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        low = self.first(image_BCHW).relu()
        return [low, self.second(low).relu()]


class OneMap(nn.Module):
    """An encoder with a single map."""

    channels, strides, timm_name = (5,), (4,), ""

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        return [F.max_pool2d(image_BCHW, 4, ceil_mode=True).mean(1, keepdim=True).expand(-1, 5, -1, -1)]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_paper(build, *arguments, **options) -> nn.Module:
    """A network without memory behind its weights, to count and to ask for shapes."""
    with torch.device("meta"):
        return build(*arguments, **options).eval()


def randomise(network: nn.Module) -> nn.Module:
    """Batch norms as after some training, so that a wrong one shows."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network.eval()


# Numbers of the paper


@pytest.mark.parametrize(("name", "count"), [("resnet50", 46_592_597), ("resnet101", 65_584_725)])
def test_it_has_its_number_of_parameters_on_plain_resnets(name, count):
    assert parameters(on_paper(pspnet, 3, 21, encoder=name)) == count


@pytest.mark.parametrize(
    ("options", "classes", "count"),
    [
        ({}, 21, 65_708_501),
        ({}, 19, 65_707_475),
        ({"encoder": "resnet50(stem_type=deep,stem_width=64)"}, 21, 46_716_373),
    ],
)
def test_it_has_its_number_of_parameters_with_the_stem_of_the_authors(options, classes, count):
    assert parameters(on_paper(pspnet, 3, classes, **options)) == count


def test_the_stem_of_the_authors_has_123_776_more_parameters():
    def stem(**options) -> int:
        with torch.device("meta"):
            network = timm.create_model("resnet50", features_only=True, **options)
        return parameters(network)

    three = 27 * 64 + 2 * 64 + 9 * 64 * 64 + 2 * 64 + 9 * 64 * 128 + 2 * 128
    wider = 64 * (64 + 256)  # what follows is given 128 channels in the place of 64
    seven = 147 * 64 + 2 * 64
    assert stem(stem_type="deep", stem_width=64) - stem() == three + wider - seven == 65_708_501 - 65_584_725


def test_the_map_before_the_last_is_there_for_the_auxiliary_classifier():
    network = on_paper(pspnet, 3, 21, encoder="resnet101")
    assert network.supervised == ("encoder:-2",)
    tapped = network.encoder(torch.zeros(1, 3, 65, 65, device="meta"))[-2]
    assert tapped.shape == (1, 1024, 9, 9)
    classifier = 9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21
    assert classifier == 68_073_706 - 65_708_501
    assert PSPNet(OneMap(), 2, bins=(1,), channels=2).supervised == ()


@pytest.mark.parametrize(("side", "map_side"), [(473, 60), (713, 90)])
def test_the_maps_have_the_sizes_of_the_authors(side, map_side):
    network, shapes = on_paper(pspnet, 3, 21, encoder="resnet50"), []
    network.join.register_forward_pre_hook(lambda layer, given: shapes.append(tuple(given[0].shape)))
    assert network(torch.zeros(1, 3, side, side, device="meta")).shape == (1, 21, side, side)
    assert shapes == [(1, 4096, map_side, map_side)]
    assert [level[0].out_channels for level in network.pyramid.levels] == [512] * 4


# Pyramid pooling


def test_regions_that_do_not_divide_the_map_share_rows():
    row = torch.tensor([1.0, 2, 3, 4, 5, 6, 7]).view(1, 1, 1, 7)
    assert region_averages(row, 1).flatten().tolist() == [4]
    assert region_averages(row, 2)[0, 0, 0].tolist() == [2.5, 5.5]  # 1 to 4 and 4 to 7
    assert region_averages(row, 3)[0, 0, 0].tolist() == [2, 4, 6]  # 1 to 3, 3 to 5, 5 to 7


def test_a_map_of_fewer_rows_than_regions_repeats_them():
    assert region_averages(torch.tensor([[[[3.0, 5.0]]]]), 6)[0, 0].tolist() == [[3, 3, 3, 5, 5, 5]] * 6
    assert region_averages(torch.tensor([[[[7.0]]]]), 3)[0, 0].tolist() == [[7, 7, 7]] * 3


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 6, 7]))
@settings(max_examples=150, deadline=None)
def test_averages_are_those_of_adaptive_pooling(height, width, count):
    feature = torch.randn(1, 2, height, width)
    torch.testing.assert_close(
        region_averages(feature, count), F.adaptive_avg_pool2d(feature, count), atol=1e-6, rtol=1e-6
    )


def test_gradients_are_those_of_adaptive_pooling():
    feature = torch.randn(1, 2, 11, 7, dtype=torch.double, requires_grad=True)
    weight = torch.randn(1, 2, 6, 6, dtype=torch.double)
    ours, theirs = (
        torch.autograd.grad((pooled * weight).sum(), feature)[0]
        for pooled in (region_averages(feature, 6), F.adaptive_avg_pool2d(feature, 6))
    )
    torch.testing.assert_close(ours, theirs)


def test_the_pyramid_is_that_of_segmentation_models_pytorch():
    # Theirs has no batch norm where there is one region, and the map comes last.
    decoder = pytest.importorskip("segmentation_models_pytorch.decoders.pspnet.decoder")
    torch.manual_seed(0)
    theirs, ours = decoder.PSPModule(9, sizes=(2, 3, 6)), PyramidPooling(9, (2, 3, 6)).eval()
    randomise(theirs)
    for level, block in zip(ours.levels, theirs.blocks, strict=True):
        values = block.state_dict().values()
        level.load_state_dict(dict(zip(level.state_dict(), values, strict=True)))
    for size in ((12, 18), (7, 11), (4, 30)):
        feature = torch.randn(2, 9, *size)
        map_first = theirs(feature).roll(9, dims=1)
        torch.testing.assert_close(ours(feature), map_first, atol=1e-5, rtol=1e-5)


def test_the_pyramid_keeps_the_map_and_adds_as_many_channels():
    pyramid, feature = PyramidPooling(8).eval(), torch.randn(2, 8, 9, 5)
    given = pyramid(feature)
    assert given.shape == (2, 16, 9, 5)
    assert torch.equal(given[:, :8], feature)
    everywhere = given[:, 8:10]  # one region
    assert torch.equal(everywhere, everywhere[..., :1, :1].expand_as(everywhere))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_few_channels_still_make_a_pyramid(channels):
    pyramid = PyramidPooling(channels).eval()
    assert pyramid(torch.randn(1, channels, 4, 4)).shape == (1, pyramid.channels, 4, 4)


def test_the_pyramid_trains_on_a_map_of_one_value_in_a_batch_of_one():
    pyramid = PyramidPooling(4).train()
    pyramid(torch.randn(1, 4, 1, 1)).sum().backward()
    assert all(p.grad.isfinite().all() for p in pyramid.parameters())


def test_an_export_with_open_sizes_gives_the_same_values(caplog):
    caplog.set_level(logging.ERROR, logger="torch.__trace")  # thousands of lines otherwise
    torch.manual_seed(0)
    network = randomise(PSPNet(Encoder(), 3, bins=(1, 2, 3), channels=4))
    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(network, (torch.randn(2, 2, 60, 84),), dynamic_shapes=(sizes,)).module()
    for size in ((60, 84), (97, 61), (41, 130)):  # no region is a single row, which torch would rule out
        image = torch.randn(2, 2, *size)
        torch.testing.assert_close(exported(image), network(image), atol=1e-5, rtol=1e-5)


# The network


@pytest.mark.parametrize("size", [(61, 43), (7, 1)])
def test_the_network_is_that_of_the_authors(size):
    torch.manual_seed(0)
    network, image = randomise(PSPNet(Encoder(), 3, channels=4)), torch.randn(2, 2, *size)
    feature = network.encoder(image)[-1]

    def layer(module: nn.Sequential, feature: Tensor, padding: int = 0) -> Tensor:
        convolution, norm = module[0], module[1]
        feature = F.conv2d(feature, convolution.weight, padding=padding)
        return F.batch_norm(feature, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()

    maps = [feature]
    for count, level in zip((1, 2, 3, 6), network.pyramid.levels, strict=True):
        pooled = layer(level, F.adaptive_avg_pool2d(feature, count))
        maps.append(F.interpolate(pooled, size=feature.shape[-2:], mode="bilinear", align_corners=True))
    joined = layer(network.join, torch.cat(maps, dim=1), padding=1)
    logits = F.conv2d(joined, network.head.weight, network.head.bias)
    expected = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
def test_an_encoder_of_ones_own_will_do(size):
    network = PSPNet(Encoder(), 3, channels=4).eval()
    assert network.stride == 6
    assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("name", "stride"), [("mobilenetv3_small_050", 8), ("convnext_atto", 16), ("densenet121", 32), ("resnet18", 8)]
)
def test_other_encoders_will_do(name, stride):
    network = on_paper(pspnet, 3, 4, encoder=name, output_stride=stride, channels=8)
    assert network(torch.zeros(1, 3, 65, 97, device="meta")).shape == (1, 4, 65, 97)
    assert network.stride == stride
    assert network.pyramid.levels[0][0].in_channels == build_channels(name)


def build_channels(name: str) -> int:
    return on_paper(build_encoder, name, 3).channels[-1]


def test_dropout_takes_whole_channels_while_training_only():
    network, image = PSPNet(Encoder(), 2, channels=64, dropout=0.5), torch.randn(1, 2, 60, 60)
    network.eval()
    assert torch.equal(network(image), network(image))
    dropped = network.train().dropout(torch.ones(1, 64, 3, 3))
    assert {math.prod(channel.shape) for channel in dropped[0] if not channel.any()} == {9}
    assert set(dropped.unique().tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output_stride": 7}, "output_stride = 7: choose one of 8, 16, 32"),
        ({"channels": 0}, "channels = 0: choose a value from"),
        ({"dropout": -0.1}, "dropout = -0.1: choose a value from"),
    ],
)
def test_what_cannot_be_built_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        on_paper(pspnet, 3, 2, **({"encoder": "mobilenetv3_small_050"} | options))


def test_a_pyramid_without_regions_is_refused():
    with pytest.raises(UsageError, match="bins = 0: choose a value from"):
        PyramidPooling(4, (1, 0))
