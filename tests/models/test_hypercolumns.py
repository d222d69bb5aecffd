from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy_encoder import ToyEncoder, top_of_image_and_of_longer_image

from pixelwise.errors import UsageError
from pixelwise.models.encoders import build_encoder
from pixelwise.models.enlarge import enlarge
from pixelwise.models.hypercolumns import Hypercolumns, VGG16Columns, grid_shares, hypercolumns


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def stacked(network: Hypercolumns, image: Tensor) -> Tensor:
    """The hypercolumns themselves: all maps of the encoder at the size of the image, one above the other."""
    maps = zip(network.encoder(image), network.encoder.strides, strict=True)
    return torch.cat([enlarge(feature, image.shape[-2:], factor=stride) for feature, stride in maps], dim=1)


# The paper's maps


def test_the_network_on_vgg16_has_the_parameters_of_its_layers():
    convolutions = 14_714_688
    fc6, fc7 = 512 * 7 * 7 * 4096 + 4096, 4096 * 4096 + 4096
    column = 128 + 512 + 4096
    assert column == 4736
    with torch.device("meta"):
        network = hypercolumns(3, 21)
        gridded = hypercolumns(3, 1, grid=5)
    assert parameters(network) == convolutions + fc6 + fc7 + 21 * column + 21 == 134_360_021
    assert parameters(gridded) == convolutions + fc6 + fc7 + 25 * column + 25


def test_the_maps_of_vgg16_are_those_after_the_second_pooling_before_the_fourth_and_at_the_end():
    with torch.device("meta"):
        encoder = VGG16Columns(3)
        maps = encoder(torch.empty(1, 3, 224, 100))
    assert [tuple(feature.shape[1:]) for feature in maps] == [(128, 56, 25), (512, 28, 13), (4096, 7, 4)]
    assert [feature.shape[1] for feature in maps] == list(encoder.channels)
    assert [224 // feature.shape[2] for feature in maps] == list(encoder.strides)


def test_the_weights_of_timm_fit_in_their_order():
    with torch.device("meta"):
        encoder, theirs = VGG16Columns(3), timm.create_model("vgg16")
    shapes = [p.shape for p in encoder.parameters()]
    assert shapes == [p.shape for p in theirs.parameters()][: len(shapes)]
    assert encoder.timm_name == "vgg16"
    assert len(shapes) == 2 * (13 + 2)


def test_the_convolutional_maps_of_vgg16_are_those_of_timm():
    torch.manual_seed(0)
    theirs = timm.create_model("vgg16", features_only=True).eval()
    with torch.device("meta"):
        encoder = VGG16Columns(3).eval()
    encoder.fc6 = encoder.fc7 = nn.Identity()
    weights = theirs.state_dict().values()
    encoder.load_state_dict(dict(zip(encoder.state_dict(), weights, strict=True)), assign=True)
    image = torch.randn(1, 3, 32, 64)
    with torch.inference_mode():
        pool2, conv4, pool5 = encoder(image)
        expected = theirs(image)
        torch.testing.assert_close(pool2, F.max_pool2d(expected[1], 2))
        torch.testing.assert_close(conv4, expected[3])
        torch.testing.assert_close(pool5, expected[5])


# Classifying columns


@pytest.mark.parametrize("size", [(24, 36), (31, 33)])
def test_the_sum_of_enlarged_scores_is_a_1x1_convolution_of_the_stack(size):
    torch.manual_seed(0)
    network, image = Hypercolumns(ToyEncoder(), 3).eval(), torch.randn(2, 2, *size)
    weight = torch.cat([classifier.weight for classifier in network.classifiers], dim=1)
    assert weight.shape == (3, sum(network.encoder.channels), 1, 1)
    with torch.inference_mode():
        expected = F.conv2d(stacked(network, image), weight, network.classifiers[0].bias)
        torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-5)


def test_one_bias_serves_the_sum():
    biases = [classifier.bias is not None for classifier in Hypercolumns(ToyEncoder(), 3).classifiers]
    assert biases == [True, False, False]


def test_enlarging_is_bilinear():
    torch.manual_seed(0)
    network, image = Hypercolumns(ToyEncoder(strides=(4,)), 3).eval(), torch.randn(1, 2, 16, 24)
    with torch.inference_mode():
        scores = network.classifiers[0](network.encoder(image)[0])
        expected = F.interpolate(scores, size=(16, 24), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image), expected)


