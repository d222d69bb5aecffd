from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.deeplab import (
    AtrousVGG,
    DeepLabV1,
    DeepLabV2,
    MultiScaleBranches,
    atrous_fully_connected,
    deeplabv1,
    deeplabv2,
    deeplabv2_vgg16,
    enlarge_aligned,
    rates_at,
)
from pixelwise.models.encoders import build_encoder


class Encoder(nn.Module):
    """An encoder as a user may write it, with strides that are no powers of two."""

    def __init__(self, strides: tuple[int, ...] = (3, 6)) -> None:
        super().__init__()
        self.channels, self.strides, self.timm_name = (4,) * len(strides), strides, ""
        steps = [after // before for before, after in zip((1, *strides), strides, strict=False)]
        self.stages = nn.ModuleList(
            nn.Conv2d(2 if index == 0 else 4, 4, 3, stride=step, padding=1) for index, step in enumerate(steps)
        )

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        features = [image_BCHW]
        for stage in self.stages:
            features.append(stage(features[-1]).relu())
        return features[1:]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_paper(build, *arguments, **options) -> nn.Module:
    """A network without memory behind its weights, to count and to ask for shapes."""
    with torch.device("meta"):
        return build(*arguments, **options).eval()


def shape_into(layer: nn.Module, network: nn.Module, *size: int) -> tuple[int, ...]:
    """The shape of what a layer is given for an image of 3 channels."""
    shapes = []
    handle = layer.register_forward_pre_hook(lambda module, given: shapes.append(tuple(given[0].shape)))
    network(torch.zeros(1, 3, *size, device="meta"))
    handle.remove()
    return shapes[0]


def convolution(in_channels: int, channels: int, kernel: int) -> int:
    """Parameters of a convolution with bias."""
    return kernel * kernel * in_channels * channels + channels


# v1


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 20_505_429),
        ({"kernel": 4, "rate": 4}, 65_140_565),
        ({"kernel": 4, "rate": 8}, 65_140_565),
        ({"kernel": 7, "rate": 4}, 134_346_581),
    ],
)
def test_v1_has_the_number_of_parameters_of_each_variant(options, count):
    assert parameters(on_paper(deeplabv1, 3, 21, **options)) == count


def test_the_multi_scale_branches_add_640_channels():
    network = on_paper(deeplabv1, 3, 21, multi_scale=True)
    first = sum(convolution(channels, 128, 3) for channels in (3, 64, 128, 256, 512))
    added = first + 5 * convolution(128, 128, 1) + 640 * 21
    assert network.branches.channels == 640
    assert parameters(network) == 20_505_429 + added == 21_711_445
    assert shape_into(network.head, network, 321, 321) == (1, 1024 + 640, 41, 41)


@pytest.mark.parametrize(("side", "scores"), [(321, 41), (513, 65), (306, 39), (1, 1), (8, 1), (9, 2)])
def test_the_score_maps_of_v1_have_the_sizes_of_the_paper(side, scores):
    network = on_paper(deeplabv1, 3, 21)
    assert shape_into(network.head, network, side, 2 * side - 1)[-2:] == (scores, math.ceil((2 * side - 1) / 8))


