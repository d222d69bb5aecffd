"""Each change alone against numpy and scipy, then all of them together on images whose mask is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import CubicHermiteSpline

from pixelwise.config import AugmentConfig
from pixelwise.data.augment import Change, Preparation, augment, draw_change, source_map, warp_weight
from pixelwise.data.crops import Place, place_crop
from pixelwise.data.images import read_image
from pixelwise.data.normalise import Normalisation, measure
from pixelwise.errors import DataError, UsageError

NOTHING = AugmentConfig(
    flip=False, turn=False, rotate=0, scale=0, shear=0, elastic=0, brightness=0, contrast=0, noise=0, blur=0, balance=0
)
STRONG = AugmentConfig(turn=True, rotate=180, scale=0.5, shear=20, elastic=4)
GEOMETRY = {"brightness": 0, "contrast": 0, "noise": 0, "blur": 0}
ORIGIN = Place(top=0, left=0)
RAW = Normalisation((0.0,), (1.0,))


def change(**values: Any) -> Change:
    return Change(**{"deformation": np.eye(2), "grid": np.zeros((2, 3, 3))} | values)


def prepared(crop: tuple[int, int], normalisation: Normalisation = RAW, **values: Any) -> Preparation:
    return Preparation(settings=NOTHING, crop=crop, normalisation=normalisation, **values)


def waves(height: int, width: int) -> np.ndarray:
    """A smooth grey image (H, W, 1) between -100 and 100, different in every corner."""
    rows, columns = np.mgrid[:height, :width]
    image_HW = 50 * np.sin(rows / 7 + columns / 23) + 50 * np.cos(columns / 9 - rows / 31)
    return image_HW[..., None].astype(np.float32)


def matrix(angle: float, size: float = 1.0, shear: float = 0.0) -> np.ndarray:
    """Rotation and shear in degrees, magnification."""
    angle, slope = np.radians(angle), np.tan(np.radians(shear))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turned @ np.array([[1, 0], [slope, 1]]) / size


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
def test_nothing_changed_is_the_normalised_crop(dtype: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    image_HWC, mask_HW = (rng.random((21, 30, channels)) * 250).astype(dtype), rng.integers(0, 5, (21, 30))
    model = measure([image_HWC])
    image, mask = augment(
        image_HWC,
        mask_HW,
        change=draw_change(rng, NOTHING),
        place=Place(top=4, left=7),
        preparation=prepared((9, 12), model),
    )
    np.testing.assert_array_equal(image, model.apply(image_HWC[4:13, 7:19]))
    np.testing.assert_array_equal(mask, mask_HW[4:13, 7:19])
    assert (image.dtype, mask.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_turns_and_mirror_images_are_exact(turns: int, mirrored: bool) -> None:
    image_HWC = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    mask_HW = np.arange(6 * 9).reshape(6, 9)
    altered, place = change(turns=turns, mirrored=mirrored), Place(top=1, left=2)
    crop = (3, 6) if turns % 2 == 0 else (6, 3)
    assert altered.box(crop) == (3, 6)
    raw = Normalisation((0.0,) * 3, (1.0,) * 3)
    image, mask = augment(image_HWC, mask_HW, change=altered, place=place, preparation=prepared(crop, raw))
    expected, expected_mask = np.rot90(image_HWC[1:4, 2:8], turns), np.rot90(mask_HW[1:4, 2:8], turns)
    if mirrored:
        expected, expected_mask = np.fliplr(expected), np.fliplr(expected_mask)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize("deformation", [matrix(15), matrix(0, 1.2), matrix(0, 1, 10), matrix(-100, 0.8, -5)])
def test_affine_is_that_of_scipy(deformation: np.ndarray) -> None:
    image_HWC, crop, place = waves(80, 90), (40, 50), Place(top=20, left=15)
    mask_HW = (image_HWC[..., 0] > 0).astype(np.uint8)
    half = (np.array(crop) - 1) / 2
    offset = np.array([20, 15]) + half - deformation @ half
    expected = ndimage.affine_transform(image_HWC[..., 0], deformation, offset, crop, order=1, mode="mirror")
    inside = ndimage.affine_transform(np.ones((80, 90)), deformation, offset, crop, order=1, mode="constant", cval=0)
    image, mask = augment(
        image_HWC, mask_HW, change=change(deformation=deformation), place=place, preparation=prepared(crop)
    )
    np.testing.assert_allclose(image[..., 0], expected, atol=0.6)  # OpenCV 4 rounds coordinates to 1/32 pixel
    sure = (np.abs(expected) > 12) & (inside == 1)
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(mask[sure], expected[sure] > 0)


def hermite(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Cubic through values at 0, 1, 2 with central differences as slopes (Catmull and Rom), the ends repeated."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    return CubicHermiteSpline(np.arange(3), values, (padded[2:] - padded[:-2]) / 2)(positions)


@pytest.mark.parametrize("crop", [(64, 64), (33, 80)])
def test_elastic_is_bicubic_on_a_3x3_grid(crop: tuple[int, int]) -> None:
    grid = np.random.default_rng(3).normal(0, 10, (2, 3, 3))
    field = source_map(change(grid=grid), crop, centre=((crop[0] - 1) / 2, (crop[1] - 1) / 2)) - np.mgrid[
        : crop[0], : crop[1]
    ].astype(np.float32)
    rows, columns = (np.linspace(0, 2, side) for side in crop)
    for axis in (0, 1):
        expected = hermite(hermite(grid[axis], rows).T, columns).T
        np.testing.assert_allclose(field[axis], expected, atol=1e-4)
    np.testing.assert_allclose(field[:, [0, 0, -1, -1], [0, -1, 0, -1]], grid[:, [0, 0, 2, 2], [0, 2, 0, 2]], atol=1e-4)


def test_elastic_image_is_that_of_scipy() -> None:
    image_HWC, crop = waves(70, 60), (70, 60)
    altered = change(grid=np.random.default_rng(1).normal(0, 5, (2, 3, 3)), deformation=matrix(20))
    points = source_map(altered, crop, centre=(34.5, 29.5))
    expected = ndimage.map_coordinates(image_HWC[..., 0], points, order=1, mode="mirror")
    image, mask = augment(
        image_HWC, np.ones(crop, np.uint8), change=altered, place=ORIGIN, preparation=prepared(crop, void=-7)
    )
    np.testing.assert_allclose(image[..., 0], expected, atol=0.6)
    nearest = np.rint(points)
    outside = ((nearest < 0) | (nearest > np.array([69, 59])[:, None, None])).any(axis=0)
    sure = (np.abs(points - np.floor(points) - 0.5) > 0.05).all(axis=0)
    assert outside.any()
    np.testing.assert_array_equal(mask[sure], np.where(outside, -7, 1)[sure])


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (1, 6), (20, 2)])
def test_small_images_are_mirrored_and_their_masks_void(size: tuple[int, int]) -> None:
    image_HWC = np.arange(np.prod(size), dtype=np.uint8).reshape(*size, 1)
    margins = [(max(0, 11 - side) // 2, max(0, 11 - side + 1) // 2) for side in size]
    place = Place(top=-margins[0][0], left=-margins[1][0])
    crop = tuple(side + sum(margin) for side, margin in zip(size, margins, strict=True))
    image, mask = augment(
        image_HWC, image_HWC[..., 0], change=change(), place=place, preparation=prepared(crop, void=99)
    )
    np.testing.assert_array_equal(image, np.pad(image_HWC, [*margins, (0, 0)], mode="reflect"))
    np.testing.assert_array_equal(mask, np.pad(image_HWC[..., 0], margins, constant_values=99))


def test_images_wider_than_opencv_allows() -> None:
    image_HWC = np.broadcast_to(np.arange(70_000, dtype=np.float32)[None, :, None], (40, 70_000, 1))
    image, _ = augment(
        image_HWC,
        np.zeros(image_HWC.shape[:2], np.uint8),
        change=change(deformation=matrix(5)),
        place=Place(top=10, left=66_000),
        preparation=prepared((16, 16)),
    )
    points = source_map(change(deformation=matrix(5)), (16, 16), centre=(17.5, 66_007.5))
    np.testing.assert_allclose(image[..., 0], points[1], atol=0.05)


@pytest.mark.parametrize("seed", range(8))
def test_image_and_mask_move_together(seed: int) -> None:
    image_HWC = waves(120, 100)
    mask_HW = np.digitize(image_HWC[..., 0], [-30, 30])
    drawn = draw_change(np.random.default_rng(seed), STRONG.model_copy(update=GEOMETRY))
    image, mask = augment(
        image_HWC, mask_HW, change=drawn, place=Place(top=10, left=20), preparation=prepared((64, 72))
    )
    sure = (mask != 255) & (np.abs(np.abs(image[..., 0]) - 30) > 15)
    assert sure.mean() > 0.3
    np.testing.assert_array_equal(mask[sure], np.digitize(image[..., 0], [-30, 30])[sure])


@pytest.mark.parametrize("seed", range(40))
def test_the_chosen_pixel_is_seen_however_the_crop_is_deformed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixel, drawn = (int(rng.integers(90)), int(rng.integers(70))), draw_change(rng, STRONG)
    place = place_crop((90, 70), drawn.box((24, 25)), rng=rng, pixel=pixel)
    mask_HW, expected = np.zeros((90, 70), np.uint8), np.zeros(drawn.box((24, 25)))
    mask_HW[pixel], expected[pixel[0] - place.top, pixel[1] - place.left] = 7, 1
    expected = np.rot90(expected, drawn.turns)
    _, mask = augment(np.zeros((90, 70, 1)), mask_HW, change=drawn, place=place, preparation=prepared((24, 25)))
    assert mask[np.nonzero(np.fliplr(expected) if drawn.mirrored else expected)].item() == 7


@pytest.mark.parametrize("seed", range(6))
def test_weights_move_with_the_image_and_are_0_outside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight_HW, crop = waves(60, 50)[..., 0] + 200, (48, 56)
    drawn, place = draw_change(rng, STRONG.model_copy(update=GEOMETRY)), Place(top=-3, left=5)
    prepare = prepared(crop)
    image, mask = augment(weight_HW[..., None], np.ones((60, 50)), change=drawn, place=place, preparation=prepare)
    found = warp_weight(weight_HW, change=drawn, place=place, preparation=prepare)
    assert (found.dtype, found.shape) == (np.float32, crop)
    inside = ndimage.binary_erosion(mask == 1, np.ones((5, 5)), border_value=1)
    outside = ndimage.binary_erosion(mask == 255, np.ones((5, 5)), border_value=1)
    assert inside.any()
    assert outside.any()
    np.testing.assert_allclose(found[inside], image[inside][..., 0], rtol=1e-5)
    assert not found[outside].any()
    still = warp_weight(weight_HW, change=change(turns=1), place=ORIGIN, preparation=prepared((50, 60)))
    np.testing.assert_array_equal(still, np.rot90(weight_HW))


def test_brightness_and_contrast() -> None:
    image_HWC, model = waves(20, 20), Normalisation((10.0,), (25.0,))
    image, _ = augment(
        image_HWC,
        np.zeros((20, 20)),
        change=change(gain=1.2, shift=-0.1),
        place=ORIGIN,
        preparation=prepared((20, 20), model),
    )
    np.testing.assert_allclose(image, 1.2 * (image_HWC - 10) / 25 - 0.1, rtol=1e-5, atol=1e-5)


def test_noise_and_blur_are_what_they_say() -> None:
    image_HWC, mask_HW = np.random.default_rng(0).random((64, 64, 5), np.float32), np.zeros((64, 64))
    prepare = prepared((64, 64), Normalisation((0.0,) * 5, (1.0,) * 5))

    def alone(**values: Any) -> np.ndarray:
        return augment(image_HWC, mask_HW, change=change(**values), place=ORIGIN, preparation=prepare)[0]

    noise = alone(noise=0.3, noise_seed=1) - image_HWC
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    np.testing.assert_array_equal(alone(noise=0.3, noise_seed=1), alone(noise=0.3, noise_seed=1))
    assert (alone(noise=0.3, noise_seed=2) != alone(noise=0.3, noise_seed=1)).mean() > 0.99
    expected = ndimage.gaussian_filter(image_HWC, (1.5, 1.5, 0), mode="mirror")
    np.testing.assert_allclose(alone(blur=1.5), expected, atol=2e-3)


def test_draws_stay_within_the_settings() -> None:
    rng, limits = np.random.default_rng(0), AugmentConfig(turn=True)
    drawn = [draw_change(rng, limits) for _ in range(600)]
    sizes = [np.linalg.det(each.deformation) ** -0.5 for each in drawn]
    angles = [np.degrees(np.arctan2(-each.deformation[0, 1], each.deformation[1, 1])) for each in drawn]
    assert 1 / 1.2 <= min(sizes) < 0.86 < 1.17 < max(sizes) <= 1.2
    assert -21 <= min(angles) < -12 < 12 < max(angles) <= 21  # rotation and shear
    assert 1 / 1.2 <= min(each.gain for each in drawn) < 0.86 < 1.17 < max(each.gain for each in drawn) <= 1.2
    assert max(abs(each.shift) for each in drawn) <= 0.2
    assert np.std([each.grid for each in drawn]) == pytest.approx(10, rel=0.03)
    assert {(each.turns, each.mirrored) for each in drawn} == {(k, m) for k in range(4) for m in (False, True)}
    for strengths, most in (([each.noise for each in drawn], 0.1), ([each.blur for each in drawn], 1.0)):
        assert np.mean(np.array(strengths) > 0) == pytest.approx(0.25, abs=0.06)
        assert 0.8 * most < max(strengths) <= most


def test_switching_one_kind_off_leaves_the_others() -> None:
    both, one = (
        draw_change(np.random.default_rng(5), settings)
        for settings in (STRONG, STRONG.model_copy(update={"elastic": 0, "turn": None, "blur": 0}))
    )
    assert one.turns == 0 == one.blur == np.abs(one.grid).max()
    np.testing.assert_array_equal(one.deformation, both.deformation)
    assert (one.gain, one.shift, one.noise, one.noise_seed) == (both.gain, both.shift, both.noise, both.noise_seed)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.integers(1, 6),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    seed=st.integers(0, 1000),
)
def test_any_size_any_channels(size: tuple, crop: tuple, channels: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image_HWC, mask_HW = (rng.random((*size, channels)) * 200).astype(dtype), rng.integers(0, 3, size, np.uint8)
    model, place = measure([image_HWC]), Place(top=int(rng.integers(-5, size[0])), left=int(rng.integers(-5, size[1])))
    plain = draw_change(rng, STRONG.model_copy(update=GEOMETRY))
    image, mask = augment(image_HWC, mask_HW, change=plain, place=place, preparation=prepared(crop, model))
    assert (image.shape, mask.shape) == ((*crop, channels), crop)
    assert set(np.unique(mask)) <= {*np.unique(mask_HW), 255}
    normalised = model.apply(image_HWC)
    assert (image >= normalised.min(axis=(0, 1)) - 1e-3).all()
    assert (image <= normalised.max(axis=(0, 1)) + 1e-3).all()
    noisy = draw_change(rng, STRONG)
    assert np.isfinite(
        augment(image_HWC, mask_HW, change=noisy, place=place, preparation=prepared(crop, model))[0]
    ).all()


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="crop of 0x5"):
        prepared((0, 5))
    with pytest.raises(UsageError, match="void value"):
        prepared((5, 5), void=2**30)
    with pytest.raises(DataError, match="takes 1 channel, the image has 4"):
        augment(np.zeros((5, 5, 4)), np.zeros((5, 5)), change=change(), place=ORIGIN, preparation=prepared((5, 5)))


def test_membranes_stay_dark_under_their_mask(real_data: Path) -> None:
    image_HWC, mask_HWC = (read_image(real_data / "isbi2012" / folder / "0.png") for folder in ("images", "masks"))
    mask_HW, model = mask_HWC[..., 0], measure([image_HWC])

    def contrast(image: np.ndarray, mask: np.ndarray) -> float:
        return float(image[mask == 255].mean() - image[mask == 0].mean())

    before = contrast(model.apply(image_HWC), mask_HW)
    for seed in range(4):
        drawn = draw_change(np.random.default_rng(seed), AugmentConfig(turn=True, **GEOMETRY))
        preparation = prepared((512, 512), model, void=7)
        image, mask = augment(image_HWC, mask_HW, change=drawn, place=ORIGIN, preparation=preparation)
        assert contrast(image, mask) == pytest.approx(before, rel=0.15)
        assert abs(contrast(image, mask_HW)) < 0.3 * before
