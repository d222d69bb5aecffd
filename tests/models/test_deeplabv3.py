from __future__ import annotations

import math

import pytest
import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.deeplabv3 import (
    ASPP,
    DeepLabV3,
    DeepLabV3Plus,
    deeplabv3,
    deeplabv3plus,
    last_resnet_stage,
    low_level_index,
    set_multi_grid,
)
from pixelwise.models.encoders import build_encoder


class Encoder(nn.Module):
    """An encoder as a user may write it, with strides that are no powers of two."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides, self.timm_name = (4, 6), (3, 6), ""
        self.first, self.second = nn.Conv2d(2, 4, 3, stride=3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        low = self.first(image_BCHW).relu()
        return [low, self.second(low).relu()]


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


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Weights in the order of the layers, whatever their names."""
    values = source.state_dict().values()
    target.load_state_dict(dict(zip(target.state_dict(), values, strict=True)))


def shapes_into(layer: nn.Module, network: nn.Module, *size: int) -> tuple[int, ...]:
    """The shape of what a layer is given for an image of 3 channels."""
    shapes = []
    handle = layer.register_forward_pre_hook(lambda module, given: shapes.append(tuple(given[0].shape)))
    network(torch.zeros(1, 3, *size, device="meta"))
    handle.remove()
    return shapes[0]


def normalised(in_channels: int, channels: int, kernel: int) -> int:
    """Parameters of a convolution without bias and its batch norm."""
    return kernel * kernel * in_channels * channels + 2 * channels


def separable(in_channels: int, channels: int) -> int:
    return 9 * in_channels + in_channels * channels + 2 * channels


# Numbers of the papers


@pytest.mark.parametrize(
    ("build", "options", "count"),
    [
        (deeplabv3, {"encoder": "resnet50"}, 39_048_533),
        (deeplabv3, {"encoder": "resnet101"}, 58_040_661),
        (deeplabv3, {"encoder": "resnet101", "output_stride": 8, "multi_grid": "off"}, 58_040_661),
        (deeplabv3plus, {"encoder": "resnet50"}, 40_352_181),
        (deeplabv3plus, {"encoder": "resnet101"}, 59_344_309),
        (deeplabv3plus, {"encoder": "resnet50", "separable": True}, 26_682_725),
        (deeplabv3plus, {"encoder": "resnet101", "separable": True}, 45_674_853),
    ],
)
def test_the_networks_have_their_numbers_of_parameters(build, options, count):
    assert parameters(on_paper(build, 3, 21, **options)) == count


def test_the_parts_have_their_numbers_of_parameters():
    three = 3 * normalised(2048, 256, 3)
    rest = 2 * normalised(2048, 256, 1) + normalised(1280, 256, 1)
    assert parameters(on_paper(ASPP, 2048, 256, (6, 12, 18))) == three + rest == 15_535_104
    thin = on_paper(ASPP, 2048, 256, (6, 12, 18), separable=True)
    assert parameters(thin) == 3 * separable(2048, 256) + rest
    assert parameters(thin.branches[1][0]) == 542_720
    decoder = on_paper(deeplabv3plus, 3, 21, encoder="resnet50")
    assert parameters(decoder.low_level) == normalised(256, 48, 1)
    assert parameters(decoder.decoder) == normalised(304, 256, 3) + normalised(256, 256, 3)


@pytest.mark.parametrize(("output_stride", "side"), [(8, 65), (16, 33), (32, 17)])
def test_the_maps_of_513_pixels_have_the_sizes_of_the_papers(output_stride, side):
    network = on_paper(deeplabv3plus, 3, 21, encoder="resnet50", output_stride=output_stride)
    assert shapes_into(network.aspp, network, 513, 513) == (1, 2048, side, side)
    assert shapes_into(network.decoder, network, 513, 513) == (1, 304, 129, 129)


