from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy_encoder import ToyEncoder, top_of_image_and_of_longer_image

from pixelwise.errors import UsageError
from pixelwise.models.dynamic_unet import (
    Blur,
    DynamicUNet,
    ResidualPair,
    SelfAttention,
    SpectralProjection,
    dynamic_unet,
    shuffle_up,
)
from pixelwise.models.encoders import build_encoder


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(scope="module")
def resnet34() -> DynamicUNet:
    with torch.device("meta"):
        return dynamic_unet(3, 1).eval()


# The published network


@pytest.mark.parametrize("classes", [1, 2, 3, 11, 12, 21])
def test_it_has_the_number_of_parameters_of_fastai(classes, resnet34):
    with torch.device("meta"):
        resnet34.head = nn.Conv2d(99, classes, 1)
    assert parameters(resnet34) == 41_220_968 + 100 * classes


def test_what_may_be_left_out_or_added_counts_as_it_should():
    with torch.device("meta"):
        bare = dynamic_unet(3, 1, last_cross=False)
        attentive = dynamic_unet(3, 1, self_attention=True, blur=True)
    cross = 2 * (9 * 99 * 99 + 99)
    assert parameters(bare) == 41_221_068 - cross - 3
    attention = 384 * (384 // 8) * 2 + 384 * 384 + 1
    assert parameters(attentive) == 41_221_068 + attention
    assert [isinstance(step.attention, SelfAttention) for step in attentive.decoder] == [False, True, False, False]


def test_its_maps_have_the_sizes_and_channels_of_fastai(resnet34):
    skips, steps = [], []
    for step in resnet34.decoder:
        step.norm.register_forward_hook(lambda norm, given, made: skips.append(tuple(made.shape[1:3])))
        step.register_forward_hook(lambda step, given, made: steps.append(tuple(made.shape[1:3])))
    resnet34.cross.register_forward_hook(lambda cross, given, made: steps.append(tuple(made.shape[1:3])))
    resnet34(torch.empty(1, 3, 224, 224, device="meta"))
    assert skips == [(256, 14), (128, 28), (64, 56), (64, 112)]
    assert steps == [(512, 14), (384, 28), (256, 56), (96, 112), (99, 224)]


def test_decoder_convolutions_have_biases_and_no_batch_norm(resnet34):
    layers = dict(resnet34.named_modules())
    decoder = {name: layer for name, layer in layers.items() if not name.startswith("encoder")}
    assert all(layer.bias is not None for layer in decoder.values() if isinstance(layer, nn.Conv2d))
    norms = [name for name, layer in decoder.items() if isinstance(layer, nn.BatchNorm2d)]
    assert norms == ["middle.0", *(f"decoder.{step}.norm" for step in range(4))]


# The same network written out, resizing by nearest neighbours as fastai does


def written_out(network: DynamicUNet, image: Tensor) -> Tensor:
    def convolve(feature: Tensor, layer: nn.Conv2d) -> Tensor:
        return F.conv2d(feature, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)

    def shuffle(feature: Tensor, up: nn.Sequential) -> Tensor:
        spread = convolve(feature, up[0][0]).relu()
        batch, channels, height, width = spread.shape
        blocks = spread.view(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        feature = blocks.reshape(batch, channels // 4, 2 * height, 2 * width)
        if len(up) == 3:
            padded = F.pad(feature, (1, 0, 1, 0), mode="replicate")
            windows = [padded[..., rows:, columns:] for rows in (0, 1) for columns in (0, 1)]
            feature = sum(window[..., : 2 * height, : 2 * width] for window in windows) / 4
        return feature

    def normalise(feature: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return F.batch_norm(feature, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    *skips, feature = network.encoder(image)
    feature = normalise(feature, network.middle[0]).relu()
    for layers in network.middle[2:]:
        feature = convolve(feature, layers[0]).relu()
    for step, skip in zip(network.decoder, reversed(skips), strict=True):
        up = F.interpolate(shuffle(feature, step.up), size=skip.shape[-2:], mode="nearest")
        feature = torch.cat([up, normalise(skip, step.norm)], dim=1).relu()
        for layers in step.convolutions:
            feature = convolve(feature, layers[0]).relu()
        feature = step.attention(feature)
    feature = F.interpolate(shuffle(feature, network.full_size), size=image.shape[-2:], mode="nearest")
    crossed = torch.cat([feature, image], dim=1)
    inner = convolve(crossed, network.cross.convolutions[0][0]).relu()
    return convolve((crossed + convolve(inner, network.cross.convolutions[1])).relu(), network.head)


@pytest.mark.parametrize("options", [{}, {"blur": True}, {"self_attention": True}])
@pytest.mark.parametrize("size", [(32, 48), (31, 33)])
def test_it_is_what_fastai_says(options, size):
    torch.manual_seed(0)
    network = DynamicUNet(ToyEncoder(strides=(2, 4, 8, 16)), 2, 3, **options)
    image = torch.randn(2, 2, *size)
    network.train()(image)  # running statistics other than 0 and 1
    for step in network.decoder:
        if options.get("self_attention") and isinstance(step.attention, SelfAttention):
            step.attention.gamma.data.fill_(0.7)
    network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(network(image), written_out(network, image), atol=1e-5, rtol=1e-5)


# Its parts


def test_a_fresh_pixel_shuffle_repeats_values():
    torch.manual_seed(0)
    up = shuffle_up(6, 5)(torch.randn(2, 6, 3, 4))
    assert up.shape == (2, 5, 6, 8)
    assert torch.equal(up, F.interpolate(up[..., ::2, ::2], scale_factor=2, mode="nearest"))
    assert up.min() == 0 < up.max()


def test_the_blur_smooths_to_the_right_and_down():
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 1, 1] = 4
    assert Blur()(image)[0, 0].tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]
    assert torch.equal(Blur()(torch.full((1, 2, 1, 1), 3.0)), torch.full((1, 2, 1, 1), 3.0))


def test_the_blur_takes_the_checkerboard_away():
    torch.manual_seed(0)
    noisy, blurred = (shuffle_up(4, 1, blur=blur) for blur in (False, True))
    nn.init.normal_(noisy[0][0].weight)  # no longer as ICNR starts it
    nn.init.normal_(noisy[0][0].bias)
    blurred.load_state_dict(noisy.state_dict())
    flat = torch.ones(1, 4, 5, 5)
    assert noisy(flat).std() > 0.1
    assert blurred(flat)[..., 1:, 1:].std() < 1e-6


def attention_by_hand(layer: SelfAttention, feature: Tensor) -> Tensor:
    """Equations 1 to 3 of the paper, position by position."""
    weights = [p.weight / torch.linalg.matrix_norm(p.weight, 2) for p in (layer.f, layer.g, layer.h)]
    f, g, h = (torch.einsum("oc,bcn->bon", weight, feature.flatten(2)) for weight in weights)
    out = torch.empty_like(feature.flatten(2))
    for batch in range(feature.shape[0]):
        for j in range(out.shape[2]):
            similarity = torch.stack([f[batch, :, i] @ g[batch, :, j] for i in range(out.shape[2])])
            shares = similarity.exp() / similarity.exp().sum()
            out[batch, :, j] = sum(share * h[batch, :, i] for i, share in enumerate(shares))
    return feature + layer.gamma * out.view_as(feature)


def test_self_attention_is_that_of_the_paper():
    torch.manual_seed(0)
    layer, feature = SelfAttention(16).train(), torch.randn(2, 16, 3, 4)
    for _ in range(200):
        layer(feature)
    assert torch.equal(layer.eval()(feature), feature)
    with torch.no_grad():
        layer.gamma.fill_(0.5)
        torch.testing.assert_close(layer(feature), attention_by_hand(layer, feature), atol=1e-4, rtol=1e-4)


def test_self_attention_does_not_know_places():
    torch.manual_seed(0)
    layer, feature = SelfAttention(8).eval(), torch.randn(1, 8, 4, 5)
    nn.init.ones_(layer.gamma)
    torch.testing.assert_close(layer(feature.flip(2, 3)), layer(feature).flip(2, 3))


def test_few_channels_can_attend():
    assert SelfAttention(3)(torch.ones(1, 3, 2, 2)).shape == (1, 3, 2, 2)


def test_the_spectral_norm_converges_to_one_while_training_only():
    torch.manual_seed(0)
    projection, feature = SpectralProjection(12, 5), torch.randn(1, 12, 3, 3)
    kept = projection.u.clone()
    projection.eval()(feature)
    assert torch.equal(projection.u, kept)
    for _ in range(100):
        projection.train()(feature)
    largest = torch.linalg.matrix_norm(projection.weight, 2)
    expected = F.conv2d(feature, (projection.weight / largest)[..., None, None])
    torch.testing.assert_close(projection.eval()(feature), expected, atol=1e-5, rtol=1e-5)


def test_two_steps_can_be_differentiated_together():
    projection = SpectralProjection(4, 2).train()
    image = torch.randn(1, 4, 2, 2)
    (projection(image).sum() + projection(2 * image).sum()).backward()
    assert projection.weight.grad.any()


def test_autocast_leaves_the_spectral_norm_precise():
    projection = SpectralProjection(64, 16).train()
    twin = SpectralProjection(64, 16).train()
    twin.load_state_dict(projection.state_dict())
    image = torch.randn(1, 64, 2, 2)
    twin(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert projection(image).dtype == torch.bfloat16
    assert torch.equal(projection.u, twin.u)


def test_the_residual_block_can_be_the_identity_of_positive_maps():
    block = ResidualPair(2)
    nn.init.zeros_(block.convolutions[1].weight)
    image = torch.randn(1, 2, 3, 3)
    assert torch.equal(block(image), image.relu())


# Encoders and sizes


@pytest.fixture(
    scope="module",
    params=["resnet18", "mobilenetv3_small_050", "convnext_atto", (3, 6, 12), (1, 2), (4, 6, 12), (4, 8, 8), (5,)],
    ids=str,
)
def network(request) -> DynamicUNet:
    if isinstance(request.param, str):
        with torch.device("meta" if request.param != "mobilenetv3_small_050" else "cpu"):
            return DynamicUNet(build_encoder(request.param, 2), 2, 3).eval()
    return DynamicUNet(ToyEncoder(strides=request.param), 2, 3).eval()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
@torch.inference_mode()
def test_every_encoder_and_every_size(network, size):
    image = torch.empty(1, 2, *size, device=network.head.weight.device).normal_()
    assert network(image).shape == (1, 3, *size)


@pytest.mark.parametrize("name", ["densenet121", "swin_tiny_patch4_window7_224"])
def test_large_encoders_of_all_kinds(name):
    with torch.device("meta"):
        network = dynamic_unet(3, 7, encoder=name, self_attention=True)
        assert network.eval()(torch.empty(1, 3, 65, 40)).shape == (1, 7, 65, 40)


def test_maps_of_one_size_are_joined_once():
    network = DynamicUNet(ToyEncoder(strides=(2, 4, 4, 4)), 2, 3)
    assert network.sizes == (0, 3)
    assert [step.norm.num_features for step in network.decoder] == [4]
    assert network.stride == 4


def test_what_lies_far_below_changes_nothing():
    torch.manual_seed(0)
    for strides in [(3, 6, 12), (4, 8), (3, 9), (4, 6)]:
        shorter, longer = top_of_image_and_of_longer_image(DynamicUNet(ToyEncoder(strides=strides), 2, 3))
        torch.testing.assert_close(shorter, longer, atol=1e-6, rtol=1e-5)


def test_self_attention_needs_four_sizes():
    with pytest.raises(UsageError, match=r"self_attention = True: the encoder has maps of 3 sizes, .* needs 4"):
        DynamicUNet(ToyEncoder(), 2, 3, self_attention=True)
    assert DynamicUNet(ToyEncoder(strides=(2, 4, 8, 16)), 2, 3, self_attention=True).stride == 16
