from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_encoder import ToyEncoder, top_of_image_and_of_longer_image

from pixelwise.errors import UsageError
from pixelwise.models.encoders import build_encoder
from pixelwise.models.enlarge import cut_to, enlarge
from pixelwise.models.unet_encoder import KEEPS_CHANNELS, UNetOnEncoder, UpStep, unet_on_encoder
from pixelwise.models.upsample import UPSAMPLING

SIZES = [(1, 1), (1, 50), (31, 33)]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# Enlarging


def test_enlarging_repeats_or_interpolates_and_cuts():
    line = torch.tensor([[[[0.0, 4.0]]]])
    assert enlarge(line, (1, 4), factor=2).tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]
    assert enlarge(line, (1, 3), factor=2).tolist() == [[[[0.0, 1.0, 3.0]]]]
    assert enlarge(line, (2, 5), factor=3, curve="nearest").tolist() == [[[[0.0, 0.0, 0.0, 4.0, 4.0]] * 2]]
    assert enlarge(line, (1, 1), factor=1).tolist() == [[[[0.0]]]]


@pytest.mark.parametrize("size", [(1, 1), (8, 12), (7, 11), (5, 9)])
@pytest.mark.parametrize("curve", ["nearest", "bilinear"])
def test_enlarging_by_four_is_the_beginning_of_interpolation_by_four(size, curve):
    feature = torch.randn(2, 3, -(-size[0] // 4), -(-size[1] // 4))
    whole = F.interpolate(feature, scale_factor=4, mode=curve)
    assert torch.equal(enlarge(feature, size, factor=4, curve=curve), whole[..., : size[0], : size[1]])


@pytest.mark.parametrize("length", range(1, 40))
def test_cutting_a_doubled_map_is_resizing_by_nearest_neighbours(length):
    halved = torch.randn(1, 1, -(-length // 2), 2)
    resized = F.interpolate(halved, size=(length, 4), mode="nearest")
    assert torch.equal(enlarge(halved, (length, 4), factor=2, curve="nearest"), resized)


@pytest.mark.parametrize("length", range(1, 30))
def test_enlarging_by_a_fraction_lasts_to_the_end(length):
    ramp = torch.arange(40.0).view(1, 1, 1, 40)[..., : -(-length // 6)]  # a map at stride 6
    size = (1, -(-length // 4))
    enlarged = enlarge(ramp, size, factor=1.5)[0, 0, 0]
    expected = ((torch.arange(size[1]) + 0.5) / 1.5 - 0.5).clamp(0, ramp.shape[3] - 1)
    torch.testing.assert_close(enlarged, expected)


def test_a_map_that_was_rounded_down_is_stretched():
    assert cut_to(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), (3, 1)).tolist() == [[[[1.0], [1.0], [3.0]]]]


# The network


def test_the_decoder_on_resnet34_has_the_usual_number_of_parameters():
    smp = pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        ours, theirs = unet_on_encoder(3, 1), smp.Unet("resnet34", encoder_weights=None, classes=1)
    assert parameters(ours) == parameters(theirs) == 24_436_369
    assert parameters(ours) - parameters(ours.encoder) == 3_151_697


def test_the_same_weights_give_the_same_logits_as_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    ours = unet_on_encoder(3, 5, encoder="resnet18").eval()
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=5).eval()
    weights = [value for key, value in theirs.state_dict().items() if "encoder.fc" not in key]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-5)


@pytest.fixture(
    scope="module",
    params=["resnet18", "mobilenetv3_small_050", "convnext_atto", (3, 6, 12), (1, 2), (4, 6, 12), (4, 8, 8), (5,)],
    ids=str,
)
def encoder(request):
    return build_encoder(request.param, 2) if isinstance(request.param, str) else ToyEncoder(strides=request.param)


@pytest.mark.parametrize("size", SIZES)
def test_every_encoder_and_every_size(encoder, size):
    network = UNetOnEncoder(encoder, 3, width=4).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("name", ["densenet121", "swin_tiny_patch4_window7_224", "vgg16", "resnet50"])
def test_large_encoders_of_all_kinds(name):
    with torch.device("meta"):
        network = unet_on_encoder(3, 7, encoder=name)
        assert network.eval()(torch.empty(1, 3, 65, 40)).shape == (1, 7, 65, 40)
    assert network.encoder.timm_name == name
    assert network.stride == max(network.encoder.strides)


def step_sizes(network: UNetOnEncoder, height: int, width: int) -> list[tuple[int, ...]]:
    maps = []
    for step in network.decoder:
        step.register_forward_hook(lambda step, given, made: maps.append(tuple(made.shape[1:])))
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 2, height, width))
    return maps


def test_each_step_leads_to_the_size_of_its_partner_and_the_last_to_the_image():
    network = UNetOnEncoder(build_encoder("resnet18", 2), 3)
    assert step_sizes(network, 33, 50) == [(256, 3, 4), (128, 5, 7), (64, 9, 13), (32, 17, 25), (16, 33, 50)]
    assert step_sizes(UNetOnEncoder(ToyEncoder(), 3, width=2), 31, 33) == [(8, 6, 6), (4, 11, 11), (2, 31, 33)]
    assert step_sizes(UNetOnEncoder(ToyEncoder(strides=(1, 2)), 3, width=2), 5, 6) == [(2, 5, 6)]


def test_the_steps_but_for_the_last_may_be_supervised():
    network = UNetOnEncoder(ToyEncoder(), 3, width=2)
    assert network.supervised == ("decoder.0", "decoder.1")
    assert UNetOnEncoder(ToyEncoder(strides=(1, 2)), 3).supervised == ()


def test_the_stride_is_the_least_that_all_maps_share():
    assert UNetOnEncoder(ToyEncoder(), 3, width=2).stride == 12
    assert UNetOnEncoder(ToyEncoder(strides=(4, 6)), 3, width=2).stride == 12


@pytest.mark.parametrize("upsampling", ["nearest", "transposed", "up_convolution"])
@pytest.mark.parametrize("strides", [(3, 6, 12), (4, 8), (3, 9), (4, 6)])
def test_what_lies_far_below_changes_nothing(upsampling, strides):
    torch.manual_seed(0)
    network = UNetOnEncoder(ToyEncoder(strides=strides), 3, width=2, upsampling=upsampling)
    shorter, longer = top_of_image_and_of_longer_image(network)
    torch.testing.assert_close(shorter, longer, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("upsampling", ["up_convolution", *UPSAMPLING])
def test_every_operator_and_its_channels(upsampling):
    torch.manual_seed(0)
    network = UNetOnEncoder(ToyEncoder(strides=(2, 4, 4)), 3, width=2, upsampling=upsampling)
    assert network.eval()(torch.randn(1, 2, 7, 9)).shape == (1, 3, 7, 9)
    inputs = [step.convolutions[0][0].in_channels for step in network.decoder]
    # Encoder channels 4, 5, 6; decoder channels 8, 4, 2; the first step enlarges nothing.
    assert inputs == ([6 + 5, 8 + 4, 4] if upsampling in KEEPS_CHANNELS else [6 + 5, 4 + 4, 2])


def test_operators_keep_their_start():
    torch.manual_seed(0)
    step = UNetOnEncoder(ToyEncoder(strides=(2, 4)), 3, upsampling="pixel_shuffle").decoder[0]
    up = step.up(torch.randn(1, 5, 3, 3))
    assert torch.equal(up[..., ::2, ::2], up[..., 1::2, 1::2])
    assert step.convolutions[1][0].weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)


def test_a_step_that_is_no_whole_number_covers_the_whole_map():
    step = UpStep(1, 0, 1, enlarged=1.5, upsampling="nearest")
    step.convolutions = nn.Identity()
    deep = torch.tensor([[[[0.0, 10.0]]]])
    assert step(deep, None, torch.Size([1, 3]))[0, 0, 0].tolist() == pytest.approx([0.0, 5.0, 10.0])


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 2000}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=r"width = .*: choose a value from"):
        UNetOnEncoder(ToyEncoder(), 3, **options)


def test_unknown_operators_are_refused():
    with pytest.raises(UsageError, match=r"upsampling = up: choose one of up_convolution, nearest"):
        UNetOnEncoder(ToyEncoder(), 3, upsampling="up")
