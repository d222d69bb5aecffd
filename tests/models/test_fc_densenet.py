from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.fc_densenet import (
    DenseBlock,
    DensePlan,
    FCDenseNet,
    fc_densenet56,
    fc_densenet67,
    fc_densenet103,
    join_upsampled,
    norm_relu_conv,
)
from pixelwise.models.unet import crop_middle

Build = Callable[..., FCDenseNet]
TINY = DensePlan(down=(2, 1), bottom=3, growth=2, width=3, dropout=0.0)

# Layers of the eleven blocks and growth, as the paper's section 4.1 and table 2 have them.
PUBLISHED = pytest.mark.parametrize(
    ("build", "layers", "growth", "count", "convolutions"),
    [
        (fc_densenet56, [4] * 11, 12, 1_376_795, 56),
        (fc_densenet67, [5] * 11, 16, 3_463_243, 67),
        (fc_densenet103, [4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4], 16, 9_322_091, 103),
    ],
)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_paper(build: Build, in_channels: int = 3, classes: int = 11) -> FCDenseNet:
    """A network without memory behind its weights, to count and to ask for shapes."""
    with torch.device("meta"):
        return build(in_channels, classes)


# What was published


def closed_form(layers: list[int], growth: int, classes: int = 11) -> int:
    """Parameters, block by block: all convolutions have biases, each norm two numbers per channel."""

    def convolution(before: int, after: int, kernel: int) -> int:
        return kernel * kernel * before * after + after

    def block(before: int, count: int) -> int:
        inputs = [before + growth * layer for layer in range(count)]
        return sum(2 * given + convolution(given, growth, 3) for given in inputs)

    total, pile, skips, half = convolution(3, 48, 3), 48, [], len(layers) // 2
    for count in layers[:half]:
        total += block(pile, count)
        pile += count * growth
        skips.append(pile)
        total += 2 * pile + convolution(pile, pile, 1)
    total += block(pile, layers[half])
    for below, count, skip in zip(layers[half:], layers[half + 1 :], reversed(skips), strict=False):
        new = below * growth
        total += convolution(new, new, 3) + block(new + skip, count)
        pile = new + skip + count * growth
    return total + convolution(pile, classes, 1)


@PUBLISHED
def test_the_published_number_of_parameters(build, layers, growth, count, convolutions):
    assert parameters(on_paper(build)) == closed_form(layers, growth) == count


@PUBLISHED
def test_the_number_in_the_name_counts_the_convolutions(build, layers, growth, count, convolutions):
    network = on_paper(build)
    found = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(found) == convolutions == 1 + sum(layers) + 5 + 5 + 1


@pytest.mark.parametrize(
    ("build", "with_statistics"), [(fc_densenet56, 1_397_963), (fc_densenet67, 3_502_923), (fc_densenet103, 9_425_163)]
)
def test_with_the_statistics_of_the_norms_it_is_the_number_that_the_release_prints(build, with_statistics):
    state = on_paper(build).state_dict()
    assert sum(value.numel() for key, value in state.items() if "num_batches" not in key) == with_statistics


def test_the_piles_of_the_paper():
    # Table 2, where the piles of the way up were misprinted as 880, 1072, 800 and 368 for 896, 1088, 816 and 384.
    network = on_paper(fc_densenet103)
    down = [112, 192, 304, 464, 656]
    assert network.encoder.channels == (*down, 15 * 16)
    assert down[-1] + 15 * 16 == 896
    up = []
    for block in network.blocks:
        given = block.layers[0][0].num_features
        up.append(given + len(block.layers) * 16)
    assert up == [1088, 816, 576, 384, 256]
    assert network.head.in_channels == 256


@PUBLISHED
def test_the_sizes_of_camvid(build, layers, growth, count, convolutions):
    network, sizes = on_paper(build).eval(), []
    for block in (*network.encoder.blocks, *network.blocks):
        block.register_forward_hook(lambda layer, inputs, output: sizes.append(tuple(output.shape[-2:])))
    assert network(torch.zeros(1, 3, 360, 480, device="meta")).shape == (1, 11, 360, 480)
    down = [(360, 480), (180, 240), (90, 120), (45, 60), (23, 30)]
    assert sizes == [*down, (12, 15), *reversed(down)]


def test_fresh_weights_are_uniform_as_he_says():
    torch.manual_seed(0)
    network = fc_densenet56(3, 11)
    for layer, incoming in ((network.encoder.first, 27), (network.up[0], 48 * 9), (network.head, 192)):
        bound = (6 / incoming) ** 0.5
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert not layer.bias.any()


# The parts


def test_a_layer_is_norm_relu_convolution_dropout():
    layer = norm_relu_conv(4, 2, 3, dropout=0.3)
    assert [type(part).__name__ for part in layer] == ["BatchNorm", "ReLU", "Conv2d", "Dropout"]
    assert layer[-1].p == 0.3


