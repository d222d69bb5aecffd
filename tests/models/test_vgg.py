from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.vgg import VGGStages


def stages_on_paper(in_channels: int = 3, **options: int | tuple[int, ...]) -> VGGStages:
    with torch.device("meta"):
        return VGGStages(in_channels, **options)


def through(stages: nn.ModuleList, image: Tensor) -> list[Tensor]:
    """The map of each stage, halved between the stages."""
    features = []
    for stage in stages:
        features.append(stage(image))
        image = F.max_pool2d(features[-1], 2)
    return features


@pytest.mark.parametrize(("layers", "count"), [(11, 9_220_480), (13, 9_404_992), (16, 14_714_688), (19, 20_024_384)])
def test_parameters_of_the_convolutions(layers, count):
    stages = stages_on_paper(layers=layers)
    assert sum(p.numel() for p in stages.parameters()) == count
    convolutions = [layer for layer in stages.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == layers - 3  # the other three are fully connected
    assert all(layer.kernel_size == (3, 3) for layer in convolutions)


@pytest.mark.parametrize("layers", [11, 13, 16, 19])
def test_each_stage_keeps_the_size_and_gives_its_channels(layers):
    stages = stages_on_paper(1, layers=layers, width=8)
    assert stages.channels == (8, 16, 32, 64, 64)
    shapes = [feature.shape[1:] for feature in through(stages, torch.empty(1, 1, 48, 32, device="meta"))]
    assert [tuple(shape) for shape in shapes] == [
        (8, 48, 32), (16, 24, 16), (32, 12, 8), (64, 6, 4), (64, 3, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("layers", [11, 13, 16, 19])
def test_weights_of_timm_have_the_same_order_and_shapes(layers):
    timm = pytest.importorskip("timm")
    stages = stages_on_paper(layers=layers)
    with torch.device("meta"):
        theirs = timm.create_model(stages.timm_name).features.state_dict()
    ours = stages.state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]


def test_with_the_weights_of_timm_it_gives_the_maps_of_timm():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):  # timm makes the fully connected layers before it drops them
        theirs = timm.create_model("vgg11", features_only=True).eval()
    torch.manual_seed(0)
    ours = VGGStages(3, layers=11)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)), assign=True)
    image = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        found, expected = through(ours, image), theirs(image)
    for ours_BCHW, theirs_BCHW in zip(found, expected, strict=False):  # timm adds the last pooling
        torch.testing.assert_close(ours_BCHW, theirs_BCHW, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(F.max_pool2d(found[-1], 2), expected[-1], atol=1e-5, rtol=1e-4)


def test_the_border_is_added_by_the_first_convolution_only():
    sizes = [
        feature.shape[-1]
        for feature in through(stages_on_paper(border=100), torch.empty(1, 3, 500, 2, device="meta").mT)
    ]
    assert sizes == [698, 349, 174, 87, 43]


def test_dilated_stages_keep_the_size_and_see_further():
    torch.manual_seed(0)
    stages = VGGStages(1, width=1, dilations=(1, 1, 1, 1, 2))
    assert {layer.dilation for layer in stages[4] if isinstance(layer, nn.Conv2d)} == {(2, 2)}
    assert {layer.dilation for layer in stages[3] if isinstance(layer, nn.Conv2d)} == {(1, 1)}
    for weight in stages.parameters():
        nn.init.ones_(weight)
    feature = torch.ones(1, 8, 15, 15, requires_grad=True)
    out = stages[4](feature)
    assert out.shape == feature.shape
    (gradient,) = torch.autograd.grad(out[0, 0, 7, 7], feature)
    assert gradient[0, 0, 7].nonzero().flatten().tolist() == [1, 3, 5, 7, 9, 11, 13]  # three times 2 on each side


def test_other_numbers_of_layers_are_refused():
    with pytest.raises(UsageError, match="layers = 12: choose one of 11, 13, 16, 19"):
        VGGStages(3, layers=12)
