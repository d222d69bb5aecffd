from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.fcn import (
    FCN,
    IMAGE_OFFSETS,
    POOL_OFFSETS,
    Fusion,
    fcn8s,
    fcn8s_at_once,
    fcn16s,
    fcn32s,
    learned_doubling,
    score_layer,
)
from pixelwise.models.upsample import bilinear_filter

FORMS = (fcn32s, fcn16s, fcn8s, fcn8s_at_once)
SCALES = {fcn32s: (), fcn16s: (1,), fcn8s: (1, 1), fcn8s_at_once: (0.01, 0.0001)}


def small(build: Callable[..., FCN], **options: bool) -> FCN:
    """A small copy whose scores do not start at zero."""
    torch.manual_seed(0)
    network = build(2, 3, width=2, hidden=8, **options).eval()
    for layer in (network.classifier[-1], *(fusion.score for fusion in network.fusions)):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return network


def on_paper(build: Callable[..., FCN], **options: bool) -> FCN:
    with torch.device("meta"):
        return build(3, 21, **options)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# The numbers of the paper

CONVOLUTIONS = 14_714_688
CLASSIFIER = (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 21


@pytest.mark.parametrize(
    ("build", "scores", "count"),
    [
        (fcn32s, 0, 134_346_581),
        (fcn16s, 513 * 21, 134_357_354),
        (fcn8s, 513 * 21 + 257 * 21, 134_362_751),
        (fcn8s_at_once, 513 * 21 + 257 * 21, 134_362_751),
    ],
)
def test_parameters_are_those_of_the_paper(build, scores, count):
    assert parameters(on_paper(build)) == CONVOLUTIONS + CLASSIFIER + scores == count


@pytest.mark.parametrize(("build", "doublings"), [(fcn16s, 1), (fcn8s, 2), (fcn8s_at_once, 2)])
def test_learned_doublings_add_their_weights(build, doublings):
    more = parameters(on_paper(build, learn_upsampling=True)) - parameters(on_paper(build))
    assert more == doublings * 21 * 21 * 4 * 4


@pytest.mark.parametrize(
    ("build", "doubled", "enlarged"),
    [(fcn32s, [], 544), (fcn16s, [34], 560), (fcn8s, [34, 70], 568), (fcn8s_at_once, [34, 70], 568)],
)
def test_sizes_of_the_paper_for_500_pixels(build, doubled, enlarged):
    network, sizes = on_paper(build), {}
    for name, layer in network.named_modules():
        layer.register_forward_hook(
            lambda _, given, made, name=name: sizes.update({name: (given[0].shape, made.shape)})
        )
    logits = network(torch.empty(1, 3, 500, 500, device="meta"))
    assert logits.shape == (1, 21, 500, 500)
    assert [sizes[f"encoder.{stage}"][1][-1] for stage in range(5)] == [698, 349, 175, 88, 44]
    assert sizes["classifier"][0] == (1, 512, 22, 22)
    assert sizes["classifier.0"][1] == (1, 4096, 16, 16)
    assert [sizes[f"fusions.{number}"][1][-1] for number in range(len(doubled))] == doubled
    assert sizes["upsampling"][1] == (1, 21, enlarged, enlarged)


def test_offsets_follow_from_where_the_maps_lie():
    # The first value of a map is centred on this row of the image, and its values are `stride` rows apart.
    centre, stride, pools = -99.0, 1, {}
    for pool in range(1, 6):
        centre, stride = centre + stride / 2, 2 * stride
        pools[pool] = centre, stride
    centre += 3 * stride  # the middle of the 7x7 kernel
    assert (centre, stride) == (12.5, 32)
    for pool, expected in zip((4, 3), POOL_OFFSETS, strict=True):
        # A filter of 2 f rows begins f - 1/2 steps of the finer map before the value that it spreads.
        assert IMAGE_OFFSETS[stride] == -(centre - (stride - 0.5))
        centre, stride = centre - 1.5 * stride / 2, stride // 2
        assert pools[pool][1] == stride
        assert (centre - pools[pool][0]) / stride == expected
    assert IMAGE_OFFSETS[stride] == -(centre - (stride - 0.5))


def seen_rows(output: Tensor, image: Tensor) -> tuple[int, int]:
    """First and last row of the image that an output depends on."""
    (gradient,) = torch.autograd.grad(output, image, retain_graph=True)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    return int(rows[0]), int(rows[-1])


def test_the_receptive_field_is_that_of_the_paper(monkeypatch):
    # All weights positive and the mean in place of the maximum: then no path from the image cancels out.
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    network = fcn32s(1, 1, width=1, hidden=1).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(2 / weight[0].numel())
    maps = []
    network.classifier.register_forward_hook(lambda _, given, made: maps.extend([given[0], made]))
    image = torch.ones(1, 1, 420, 1, requires_grad=True)
    network(image)
    pool5, scores = maps
    first, last = seen_rows(pool5[0, 0, 9, 3], image)
    assert (last - first + 1, (first + last) / 2) == (212, -83.5 + 9 * 32)
    first, last = seen_rows(scores[0, 0, 6, 0], image)
    assert (last - first + 1, (first + last) / 2) == (404, 12.5 + 6 * 32)
    following, _ = seen_rows(scores[0, 0, 7, 0], image)
    assert following - first == network.stride == 32


# The same network, written plainly


def release(weights: dict[str, Tensor], image: Tensor, scales: tuple[float, ...]) -> Tensor:
    """The forward pass of the reference release: every deconvolution a dense filter, zero between classes."""

    def conv(name: str, x: Tensor, padding: int = 0) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def deconv(x: Tensor, kernel: int, stride: int) -> Tensor:
        dense = torch.zeros(3, 3, kernel, kernel)
        for k in range(3):
            dense[k, k] = bilinear_filter(kernel)
        return F.conv_transpose2d(x, dense, stride=stride)

    x, pools = F.pad(image, (99, 99, 99, 99)), []
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for number in range(count):
            x = conv(f"encoder.{stage}.{2 * number}", x, 1).relu()
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        pools.append(x)
    x = conv("classifier.3", conv("classifier.0", x).relu()).relu()
    x = conv("classifier.6", x)
    if len(scales) > 0:
        x = deconv(x, 4, 2)
        x = x + conv("fusions.0.score", scales[0] * pools[3])[:, :, 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
    if len(scales) > 1:
        x = deconv(x, 4, 2)
        x = x + conv("fusions.1.score", scales[1] * pools[2])[:, :, 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
    stride, offset = {0: (32, 19), 1: (16, 27), 2: (8, 31)}[len(scales)]
    x = deconv(x, 2 * stride, stride)
    return x[:, :, offset : offset + image.shape[2], offset : offset + image.shape[3]]


@pytest.mark.parametrize("build", FORMS)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33), (70, 64)])
def test_it_computes_what_the_release_computes(build, size):
    network, image = small(build), torch.randn(2, 2, *size)
    with torch.inference_mode():
        found, expected = network(image), release(network.state_dict(), image, SCALES[build])
    assert found.shape == (2, 3, *size)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", FORMS[1:])
