from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.inference.receptive_field import (
    ReceptiveField,
    closed_form,
    effective_field,
    receptive_field,
    receptive_fields,
)
from pixelwise.models.fcn import fcn8s, fcn32s
from pixelwise.models.registry import MODELS, build_model
from pixelwise.models.segnet import SegNetBasic
from pixelwise.models.unet import UNet, UNetValid, unet_paper
from pixelwise.models.vgg import VGGStages


def square(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (size, size), (size, size)


def field(network: nn.Module, in_channels: int = 1, **options) -> tuple[tuple[int, int], tuple[int, int]]:
    found = receptive_field(network, in_channels, **options)
    assert found is not None
    return found.rows, found.columns


def stacked(layers: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(layers)))


class Forward(nn.Module):
    """A function of a map as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, feature: Tensor) -> Tensor:
        return self.function(feature)


class Added(nn.Module):
    """The sum of what several modules give."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, feature: Tensor) -> Tensor:
        return sum(part(feature) for part in self.parts)


# Closed forms, and measured ones that equal them


@pytest.mark.parametrize("layers", [1, 2, 5, 40])
def test_stacked_3x3_convolutions_see_1_plus_2_l(layers):
    network = stacked(layers)
    assert closed_form(network).field == (1 + 2 * layers, 1 + 2 * layers)
    assert field(network) == square(1 + 2 * layers)
    assert receptive_field(network, 1).reach == layers


WINDOWS = st.tuples(
    st.sampled_from([nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d]),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 3),
    st.integers(1, 3),
)


def window(kind: type[nn.Module], kernel: tuple[int, int], stride: int, dilation: int) -> nn.Module:
    if kind is nn.Conv2d:
        return nn.Conv2d(2, 2, kernel, stride=stride, dilation=dilation)
    return nn.MaxPool2d(kernel, stride, dilation=dilation) if kind is nn.MaxPool2d else nn.AvgPool2d(kernel, stride)


@given(st.lists(WINDOWS, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_measured_field_of_a_chain_is_its_closed_form(parts):
    chain = nn.Sequential(*(window(*part) for part in parts), nn.ReLU(inplace=True))
    expected = closed_form(nn.Sequential(chain, nn.Identity()))
    rows, columns = expected.field
    found = field(chain, 2, smallest=max(200, *expected.field))  # no padding: nothing smaller is sure to survive
    assert found == ((rows, rows), (columns, columns))
    strides = np.prod([part[2] for part in parts])
    assert expected.stride == (strides, strides)


def vgg_chain(*, border: int, after: nn.Module | None = None) -> nn.Sequential:
    chain = nn.Sequential()
    for stage in VGGStages(3, width=1, border=border):
        chain.append(stage)
        chain.append(nn.MaxPool2d(2, ceil_mode=True))
    return chain if after is None else chain.append(after)


def test_vgg16_sees_212_pixels_and_fcn_404_at_stride_32():
    assert closed_form(vgg_chain(border=1)).field == (212, 212)
    fc6 = vgg_chain(border=100, after=nn.Conv2d(8, 1, 7))
    assert closed_form(fc6).field == (404, 404)
    assert closed_form(fc6).stride == (32, 32)
    assert field(fc6, 3, stride=32) == square(404)


def test_fcn_before_and_behind_its_upsampling():
    with torch.device("meta"):
        network = fcn32s(3, 21)
    places = {"encoder.4.4": 1, "classifier.0": 32, "classifier.6": 32, "": 32}
    fields = receptive_fields(network, 3, places, stride=32)
    assert {name: found.rows for name, found in fields.items()} == {
        "encoder.4.4": (196, 196),
        "classifier.0": (404, 404),
        "classifier.6": (404, 404),
        "": (436, 436),  # each output is between two of the coarse scores, 32 pixels apart
    }


def test_segnet_basic_sees_106_pixels_after_the_fourth_pooling():
    chain = nn.Sequential()
    for stage in SegNetBasic(3, 11, width=2).encoder:
        chain.append(stage).append(nn.MaxPool2d(2, ceil_mode=True))
    assert closed_form(chain).field == (106, 106)
    assert field(chain, 3, stride=16) == square(106)


def test_the_valid_unet_sees_188_pixels_and_140_at_its_bottom():
    with torch.device("meta"):
        network = UNetValid(1, 2)
    fields = receptive_fields(network, 1, {"down.4": 1, "": 16}, stride=16, smallest=188)
    assert fields["down.4"].rows == fields["down.4"].columns == (140, 140)
    assert fields[""].rows == fields[""].columns == (188, 204)
    assert fields[""].reach is None, "its output is smaller than the image"


def test_padding_and_mirroring_change_nothing():
    with torch.device("meta"):
        assert field(unet_paper(1, 2), stride=16) == ((188, 204), (188, 204))
        assert field(UNet(3, 2, width=64), 3, stride=16) == ((188, 204), (188, 204))


@pytest.mark.parametrize(
    "layer", [nn.Linear(3, 3), nn.ConvTranspose2d(1, 1, 2), nn.Upsample(scale_factor=2), nn.InstanceNorm2d(1)]
)
def test_what_has_no_closed_form_is_refused(layer):
    with pytest.raises(UsageError, match=f"{type(layer).__name__} has no closed form; measure it"):
        closed_form(nn.Sequential(layer))


# What else is measured


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv2d(2, 4, 3, padding=6, dilation=6), 13),
        (nn.Conv2d(2, 2, 5, padding=2, groups=2, padding_mode="reflect"), 5),
        (nn.Conv2d(2, 2, 3, padding="same"), 3),
        (Added(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 7, padding=3), nn.Identity()), 7),
        (nn.Sequential(nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, stride=2)), 3),
        (nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")), 2),
        (nn.Sequential(nn.Conv2d(2, 12, 3, padding=1), nn.PixelShuffle(2), nn.AvgPool2d(2)), 3),
        (Forward(lambda feature: F.layer_norm(feature.permute(0, 2, 3, 1), [2]).permute(0, 3, 1, 2)), 1),
        (Forward(lambda feature: feature.sigmoid() * F.pad(feature, (1, 0, 1, 0))[..., :-1, :-1]), 2),
        (Forward(lambda feature: F.softmax(feature, dim=1)), 1),
        (Forward(lambda feature: feature.roll((3, 3), (2, 3)) - feature), 4),
    ],
)
def test_other_layers(network, expected):
    assert field(network, 2, smallest=8) == square(expected)


