from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.segnet import SegNet, SegNetBasic, down_and_up, local_response_norm

BOTH = pytest.mark.parametrize("build", [SegNet, SegNetBasic])


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_paper(build: type[nn.Module], classes: int = 11, **options: bool) -> nn.Module:
    """A network without memory behind its weights, to count and to ask for shapes."""
    with torch.device("meta"):
        return build(3, classes, **options)


def lively(network: nn.Module) -> nn.Module:
    """The network with weights in which no part hides another: all biases, shifts and statistics differ."""
    generator = torch.Generator().manual_seed(1)
    for key, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if "weight" in key or "var" in key else 0))
    return network.eval()


# What was published

# Channels into and out of the 13 convolutions down; the way up is the same, read backwards.
DOWN = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
DOWN += [(256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)]


@pytest.mark.parametrize(("classes", "count"), [(11, 29_449_355), (12, 29_449_932), (21, 29_455_125), (37, 29_464_357)])
def test_segnet_has_its_published_number_of_parameters(classes, count):
    convolutions = DOWN + [(after, before) for before, after in reversed(DOWN[1:])]
    norms = sum(2 * after for _, after in convolutions)
    by_hand = sum(9 * before * after + after for before, after in convolutions) + norms + 9 * 64 * classes + classes
    assert parameters(on_paper(SegNet, classes)) == by_hand == count


@pytest.mark.parametrize(("bias", "count"), [(True, 1_416_587), (False, 1_416_075)])
def test_segnet_basic_has_its_published_number_of_parameters(bias, count):
    convolutions = [(3, 64)] + 7 * [(64, 64)]
    by_hand = sum(49 * before * after + bias * after + 2 * after for before, after in convolutions) + 64 * 11 + 11
    assert parameters(on_paper(SegNetBasic, bias=bias)) == by_hand == count


def test_without_biases_segnet_has_as_many_fewer_as_it_has_channels():
    assert parameters(on_paper(SegNet, bias=False)) == 29_441_419
    assert 29_449_355 - 29_441_419 == sum(after for _, after in DOWN) + sum(before for before, _ in DOWN[1:]) == 7936


def test_segnet_has_13_convolutions_down_and_13_up():
    network = on_paper(SegNet)
    layers = [[layer for layer in part.modules() if isinstance(layer, nn.Conv2d)] for part in network.children()]
    assert [len(found) for found in layers] == [13, 12, 0, 1]
    assert [layer.out_channels for layer in layers[1]] == [512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64]


def seen_sizes(network: nn.Module, *, height: int, width: int) -> list[tuple[int, int]]:
    """Size of the map that each decoder stage works on."""
    sizes = []
    for stage in network.decoder:
        stage.register_forward_hook(lambda layer, inputs, output: sizes.append(tuple(output.shape[-2:])))
    assert network(torch.zeros(1, 3, height, width, device="meta")).shape == (1, 11, height, width)
    return sizes


def test_the_sizes_of_the_release_come_back():
    sizes = [(23, 30), (45, 60), (90, 120), (180, 240), (360, 480)]
    assert seen_sizes(on_paper(SegNet), height=360, width=480) == sizes
    assert seen_sizes(on_paper(SegNetBasic), height=360, width=480) == sizes[1:]


def test_the_bottom_of_segnet_basic_sees_106_pixels():
    # All weights positive and the mean in place of the maximum: then no path from the image cancels out.
    network = SegNetBasic(1, 2, width=1).eval()
    image = torch.ones(1, 1, 160, 160, requires_grad=True)
    feature = image
    for stage in network.encoder:
        nn.init.ones_(stage[0].weight)
        feature = F.avg_pool2d(stage(feature), 2)
    (gradient,) = torch.autograd.grad(feature[0, 0, 5, 5], image)
    rows, columns = (gradient[0, 0].sum(axis).nonzero().flatten() for axis in (1, 0))
    assert len(rows) == len(columns) == 106
    assert (rows[0], rows[-1]) == (5 * 16 + 8 - 53, 5 * 16 + 7 + 53)  # in the middle: 5 * 16 + 7.5


