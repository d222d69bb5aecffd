"""Encoders: every family at every size, the same values as timm's own, and networks of one's own."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models import encoders
from pixelwise.models.encoders import (
    DILATED_FAMILIES,
    ModuleEncoder,
    build_encoder,
    dilates,
    parse_encoder,
    plan_encoder,
)

SIZES = [(1, 1), (31, 33), (97, 65)]
FAMILIES = [
    *("vgg11_bn", "resnet18", "densenet121", "inception_v3", "xception41", "efficientnet_b0", "convnext_atto"),
    *("swin_tiny_patch4_window7_224", "mobilenetv3_small_050", "mobilenetv1_100", "test_vit", "mobilevitv2_050"),
]
SMALL_SWIN = "swin_tiny_patch4_window7_224(embed_dim=24)"


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_cover_images_of_every_size(name: str):
    with torch.device("meta"):
        encoder = build_encoder(name, 3).eval()
    assert list(encoder.strides) == sorted(encoder.strides)
    for height, width in SIZES:
        with torch.no_grad():
            maps = encoder(torch.empty(1, 3, height, width, device="meta"))
        assert [tuple(feature.shape) for feature in maps] == [
            (1, channels, math.ceil(height / stride), math.ceil(width / stride))
            for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
        ]


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("name", ["vgg11_bn", "test_resnet"])
def test_images_of_any_number_of_channels(name: str, channels: int):
    with torch.device("meta"), torch.no_grad():
        encoder = build_encoder(name, channels).eval()
        maps = encoder(torch.empty(1, channels, 33, 40))
    assert [feature.shape[1] for feature in maps] == list(encoder.channels)


def test_channels_and_strides_as_published():
    assert plan_encoder("resnet18", 3).channels == (64, 64, 128, 256, 512)
    assert plan_encoder("vgg11_bn", 3).fit.strides == (1, 2, 4, 8, 16, 32)
    assert plan_encoder("vgg11_bn", 3).channels == (64, 128, 256, 512, 512, 512)
    assert plan_encoder("swin_tiny_patch4_window7_224", 3).channels == (96, 192, 384, 768)
    assert plan_encoder("test_vit", 3).fit.strides == (16, 16, 16)


@pytest.mark.parametrize(
    ("name", "side"), [("resnet18", 224), ("mobilenetv3_small_050", 224), ("test_convnext", 64), ("densenet121", 64)]
)
def test_values_are_those_of_timm(name: str, side: int):
    torch.manual_seed(0)
    encoder = build_encoder(name, 3).eval()
    theirs = timm.create_model(name, features_only=True).eval()
    theirs.load_state_dict(encoder.network.state_dict())
    image = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        for ours, expected in zip(encoder(image), theirs(image), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_maps_with_channels_last_are_turned_round():
    torch.manual_seed(0)
    encoder = build_encoder(SMALL_SWIN, 3).eval()
    theirs = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, embed_dim=24).eval()
    theirs.load_state_dict(encoder.network.state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        for ours, expected in zip(encoder(image), theirs(image), strict=True):
            torch.testing.assert_close(ours, expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)


def test_sizes_that_are_no_multiples_see_zeros_below_and_to_the_right():
    torch.manual_seed(0)
    encoder = build_encoder("test_convnext", 2).eval()
    image = torch.randn(1, 2, 41, 65)
    with torch.inference_mode():
        expected = encoder.network(F.pad(image, (0, 31, 0, 23)))
        for ours, whole, stride in zip(encoder(image), expected, encoder.strides, strict=True):
            assert torch.equal(ours, whole[..., : math.ceil(41 / stride), : math.ceil(65 / stride)])


def test_inception_sees_zeros_all_around_and_its_cells_stay_over_their_pixels():
    # 299 pixels give 149, 147, 147, 73, 71, 35, 17 and 8 cells in the paper; the first cell of the deepest map looks at
    # pixel 37 in its middle, that of the first map at pixel 3.
    fit = plan_encoder("inception_v3", 3).fit
    assert (fit.unit, fit.before, fit.after) == (32, 32, 32)
    middles = {2: 3, 4: 9, 8: 13, 16: 21, 32: 37}
    for stride, skipped in zip(fit.strides, fit.skipped, strict=True):
        looks_at = stride * skipped + middles[stride] - fit.before
        assert abs(looks_at - (stride - 1) / 2) <= stride / 2


@pytest.mark.parametrize(("output_stride", "strides"), [(8, (2, 4, 8, 8, 8)), (16, (2, 4, 8, 16, 16))])
def test_dilation_keeps_the_weights_and_the_size_of_the_maps(output_stride: int, strides: tuple[int, ...]):
    plain, dilated = (build_encoder("test_resnet", 3, output_stride=s).eval() for s in (32, output_stride))
    assert dilated.strides == strides
    dilated.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        maps = dilated(torch.randn(1, 3, 65, 33))
    assert [feature.shape[-2] for feature in maps] == [math.ceil(65 / stride) for stride in strides]


def test_a_network_whose_own_stride_is_small_enough_needs_no_dilation():
    assert plan_encoder("test_vit", 3, output_stride=16).fit.strides == (16, 16, 16)


@pytest.mark.parametrize("name", ["vgg11_bn", "test_vit"])
def test_output_strides_that_a_family_has_not_are_refused_with_those_that_have(name: str):
    with pytest.raises(UsageError, match=rf"output_stride = 8: {name} has \d+ only.* resnet, ") as refusal:
        build_encoder(name, 3, output_stride=8)
    assert all(family in str(refusal.value) for family in DILATED_FAMILIES)
    with pytest.raises(UsageError, match="choose one of 8, 16, 32"):
        build_encoder(name, 3, output_stride=4)


def test_the_list_of_families_that_dilate_is_that_of_timm():
    """Each family is asked through the network with the shortest name; most refuse before anything is built."""
    families = {name: timm.list_models(module=name) for name in timm.list_modules()}
    found = []
    for family, names in families.items():
        try:
            with torch.device("meta"):
                network = timm.create_model(min(names, key=len), features_only=True, output_stride=16)
        except (TypeError, AssertionError, RuntimeError, ValueError):
            continue
        if max(network.feature_info.reduction()) == 16:
            found.append(family)
    assert found == [family for family in DILATED_FAMILIES if families.get(family)]
    assert dilates("resnet18.a1_in1k")
    assert not dilates("vgg16")
    assert is_model_in_modules("xception41", ["xception_aligned"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet81", "no encoder 'resnet81'; did you mean 'resnet18'"),
        ("qqqqqqqq", "`pixelwise encoders` lists them"),
        ("tf_efficientnet_b0_ns", "did you mean 'tf_efficientnet_b0.ns_jft_in1k'"),
        ("resnet18.nonsense", "no weights 'nonsense' of resnet18; choose one of resnet18.a1_in1k"),
        ("hf-hub:timm/resnet18", "not the name of an encoder"),
        ("local-dir:/tmp", "not the name of an encoder"),
        ("", "not the name of an encoder"),
        ("resnet18(", "not the name of an encoder"),
        ("resnet18(silu)", "cannot understand 'silu'"),
        ("resnet18(a-b=1)", "cannot understand 'a-b=1'"),
        ("resnet18(act_layer=__import__('os'))", "cannot understand"),
        ("resnet18(act_layer=relu, act_layer=silu)", "given twice"),
        ("resnet18(pretrained=true)", "pretrained .* leave it out"),
        ("resnet18(checkpoint_path=model.pth)", "checkpoint_path .* leave it out"),
        ("resnet18(in_chans=4)", "in_chans .* leave it out"),
        ("resnet18(base_width=1000000)", "base_width = 1000000: choose a value from"),
        ("resnet18(bn_epsilon=1e-3)", "'bn_epsilon'"),
        ("resnet18(act_layer=nonsense)", "timm refuses it"),
        ("coat_tiny", "coat_tiny cannot be an encoder of images of any size"),
        ("crossvit_9_240", "crossvit_9_240 cannot be an encoder of images of any size"),
    ],
)
def test_names_that_cannot_be_an_encoder_say_why_and_what_can(name: str, said: str):
    with pytest.raises(UsageError, match=said):
        build_encoder(name, 3)


def test_a_network_that_reads_three_channels_only_says_so():
    with pytest.raises(UsageError, match="with 2 channels"):
        build_encoder("csatv2", 2)
    with pytest.raises(UsageError, match="in_channels = 0"):
        build_encoder("resnet18", 0)


def test_arguments_in_the_name_reach_the_network():
    assert parse_encoder(" test_efficientnet ( pad_type = 'same' , bn_eps=1e-3,drop_rate=0, exportable_=TRUE ) ") == (
        "test_efficientnet",
        {"pad_type": "same", "bn_eps": 1e-3, "drop_rate": 0, "exportable_": True},
    )
    encoder = build_encoder("test_efficientnet.r160_in1k(pad_type=same, bn_eps=1e-3)", 3).eval()
    assert encoder.timm_name == "test_efficientnet.r160_in1k"
    assert {m.eps for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    plain = build_encoder("test_efficientnet", 3).eval()
    plain.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.allclose(encoder(image)[0], plain(image)[0])


def test_every_family_refuses_an_argument_that_it_does_not_know():
    """None of the families ignores one silently; looked at for those that a user meets first."""
    for name in ("vgg11", "test_resnet", "test_efficientnet", "test_convnext", "test_vit", "densenet121"):
        with pytest.raises(UsageError, match="nonsense"):
            build_encoder(f"{name}(nonsense=1)", 3)


def test_the_same_seed_gives_the_same_weights_whether_or_not_it_was_measured_before():
    encoders.plan_encoder.cache_clear()
    torch.manual_seed(3)
    first = build_encoder("test_convnext", 3).state_dict()
    torch.manual_seed(3)
    second = build_encoder("test_convnext", 3).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_on_the_meta_device_it_has_the_same_tensors_and_takes_no_memory():
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in build_encoder(SMALL_SWIN, 2).state_dict().items()}
    real = build_encoder(SMALL_SWIN, 2)
    assert shapes == {key: tensor.shape for key, tensor in real.state_dict().items()}
    assert all(not tensor.is_meta for tensor in [*real.parameters(), *real.buffers()])


def test_gradients_reach_the_image_and_every_weight():
    encoder = build_encoder("test_convnext", 3)
    image = torch.randn(2, 3, 33, 40, requires_grad=True)
    sum(feature.square().mean() for feature in encoder(image)).backward()
    assert image.grad.abs().min() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_it_is_exported_for_all_multiples_of_its_stride():
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.MaxPool2d(2))
    encoder = ModuleEncoder(body, 1).eval()
    assert not encoder.fit.takes_every_size
    sides = {axis: 4 * torch.export.Dim(name, min=2, max=100) for axis, name in ((2, "height"), (3, "width"))}
    exported = torch.export.export(encoder, (torch.randn(2, 1, 64, 96),), dynamic_shapes=(sides,)).module()
    for size in ((32, 40), (64, 128)):
        image = torch.randn(2, 1, *size)
        with torch.no_grad():
            for ours, expected in zip(exported(image), encoder(image), strict=True):
                torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


# Networks of one's own


class Own(nn.Module):
    """A network with pooling between its layers that is no layer, and a way up."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()))
        self.third = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.Conv2d(16, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        third = self.third(F.max_pool2d(self.second(F.max_pool2d(self.first(image), 2)), 4))
        return self.up(F.interpolate(third, scale_factor=8.0))


def test_stages_of_a_network_end_where_its_maps_become_smaller():
    encoder = ModuleEncoder(Own(), 2)
    assert encoder.stages == ("first.2", "second.1.1", "third")
    assert (encoder.channels, encoder.strides, encoder.timm_name) == ((4, 8, 16), (1, 2, 8), "")
    for size in SIZES:
        shapes = [tuple(feature.shape[-2:]) for feature in encoder.eval()(torch.randn(1, 2, *size))]
        assert shapes == [tuple(math.ceil(side / stride) for side in size) for stride in (1, 2, 8)]


def test_maps_of_a_network_are_what_its_layers_give():
    torch.manual_seed(0)
    network = Own().eval()
    image = torch.randn(1, 2, 16, 24)
    first, second, third = ModuleEncoder(network, 2)(image)
    expected = network.first(image)
    torch.testing.assert_close(first, expected)
    expected = network.second(F.max_pool2d(expected, 2))
    torch.testing.assert_close(second, expected)
    torch.testing.assert_close(third, network.third(F.max_pool2d(expected, 4)))


def test_finding_the_stages_leaves_the_network_as_it_was():
    network = Own().train()
    network.second.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ModuleEncoder(network, 2)
    assert network.first.training
    assert not network.second[0].training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_copy_of_an_encoder_is_independent():
    encoder = ModuleEncoder(Own(), 2).eval()
    other = copy.deepcopy(encoder)
    nn.init.zeros_(other.network.first[0].weight)
    image = torch.randn(1, 2, 8, 8)
    maps = encoder(image)
    kept = [feature.clone() for feature in maps]
    assert not torch.equal(other(image)[0], maps[0])
    assert all(torch.equal(now, then) for now, then in zip(encoder(image), kept, strict=True))


def test_a_classifier_as_a_whole_gives_its_maps():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    encoder = ModuleEncoder(network, 3)
    assert encoder.channels == (64, 64, 128, 256, 512)
    assert encoder.strides == (2, 4, 8, 16, 32)
    theirs = timm.create_model("resnet18", features_only=True).eval()
    theirs.load_state_dict(network.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, expected in zip(encoder(image), theirs(image), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Conv2d(4, 8, 3)), r"cannot run on 3 x 128 x 256 values \(.*channels"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2)), "convolutional part alone"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "none of its layers gives maps"),
        (nn.Identity(), "none of its layers gives maps"),
    ],
)
def test_networks_that_give_no_maps_are_refused(network: nn.Module, said: str):
    with pytest.raises(UsageError, match=said):
        ModuleEncoder(network, 3)
