"""Losses on maps within the network, and at several scales of the image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.config import read_config
from pixelwise.errors import UsageError
from pixelwise.losses.registry import parse_loss
from pixelwise.models.registry import MODELS, build_model
from pixelwise.models.unet import UNet
from pixelwise.task import Task
from pixelwise.training.setup import check_network
from pixelwise.training.supervision import (
    SupervisedLogits,
    SupervisedNetwork,
    auxiliary_head,
    auxiliary_heads,
    captured_maps,
    supervised_parts,
)

TASK = Task.of(["dark", "middle", "bright"])


@pytest.fixture
def network() -> UNet:
    """Its maps `decoder.0` and `decoder.1` may have losses of their own."""
    torch.manual_seed(0)
    return UNet(1, 3, width=8, depth=3)


@pytest.fixture
def heads() -> nn.ModuleList:
    with torch.device("meta"):
        blueprint = UNet(1, 3, width=8, depth=3)
    return auxiliary_heads(blueprint, torch.empty(1, 1, 16, 16, device="meta"), 3)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 1, 20, 27, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    mask_BHW = torch.randint(3, (2, 20, 27), generator=torch.Generator().manual_seed(2))
    mask_BHW[0, :5] = 255
    return mask_BHW


def cross_entropy(logits_BKHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """That of torch, as an independent one."""
    return F.cross_entropy(logits_BKHW, mask_BHW, ignore_index=255)


def resized(values_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values_BCHW, size=size, mode="bilinear", align_corners=False)


# Auxiliary heads


def test_a_head_is_that_of_pspnet():
    head = auxiliary_head(1024, 21)
    assert sum(p.numel() for p in head.parameters()) == 1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21 == 2_365_205
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Conv2d]
    layers = [layer for layer in head.modules() if not list(layer.children())]
    assert all(isinstance(layer, kind) for layer, kind in zip(layers, kinds, strict=True))
    assert layers[3].p == 0.1
    assert auxiliary_head(2, 3)(torch.zeros(1, 2, 1, 1)).shape == (1, 3, 1, 1)


def test_heads_fit_the_maps_of_the_network(heads):
    assert [head[0][0].in_channels for head in heads] == [32, 16]
    assert [head[-1].out_channels for head in heads] == [3, 3]
    assert not any(p.is_meta for p in heads.parameters())


def test_the_loss_is_the_sum_by_hand(network, heads, image, mask):
    supervised = SupervisedNetwork(network, heads).eval()
    loss = parse_loss("ce")
    found = supervised(image).loss(lambda logits: loss(logits, mask, TASK, None), auxiliary=0.4)

    *skips, deepest = network.encoder(image)
    first = network.decoder[0](deepest, skips[2])
    second = network.decoder[1](first, skips[1])
    last = network.decoder[2](second, skips[0])
    expected = cross_entropy(network.head(last), mask)
    for head, feature_BCHW in zip(heads, (first, second), strict=True):
        expected = expected + 0.4 * cross_entropy(resized(head(feature_BCHW), (20, 27)), mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_head_reaches_the_head_and_what_comes_before_its_map_only(network, heads, image, mask):
    outputs = SupervisedNetwork(network, heads).train()(image)
    cross_entropy(outputs.auxiliary[0], mask).backward()
    assert all(p.grad is not None and p.grad.any() for p in heads[0].parameters())
    assert all(p.grad is None for p in heads[1].parameters())
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {
        name for name, _ in network.named_parameters() if name.startswith(("encoder.levels", "decoder.0"))
    }


def test_a_network_alone_is_left_as_it_is(network, image):
    with torch.inference_mode():
        outputs = SupervisedNetwork(network).eval()(image)
        assert torch.equal(outputs.main[0], network(image))
    assert (len(outputs.main), outputs.auxiliary) == (1, [])
    assert outputs.loss(torch.sum, auxiliary=0.4) == outputs.main[0].sum()


@pytest.mark.parametrize("name", MODELS)
def test_every_network_that_names_maps_gets_logits_from_each(name):
    with torch.device("meta"):
        network = build_model(name, in_channels=2, classes=4, options=MODELS[name].small)
        image_BCHW = torch.empty(1, 2, 70, 65)
        heads = auxiliary_heads(network, image_BCHW, 4)
        outputs = SupervisedNetwork(network, heads).train()(image_BCHW)
    assert len(heads) == len(supervised_parts(network)) == len(outputs.auxiliary)
    assert {logits.shape for logits in (*outputs.main, *outputs.auxiliary)} == {(1, 4, 70, 65)}


def test_bfloat16_and_channels_last_give_nearly_the_same(network, heads, image):
    supervised = SupervisedNetwork(network, heads, scales=(0.5, 1)).eval()
    with torch.inference_mode():
        exact = supervised(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = supervised.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    for a, b in zip(exact.main + exact.auxiliary, rough.main + rough.auxiliary, strict=True):
        assert (a - b.float()).abs().max() <= 0.05 * a.abs().max() + 1e-3


# Maps


class TwoMaps(nn.Module):
    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        return [image_BCHW, image_BCHW[..., ::2, ::2]]


def test_one_map_of_several_is_named_by_its_place():
    network = nn.ModuleDict({"encoder": TwoMaps()})
    with captured_maps(network, ["encoder:-2", "encoder:1"]) as maps:
        network["encoder"](torch.zeros(1, 1, 8, 8))
    assert {name: found.shape[-1] for name, found in maps.items()} == {"encoder:-2": 8, "encoder:1": 4}


def test_nothing_is_left_behind_even_after_an_error(network, image):
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in network.modules())

    with captured_maps(network, network.supervised):
        assert hooks() == 2
    assert hooks() == 0
    with pytest.raises(RuntimeError), captured_maps(network, network.supervised):
        network(torch.zeros(1, 7, 8, 8))
    assert hooks() == 0


# Scales


def test_scales_are_fused_by_the_maximum_and_each_has_its_loss(network, image, mask):
    outputs = SupervisedNetwork(network, scales=(0.5, 0.75, 1)).eval()(image)
    half, most = (resized(network(resized(image, size)), (20, 27)) for size in ((10, 14), (15, 20)))
    whole = network(image)
    expected = [half, most, whole, torch.stack([half, most, whole]).amax(0)]
    for found, wanted in zip(outputs.main, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    loss = outputs.loss(lambda logits: cross_entropy(logits, mask), auxiliary=0.0)
    assert loss.item() == pytest.approx(sum(cross_entropy(logits, mask).item() for logits in expected), rel=1e-5)


def test_heads_have_their_loss_at_every_scale(network, heads, image):
    outputs = SupervisedNetwork(network, heads, scales=(0.5, 1)).eval()(image)
    assert (len(outputs.main), len(outputs.auxiliary)) == (3, 4)
    alone = SupervisedNetwork(network, heads).eval()(image)
    for found, wanted in zip(outputs.auxiliary[2:], alone.auxiliary, strict=True):
        torch.testing.assert_close(found, wanted)


# Resting


def test_what_rests_stays_in_use_while_the_network_trains(network, image):
    supervised = SupervisedNetwork(network, resting=network.encoder)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    supervised.train()(image)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)
    assert "resting" not in dict(supervised.named_children())
    assert supervised.eval().network.decoder.training is False
    assert SupervisedNetwork(network).train().network.encoder.training is True


# Refusals


def test_a_network_without_such_maps_is_refused_naming_those_that_have_some():
    with torch.device("meta"):
        flat = UNet(1, 2, width=4, depth=1)
    asked = read_config(overrides=["training.auxiliary=0.4", "model.depth=1"])
    with pytest.raises(UsageError, match=r"training\.auxiliary = 0\.4: unet .*no maps.*choose one of.*unet") as caught:
        check_network(flat, asked)
    assert "unet_paper" not in str(caught.value)
    check_network(flat, read_config(overrides=["training.auxiliary=0"]))


def test_a_sum_of_losses_keeps_the_gradients_of_each():
    values = [torch.tensor(float(number), requires_grad=True) for number in range(4)]
    SupervisedLogits(values[:2], values[2:]).loss(lambda logits: 3 * logits, auxiliary=0.5).backward()
    assert [value.grad.item() for value in values] == [3.0, 3.0, 1.5, 1.5]