def test_fresh_weights_are_those_of_the_release():
    torch.manual_seed(0)
    network = SegNetBasic(3, 11)
    assert network.decoder[0][0].weight.std().item() == pytest.approx((2 / (49 * 64)) ** 0.5, rel=0.02)
    assert not network.decoder[0][0].bias.any()
    assert (network.decoder[0][1].bias == torch.tensor(0.001)).all()
    assert (network.decoder[0][1].weight == 1).all()


# The same, written down again


def layers_of(state: dict[str, Tensor], part: str, *, normalised: int = 7) -> Iterator[list[Tensor]]:
    """Tensors of one convolution and its batch norm after another."""
    tensors = [value for key, value in state.items() if key.startswith(part)]
    return (tensors[start : start + normalised] for start in range(0, len(tensors), normalised))


def plain_segnet(network: nn.Module, feature: Tensor, *, down: list[int], up: list[int]) -> Tensor:
    """Logits by torch's own operators; `down` and `up` are the numbers of convolutions of each stage."""
    basic, state = isinstance(network, SegNetBasic), network.state_dict()

    def convolved(feature: Tensor, layers: Iterator[list[Tensor]], *, relu: bool = True) -> Tensor:
        weight, bias, scale, shift, mean, variance, _ = next(layers)
        feature = F.conv2d(feature, weight, bias, padding="same")
        feature = F.batch_norm(feature, mean, variance, scale, shift)
        return F.relu(feature) if relu else feature

    if basic:
        feature = F.local_response_norm(feature, 5, alpha=1e-4, beta=0.75, k=1)
    layers, places = layers_of(state, "encoder"), []
    for count in down:
        for _ in range(count):
            feature = convolved(feature, layers)
        size = feature.shape
        feature, indices = F.max_pool2d(feature, 2, ceil_mode=True, return_indices=True)
        places.append((indices, size))
    layers = layers_of(state, "decoder")
    for count in up:
        indices, size = places.pop()
        feature = F.max_unpool2d(feature, indices, 2, output_size=size)
        for _ in range(count):
            feature = convolved(feature, layers, relu=not basic)
    return F.conv2d(feature, state["head.weight"], state["head.bias"], padding="same")


@pytest.mark.parametrize("size", [(32, 64), (45, 60), (31, 33), (1, 50), (1, 1)])
def test_logits_are_those_of_torchs_own_unpooling(size):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *size).double()
    with torch.inference_mode():
        network = lively(SegNet(3, 5, width=4).double())
        expected = plain_segnet(network, image, down=[2, 2, 3, 3, 3], up=[3, 3, 3, 2, 1])
        torch.testing.assert_close(network(image), expected)
        network = lively(SegNetBasic(3, 5, width=8).double())
        expected = plain_segnet(network, 100 * image, down=[1] * 4, up=[1] * 4)
        torch.testing.assert_close(network(100 * image), expected)


@given(st.integers(1, 8), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_response_norm_is_torchs(channels, scale):
    image = 10**scale * torch.randn(2, channels, 3, 4, generator=torch.Generator().manual_seed(channels))
    torch.testing.assert_close(local_response_norm(image), F.local_response_norm(image, 5))


def test_the_response_norm_by_hand():
    image = torch.tensor([3.0, 4.0]).mul(1000).view(1, 2, 1, 1)
    # 1 + 1e-4 * (9 + 16) * 1e6 / 5 = 501
    torch.testing.assert_close(local_response_norm(image), image / 501**0.75)


# Memory of places


def nothing(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Identity() for _ in range(count))


def test_values_come_back_where_they_were():
    # The odd row and column are pooled in windows of two and of one.
    image = torch.tensor([[1.0, 2.0, 9.0], [4.0, 3.0, 8.0], [5.0, 6.0, 7.0]])
    kept = [[0.0, 0.0, 9.0], [4.0, 0.0, 0.0], [0.0, 6.0, 7.0]]
    assert down_and_up(image[None, None], nothing(1), nothing(1), nothing(1))[0, 0].tolist() == kept


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_the_maximum_survives_every_level_in_its_place(height, width, levels):
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height)) + 0.1
    kept = down_and_up(image, nothing(levels), nothing(levels), nothing(levels))
    side = 2**levels
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = (..., slice(top, top + side), slice(left, left + side))
            largest = image[window].amax((2, 3), keepdim=True)
            assert torch.equal(kept[window], image[window].where(image[window] == largest, 0))


