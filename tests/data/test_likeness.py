"""A hash that small changes leave as it is, and the search for near ones."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pixelwise.data.images import read_image
from pixelwise.data.likeness import ALIKE, alike_groups, close_pairs, perceptual_hash

SIZES = [(1, 1), (1, 50), (50, 1), (2, 2), (7, 31), (31, 33), (32, 32), (33, 200), (480, 360)]


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.float64]:
    """A smooth random image in 0 to 200 that is the same at any size: a sum of waves of random phases."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None] + 0.5) / width
    waves = [
        rng.normal() * np.cos(np.pi * (i * rows + rng.random())) * np.cos(np.pi * (j * columns + rng.random()))
        for i in range(1, 7)
        for j in range(1, 7)
    ]
    image = np.sum(waves, axis=0)
    return np.asarray(200 * (image - image.min()) / max(1e-9, np.ptp(image)))


def distance(first: int | None, second: int | None) -> int:
    assert first is not None
    assert second is not None
    return (first ^ second).bit_count()


def reference_hash(image_HW: NDArray[np.float64]) -> str:
    """The same from the definition: means of 32 x 32 areas by repeating pixels, the transform as a double sum."""
    height, width = image_HW.shape
    repeated = np.repeat(np.repeat(image_HW, 32, axis=0), 32, axis=1)
    small = repeated.reshape(32, height, 32, width).mean(axis=(1, 3))
    positions = (np.arange(32) + 0.5) * np.pi / 32
    coefficients = [
        float(np.sum(small * np.cos(i * positions)[:, None] * np.cos(j * positions)[None]))
        for i in range(1, 9)
        for j in range(1, 9)
    ]
    above = np.median(coefficients) + 1e-3 * np.linalg.norm(coefficients)
    return "".join("1" if value > above else "0" for value in coefficients)


@pytest.mark.parametrize("size", [(32, 32), (40, 50), (9, 70), (5, 7)])
def test_it_is_the_definition(size: tuple[int, int]) -> None:
    image = np.random.default_rng(3).uniform(0, 255, size)
    found = perceptual_hash(image)
    assert found is not None
    assert f"{found:064b}" == reference_hash(image)


@given(st.floats(0.05, 40), st.floats(-500, 500), st.integers(0, 20), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=40, deadline=None)
def test_brightness_and_contrast_do_not_count(gain: float, offset: float, seed: int, dtype: type[Any]) -> None:
    image = scene(60, 80, seed)
    assert distance(perceptual_hash(image), perceptual_hash((gain * image + offset).astype(dtype))) <= 1


def test_types_and_channels_do_not_count() -> None:
    image = scene(60, 80).round()
    expected = perceptual_hash(image)
    for dtype in (np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64):
        assert perceptual_hash(image.astype(dtype)) == expected
    for channels in (1, 2, 3, 5):
        assert perceptual_hash(np.repeat(image[:, :, None], channels, axis=2)) == expected
    assert distance(perceptual_hash((257 * image).astype(np.uint16)), expected) == 0
    assert distance(perceptual_hash(image > 100), perceptual_hash(255.0 * (image > 100))) == 0


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_hashed(size: tuple[int, int]) -> None:
    found = perceptual_hash(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))
    assert (found is None) == (1 in size)
    assert found is None or 0 <= found < 2**64


@pytest.mark.parametrize("seed", range(5))
def test_another_size_or_jpeg_is_alike_and_another_image_is_not(seed: int) -> None:
    image = scene(300, 400, seed).astype(np.uint8)
    base = perceptual_hash(image)
    for height, width in ((150, 200), (75, 100), (600, 800), (220, 333)):
        shape = (width, height)
        for how in (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC):
            assert distance(base, perceptual_hash(cv2.resize(image, shape, interpolation=how))) <= ALIKE
    for quality in (95, 75, 50):
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        assert distance(base, perceptual_hash(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))) <= ALIKE
    for other in (scene(300, 400, seed + 100), image[:, ::-1], np.rot90(image)):
        assert distance(base, perceptual_hash(other)) > ALIKE


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.bool_])
def test_blank_images_have_no_hash(value: int, dtype: type[Any]) -> None:
    blank = np.full((64, 48, 3), value, dtype)
    assert perceptual_hash(blank) is None
    ramp = np.broadcast_to(np.arange(64).astype(dtype)[:, None], (64, 48))
    assert perceptual_hash(ramp) is None