def test_bilinear_interpolation_sees_two_pixels_or_more():
    found = receptive_field(
        nn.Sequential(nn.AvgPool2d(4), nn.Upsample(scale_factor=4, mode="bilinear")), 1, stride=4, smallest=4
    )
    assert found.rows == (8, 8)
    assert found.reach == 5  # of four neighbours the outermost: 4 pixels of one cell before it, 1 of its own side


def test_rows_and_columns_may_differ():
    found = receptive_field(nn.Conv2d(1, 1, (3, 9), padding=(1, 4)), 1)
    assert found == ReceptiveField(rows=(3, 3), columns=(9, 9), reach=4, margin=4)
    assert str(found) == "3 × 9"
    assert str(ReceptiveField(rows=(188, 204), columns=(188, 204))) == "188–204"
    assert found.to_dict() == {"rows": [3, 3], "columns": [9, 9], "reach": 4, "margin": 4}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, feature: Tensor) -> Tensor:
        feature = F.avg_pool2d(feature, 32, ceil_mode=True)
        tokens = feature.flatten(2).transpose(1, 2)
        query = self.query(tokens)
        weights = (query @ query.transpose(1, 2)).softmax(-1)
        return (weights @ self.value(tokens)).transpose(1, 2).reshape(feature.shape)


@pytest.mark.parametrize(
    "network",
    [
        Added(nn.Identity(), nn.AdaptiveAvgPool2d(1)),
        Forward(lambda feature: feature * feature.mean((2, 3), keepdim=True).sigmoid()),
        Forward(lambda feature: feature + feature.amax((2, 3), keepdim=True)),
        Forward(lambda feature: feature + F.adaptive_max_pool2d(feature, 1)),
        Forward(lambda feature: F.scaled_dot_product_attention(*[feature.flatten(2).mT] * 3).mT.reshape(feature.shape)),
        Forward(lambda feature: F.interpolate(F.adaptive_avg_pool2d(feature, 6), feature.shape[-2:])),
        nn.InstanceNorm2d(2),
        nn.GroupNorm(1, 2),
        Attention(),
    ],
)
def test_global_parts_see_the_whole_image(network):
    assert receptive_field(network, 2) is None


