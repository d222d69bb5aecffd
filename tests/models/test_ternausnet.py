from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.ternausnet import bilinear_step, ternausnet11, ternausnet16, transposed_step

Build = Callable[..., nn.Module]
ALL = pytest.mark.parametrize(
    ("build", "options"),
    [(ternausnet11, {}), (ternausnet16, {}), (ternausnet16, {"upsampling": "transposed"})],
    ids=["11", "16", "16-transposed"],
)

VGG11 = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
VGG16 = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
VGG16 += [(256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_paper(build: Build, in_channels: int = 3, classes: int = 1, **options: str | int) -> nn.Module:
    """A network without memory behind its weights, to count and to ask for shapes."""
    with torch.device("meta"):
        return build(in_channels, classes, **options)


# What was published


def size_of(convolutions: list[tuple[int, int]], kernel: int = 3) -> int:
    return sum(kernel * kernel * before * after + after for before, after in convolutions)


def test_ternausnet11_has_its_published_number_of_parameters():
    # Into a step, in its middle, out of it; each is joined by the map of the same size from the way down.
    steps = [(512, 512, 256), (256 + 512, 512, 256), (256 + 512, 512, 128), (128 + 256, 256, 64), (64 + 128, 128, 32)]
    up = size_of([(before, middle) for before, middle, _ in steps])
    up += size_of([(middle, after) for _, middle, after in steps])
    last = size_of([(32 + 64, 32)]) + size_of([(32, 1)], kernel=1)
    assert size_of(VGG11) == 9_220_480
    assert parameters(on_paper(ternausnet11)) == size_of(VGG11) + up + last == 22_927_393


@pytest.mark.parametrize(
    ("upsampling", "kernel", "count"), [("bilinear", 3, 29_306_465), ("transposed", 4, 32_202_337)]
)
def test_ternausnet16_has_its_published_number_of_parameters(upsampling, kernel, count):
    steps = [(512, 512, 256), (256 + 512, 512, 256), (256 + 512, 512, 256), (256 + 256, 256, 64), (64 + 128, 128, 32)]
    up = size_of([(before, middle) for before, middle, _ in steps])
    up += size_of([(middle, after) for _, middle, after in steps], kernel=kernel)
    last = size_of([(32 + 64, 32)]) + size_of([(32, 1)], kernel=1)
    assert size_of(VGG16) == 14_714_688
    network = on_paper(ternausnet16, upsampling=upsampling)
    assert parameters(network) == size_of(VGG16) + up + last == count


@ALL
def test_more_classes_and_channels_add_to_the_ends_only(build, options):
    more = parameters(on_paper(build, 5, 4, **options)) - parameters(on_paper(build, 3, 1, **options))
    assert more == 2 * 9 * 64 + 3 * (32 + 1)


@ALL
def test_the_sizes_of_the_paper(build, options):
    network, shapes = on_paper(build, **options), []
    for stage in (*network.encoder, *network.decoder):
        stage.register_forward_hook(lambda layer, inputs, output: shapes.append((output.shape[-1], output.shape[1])))
    assert network(torch.zeros(1, 3, 256, 256, device="meta")).shape == (1, 1, 256, 256)
    fourth = 128 if build is ternausnet11 else 256
    assert shapes[:5] == [(256, 64), (128, 128), (64, 256), (32, 512), (16, 512)]
    assert shapes[5:] == [(16, 256), (32, 256), (64, fourth), (128, 64), (256, 32)]


@ALL
def test_the_width_scales_every_layer(build, options):
    full, half = on_paper(build, **options), on_paper(build, width=32, **options)
    for large, small in zip(full.parameters(), half.parameters(), strict=True):
        kept = [3, 1]  # the image's channels and the class
        expected = [n if axis > 1 or n in kept else n // 2 for axis, n in enumerate(large.shape)]
        assert list(small.shape) == expected


@pytest.mark.parametrize("build", [ternausnet11, ternausnet16])
def test_the_pretrained_convolutions_of_timm_fit_in_their_order(build):
    encoder = on_paper(build).encoder
    with torch.device("meta"):
        theirs = timm.create_model(encoder.timm_name).features.state_dict()
    assert [value.shape for value in encoder.state_dict().values()] == [value.shape for value in theirs.values()]


# The steps


@pytest.mark.parametrize("kernel", [3, 4])
def test_a_transposed_step_doubles_the_size(kernel):
    step = transposed_step(2, 4, 3, kernel=kernel)
    assert step(torch.zeros(1, 2, 5, 1)).shape == (1, 3, 10, 2)
    assert parameters(step) == 9 * 2 * 4 + 4 + kernel * kernel * 4 * 3 + 3


def test_a_kernel_of_four_weighs_all_pixels_alike_and_one_of_three_does_not():
    for kernel, even in ((3, False), (4, True)):
        transposed = transposed_step(1, 1, 1, kernel=kernel)[1]
        nn.init.ones_(transposed.weight)
        nn.init.zeros_(transposed.bias)
        inner = transposed(torch.ones(1, 1, 6, 6))[0, 0, 2:-2, 2:-2]
        assert (inner.unique().numel() == 1) == even


def test_a_bilinear_step_enlarges_before_it_convolves():
    step, image = bilinear_step(2, 4, 3), torch.randn(1, 2, 3, 5)
    assert step(image).shape == (1, 3, 6, 10)
    expected = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(step(image), step[2](step[1](expected)))


# The same, written down again


def plain_ternausnet(tensors: list[Tensor], image: Tensor, *, stages: list[int], upsampling: str) -> Tensor:
    """Logits by torch's functions alone, from the weights in their order; any size is padded as pooling rounds up."""
    weights = iter(tensors)

    def convolution(feature: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(feature, next(weights), next(weights), padding=padding)

    skips, feature = [], image
    for count in stages:
        for _ in range(count):
            feature = F.relu(convolution(feature))
        skips.append(feature)
        height, width = feature.shape[-2:]
        feature = F.max_pool2d(F.pad(feature, (0, width % 2, 0, height % 2), value=-torch.inf), 2)
    while skips:
        if upsampling == "bilinear":
            feature = F.interpolate(feature, scale_factor=2, mode="bilinear", align_corners=False)
            feature = F.relu(convolution(F.relu(convolution(feature))))
        else:
            feature = F.relu(convolution(feature))
            weight, bias = next(weights), next(weights)
            extra = weight.shape[-1] % 2
            feature = F.conv_transpose2d(feature, weight, bias, stride=2, padding=1, output_padding=extra).relu()
        skip = skips.pop()
        feature = torch.cat([feature[:, :, : skip.shape[2], : skip.shape[3]], skip], dim=1)
    return convolution(F.relu(convolution(feature)), padding=0)


@ALL
@pytest.mark.parametrize("size", [(64, 32), (31, 33), (1, 50), (1, 1)])
def test_logits_are_those_of_the_formulas(build, options, size):
    torch.manual_seed(0)
    network = build(2, 3, width=4, **options).double().eval()
    with torch.inference_mode():
        for bias in (p for p in network.parameters() if p.ndim == 1):
            bias.uniform_(-0.1, 0.1)
        image = torch.randn(2, 2, *size).double()
        stages = [1, 1, 2, 2, 2] if build is ternausnet11 else [2, 2, 3, 3, 3]
        upsampling = "bilinear" if build is ternausnet16 and not options else "transposed"
        expected = plain_ternausnet(list(network.parameters()), image, stages=stages, upsampling=upsampling)
        torch.testing.assert_close(network(image), expected)


# Arguments


@ALL
def test_fresh_weights_neither_fade_nor_explode(build, options):
    torch.manual_seed(0)
    network, image = build(3, 2, width=16, **options).eval(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert 0.03 < network(image).std() < 30
    assert not any(p.any() for p in network.parameters() if p.ndim == 1)


@pytest.mark.parametrize("build", [ternausnet11, ternausnet16])
@pytest.mark.parametrize("width", [1, 1025])
def test_a_width_out_of_range_is_refused(build, width):
    with pytest.raises(UsageError, match=f"width = {width}: choose a value from 2 to 1024"):
        build(3, 1, width=width)


def test_other_ways_to_enlarge_a_map_are_refused():
    with pytest.raises(UsageError, match="upsampling = nearest: choose one of bilinear, transposed"):
        ternausnet16(3, 1, upsampling="nearest")


# Training


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def losses(network: nn.Module, *, steps: int = 30) -> list[float]:
    """Training on random blobs: brighter than the mean or not."""
    noise = F.avg_pool2d(torch.randn(2, 1, 64, 64), 17, stride=1)
    image, mask = noise / noise.std(), (noise[:, 0] > 0).long()
    optimizer, history = torch.optim.Adam(network.parameters(), lr=0.005), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(image), mask)
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


@ALL
@pytest.mark.usefixtures("deterministic")
def test_it_learns(build, options):
    torch.manual_seed(0)
    history = losses(build(1, 2, width=8, **options).train())
    assert history[-1] < 0.3 < 0.5 < history[0]