def test_nearly_blank_images_have_no_hash() -> None:
    speck = np.full((400, 400), 100, np.uint8)
    speck[200, 30] = 104
    assert perceptual_hash(speck) is None
    assert perceptual_hash(speck.astype(np.float32)) is None
    assert perceptual_hash(np.full((20, 20), np.nan)) is None
    assert perceptual_hash(np.full((20, 20), np.inf)) is None
    noise = [np.random.default_rng(n).normal(100, 9, (200, 200)).astype(np.uint8) for n in range(6)]
    hashes = [value for value in map(perceptual_hash, noise) if value is not None]
    assert len(hashes) == 6
    assert alike_groups(hashes) == []


def test_a_symmetric_image_keeps_its_hash() -> None:
    """Three quarters of its frequencies are zero but for rounding, which must not decide."""
    rows, columns = np.mgrid[:99, :99] - 49.0
    disk = 200.0 * (rows**2 + columns**2 < 900)
    assert perceptual_hash(disk) == perceptual_hash(disk / 3 + 11) == perceptual_hash(disk[::-1].T + 0.1)


# The search


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), max_size=40), st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_pairs_are_those_of_all_comparisons(hashes: list[int], within: int) -> None:
    expected = [(i, j) for i, j in combinations(range(len(hashes)), 2) if (hashes[i] ^ hashes[j]).bit_count() <= within]
    assert list(close_pairs(hashes, within=within)) == expected
    groups = {n: {n} for n in range(len(hashes))}
    for i, j in expected:
        union = groups[i] | groups[j]
        groups.update(dict.fromkeys(union, union))
    distinct = {tuple(sorted(group)) for group in groups.values() if len(group) > 1}
    assert alike_groups(hashes, within=within) == sorted(map(list, distinct))


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    hashes = [int(n) for n in rng.integers(0, 2**10, 200)]
    whole, groups = list(close_pairs(hashes, within=1)), alike_groups(hashes, within=1)
    monkeypatch.setattr("pixelwise.data.likeness.BLOCK_PAIRS", 700)
    assert list(close_pairs(hashes, within=1)) == whole
    assert alike_groups(hashes, within=1) == groups


def test_thousands_are_searched_and_equal_ones_cost_nothing() -> None:
    rng = np.random.default_rng(1)
    hashes = [int(n) for n in rng.integers(0, 2**64, 8000, np.uint64)]
    hashes[77] = hashes[7000] ^ 0b1011
    assert list(close_pairs(hashes)) == [(77, 7000)]
    assert alike_groups([*hashes, *[5] * 20_000, 4]) == [[77, 7000], list(range(8000, 28_001))]


# Real images: what the docstring of the module says was measured


def jpeg(image_HWC: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    encoded = cv2.imencode(".jpg", image_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)


@pytest.mark.parametrize(
    ("pattern", "least"), [("isbi2012/images/*.png", 9), ("dsb2018/*/*/images/*.png", 13), ("camvid/*/*.png", 2)]
)
def test_real_images_are_apart_and_their_copies_are_not(real_data: Path, pattern: str, least: int) -> None:
    paths = sorted(path for path in real_data.glob(pattern) if not path.parent.name.endswith("annot"))
    images = [read_image(path)[..., :3] for path in paths[:130]]
    hashes = [perceptual_hash(image) for image in images]
    apart = [distance(first, second) for first, second in combinations(hashes, 2)]
    assert min(apart) >= least
    assert sum(bits <= ALIKE for bits in apart) == (4 if "camvid" in pattern else 0)
    for image, own in list(zip(images, hashes, strict=True))[::4]:
        smaller = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        assert distance(own, perceptual_hash(smaller)) <= ALIKE
        assert distance(own, perceptual_hash(jpeg(image, 90))) <= 2
        assert distance(own, perceptual_hash((0.8 * image + 20).astype(np.uint8))) <= ALIKE