def test_learned_doublings_begin_as_the_fixed_ones(build):
    fixed, learned = small(build), small(build, learn_upsampling=True)
    state = learned.state_dict()
    assert {*state} - {*fixed.state_dict()} == {f"fusions.{n}.doubling.weight" for n in range(len(fixed.fusions))}
    learned.load_state_dict(fixed.state_dict(), strict=False)
    image = torch.randn(1, 2, 40, 33)
    logits = learned(image)
    torch.testing.assert_close(logits, fixed(image), atol=1e-5, rtol=1e-5)
    logits.square().sum().backward()
    assert all(fusion.doubling.weight.grad.all() for fusion in learned.fusions)


def test_at_once_is_the_same_network_with_smaller_poolings():
    network, scaled = small(fcn8s_at_once), small(fcn8s)
    scaled.load_state_dict(network.state_dict())
    with torch.no_grad():
        for fusion, scale in zip(scaled.fusions, (0.01, 0.0001), strict=True):
            fusion.score.weight.mul_(scale)
    image = torch.randn(1, 2, 40, 33)
    torch.testing.assert_close(network(image), scaled(image))


# Its parts


@pytest.mark.parametrize("build", FORMS)
def test_a_fresh_network_knows_nothing_but_can_learn(build):
    network = build(2, 3, width=2, hidden=8).eval()
    logits = network(torch.randn(1, 2, 33, 40))
    assert not logits.any()
    logits.sum().backward()
    assert network.classifier[-1].weight.grad.any()
    assert all(fusion.score.weight.grad.any() for fusion in network.fusions)
    assert (network.encoder.timm_name, network.stride, network.supervised) == ("vgg16", 32, ())


