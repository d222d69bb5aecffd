from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.unet_keras import KerasUNet, KerasUpBlock, convolution_pair, unet_line_by_line, unet_tgs


def learnable(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def running(network: nn.Module) -> int:
    """Numbers that batch norm keeps without learning them; Keras counts them as parameters."""
    return sum(value.numel() for key, value in network.state_dict().items() if "running" in key)


def on_paper(build, in_channels: int) -> nn.Module:
    with torch.device("meta"):
        return build(in_channels, 1)


@pytest.mark.parametrize(
    ("in_channels", "count", "with_running"), [(1, 2_161_361, 2_164_305), (3, 2_161_649, 2_164_593)]
)
def test_the_salt_network_has_its_number_of_parameters(in_channels, count, with_running):
    network = on_paper(unet_tgs, in_channels)
    assert learnable(network) == count
    assert learnable(network) + running(network) == with_running


@pytest.mark.parametrize(("in_channels", "count"), [(1, 2_158_417), (3, 2_158_705)])
def test_the_network_explained_line_by_line_has_its_number_of_parameters(in_channels, count):
    network = on_paper(unet_line_by_line, in_channels)
    assert learnable(network) == count
    assert running(network) == 0


def test_the_published_program_lost_one_convolution_of_each_pair():
    def convolution(before: int, after: int) -> int:
        return 9 * before * after + after

    inputs = [(1, 16), (16, 32), (32, 64), (64, 128), (128, 256)] + [(2 * c, c) for c in (128, 64, 32, 16)]
    norms = sum(channels for _, channels in inputs)
    lost = sum(convolution(before, after) for before, after in inputs) + 4 * norms
    lost += sum(convolution(2 * channels, channels) for channels in (128, 64, 32, 16)) + 16 + 1
    assert (lost, lost - 2 * norms, 2 * norms) == (1_179_121, 1_177_649, 1_472)

    meant = lost + sum(convolution(after, after) for _, after in inputs) + 4 * norms
    network = on_paper(unet_tgs, 1)
    assert learnable(network) + running(network) == meant == 2_164_305


def test_the_first_convolution_of_each_pair_is_used():
    torch.manual_seed(0)
    pair = convolution_pair(2, 4, batch_norm=True).eval()
    image = torch.randn(1, 2, 6, 6)
    before = pair(image)
    with torch.no_grad():
        pair[0].weight.mul_(2)
    assert not torch.allclose(pair(image), before)


def test_batch_norm_stands_between_convolution_and_relu():
    kinds = [type(layer).__name__ for layer in convolution_pair(1, 2, batch_norm=True)]
    assert kinds == ["Conv2d", "BatchNorm", "ReLU"] * 2
    assert [type(layer).__name__ for layer in convolution_pair(1, 2, batch_norm=False)] == ["Conv2d", "ReLU"] * 2


def dropouts(network: nn.Module) -> list[tuple[int, float]]:
    """Channels and share of each dropout, in the order in which an image passes them."""
    passed = []
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.register_forward_hook(lambda layer, given, made: passed.append((made.shape[1], layer.p)))
    network(torch.zeros(1, 1, 16, 16, device="meta"))
    return passed


def test_dropout_is_after_pooling_and_after_joining_as_published():
    channels = [16, 32, 64, 128, 256, 128, 64, 32]
    assert dropouts(on_paper(unet_tgs, 1)) == [(c, 0.05) for c in channels]
    assert dropouts(on_paper(unet_line_by_line, 1)) == list(zip(channels, [0.25] + [0.5] * 7, strict=True))


def reference(network: KerasUNet, image_BCHW: Tensor) -> Tensor:
    """The network in use, for sizes divisible by 16, written out with plain functions."""

    def pair(feature: Tensor, layers: nn.Sequential) -> Tensor:
        norms = iter(layer for layer in layers if isinstance(layer, nn.BatchNorm2d))
        for convolution in (layer for layer in layers if isinstance(layer, nn.Conv2d)):
            feature = F.conv2d(feature, convolution.weight, convolution.bias, padding=1)
            norm = next(norms, None)
            if norm is not None:
                centred = (feature - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt()
                feature = centred * norm.weight[:, None, None] + norm.bias[:, None, None]
            feature = feature.clamp(min=0)
        return feature

    maps = [pair(image_BCHW, network.encoder.levels[0])]
    for level in network.encoder.levels[1:]:
        maps.append(pair(maps[-1].unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)), level))
    feature = maps.pop()
    for block in network.decoder:
        up = F.conv_transpose2d(feature, block.up.weight, block.up.bias, stride=2)[..., 1:, 1:]
        feature = pair(torch.cat([up, maps.pop()], dim=1), block.convolutions)
    return F.conv2d(feature, network.head.weight, network.head.bias)


@pytest.mark.parametrize("build", [unet_tgs, unet_line_by_line])
def test_the_network_is_what_its_program_says(build):
    torch.manual_seed(0)
    network, image = build(2, 3, width=3), torch.randn(2, 2, 32, 48)
    network.train()(image)  # running statistics other than 0 and 1
    network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(network(image), reference(network, image), atol=1e-5, rtol=1e-5)


def test_the_transposed_convolution_is_that_of_keras_in_a_mirror():
    torch.manual_seed(0)
    layer, deep = KerasUpBlock(2, dropout=0.0, batch_norm=False).up, torch.randn(1, 4, 5, 7)
    of_keras = F.conv_transpose2d(deep.flip(2, 3), layer.weight.flip(2, 3), layer.bias, stride=2)[..., :10, :14]
    torch.testing.assert_close(layer(deep), of_keras.flip(2, 3), atol=1e-6, rtol=1e-5)


def test_fresh_weights_are_he_normal():
    torch.manual_seed(0)
    second = unet_tgs(1, 1).encoder.levels[3][3]
    assert second.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.03)
    assert not second.bias.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33), (48, 16)])
def test_any_size_is_taken(size):
    network = unet_line_by_line(1, 2, width=2).train()
    assert network(torch.randn(1, 1, *size)).shape == (1, 2, *size)
    assert unet_tgs(1, 2, width=2).train()(torch.randn(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("options", [{"width": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} = .*: choose a value from"):
        unet_tgs(1, 2, **options)