@pytest.mark.parametrize(("output_stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36]), (32, [3, 6, 9])])
@pytest.mark.parametrize("build", [deeplabv3, deeplabv3plus])
def test_the_rates_double_when_the_stride_is_halved(build, output_stride, rates):
    network = on_paper(build, 3, 2, encoder="mobilenetv3_small_050", output_stride=output_stride)
    branches = [branch[0] for branch in network.aspp.branches]
    assert [branch.kernel_size[0] for branch in branches] == [1, 3, 3, 3]
    assert [branch.dilation[0] for branch in branches[1:]] == rates
    assert network.stride == output_stride


def test_xception_is_an_encoder_without_multi_grid():
    network = on_paper(deeplabv3plus, 3, 21, encoder="xception65", separable=True)
    low_and_head = normalised(256, 48, 1) + 256 * 21 + 21
    aspp = 2 * normalised(2048, 256, 1) + 3 * separable(2048, 256) + normalised(1280, 256, 1)
    decoder = separable(304, 256) + separable(256, 256)
    assert parameters(network) - parameters(network.encoder) == low_and_head + aspp + decoder
    assert shapes_into(network.aspp, network, 129, 97) == (1, 2048, 9, 7)
    assert shapes_into(network.low_level, network, 129, 97) == (1, 256, 33, 25)


# Multi-grid


def rates_of_last_stage(network: nn.Module) -> list[list[int]]:
    return [
        [layer.dilation[0] for layer in block.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] == 3]
        for block in network.encoder.network["layer4"]
    ]


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"encoder": "resnet50"}, [[2], [4], [8]]),
        ({"encoder": "resnet50", "output_stride": 8}, [[4], [8], [16]]),
        ({"encoder": "resnet50", "output_stride": 32, "multi_grid": "on"}, [[1], [2], [4]]),
        ({"encoder": "resnet50", "multi_grid": "off"}, [[1], [2], [2]]),
        ({"encoder": "resnet34"}, [[2, 2], [4, 4], [8, 8]]),
        ({"encoder": "resnet18"}, [[1, 2], [2, 2]]),
        ({"encoder": "resnext50_32x4d"}, [[2], [4], [8]]),
    ],
)
def test_the_last_blocks_of_resnets_have_the_rates_of_the_paper(options, rates):
    assert rates_of_last_stage(on_paper(deeplabv3plus, 3, 2, **options)) == rates


@pytest.mark.parametrize("output_stride", [8, 32])
def test_multi_grid_changes_no_size(output_stride):
    networks = [
        on_paper(deeplabv3, 3, 2, encoder="resnet34d", output_stride=output_stride, multi_grid=choice)
        for choice in ("on", "off")
    ]
    shapes = [
        [feature.shape for feature in network.encoder(torch.zeros(1, 3, 65, 90, device="meta"))] for network in networks
    ]
    assert shapes[0] == shapes[1]
    assert parameters(networks[0]) == parameters(networks[1])


def test_multi_grid_sets_taps_apart_and_leaves_the_rest():
    blocks = [nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, stride=2, padding=1)) for _ in range(3)]
    set_multi_grid(blocks, rate=3)
    assert [block[1].dilation for block in blocks] == [(3, 3), (6, 6), (12, 12)]
    assert [block[1].padding for block in blocks] == [(3, 3), (6, 6), (12, 12)]
    assert all(block[0].dilation == (1, 1) and block[0].padding == (0, 0) for block in blocks)
    assert all(block(torch.zeros(1, 1, 7, 8)).shape == (1, 1, 4, 4) for block in blocks)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto"])
def test_multi_grid_is_refused_where_it_cannot_be(name):
    said = f"multi_grid = on: the encoder {name} does not end in three blocks of a ResNet; choose auto or off"
    with pytest.raises(UsageError, match=said):
        on_paper(deeplabv3, 3, 2, encoder=name, multi_grid="on")


def test_the_last_stage_is_found_in_resnets_only():
    assert [type(block) for block in last_resnet_stage(on_paper(build_encoder, "resnet50", 3))] == [Bottleneck] * 3
    assert last_resnet_stage(on_paper(build_encoder, "densenet121", 3)) == []
    assert last_resnet_stage(Encoder()) == []


# The same as torchvision