@pytest.mark.parametrize(("kernel", "rate", "field"), [(7, 4, 224), (4, 4, 128), (4, 8, 224), (3, 12, 224)])
def test_the_fields_of_view_are_those_of_table_2(kernel, rate, field):
    # The paper counts the distance of the outermost taps, in pixels, and the 32 pixels of a value of VGG's last map.
    fc6 = atrous_fully_connected(1, 1, kernel=kernel, rate=rate)[0]
    nn.init.ones_(fc6.weight)
    feature = torch.zeros(1, 1, 61, 61, requires_grad=True)
    (gradient,) = torch.autograd.grad(fc6(feature)[0, 0, 30, 30], feature)
    rows = gradient[0, 0, :, 30 + (rate // 2 if kernel == 4 else 0)].nonzero()
    assert len(rows) == kernel
    assert int(rows[0] + rows[-1]) == 60  # centred
    assert 8 * int(rows[-1] - rows[0]) + 32 == field
    assert fc6(feature).shape == feature.shape


def test_atrous_convolution_is_convolution_with_zeros_between_the_taps():
    line, taps = torch.arange(1.0, 8).view(1, 1, 1, 7), torch.tensor([1.0, 0, -1]).view(1, 1, 1, 3)
    assert F.conv2d(line, taps, dilation=2).flatten().tolist() == [-4, -4, -4]
    fc6, feature = atrous_fully_connected(3, 5, rate=4)[0], torch.randn(1, 3, 20, 17)
    sparse = torch.zeros(5, 3, 9, 9)
    sparse[..., ::4, ::4] = fc6.weight.detach()
    torch.testing.assert_close(fc6(feature), F.conv2d(feature, sparse, fc6.bias, padding=4))


def test_v1_is_the_network_of_its_prototxt():
    torch.manual_seed(0)
    network, image = deeplabv1(3, 5, width=4).eval(), torch.randn(2, 3, 65, 41)
    convolutions = iter([layer for layer in network.modules() if isinstance(layer, nn.Conv2d)])

    def layer(feature: Tensor, rate: int = 1) -> Tensor:
        module = next(convolutions)
        reach = rate * (module.weight.shape[-1] // 2)
        return F.conv2d(feature, module.weight, module.bias, padding=reach, dilation=rate)

    feature = image
    for count, stride, rate in ((2, 2, 1), (2, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 2)):
        for _ in range(count):
            feature = layer(feature, rate).relu()
        feature = F.max_pool2d(F.pad(feature, (1, 1, 1, 1)), 3, stride=stride)  # zeros never win after a ReLU
    feature = F.conv2d(feature, torch.full((feature.shape[1], 1, 3, 3), 1 / 9), padding=1, groups=feature.shape[1])
    logits = layer(layer(layer(feature, rate=12).relu()).relu())
    expected = F.interpolate(logits, size=(65, 41), mode="bilinear", align_corners=True)
    assert next(convolutions, None) is None
    torch.testing.assert_close(network(image), expected, atol=1e-6, rtol=1e-5)


def test_every_value_of_the_encoder_is_centred_on_its_pixel(monkeypatch):
    # All weights positive and the mean in place of the maximum: then no path from the image cancels out.
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    encoder = AtrousVGG(1, width=1)
    with torch.no_grad():
        for p in encoder.parameters():
            p.fill_(1 / p[0].numel())
    image = torch.ones(1, 1, 321, 321, requires_grad=True)
    for feature, stride, fields in zip(encoder(image), encoder.strides, (7, 19, 51, 115, 227), strict=True):
        middle = 160 // stride
        (gradient,) = torch.autograd.grad(feature[0, 0, middle, middle], image, retain_graph=True)
        rows = gradient[0, 0, :, 160].nonzero()
        assert int(rows[0] + rows[-1]) == 2 * 160
        assert int(rows[-1] - rows[0]) + 1 == fields


def test_the_encoder_has_the_convolutions_of_vgg16_and_says_so():
    encoder, vgg = on_paper(AtrousVGG, 3), on_paper(build_encoder, "vgg16", 3)
    shapes = [
        [p.shape for layer in network.modules() if isinstance(layer, nn.Conv2d) for p in layer.parameters()]
        for network in (encoder, vgg)
    ]
    assert shapes[0] == shapes[1]
    assert encoder.timm_name == "vgg16"
    assert parameters(encoder) == 14_714_688


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33), (64, 40)])
def test_the_maps_of_the_encoder_are_rounded_up(size):
    encoder = AtrousVGG(2, width=1)
    for feature, channels, stride in zip(
        encoder(torch.zeros(1, 2, *size)), encoder.channels, encoder.strides, strict=True
    ):
        assert feature.shape == (1, channels, *(math.ceil(length / stride) for length in size))


