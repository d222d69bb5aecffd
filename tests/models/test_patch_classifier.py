from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pixelwise.errors import UsageError
from pixelwise.models.patch_classifier import PatchClassifier, PatchScanner, patch_scanner


def paper_network() -> PatchClassifier:
    with torch.device("meta"):
        return PatchClassifier(1, 2)


def small_classifier(depth: int) -> PatchClassifier:
    torch.manual_seed(0)
    classifier = PatchClassifier(2, 3, width=4, hidden=6, depth=depth).eval()
    for bias in (layer.bias for layer in classifier.modules() if isinstance(layer, nn.Conv2d)):
        nn.init.normal_(bias, std=0.1)
    return classifier


def patches_of(image: Tensor, window: int) -> Tensor:
    """The window around each pixel of an image (C, H, W), which numpy mirrors: (H W, C, window, window)."""
    margin = window // 2
    padded = np.pad(image.numpy(), ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    height, width = image.shape[-2:]
    patches = [padded[:, i : i + window, j : j + window] for i in range(height) for j in range(width)]
    return torch.from_numpy(np.stack(patches))


def test_the_layers_are_those_of_the_paper():
    network, sizes = paper_network(), []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda layer, inputs, output: sizes.append((*inputs[0].shape[1:], *output.shape[1:]))
            )
    assert network(torch.empty(5, 1, 95, 95, device="meta")).shape == (5, 2)
    assert sizes == [
        (1, 95, 95, 48, 92, 92),
        (48, 46, 46, 48, 42, 42),
        (48, 21, 21, 48, 18, 18),
        (48, 9, 9, 48, 6, 6),
        (48, 3, 3, 200, 1, 1),
        (200, 1, 1, 2, 1, 1),
    ]


def test_parameters_are_the_sum_of_the_layers():
    layers = [
        1 * 48 * 4 * 4 + 48,
        48 * 48 * 5 * 5 + 48,
        48 * 48 * 4 * 4 + 48,
        48 * 48 * 4 * 4 + 48,
        3 * 3 * 48 * 200 + 200,
        200 * 2 + 2,
    ]
    assert layers == [816, 57_648, 36_912, 36_912, 86_600, 402]
    assert sum(p.numel() for p in paper_network().parameters()) == sum(layers) == 219_290


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 9)])
def test_the_scanner_gives_each_pixel_what_the_classifier_gives_its_window(depth, size):
    classifier = small_classifier(depth)
    image = torch.randn(2, *size)
    with torch.inference_mode():
        one_by_one = classifier(patches_of(image, classifier.window)).T.reshape(1, 3, *size)
        at_once = PatchScanner(classifier)(image[None])
    assert one_by_one.std() > 0.1
    torch.testing.assert_close(at_once, one_by_one, atol=1e-5, rtol=1e-5)


def test_both_forms_learn_alike():
    classifier = small_classifier(2)
    image = torch.randn(2, 5, 6)
    both = classifier(patches_of(image, classifier.window)), PatchScanner(classifier)(image[None])
    gradients = [torch.autograd.grad(logits.square().sum(), [*classifier.parameters()]) for logits in both]
    for patches, scanned in zip(*gradients, strict=True):
        assert patches.any()
        torch.testing.assert_close(scanned, patches, atol=1e-4, rtol=1e-4)


def test_scanning_saves_nearly_all_of_the_work():
    network = paper_network()
    operations = []
    for layer, image in ((network, torch.empty(1, 1, 95, 95)), (PatchScanner(network), torch.empty(1, 1, 512, 512))):
        with FlopCounterMode(display=False) as counter:
            layer(image.to("meta"))
        operations.append(counter.get_total_flops())
    window, scanned = operations
    assert 400 < 512 * 512 * window / scanned < 600


def test_the_scanner_moves_with_the_image_by_single_pixels():
    network = PatchScanner(small_classifier(3))
    assert network.stride == 1
    image = torch.randn(1, 2, 70, 61)
    with torch.inference_mode():
        whole, moved = network(image), network(image[..., 1:, 3:])
    inner = slice(24, 36)
    torch.testing.assert_close(moved[..., inner, inner], whole[..., 1:, 3:][..., inner, inner], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("depth", "window"), [(1, 9), (2, 23), (3, 47), (4, 95)])
def test_the_window_follows_from_the_depth(depth, window):
    network = small_classifier(depth)
    assert network.window == window
    assert network(torch.randn(1, 2, window, window)).shape == (1, 3)
    image = torch.zeros(1, 2, 101, 101, requires_grad=True)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    PatchScanner(network)(image + torch.rand_like(image))[0, 0, 50, 50].backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert 50 - window // 2 <= rows.min()
    assert rows.max() <= 50 + window // 2


@pytest.mark.parametrize("size", [(95, 94), (512, 512), (1, 1)])
def test_windows_of_another_size_are_refused(size):
    with pytest.raises(UsageError, match=f"windows of 95 x 95 pixels, not {size[0]} x {size[1]}; .* PatchScanner"):
        paper_network()(torch.empty(1, 1, *size, device="meta"))


def test_arguments_reach_the_classifier():
    network = patch_scanner(3, 5, width=2, hidden=7, depth=2)
    assert network(torch.zeros(1, 3, 4, 4)).shape == (1, 5, 4, 4)
    count = 3 * 2 * 16 + 2 + 2 * 2 * 25 + 2 + 2 * 9 * 7 + 7 + 7 * 5 + 5
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("options", [{"width": 0}, {"hidden": 0}, {"depth": 5}, {"depth": 0}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} = .*: choose a value from"):
        patch_scanner(1, 2, **options)
