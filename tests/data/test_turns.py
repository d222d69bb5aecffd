"""The orientation of a mask against its image: what is claimed, and what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelwise.data.images import read_image
from pixelwise.data.layouts import find_samples
from pixelwise.data.mask_values import read_values
from pixelwise.data.stored import upright
from pixelwise.data.synthetic import draw_cells
from pixelwise.data.turns import clear_turn, turn_scores

OPPOSITE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def turned(values_HW: np.ndarray, orientation: int) -> np.ndarray:
    return upright(values_HW[..., None], orientation)[..., 0]


def test_opposite_orientations_undo_each_other() -> None:
    values = np.arange(12).reshape(3, 4)
    for one, other in OPPOSITE.items():
        assert np.array_equal(turned(turned(values, one), other), values)


@pytest.mark.parametrize("size", [(96, 96), (80, 112)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_mask_is_turned_back(size: tuple[int, int], orientation: int) -> None:
    cells = draw_cells(size=size, channels=3, seed=5)
    scores = turn_scores(cells.image_HWC, turned(cells.mask_HW.astype(np.int64), orientation))
    expected = OPPOSITE[orientation]
    assert clear_turn(scores) == (None if expected == 1 else expected)
    assert scores[expected - 1] == max(score for score in scores if not math.isnan(score))


def test_sizes_decide_which_orientations_are_possible() -> None:
    image, mask = np.random.default_rng(0).random((40, 60, 1)), np.zeros((40, 60), np.int64)
    mask[10:30, 10:50] = 1
    known = [not math.isnan(score) for score in turn_scores(image, mask)]
    assert known == [True] * 4 + [False] * 4
    assert [not math.isnan(score) for score in turn_scores(image, mask.T)] == known[::-1]
    assert turn_scores(image, mask[:-1]) == ()


def test_masks_without_borders_and_images_without_gradient_say_nothing() -> None:
    cells = draw_cells(size=(64, 64), channels=1, seed=0)
    assert turn_scores(cells.image_HWC, np.zeros((64, 64), np.int64)) == ()
    scores = turn_scores(np.full((64, 64, 3), 7, np.uint8), cells.mask_HW.astype(np.int64))
    assert scores == pytest.approx((0.0,) * 8, abs=1e-6)
    assert clear_turn(scores) is None


def test_a_mask_that_fits_nowhere_is_not_turned() -> None:
    for seed in range(12):
        image, mask = draw_cells(size=(96, 96), seed=seed).image_HWC, draw_cells(size=(96, 96), seed=seed + 50).mask_HW
        assert clear_turn(turn_scores(image, mask.astype(np.int64))) is None


def test_a_symmetrical_mask_is_not_turned() -> None:
    rows, columns = np.mgrid[:64, :64]
    mask = ((rows - 31.5) ** 2 + (columns - 31.5) ** 2 < 400).astype(np.int64)
    assert clear_turn(turn_scores((mask * 99)[..., None].astype(np.uint8), mask)) is None


def test_many_channels_and_types() -> None:
    cells = draw_cells(size=(64, 64), channels=1, seed=2)
    mask = turned(cells.mask_HW.astype(np.int64), 3)
    for image in (np.repeat(cells.image_HWC, 7, axis=2), cells.image_HWC.astype(np.float32) / 1000):
        assert clear_turn(turn_scores(image, mask)) == 3
    assert clear_turn(turn_scores(cells.image_HWC.astype(np.uint16) * 200, mask)) == 3


@given(st.lists(st.floats(-0.5, 0.5), min_size=8, max_size=8))
def test_a_claim_is_always_far_ahead(scores: list[float]) -> None:
    claimed = clear_turn(scores)
    if claimed is not None:
        others = [score for number, score in enumerate(scores, start=1) if number != claimed]
        assert claimed != 1
        assert scores[claimed - 1] > max(others) + 0.1


@pytest.mark.parametrize("name", ["camvid", "isbi2012", "dsb2018"])
def test_no_real_mask_is_called_turned_and_most_turned_ones_are_found(name: str, real_data) -> None:
    samples = [sample for sample in find_samples(real_data / name).samples if sample.masks][:12]
    found = 0
    for sample in samples:
        image = read_image(sample.image.path, page=sample.image.page)
        codes = read_values(sample.masks, "auto").codes_HW
        assert clear_turn(turn_scores(image, codes)) is None
        claimed = clear_turn(turn_scores(image, turned(codes, 3)))
        assert claimed in (None, 3)
        found += claimed == 3
    assert found >= len(samples) / 4