def test_the_branches_bring_every_map_to_the_size_of_the_last():
    torch.manual_seed(0)
    encoder, image = AtrousVGG(2, width=2), torch.randn(1, 2, 37, 20)
    branches, features = MultiScaleBranches(2, encoder, channels=3).eval(), encoder(image)
    given = branches(image, features)
    assert given.shape == (1, 15, 5, 3)
    first, second = branches.branches[2][0], branches.branches[2][3]
    pool2 = F.conv2d(features[1], first.weight, first.bias, stride=2, padding=1).relu()
    torch.testing.assert_close(given[:, 6:9], F.conv2d(pool2, second.weight, second.bias).relu())


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
def test_v1_with_branches_takes_any_size(size):
    network = deeplabv1(2, 3, width=1, multi_scale=True).eval()
    assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_branches_are_refused_where_a_stride_is_no_multiple():
    with pytest.raises(UsageError, match="last stride, 6, is no multiple of 4"):
        MultiScaleBranches(2, Encoder((4, 6)))


def test_half_of_fc6_and_fc7_is_dropped_while_training():
    layers = atrous_fully_connected(2, 64)
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    feature = torch.randn(1, 2, 4, 4)
    assert not torch.equal(layers.train()(feature), layers(feature))
    assert torch.equal(layers.eval()(feature), layers(feature))


# v2


def test_v2_on_vgg16_has_its_number_of_parameters():
    classifier = convolution(512, 1024, 3) + convolution(1024, 1024, 1) + convolution(1024, 21, 1)
    assert parameters(on_paper(deeplabv2_vgg16, 3, 21)) == 14_714_688 + 4 * classifier == 37_877_652


@pytest.mark.parametrize("rates", ["L", "S"])
def test_v2_on_resnet101_has_its_number_of_parameters(rates):
    network = on_paper(deeplabv2, 3, 21, rates=rates)
    assert parameters(network.encoder) == 42_500_160
    assert parameters(network) == 42_500_160 + 4 * convolution(2048, 21, 3) == 44_048_532
    assert shape_into(network.classifiers[0], network, 321, 513) == (1, 2048, 41, 65)


def test_the_resnet_of_v2_has_rates_2_and_4():
    stages = on_paper(deeplabv2, 3, 21).encoder.network
    rates = [[block.conv2.dilation[0] for block in stages[name]] for name in ("layer2", "layer3", "layer4")]
    assert rates == [[1] * 4, [1] + [2] * 22, [2, 4, 4]]
    assert all(block.conv1.stride == block.conv2.stride == (1, 1) for block in stages["layer4"])


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({}, [6, 12, 18, 24]),
        ({"rates": "S"}, [2, 4, 8, 12]),
        ({"output_stride": 16}, [3, 6, 9, 12]),
        ({"output_stride": 32, "rates": "S"}, [1, 1, 2, 3]),
    ],
)
def test_the_rates_of_v2_reach_equally_far_at_every_stride(options, rates):
    network = on_paper(deeplabv2, 3, 2, encoder="mobilenetv3_small_050", **options)
    assert [classifier[0].dilation for classifier in network.classifiers] == [(rate, rate) for rate in rates]
    assert [classifier[0].padding for classifier in network.classifiers] == [(rate, rate) for rate in rates]


def test_v2_sums_its_classifiers():
    torch.manual_seed(0)
    network, image = DeepLabV2(Encoder(), 3, rates=(3, 6)).eval(), torch.randn(1, 2, 19, 25)
    first, second = (classifier[0] for classifier in network.classifiers)
    feature = network.encoder(image)[-1]
    logits = F.conv2d(feature, first.weight, first.bias, padding=4, dilation=4)
    logits += F.conv2d(feature, second.weight, second.bias, padding=8, dilation=8)
    expected = F.interpolate(logits, size=(19, 25), mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(image), expected, atol=1e-6, rtol=1e-5)


def test_what_v2_adds_starts_from_a_narrow_normal_distribution():
    torch.manual_seed(0)
    network = DeepLabV2(AtrousVGG(1, width=16), 21)
    for classifier in network.classifiers:
        assert classifier[-1].weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not classifier[-1].bias.any()