def test_the_deconvolutions_are_not_learned():
    names = {name.split(".")[0] for name, _ in small(fcn8s).named_parameters()}
    assert names == {"encoder", "classifier", "fusions"}
    assert not [*small(fcn8s).buffers()]
    assert [*small(fcn8s).fusions[0].doubling.parameters()] == []


def test_a_fusion_adds_the_finer_scores():
    fusion = Fusion(1, 1, scale=0.5, learn_upsampling=False)
    nn.init.constant_(fusion.score.weight, 2)
    nn.init.constant_(fusion.score.bias, 1)
    pool = torch.arange(25.0).view(1, 1, 5, 5)
    found = fusion(torch.tensor([[[[16.0]]]]), pool)
    doubled = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1]))
    torch.testing.assert_close(found[0, 0], doubled + pool[0, 0, :4, :4] + 1)


def test_a_doubling_keeps_classes_apart():
    layer = learned_doubling(3)
    assert layer.bias is None
    found = layer(torch.tensor([0.0, 1, 0]).view(1, 3, 1, 1))[0]
    assert not found[[0, 2]].any()
    torch.testing.assert_close(found[1], bilinear_filter(4))


def test_scores_begin_at_zero():
    layer = score_layer(4, 3)
    assert layer.weight.shape == (3, 4, 1, 1)
    assert not any(weight.any() for weight in layer.parameters())


@pytest.mark.parametrize("build", [fcn32s, fcn8s])
def test_moving_the_image_by_the_stride_moves_the_logits(build):
    network, image = small(build), torch.randn(1, 2, 640, 2)
    with torch.inference_mode():
        whole, moved, by_less = (network(image[..., start:, :])[..., 32 - start :, :] for start in (0, 32, 16))
    inner = slice(260, 330)  # further from the border than the network sees
    torch.testing.assert_close(moved[..., inner, :], whole[..., inner, :], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(by_less[..., inner, :], whole[..., inner, :], atol=1e-2)


@pytest.fixture(scope="module")
def shapes_only() -> list[FCN]:
    with torch.device("meta"):
        return [build(1, 2, width=1, hidden=1) for build in FORMS]


@given(st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=10, deadline=None)
def test_any_size_is_covered(shapes_only, height, width):
    for network in shapes_only:
        assert network(torch.empty(1, 1, height, width, device="meta")).shape == (1, 2, height, width)


def test_dropout_acts_while_training_only():
    network, image = small(fcn32s), torch.randn(1, 2, 9, 9)
    assert torch.equal(network(image), network(image))
    assert not torch.equal(network.train()(image), network(image))
    assert [layer.p for layer in network.classifier if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("build", FORMS)
@pytest.mark.parametrize("options", [{"width": 0}, {"hidden": 0}, {"dropout": 1.0}])
def test_arguments_out_of_range_are_refused(build, options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} = .*: choose a value from"):
        build(1, 2, **options)