# Arguments


def dropped_maps(network: nn.Module) -> list[int]:
    """Side of each map that dropout acts on, in order, for an image of 64 x 64."""
    dropped = []
    for dropout in network.dropouts:
        dropout.register_forward_hook(
            lambda layer, inputs, output: dropped.append(output.shape[-1]) if layer.p else None
        )
    network(torch.zeros(2, 3, 64, 64))
    return dropped


def test_dropout_acts_where_bayesian_segnet_has_it():
    # After pool3, pool4, pool5 (64 / 8, 64 / 16, 64 / 32), then after the stages of conv5, conv4 and conv3.
    assert dropped_maps(SegNet(3, 2, width=1, dropout=0.5)) == [8, 4, 2, 4, 8, 16]
    assert dropped_maps(SegNetBasic(3, 2, width=1, dropout=0.5)) == [8, 4, 8, 16]
    assert dropped_maps(SegNet(3, 2, width=1)) == []


@BOTH
def test_dropout_acts_while_training_only(build):
    torch.manual_seed(0)
    network, image = build(1, 2, width=4, dropout=0.5), torch.randn(2, 1, 64, 64)
    assert not torch.equal(network.train()(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


@BOTH
def test_biases_before_batch_norm_are_idle(build):
    torch.manual_seed(0)
    network, image = build(2, 3, width=4).train(), torch.randn(2, 2, 64, 64)
    before = network(image)
    with torch.no_grad():
        for layer in (*network.encoder.modules(), *network.decoder.modules()):
            if isinstance(layer, nn.Conv2d):
                layer.bias.add_(1.0)
    torch.testing.assert_close(network(image), before, atol=1e-4, rtol=1e-3)


@BOTH
@pytest.mark.parametrize("options", [{"width": 0}, {"width": 1025}, {"dropout": 1.0}, {"dropout": float("nan")}])
def test_arguments_out_of_range_are_refused(build, options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} = .*: choose a value from"):
        build(1, 2, **options)


def test_the_pretrained_layers_of_timm_fit_in_their_order():
    with torch.device("meta"):
        theirs = timm.create_model(on_paper(SegNet).encoder.timm_name).features.state_dict()
    ours = on_paper(SegNet).encoder.state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]
    assert [key.rsplit(".")[-1] for key in ours] == [key.rsplit(".")[-1] for key in theirs]
    assert on_paper(SegNet, bias=False).encoder.timm_name == on_paper(SegNetBasic).encoder.timm_name == ""


# Training


def losses(network: nn.Module, *, steps: int = 30) -> list[float]:
    """Training on random blobs: brighter than the mean or not."""
    noise = F.avg_pool2d(torch.randn(2, 1, 64, 64), 17, stride=1)
    image, mask = noise / noise.std(), (noise[:, 0] > 0).long()
    optimizer, history = torch.optim.Adam(network.parameters(), lr=0.01), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(image), mask)
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@BOTH
@pytest.mark.usefixtures("deterministic")
def test_it_learns_and_repeats_itself_bit_for_bit(build):
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        runs.append(losses(build(1, 2, width=8, dropout=0.1).train()))
    assert runs[0] == runs[1]
    assert runs[0][-1] < 0.4 < 0.6 < runs[0][0]