def test_global_parts_of_models_and_the_layers_before_them():
    with torch.device("meta"):
        network = build_model("parsenet", in_channels=3, classes=2, options={"width": 4})
    first = next(name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    fields = receptive_fields(network, 3, {"": 8, first: 1}, stride=8)
    assert fields[""] is None
    assert fields[first].rows == (3, 3)


def test_bins_of_which_there_is_a_fixed_number_grow_with_the_image():
    with torch.device("meta"):
        network = build_model("pspnet", in_channels=3, classes=2, options=MODELS["pspnet"].small)
    levels = [name for name, layer in network.pyramid.named_modules(prefix="pyramid") if isinstance(layer, nn.Conv2d)]
    fields = receptive_fields(network, 3, dict.fromkeys(levels, 1), stride=network.stride)
    assert len(fields) == 4
    assert not any(fields.values())


def test_a_field_covers_those_of_which_it_is_made():
    several = ReceptiveField(rows=(188, 204), columns=(9, 9))
    assert several.covers(ReceptiveField(rows=(196, 196), columns=(9, 9)))
    assert not several.covers(ReceptiveField(rows=(196, 196), columns=(10, 10)))
    assert not several.covers(ReceptiveField(rows=(180, 196), columns=(9, 9)))
    assert not several.covers(None)


def test_no_weights_and_no_values_hide_a_pixel():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ReLU(), nn.MaxPool2d(3, 1, 1))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.fill_(-1)
        network[1].running_mean.fill_(9)
    assert field(network) == square(5)


def test_a_measured_network_is_left_as_it_was():
    network = UNet(1, 2, width=2, depth=2, dropout=0.5)
    network.encoder.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    receptive_fields(network, 1, {"": 4, "head": 1}, stride=4)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.head._forward_hooks


LOCAL = ["patch_classifier", "unet", "unet_paper", "segnet_basic", "deeplabv1", "resunet", "ternausnet11"]


@pytest.mark.parametrize("name", LOCAL)
def test_nothing_beyond_the_reach_matters_and_what_is_seen_does(name):
    torch.manual_seed(0)
    network = build_model(name, in_channels=1, classes=2, options=MODELS[name].small).eval()
    found = receptive_field(network, 1, stride=network.stride)
    image = torch.randn(1, 1, found.reach + 3 * network.stride, 6)
    changed = image.clone()
    changed[..., 0, :] += 10
    with torch.inference_mode():
        difference = (network(changed) - network(image)).abs().amax((0, 1, 3))
    assert not difference[found.reach + 1 :].any()
    assert difference[0] > 0


def test_unpooled_values_may_come_from_anywhere_in_their_window():
    torch.manual_seed(0)
    network = build_model("segnet_basic", in_channels=1, classes=2, options={"width": 2}).eval()
    found, seen = receptive_field(network, 1, stride=16), []
    for _ in range(6):
        image = torch.randn(1, 1, 288, 16, requires_grad=True)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight)
        (gradient,) = torch.autograd.grad(network(image)[..., 144, :].sum(), image)
        seen.append(gradient.abs().sum((0, 1, 3)).nonzero().flatten())
    rows = torch.cat(seen)
    assert found.rows[0] - 8 <= rows.max() - rows.min() + 1 <= found.rows[1]


# The effective field


def test_the_effective_field_of_one_convolution():
    network = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.ones_(network.weight)
    found = effective_field(network, torch.randn(2, 1, 9, 12))
    assert found.side == 3
    assert (found.rows, found.columns) == ((3, 5), (5, 7))
    np.testing.assert_allclose(found.weight_HW[3:6, 5:8], 1 / 9)
    assert found.weight_HW.sum() == pytest.approx(1)


def test_the_effective_field_follows_the_weights_and_the_box_does_not():
    network = nn.Conv2d(1, 1, 7, padding=3)
    with torch.no_grad():
        network.weight.zero_()
        network.weight[..., 3, 3], network.weight[..., 0, 0] = 0.96, -0.04
    found = effective_field(network, torch.zeros(1, 1, 21, 21))
    assert found.side == 1
    assert found.weight_HW[10, 10] == pytest.approx(0.96)
    assert found.weight_HW[7, 7] == pytest.approx(0.04)
    assert found.rows == (7, 13)


def test_an_untrained_network_sees_less_than_it_can():
    torch.manual_seed(0)
    network = stacked(20)
    for layer in network:
        nn.init.uniform_(layer.weight)
    found = effective_field(network, torch.randn(1, 1, 64, 64))
    assert found.rows == (12, 52)
    assert 9 < found.side < 31


def test_logits_without_any_gradient_have_no_field():
    network = fcn8s(1, 2, width=1, hidden=2).eval()  # its scores start at zero
    with pytest.raises(UsageError, match="do not depend on the image"):
        effective_field(network, torch.randn(1, 1, 32, 32))
