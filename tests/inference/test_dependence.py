"""Where the gradient of the stand-ins is not zero, the real network depends on the image, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.inference.dependence import (
    Dependence,
    dependent_outputs,
    evaluating,
    one_thread,
    positive_kernel,
    unit_kernel,
)

SIDE, CHANNELS = 12, 4


class Forward(nn.Module):
    def __init__(self, function, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, feature: Tensor) -> Tensor:
        return self.function(feature, *self.layers)


def convolution(*args, **options) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, *args, **options)


def add_in_place(feature: Tensor, layer: nn.Module) -> Tensor:
    changed = layer(feature)
    changed += feature
    changed *= 0.5
    return changed.relu_()


def changed_in_passing(feature: Tensor, layer: nn.Module) -> Tensor:
    total, changed = torch.zeros_like(feature), layer(feature)
    total.add_(changed)
    changed.mul_(feature)
    changed.add_(total)
    return layer(changed)


def gated(feature: Tensor, layer: nn.Module) -> Tensor:
    return feature * layer(feature).mean((2, 3), keepdim=True).sigmoid()


def joined(feature: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    both = torch.cat([first(feature), second(feature)], dim=1)
    front, back = both.chunk(2, dim=1)
    return front[..., 1:-1, :] + back[:, :, 1:-1, :]


def joined_and_cropped(feature: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    both = torch.cat((first(feature), second(feature)), 1)
    return F.avg_pool2d(both[..., 2:, 2:], 3)


def shuffled(feature: Tensor, layer: nn.Module) -> Tensor:
    batch, channels, height, width = layer(feature).shape
    return layer(feature).view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(1, channels, -1, width)


def unpooled(feature: Tensor, layer: nn.Module) -> Tensor:
    pooled, indices = F.max_pool2d(layer(feature), 2, return_indices=True)
    flat = feature.new_zeros(*feature.shape[:2], feature.shape[2] * feature.shape[3])
    return flat.scatter(2, indices.flatten(2), pooled.flatten(2)).view(feature.shape)


def nailed(feature: Tensor, layer: nn.Module) -> Tensor:
    nails = feature.new_zeros(1, CHANNELS, 2 * SIDE, 2 * SIDE)
    nails[..., ::2, ::2] = layer(feature)
    return nails


def tokens(feature: Tensor, layer: nn.Module) -> Tensor:
    return layer(feature.flatten(2).mT).mT.unflatten(2, feature.shape[2:])


NETWORKS = {
    "convolution": convolution(3, padding=1),
    "strided": convolution(3, stride=2, padding=1),
    "even kernel": convolution((2, 4), dilation=(2, 1)),
    "depthwise": convolution(3, padding=1, groups=CHANNELS),
    "reflected": convolution(3, padding=1, padding_mode="reflect"),
    "transposed": nn.ConvTranspose2d(CHANNELS, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    "batch norm and dropout": nn.Sequential(convolution(3), nn.BatchNorm2d(CHANNELS), nn.Dropout(), nn.SiLU()),
    "pooling": nn.Sequential(convolution(1), nn.MaxPool2d(3, 2, padding=1)),
    "pooling, rounded up": nn.Sequential(convolution(1), nn.MaxPool2d(3, 2, ceil_mode=True)),
    "pooling, dilated": nn.Sequential(convolution(1), nn.MaxPool2d(2, 1, dilation=3)),
    "in place": Forward(add_in_place, convolution(3, padding=1)),
    "changed in passing": Forward(changed_in_passing, convolution(3, padding=1)),
    "gate": Forward(gated, convolution(1)),
    "joined": Forward(joined, convolution(3, padding=1), convolution((5, 1), padding=(2, 0))),
    "joined and cropped": Forward(joined_and_cropped, convolution(1), convolution(3, padding=1)),
    "channels shuffled": Forward(shuffled, convolution(3, padding=1)),
    "pixels shuffled": nn.Sequential(convolution(3, padding=1), nn.PixelShuffle(2), nn.Conv2d(1, 1, 2)),
    "bed of nails": nn.Sequential(Forward(nailed, convolution(1)), convolution(3)),
    "bilinear": nn.Sequential(nn.AvgPool2d(2), convolution(1), nn.Upsample(scale_factor=2, mode="bilinear")),
    "nearest": nn.Sequential(nn.AvgPool2d(3), convolution(1), nn.Upsample(size=(SIDE, 7))),
    "linear": Forward(tokens, nn.Sequential(nn.Linear(CHANNELS, 9), nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 2))),
    "heads": Forward(
        lambda f, layer: layer(*[f.flatten(2).permute(2, 0, 1)] * 3)[0].permute(1, 2, 0).unflatten(2, (SIDE, SIDE)),
        nn.MultiheadAttention(CHANNELS, 2),
    ),
    "prelu and clamp": Forward(lambda f, layer, prelu: prelu(layer(f)).clamp(-9, 9), convolution(2), nn.PReLU(4)),
    "1 - sigmoid": Forward(lambda f, layer: f[..., 1:-1, 1:-1] * (1 - layer(f).sigmoid()), convolution(3)),
    "squeezed": Forward(gated, nn.Sequential(convolution(3), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardswish())),
    "instance norm": nn.InstanceNorm2d(CHANNELS, affine=True),
    "group norm": nn.Sequential(nn.GroupNorm(2, CHANNELS), convolution(1)),
    "layer norm of the map": nn.LayerNorm([CHANNELS, SIDE, SIDE]),
    "strip pooling": Forward(lambda f: f + f.mean(2, keepdim=True)),
}


def really_seen(network: nn.Module, place: tuple[int, int], draws: int = 12) -> Tensor:
    """The pixels that the output at a place depends on for at least one of several draws of weights and images."""
    seen = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for _ in range(draws):
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        image = torch.randn(1, CHANNELS, SIDE, SIDE, requires_grad=True, dtype=torch.float64)
        output = network.double().eval()(image)
        (gradient,) = torch.autograd.grad(output[0, :, place[0], place[1]].square().sum(), image)
        seen |= gradient.abs().sum((0, 1)) > 1e-12
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_the_stand_ins_look_where_the_network_looks(name):
    torch.manual_seed(0)
    network = NETWORKS[name]
    image = torch.rand(1, CHANNELS, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    output = dependent_outputs(network, image, kernel=positive_kernel)[""]
    place = output.shape[-2] // 2, output.shape[-1] // 2
    (gradient,) = torch.autograd.grad(output[0, :, place[0], place[1]].sum(), image)
    assert output.shape == network.double().eval()(image).shape
    assert torch.equal(gradient.ne(0).any(1)[0], really_seen(network, place))


def test_a_network_of_the_meta_device_will_do_and_its_layers_are_handed_out():
    with torch.device("meta"):
        network = nn.Sequential(convolution(3), nn.Sequential(convolution(3), nn.ReLU()))
    image = torch.ones(1, CHANNELS, 9, 9, dtype=torch.float64, requires_grad=True)
    outputs = dependent_outputs(network, image, kernel=unit_kernel, layers=["0", "1.0"])
    assert {name: output[0, 0, 0, 0].item() for name, output in outputs.items()} == {"0": 9, "1.0": 81, "": 81}
    assert outputs["1.0"].shape == (1, CHANNELS, 5, 5)
    assert not network[0]._forward_hooks


def test_a_layer_that_gives_several_maps_stands_for_the_last():
    network = Forward(lambda f, many: many(f)[0], Forward(lambda f: [f, f[..., ::2]]))
    image = torch.ones(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert dependent_outputs(network, image, kernel=unit_kernel, layers=["layers.0"])["layers.0"].shape[-1] == 2


def test_what_does_not_come_from_the_image_is_not_replaced():
    with Dependence(unit_kernel):
        values = torch.tensor([-1.0, 2.0])
        assert values.relu().tolist() == [0, 2]
        assert values.clamp(0, 1).tolist() == [0, 1]
        assert torch.cat([values, values]).tolist() == [-1, 2, -1, 2]
        assert torch.zeros(2).scatter(0, torch.tensor([1]), values[1:]).tolist() == [0, 2]
    assert torch.ones(1, requires_grad=True).neg().relu().item() == 0, "behind it all is as before"


def test_values_scattered_from_no_pooling_go_where_they_are_sent():
    image = torch.rand(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([[[3, 2, 1, 0]]])
    turned = Forward(lambda f: torch.zeros_like(f).flatten(2).scatter(2, places, f.flatten(2)).view(1, 1, 2, 2))
    assert torch.equal(dependent_outputs(turned, image, kernel=unit_kernel)[""], image.flip(2, 3))


def test_unpooling_puts_the_value_of_a_window_at_all_its_places():
    image = torch.ones(1, CHANNELS, 4, 6, dtype=torch.float64, requires_grad=True)
    output = dependent_outputs(Forward(unpooled, convolution(1)), image, kernel=unit_kernel)[""]
    assert output.unique().tolist() == [4]


def test_modes_come_back_also_after_a_failure():
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval())
    threads = torch.get_num_threads()
    seen = []

    def fail() -> None:
        with evaluating(network), one_thread():
            seen.append((network.training, network[0].training, torch.get_num_threads()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [(False, False, 1)]
    assert [module.training for module in network.modules()] == [True, True, False]
    assert torch.get_num_threads() == threads


def test_the_positive_kernel_is_positive_and_the_same_each_time():
    kernel = positive_kernel((3, 5))
    assert kernel.shape == (3, 5)
    assert kernel.min() >= 0.5
    assert len(kernel.unique()) == 15
    assert torch.equal(kernel, positive_kernel((3, 5)))
