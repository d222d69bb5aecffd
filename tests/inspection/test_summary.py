from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.inspection.summary import Layer, Summary, fitting_depth, folded, learnable, summarise
from pixelwise.models.convolution import SeparableConv
from pixelwise.models.registry import MODELS, build_model


def summary_of(build, in_channels: int = 3, size: tuple[int, int] = (8, 8)) -> Summary:
    with torch.device("meta"):
        return summarise(build(), in_channels, size)


def only(build, in_channels: int = 3, size: tuple[int, int] = (8, 8)) -> Layer:
    (layer,) = summary_of(build, in_channels, size).layers
    return layer


# Counting by hand


@pytest.mark.parametrize(
    ("build", "kind", "shape", "parameters", "multiply_adds"),
    [
        (lambda: nn.Conv2d(3, 16, 3, padding=1), "conv 3×3", (16, 8, 8), 448, 27 * 16 * 64),
        (lambda: nn.Conv2d(3, 16, (1, 5), stride=2, bias=False), "conv 1×5 /2", (16, 4, 2), 240, 240 * 8),
        (lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2), "conv 3×3 rate 2", (4, 8, 8), 112, 108 * 64),
        (lambda: nn.Conv2d(3, 6, 3, groups=3), "depthwise 3×3", (6, 6, 6), 60, 54 * 36),
        (lambda: nn.ConvTranspose2d(3, 5, 2, stride=2), "up-conv 2×2 /2", (5, 16, 16), 65, 60 * 64),
        (lambda: nn.Linear(8, 10), "linear", (3, 8, 10), 90, 80 * 24),
        (lambda: nn.BatchNorm2d(3), "norm", (3, 8, 8), 6, 0),
        (lambda: nn.PReLU(), "PReLU", (3, 8, 8), 1, 0),
    ],
)
def test_one_layer(build, kind, shape, parameters, multiply_adds):
    layer = only(lambda: nn.Sequential(build()))
    assert (layer.kind, layer.shape) == (kind, shape)
    assert (layer.parameters, layer.multiply_adds) == (parameters, multiply_adds)
    assert layer.name == "0"


def test_grouped_convolutions_are_named_by_their_groups():
    assert only(lambda: nn.Conv2d(8, 8, 1, groups=4), in_channels=8).kind == "4 groups 1×1"


def test_a_separable_convolution_costs_a_small_part_of_the_full_one():
    full = summary_of(lambda: nn.Conv2d(3, 256, 5, padding=2, bias=False))
    separable = summary_of(lambda: SeparableConv(3, 256, 5))
    assert (full.parameters, full.multiply_adds) == (19_200, 1_228_800)
    assert (separable.parameters, separable.multiply_adds) == (843, 53_952)
    assert separable.multiply_adds / full.multiply_adds == 1 / 256 + 1 / 25


def test_a_norm_belongs_to_the_convolution_that_feeds_it_alone():
    behind = only(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()))
    assert (behind.name, behind.kind, behind.parameters) == ("0", "conv 3×3 + norm", 108 + 8)
    between = summary_of(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.InstanceNorm2d(4)))
    assert [layer.kind for layer in between.layers] == ["conv 3×3", "norm"]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.unused = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3)
        self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return F.conv2d(self.frozen(self.shared(self.shared(image))), self.unused.weight) * self.scale


def test_shared_frozen_unused_and_direct_weights():
    summary = summary_of(Twice)
    assert [(layer.name, layer.parameters) for layer in summary.layers] == [
        ("shared", 12),
        ("shared", 0),
        ("frozen", 0),
        ("(network)", 3),
    ]
    assert summary.parameters == 12 + 84 + 3
    assert summary.idle_parameters == 84
    assert summary.multiply_adds_between == 81 * 36, "the convolution that runs through its weights"
    assert summary.multiply_adds == 3 * 9 * 64 + 81 * 36


def test_a_layer_gives_a_map_or_not():
    assert only(lambda: nn.Sequential(nn.Conv2d(3, 4, 3))).source == "0"
    assert only(lambda: nn.Sequential(nn.Linear(8, 10))).source == ""


def test_counting_takes_no_memory_and_leaves_the_network_as_it_was():
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 4096, 9), nn.Dropout(), nn.Conv2d(4096, 4096, 9))
    summary = summarise(network, 3, (8192, 8192))
    assert summary.shape == (4096, 8176, 8176)
    assert network.training
    assert not network[0]._forward_hooks
    assert learnable(network) == summary.parameters


# Every model


@pytest.mark.parametrize("name", MODELS)
def test_every_multiply_add_of_a_model_is_one_of_a_layer(name):
    with torch.device("meta"):
        network = build_model(name, in_channels=2, classes=3, options=MODELS[name].small)
    summary = summarise(network, 2, (65, 97))
    assert summary.shape == (3, 65, 97)
    assert summary.parameters == sum(parameter.numel() for parameter in network.parameters())
    if name == "patch_classifier":  # it runs its layers through their weights, spread out
        assert summary.idle_parameters > 0
        assert summary.multiply_adds_between > 0
    else:
        assert summary.idle_parameters == 0
        assert summary.multiply_adds_between == 0, "torch's own counter counts the same"


# Summing up


def layer(name: str, **changes) -> Layer:
    plain = Layer(name=name, kind="conv 3×3", shape=(1, 2, 3), parameters=1, multiply_adds=10, source=name)
    return replace(plain, **changes)


def test_layers_are_summed_up_by_the_beginning_of_their_names():
    layers = [layer("a.0.x"), layer("b"), layer("a.0.y", shape=(7, 2, 3)), layer("a.1.x")]
    assert folded(layers, 1) == [
        layer("a", kind="3 layers", parameters=3, multiply_adds=30, source="a.1.x"),
        layer("b"),
    ]
    assert [found.name for found in folded(layers, 2)] == ["a.0", "b", "a.1.x"]
    assert folded(layers, 2)[0].shape == (7, 2, 3)
    assert folded(layers, 9) == [layers[0], layers[1], layers[2], layers[3]]


@pytest.mark.parametrize(("lines", "depth"), [(40, 3), (4, 3), (3, 2), (2, 1), (1, 1)])
def test_as_deep_as_the_lines_allow(lines, depth):
    layers = [layer("a.0.x"), layer("b"), layer("a.0.y"), layer("a.1.x")]
    assert fitting_depth(layers, lines) == depth


def test_nothing_is_folded_to_nothing():
    assert folded([], 2) == []
    assert fitting_depth([], 40) == 1
