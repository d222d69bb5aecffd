from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.deeplab import AtrousVGG, deeplabv1
from pixelwise.models.encoders import build_encoder
from pixelwise.models.parsenet import GlobalContext, L2Norm, ParseNet, parsenet


class Encoder(nn.Module):
    """An encoder as a user may write it, with strides that are no powers of two."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides, self.timm_name = (4, 8), (3, 6), ""
        self.first, self.second = nn.Conv2d(2, 4, 3, stride=3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        low = self.first(image_BCHW).relu()
        return [low, self.second(low).relu()]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# Normalisation


def test_vectors_get_the_length_of_the_scale():
    norm = L2Norm(2)
    assert norm(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).flatten().tolist() == pytest.approx([6, 8])
    feature = torch.randn(3, 5, 4, 6) * 100
    torch.testing.assert_close(L2Norm(5, scale=20)(feature).norm(dim=1), torch.full((3, 4, 6), 20.0))


def test_every_position_is_normalised_by_itself():
    feature = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.5]]]])
    torch.testing.assert_close(L2Norm(2)(feature), torch.tensor([[[[6.0, 0.0]], [[8.0, 10.0]]]]))


def test_it_is_normalisation_by_torch_times_a_learned_factor_per_channel():
    norm, feature = L2Norm(4), torch.randn(2, 4, 3, 5)
    factors = torch.tensor([1.0, -2, 0, 7])
    with torch.no_grad():
        norm.scale.copy_(factors.view(4, 1, 1))
    expected = F.normalize(feature, dim=1) * factors.view(1, 4, 1, 1)
    torch.testing.assert_close(norm(feature), expected)
    norm(feature).sum().backward()
    torch.testing.assert_close(norm.scale.grad.flatten(), F.normalize(feature, dim=1).sum((0, 2, 3)))


def test_a_vector_of_zeros_stays_one_and_breaks_no_gradient():
    norm, feature = L2Norm(3), torch.zeros(1, 3, 2, 2, requires_grad=True)
    given = norm(feature)
    assert not given.any()
    given.sum().backward()
    assert feature.grad.isfinite().all()


def test_lengths_are_exact_in_bfloat16():
    feature = torch.full((1, 1024, 1, 1), 1.0, dtype=torch.bfloat16)
    torch.testing.assert_close(L2Norm(1024)(feature).float(), torch.full((1, 1024, 1, 1), 10 / 32))


# Context


def test_the_context_is_the_normalised_average_at_every_position():
    feature = torch.randn(2, 3, 4, 5).relu()
    given = GlobalContext(3)(feature)
    assert given.shape == (2, 6, 4, 5)
    torch.testing.assert_close(given[:, :3], 10 * F.normalize(feature, dim=1))
    average = 10 * F.normalize(F.adaptive_avg_pool2d(feature, 1), dim=1)
    torch.testing.assert_close(given[:, 3:], average.expand(2, 3, 4, 5))


def test_map_and_average_have_factors_of_their_own():
    context = GlobalContext(7, scale=3)
    assert parameters(context) == 2 * 7
    assert all((p == 3).all() for p in context.parameters())


def test_every_position_sees_the_whole_image():
    torch.manual_seed(0)
    network, image = parsenet(1, 2, width=2).eval(), torch.randn(1, 1, 8, 600)
    changed = image.clone()
    changed[..., -8:] = 5
    plain = deeplabv1(1, 2, width=2).eval()
    with torch.inference_mode():
        assert torch.equal(plain(image)[..., :8], plain(changed)[..., :8])
        assert not torch.equal(network(image)[..., :8], network(changed)[..., :8])


# The network


def test_it_has_as_many_more_parameters_than_largefov_as_it_has_factors_and_weights_for_the_context():
    with torch.device("meta"):
        network, plain = parsenet(3, 21), deeplabv1(3, 21)
    assert parameters(network) == parameters(plain) + 2 * 1024 + 1024 * 21 == 20_528_981


@pytest.mark.parametrize("size", [(49, 25), (1, 9)])
def test_the_network_is_its_figure_on_largefov(size):
    torch.manual_seed(0)
    network, image = ParseNet(AtrousVGG(2, width=2), 3, channels=16).eval(), torch.randn(2, 2, *size)
    nn.init.uniform_(network.context.normalise_map.scale, 5, 20)
    feature = F.avg_pool2d(network.encoder(image)[-1], 3, stride=1, padding=1)
    for layer in network.fully_connected:
        if isinstance(layer, nn.Conv2d):
            feature = F.conv2d(feature, layer.weight, layer.bias, padding=layer.padding, dilation=layer.dilation).relu()

    def unit(vectors: Tensor) -> Tensor:
        return vectors / (vectors.square().sum(1, keepdim=True) + 1e-10).sqrt()

    local, everywhere = network.head.weight.split(16, dim=1)
    scores = F.conv2d(unit(feature) * network.context.normalise_map.scale, local, network.head.bias)
    scores = scores + F.conv2d(10 * unit(feature.mean((-2, -1), keepdim=True)), everywhere)
    expected = F.interpolate(scores, size=size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
def test_an_encoder_of_ones_own_will_do(size):
    network = ParseNet(Encoder(), 3, channels=8).eval()
    assert network.stride == 6
    assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(("name", "stride"), [("mobilenetv3_small_050", 8), ("convnext_atto", 16), ("densenet121", 32)])
def test_other_encoders_will_do(name, stride):
    with torch.device("meta"):
        network = ParseNet(build_encoder(name, 3, output_stride=stride), 4, channels=8).eval()
        assert network(torch.zeros(1, 3, 65, 97)).shape == (1, 4, 65, 97)
    assert network.stride == stride


def test_the_scale_is_an_argument():
    network = parsenet(1, 2, width=1, scale=15.0)
    assert (network.context.normalise_map.scale == 15).all()
    assert (network.context.normalise_average.scale == 15).all()


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": float("nan")}, {"width": 0}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} = .*: choose a value from"):
        parsenet(1, 2, **options)