def share_by_hand(cell: tuple[int, int], pixel: tuple[int, int], size: tuple[int, int], grid: int) -> float:
    """A tent of the width of a cell around its centre; the outer cells count beyond their centres."""
    share = 1.0
    for own, place, length in zip(cell, pixel, size, strict=True):
        position = min(max((place + 0.5) / length * grid - 0.5, 0), grid - 1)
        share *= max(0.0, 1 - abs(position - own))
    return share


@pytest.mark.parametrize(("grid", "size"), [(2, (4, 6)), (3, (7, 5)), (5, (3, 11))])
def test_each_pixel_is_judged_by_the_classifiers_around_it(grid, size):
    torch.manual_seed(0)
    network, image = Hypercolumns(ToyEncoder(strides=(1, 2)), 2, grid=grid).eval(), torch.randn(1, 2, *size)
    weight = torch.cat([classifier.weight for classifier in network.classifiers], dim=1)[..., 0, 0]
    weight, bias = weight.view(grid, grid, 2, -1), network.classifiers[0].bias.view(grid, grid, 2)
    with torch.inference_mode():
        logits, columns = network(image)[0], stacked(network, image)[0]
        for row in range(size[0]):
            for column in range(size[1]):
                expected = sum(
                    share_by_hand((i, j), (row, column), size, grid)
                    * (weight[i, j] @ columns[:, row, column] + bias[i, j])
                    for i in range(grid)
                    for j in range(grid)
                )
                torch.testing.assert_close(logits[:, row, column], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33), (30, 30)])
@pytest.mark.parametrize("grid", [1, 2, 10])
def test_shares_sum_to_one_and_cells_rule_at_their_centres(grid, size):
    shares = grid_shares(grid, size)
    assert shares.shape == (grid**2, *size)
    torch.testing.assert_close(shares.sum(0), torch.ones(size))
    assert shares.min() >= 0
    if size == (30, 30) and grid == 2:
        assert shares[:, 7:9, 7:9].mean((1, 2)).argmax() == 0
        assert grid_shares(10, (30, 30))[11, 4, 4] == 1


def test_equal_classifiers_judge_as_one():
    torch.manual_seed(0)
    one = Hypercolumns(ToyEncoder(), 3).eval()
    many = Hypercolumns(one.encoder, 3, grid=4).eval()
    with torch.inference_mode():
        for single, cells in zip(one.classifiers, many.classifiers, strict=True):
            cells.weight.copy_(single.weight.repeat(16, 1, 1, 1))
        many.classifiers[0].bias.copy_(one.classifiers[0].bias.repeat(16))
        image = torch.randn(2, 2, 31, 33)
        torch.testing.assert_close(many(image), one(image), atol=1e-5, rtol=1e-5)


# Encoders and sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
@pytest.mark.parametrize("grid", [1, 3])
def test_every_encoder_and_every_size(encoder, size, grid):
    network = Hypercolumns(encoder, 3, grid=grid).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.fixture(
    scope="module", params=["resnet18", "mobilenetv3_small_050", "convnext_atto", (3, 6, 12), (4, 6), (5,)], ids=str
)
def encoder(request):
    return build_encoder(request.param, 2) if isinstance(request.param, str) else ToyEncoder(strides=request.param)


@pytest.mark.parametrize("name", ["densenet121", "swin_tiny_patch4_window7_224", "vgg16"])
def test_large_encoders_of_all_kinds(name):
    with torch.device("meta"):
        network = hypercolumns(3, 7, encoder=name)
        assert network.eval()(torch.empty(1, 3, 65, 40)).shape == (1, 7, 65, 40)
    assert len(network.classifiers) == len(network.encoder.channels)


def test_what_lies_far_below_changes_nothing():
    shorter, longer = top_of_image_and_of_longer_image(Hypercolumns(ToyEncoder(), 3), rows=120)
    torch.testing.assert_close(shorter, longer, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("grid", [0, 33])
def test_grids_out_of_range_are_refused(grid):
    with pytest.raises(UsageError, match=f"grid = {grid}: choose a value from 1 to 32"):
        Hypercolumns(ToyEncoder(), 3, grid=grid)
