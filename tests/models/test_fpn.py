from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_encoder import ToyEncoder, top_of_image_and_of_longer_image

from pixelwise.errors import UsageError
from pixelwise.models.encoders import build_encoder
from pixelwise.models.fpn import FPN, FeaturePyramid, SemanticBranch, fpn

CHANNELS, STRIDES = (3, 5, 7, 9), (4, 8, 16, 32)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def maps_of(height: int, width: int) -> list[torch.Tensor]:
    """Maps of an encoder for an image of that size, of CHANNELS and STRIDES."""
    return [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]


# The numbers


def test_the_network_on_resnet50_has_the_parameters_of_its_layers():
    body = 23_508_032
    lateral = (256 + 512 + 1024 + 2048) * 256 + 4 * 256
    smooth = 4 * (9 * 256 * 256 + 256)
    first, further = 9 * 256 * 128 + 2 * 128, 9 * 128 * 128 + 2 * 128
    head = 4 * first + (0 + 0 + 1 + 2) * further
    with torch.device("meta"):
        network = fpn(3, 19)
    assert parameters(network.encoder) == body
    assert parameters(network.pyramid) == lateral + smooth == 3_344_384
    assert parameters(network.branches) == head == 1_623_808
    assert parameters(network) == body + lateral + smooth + head + 19 * 128 + 19 == 28_478_675


def test_each_level_takes_the_steps_that_it_needs():
    with torch.device("meta"):
        network = fpn(3, 19)
    assert [len(branch.convolutions) for branch in network.branches] == [1, 1, 2, 3]
    assert network.strides == STRIDES
    assert network.stride == 32


def test_the_norm_is_batch_norm():
    norms = [type(layer).__name__ for layer in SemanticBranch(4, 2, (4, 8)).modules() if "Norm" in type(layer).__name__]
    assert norms == ["BatchNorm"]


# The pyramid


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (1, 1), (1, 70)])
def test_the_pyramid_is_that_of_torchvision(size):
    operations = pytest.importorskip("torchvision.ops")
    torch.manual_seed(0)
    theirs = operations.FeaturePyramidNetwork(list(CHANNELS), 8)
    ours = FeaturePyramid(CHANNELS, STRIDES, width=8)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    features = maps_of(*size)
    with torch.inference_mode():
        expected = theirs({str(index): feature for index, feature in enumerate(features)}).values()
        for level, other in zip(ours(features), expected, strict=True):
            torch.testing.assert_close(level, other, atol=1e-5, rtol=1e-5)


def test_maps_are_added_not_joined():
    pyramid = FeaturePyramid((1, 1), (4, 8), width=1)
    for layer in (*pyramid.lateral, *pyramid.smooth):
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)
    shallow, deep = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[10.0, 20.0]]]])
    levels = pyramid([shallow, deep])
    assert levels[0].tolist() == [[[[11.0, 12.0, 23.0]]]]
    assert levels[1].tolist() == [[[[10.0, 20.0]]]]


def test_the_pyramid_keeps_variance():
    torch.manual_seed(0)
    pyramid = FeaturePyramid((64, 64), (4, 8), width=64)
    with torch.inference_mode():
        deepest = pyramid([torch.randn(1, 64, 64, 64), torch.randn(1, 64, 32, 32)])[1]
    assert 0.7 < deepest[..., 1:-1, 1:-1].var() < 1.4
    assert not any(layer.bias.any() for layer in (*pyramid.lateral, *pyramid.smooth))


# The head


def test_the_head_doubles_each_level_to_the_shallowest_and_sums():
    torch.manual_seed(0)
    network = FPN(ToyEncoder(strides=STRIDES), 3, width=6)
    image = torch.randn(2, 2, 64, 96)
    network.train()(image)  # running statistics other than 0 and 1
    network.eval()
    with torch.inference_mode():
        total = torch.zeros(2, 3, 16, 24)
        for level, (branch, feature) in enumerate(
            zip(network.branches, network.pyramid(network.encoder(image)), strict=True)
        ):
            for convolution, norm, _ in branch.convolutions:
                feature = F.conv2d(feature, convolution.weight, padding=1)
                feature = F.batch_norm(feature, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
                if level:
                    feature = F.interpolate(feature, scale_factor=2, mode="bilinear", align_corners=False)
            total += feature
        logits = F.conv2d(total, network.head.weight, network.head.bias)
        expected = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-5)


# Encoders and sizes


@pytest.fixture(
    scope="module",
    params=["resnet18", "mobilenetv3_small_050", "convnext_atto", (3, 6, 12), (1, 2), (4, 6, 12), (4, 8, 8), (5,)],
    ids=str,
)
def encoder(request):
    return build_encoder(request.param, 2) if isinstance(request.param, str) else ToyEncoder(strides=request.param)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
def test_every_encoder_and_every_size(encoder, size):
    network = FPN(encoder, 3, width=8).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("name", ["densenet121", "swin_tiny_patch4_window7_224", "vgg16"])
def test_large_encoders_of_all_kinds(name):
    with torch.device("meta"):
        network = fpn(3, 7, encoder=name)
        assert network.eval()(torch.empty(1, 3, 65, 40)).shape == (1, 7, 65, 40)
    assert network.strides == STRIDES


@pytest.mark.parametrize(
    ("strides", "used"),
    [((2, 4, 8), (4, 8)), ((3, 6, 12), (3, 6, 12)), ((1, 2, 4), (4,)), ((1, 2), (1, 2)), ((4, 8, 8), (4, 8, 8))],
)
def test_the_large_maps_are_left_out_where_there_are_others(strides, used):
    network = FPN(ToyEncoder(strides=strides), 3, width=2)
    assert network.strides == used
    assert len(network.branches) == len(used)


def test_what_lies_far_below_changes_nothing():
    for strides in [(3, 6, 12), (4, 8), (3, 9), (4, 6)]:
        torch.manual_seed(0)
        shorter, longer = top_of_image_and_of_longer_image(FPN(ToyEncoder(strides=strides), 3, width=4))
        torch.testing.assert_close(shorter, longer, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 5000])
def test_widths_out_of_range_are_refused(width):
    with pytest.raises(UsageError, match=f"width = {width}: choose a value from 2 to 4096"):
        FPN(ToyEncoder(), 3, width=width)