def test_a_dense_block_gives_new_maps_only_and_each_layer_sees_all_before():
    block, pile = DenseBlock(5, 3, TINY).eval(), torch.randn(2, 5, 4, 4)
    assert [layer[0].num_features for layer in block.layers] == [5, 7, 9]
    first = block.layers[0](pile)
    second = block.layers[1](torch.cat([pile, first], dim=1))
    third = block.layers[2](torch.cat([pile, first, second], dim=1))
    torch.testing.assert_close(block(pile), torch.cat([first, second, third], dim=1))


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_the_enlarged_maps_are_always_large_enough_and_cut_as_the_release_does(height, width):
    skip = torch.zeros(1, 1, height, width)
    pooled = F.max_pool2d(skip, 2, ceil_mode=True)
    rows, columns = (2 * n + 1 for n in pooled.shape[-2:])
    up = torch.arange(float(rows * columns)).view(1, 1, rows, columns)
    joined = join_upsampled(up, skip)
    assert joined.shape == (1, 2, height, width)
    if height % 2 == width % 2 == 0:
        assert torch.equal(joined[:, :1], crop_middle(up, skip.shape[-2:]))


def test_a_pixel_lies_in_its_place_whatever_the_size():
    torch.manual_seed(0)
    network, image = FCDenseNet(1, 2, TINY).eval(), torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        whole, odd = network(image), network(image[..., :61, :59])
    torch.testing.assert_close(odd[..., :36, :36], whole[..., :36, :36])


# The same, written down again


def plain_densenet(state: dict[str, Tensor], image: Tensor, plan: DensePlan) -> Tensor:
    """Logits by torch's functions alone, from the weights by name; any size is padded as pooling rounds up."""

    def layer(name: str, feature: Tensor) -> Tensor:
        norm = [state[f"{name}.0.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        feature = F.relu(F.batch_norm(feature, *norm))
        return F.conv2d(feature, state[f"{name}.2.weight"], state[f"{name}.2.bias"], padding="same")

    def block(name: str, pile: Tensor, layers: int) -> Tensor:
        for index in range(layers):
            pile = torch.cat([pile, layer(f"{name}.layers.{index}", pile)], dim=1)
        return pile

    def half(feature: Tensor) -> Tensor:
        height, width = feature.shape[-2:]
        return F.max_pool2d(F.pad(feature, (0, width % 2, 0, height % 2), value=-torch.inf), 2)

    pile, skips = F.conv2d(image, state["encoder.first.weight"], state["encoder.first.bias"], padding=1), []
    for level, layers in enumerate(plan.down):
        skips.append(block(f"encoder.blocks.{level}", pile, layers))
        pile = half(layer(f"encoder.down.{level}", skips[-1]))
    pile = block(f"encoder.blocks.{len(plan.down)}", pile, plan.bottom)
    new = plan.bottom * plan.growth
    for level, layers in enumerate(reversed(plan.down)):
        weight, bias = state[f"up.{level}.weight"], state[f"up.{level}.bias"]
        up, skip = F.conv_transpose2d(pile[:, -new:], weight, bias, stride=2), skips.pop()
        pile = torch.cat([up[:, :, : skip.shape[2], : skip.shape[3]], skip], dim=1)
        pile = block(f"blocks.{level}", pile, layers)
        new = layers * plan.growth
    return F.conv2d(pile, state["head.weight"], state["head.bias"])


@pytest.mark.parametrize("size", [(16, 32), (31, 33), (7, 6), (1, 50), (1, 1)])
def test_logits_are_those_of_the_formulas(size):
    torch.manual_seed(0)
    network = FCDenseNet(2, 3, TINY).double().eval()
    for key, value in network.state_dict().items():
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape) + (0.5 if "weight" in key or "var" in key else 0))
    image = torch.randn(2, 2, *size).double()
    with torch.inference_mode():
        torch.testing.assert_close(network(image), plain_densenet(network.state_dict(), image, TINY))


def test_the_encoder_keeps_its_promise():
    encoder = FCDenseNet(1, 2, TINY).encoder.eval()
    assert encoder.strides == (1, 2, 4)
    assert encoder.channels == (7, 9, 6)
    shapes = [tuple(feature.shape[1:]) for feature in encoder(torch.zeros(1, 1, 21, 7))]
    assert shapes == [(7, 21, 7), (9, 11, 4), (6, 6, 2)]


# Arguments


def test_dropout_acts_while_training_only():
    torch.manual_seed(0)
    network, image = fc_densenet56(1, 2, growth=2, width=4, dropout=0.5), torch.randn(1, 1, 32, 32)
    assert not torch.equal(network.train()(image), network(image))
    assert torch.equal(network.eval()(image), network(image))
    shares = {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)}
    assert shares == {0.5}


@pytest.mark.parametrize(
    "options", [{"growth": 0}, {"growth": 257}, {"width": 0}, {"dropout": 1.0}, {"dropout": float("nan")}]
)
@pytest.mark.parametrize("build", [fc_densenet56, fc_densenet67, fc_densenet103])
def test_arguments_out_of_range_are_refused(build, options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} = .*: choose a value from"):
        build(1, 2, **options)


# Training


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def losses(network: nn.Module, *, steps: int = 25) -> list[float]:
    """Training on random blobs: brighter than the mean or not."""
    noise = F.avg_pool2d(torch.randn(1, 1, 48, 48), 9, stride=1)
    image, mask = noise / noise.std(), (noise[:, 0] > 0).long()
    optimizer, history = torch.optim.RMSprop(network.parameters(), lr=0.003), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(image), mask)
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("build", "growth"), [(fc_densenet56, 4), (fc_densenet67, 3), (fc_densenet103, 2)], ids=["56", "67", "103"]
)
def test_it_learns(build, growth):
    torch.manual_seed(0)
    history = losses(build(1, 2, growth=growth, width=16).train())
    assert history[-1] < 0.2 < 0.4 < history[0]