def test_each_classifier_on_vgg16_has_layers_of_its_own():
    network = on_paper(deeplabv2_vgg16, 3, 21, rates="S")
    assert [classifier[0].dilation[0] for classifier in network.classifiers] == [2, 4, 8, 12]
    assert all(
        [layer.out_channels for layer in classifier if isinstance(layer, nn.Conv2d)] == [1024, 1024, 21]
        for classifier in network.classifiers
    )


# Shared


@pytest.mark.parametrize(("factor", "size"), [(8, (65, 41)), (6, (1, 7)), (3, (10, 1)), (1, (4, 5))])
def test_enlarging_is_that_of_the_releases_at_their_sizes(factor, size):
    feature = torch.randn(2, 3, *((length - 1) // factor + 1 for length in size))
    expected = F.interpolate(feature, size=size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(enlarge_aligned(feature, size, factor=factor), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(33, 41), (40, 48), (34, 47)])
def test_enlarging_leaves_every_value_where_it_was(size):
    feature = torch.randn(1, 1, *(math.ceil(length / 8) for length in size))
    large = enlarge_aligned(feature, size, factor=8)
    assert large.shape[-2:] == size
    torch.testing.assert_close(large[..., ::8, ::8], feature)
    torch.testing.assert_close(large[..., :4, :8], enlarge_aligned(feature[..., :2, :2], (4, 8), factor=8))


def test_enlarging_fits_maps_that_were_rounded_down():
    assert enlarge_aligned(torch.ones(1, 2, 4, 4), (19, 21), factor=4).shape == (1, 2, 19, 21)


@pytest.mark.parametrize(
    ("stride", "expected"), [(16, (6, 12, 18)), (8, (12, 24, 36)), (32, (3, 6, 9)), (6, (16, 32, 48))]
)
def test_rates_reach_equally_far_in_the_image(stride, expected):
    assert rates_at(stride, (6, 12, 18), paper_stride=16) == expected


def test_a_rate_is_never_less_than_one():
    assert rates_at(32, (2,), paper_stride=4) == (1,)
    with pytest.raises(UsageError, match="rate = 0"):
        rates_at(8, (0,), paper_stride=8)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
@pytest.mark.parametrize("build", [DeepLabV1, DeepLabV2])
def test_an_encoder_of_ones_own_will_do(build, size):
    network = build(Encoder(), 3, channels=8).eval()
    assert network.stride == 6
    assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("build", "name", "stride"),
    [
        (DeepLabV1, "mobilenetv3_small_050", 8),
        (DeepLabV1, "densenet121", 32),
        (DeepLabV2, "convnext_atto", 16),
        (DeepLabV2, "resnet18", 8),
    ],
)
def test_other_encoders_will_do(build, name, stride):
    with torch.device("meta"):
        network = build(build_encoder(name, 3, output_stride=stride), 3, channels=8).eval()
        assert network(torch.zeros(1, 3, 65, 97)).shape == (1, 3, 65, 97)
    assert network.stride == stride


@pytest.mark.parametrize(
    ("build", "options", "said"),
    [
        (deeplabv1, {"kernel": 4, "rate": 3}, r"kernel = 4 and rate = 3: \(kernel - 1\) x rate must be even"),
        (deeplabv1, {"kernel": 99}, "kernel = 99: choose a value from 1 to 15"),
        (deeplabv1, {"rate": 0}, "rate = 0: choose a value from"),
        (deeplabv1, {"width": 0}, "width = 0: choose a value from"),
        (deeplabv2, {"output_stride": 7}, "output_stride = 7: choose one of 8, 16, 32"),
        (deeplabv2, {"rates": "M"}, "rates = M: choose one of L, S"),
        (deeplabv2_vgg16, {"rates": "M"}, "rates = M: choose one of L, S"),
        (deeplabv2_vgg16, {"width": 10**9}, "width = 1000000000: choose a value from"),
    ],
)
def test_what_cannot_be_built_is_refused(build, options, said):
    with pytest.raises(UsageError, match=said), torch.device("meta"):
        build(3, 2, **options)