def test_the_aspp_is_that_of_torchvision():
    theirs = pytest.importorskip("torchvision.models.segmentation.deeplabv3").ASPP(12, [2, 3, 5], 6)
    torch.manual_seed(0)
    randomise(theirs)
    ours = ASPP(12, 6, (2, 3, 5)).eval()
    copy_weights(theirs, ours)
    for size in ((9, 13), (1, 1), (16, 4)):
        feature = torch.randn(2, 12, *size)
        torch.testing.assert_close(ours(feature), theirs(feature), atol=1e-5, rtol=1e-5)


def test_torchvision_has_one_more_convolution_in_its_head():
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    theirs = on_paper(segmentation.deeplabv3_resnet50, weights_backbone=None)
    ours = on_paper(deeplabv3, 3, 21, encoder="resnet50")
    assert parameters(theirs) == parameters(ours) + normalised(256, 256, 3) == 39_638_869


class ShortResNet(nn.Module):
    """A ResNet of timm with one block in each stage, at output stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides, self.timm_name = (256, 512, 1024, 2048), (4, 8, 8, 8), ""
        self.network = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=0, global_pool="", output_stride=8)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        feature = self.network.maxpool(self.network.act1(self.network.bn1(self.network.conv1(image_BCHW))))
        features = []
        for stage in (self.network.layer1, self.network.layer2, self.network.layer3, self.network.layer4):
            feature = stage(feature)
            features.append(feature)
        return features


def test_the_whole_network_is_that_of_torchvision():
    # Theirs has one more 3x3 convolution in its head, which is left out.
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    resnet = models.resnet.ResNet(
        models.resnet.Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, True]
    )
    trunk = models._utils.IntermediateLayerGetter(resnet, {"layer4": "out"})
    aspp = models.segmentation.deeplabv3.ASPP(2048, [12, 24, 36], 4)
    theirs = models.segmentation.DeepLabV3(trunk, nn.Sequential(aspp, nn.Conv2d(4, 3, 1))).eval()
    randomise(aspp)
    ours = DeepLabV3(ShortResNet(), 3, channels=4).eval()
    copy_weights(theirs, ours)
    image = torch.randn(1, 3, 48, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image)["out"], atol=1e-5, rtol=1e-5)


# The networks


def test_every_branch_of_the_aspp_counts():
    torch.manual_seed(0)
    aspp, feature = ASPP(4, 3, (1, 2)).eval(), torch.randn(1, 4, 6, 5)
    before = aspp(feature)
    for branch in [*aspp.branches, aspp.image_level]:
        weight = branch[0].weight.detach().clone()
        nn.init.zeros_(branch[0].weight)
        assert not torch.allclose(aspp(feature), before)
        branch[0].weight.data = weight
    assert torch.equal(aspp(feature), before)


def test_the_image_level_branch_sees_the_whole_map():
    torch.manual_seed(0)
    aspp = ASPP(2, 3, (1,)).eval()
    for branch in aspp.branches:
        nn.init.zeros_(branch[0].weight)
    feature = torch.randn(1, 2, 4, 7)
    given = aspp(feature)
    assert torch.equal(given, given[..., :1, :1].expand_as(given))
    torch.testing.assert_close(given, aspp(feature.flip(-1)))


def test_the_aspp_trains_on_a_map_of_one_value_in_a_batch_of_one():
    aspp = ASPP(4, 3, (6, 12, 18)).train()
    aspp(torch.randn(1, 4, 1, 1)).sum().backward()
    assert all(p.grad.isfinite().all() for p in aspp.parameters())


def test_v3plus_is_its_figure():
    torch.manual_seed(0)
    network = randomise(DeepLabV3Plus(Encoder(), 3, channels=8))
    image = torch.randn(2, 2, 36, 24)
    low, deep = network.encoder(image)

    def layer(module: nn.Sequential, feature: Tensor) -> Tensor:
        convolution, norm = module[0], module[1]
        feature = F.conv2d(feature, convolution.weight, padding=convolution.kernel_size[0] // 2)
        return F.batch_norm(feature, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()

    deep = F.interpolate(network.aspp(deep), scale_factor=2, mode="bilinear")
    feature = torch.cat([deep, layer(network.low_level, low)], dim=1)
    feature = layer(network.decoder[1], layer(network.decoder[0], feature))
    logits = F.conv2d(feature, network.head.weight, network.head.bias)
    expected = F.interpolate(logits, size=(36, 24), mode="bilinear")
    torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("strides", "level"),
    [((2, 4, 8, 16, 16), 1), ((4, 8, 16, 32), 0), ((1, 2, 4, 8, 16, 32), 2), ((16,), 0), ((2, 3, 6), 1), ((3, 6), 0)],
)
def test_the_low_level_map_is_the_deepest_of_stride_4_or_less(strides, level):
    assert low_level_index(strides) == level


@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
@pytest.mark.parametrize("build", [DeepLabV3, DeepLabV3Plus])
def test_an_encoder_of_ones_own_will_do(build, size, thin):
    network = build(Encoder(), 3, channels=4, separable=thin).eval()
    assert network.stride == 6
    assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("build", "name", "stride"),
    [
        (deeplabv3, "mobilenetv3_small_050", 8),
        (deeplabv3plus, "mobilenetv3_small_050", 8),
        (deeplabv3, "convnext_atto", 16),
        (deeplabv3plus, "densenet121", 32),
    ],
)
def test_other_encoders_will_do(build, name, stride):
    network = on_paper(build, 3, 4, encoder=name, output_stride=stride, channels=8)
    assert network(torch.zeros(1, 3, 65, 97, device="meta")).shape == (1, 4, 65, 97)
    assert network.stride == stride


@pytest.mark.parametrize("size", [(48, 64), (40, 56)])
def test_moving_the_image_by_the_stride_moves_the_map_of_the_decoder(size):
    # Nothing but the image-level branch looks at the whole: without it a part is treated like the whole.
    torch.manual_seed(0)
    network = DeepLabV3Plus(Encoder(), 3, channels=4).eval()
    nn.init.zeros_(network.aspp.image_level[0].weight)
    for branch in network.aspp.branches[1:]:
        nn.init.zeros_(branch[0].weight)  # far taps would reach the border
    image = torch.randn(1, 2, *size)
    whole, moved = network(image), network(image[..., 6:, 6:])
    torch.testing.assert_close(moved[..., 18:, 18:-18], whole[..., 6:, 6:][..., 18:, 18:-18], atol=1e-5, rtol=1e-4)


def test_dropout_acts_while_training_only():
    aspp, feature = ASPP(4, 64, (1,), dropout=0.5), torch.randn(2, 4, 5, 5)
    assert aspp.eval()(feature).eq(0).float().mean() < 0.65
    assert aspp.train()(feature).eq(0).float().mean() > 0.65


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output_stride": 4}, "output_stride = 4: choose one of 8, 16, 32"),
        ({"multi_grid": "yes"}, "multi_grid = yes: choose one of auto, on, off"),
        ({"channels": 0}, "channels = 0: choose a value from"),
        ({"dropout": 1.0}, "dropout = 1.0: choose a value from"),
    ],
)
@pytest.mark.parametrize("build", [deeplabv3, deeplabv3plus])
def test_what_cannot_be_built_is_refused(build, options, said):
    with pytest.raises(UsageError, match=said):
        on_paper(build, 3, 2, **({"encoder": "mobilenetv3_small_050"} | options))


@pytest.mark.parametrize(("build", "name"), [(deeplabv3, "densenet121"), (deeplabv3plus, "vgg11")])
def test_encoders_that_always_shrink_by_32_say_what_to_do(build, name):
    with pytest.raises(UsageError, match=f"output_stride = 16: {name} has 32 only"):
        on_paper(build, 3, 2, encoder=name)
    network = on_paper(build, 3, 2, encoder=name, output_stride=32, channels=8)
    assert network.encoder.strides[-1] == 32
    assert math.lcm(*network.encoder.strides) == network.stride
