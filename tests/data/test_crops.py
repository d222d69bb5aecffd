"""Where crops are placed: inside, uniformly, and on the class that was drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.data.crops import MOST_POSITIONS, Place, draw_pixel, find_class_pixels, place_crop

VOID = 255


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_class_pixels_are_all_pixels_of_small_classes() -> None:
    mask_HW = np.array([[0, 1, VOID], [1, 0, 7]], np.uint8)
    found = find_class_pixels(mask_HW, void=VOID, rng=generator())
    assert {label: positions.tolist() for label, positions in found.items()} == {
        0: [[0, 0], [1, 1]],
        1: [[0, 1], [1, 0]],
        7: [[1, 2]],
    }


def test_large_classes_are_sampled_over_the_whole_image() -> None:
    mask_HW = np.zeros((100, 80), np.int32)
    mask_HW[:, 40:] = 3
    found = find_class_pixels(mask_HW, void=VOID, rng=generator())
    for label, positions in found.items():
        assert positions.shape == (MOST_POSITIONS, 2)
        assert len({tuple(position) for position in positions}) == MOST_POSITIONS
        assert (mask_HW[positions[:, 0], positions[:, 1]] == label).all()
    assert found[3][:, 0].mean() == pytest.approx(49.5, abs=4)
    again = find_class_pixels(mask_HW, void=VOID, rng=generator())
    np.testing.assert_array_equal(found[0], again[0])


def test_classes_are_drawn_with_equal_chance_whatever_their_size() -> None:
    mask_HW = np.zeros((60, 60), np.uint8)
    mask_HW[0, 0], mask_HW[1, :20] = 1, 2
    pixels, rng = find_class_pixels(mask_HW, void=VOID, rng=generator()), generator(1)
    drawn = Counter(int(mask_HW[draw_pixel(pixels, rng)]) for _ in range(3000))
    assert all(drawn[label] == pytest.approx(1000, abs=110) for label in range(3))


def test_void_alone_has_no_class() -> None:
    assert draw_pixel(find_class_pixels(np.full((4, 4), VOID), void=VOID, rng=generator()), generator()) is None
    assert find_class_pixels(np.full((1, 1), -1), void=-1, rng=generator()) == {}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crops_lie_inside_and_hold_the_pixel(data: st.DataObject) -> None:
    side = st.integers(1, 70)
    shape, size = data.draw(st.tuples(side, side)), data.draw(st.tuples(side, side))
    pixel = data.draw(st.none() | st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)))
    place = place_crop(shape, size, rng=generator(data.draw(st.integers(0, 9))), pixel=pixel)
    for axis, first in enumerate((place.top, place.left)):
        if size[axis] <= shape[axis]:
            assert 0 <= first <= shape[axis] - size[axis]
        else:
            before, after = -first, size[axis] - shape[axis] + first
            assert 0 <= after - before <= 1
        if pixel:
            assert first <= pixel[axis] < first + size[axis]


@pytest.mark.parametrize(("pixel", "firsts"), [(None, range(7)), (5, range(2, 6)), (0, range(1)), (9, range(6, 7))])
def test_every_place_is_equally_likely(pixel: int | None, firsts: range) -> None:
    rng, shown = generator(), None if pixel is None else (pixel, 3)
    counts = Counter(place_crop((10, 4), (4, 4), rng=rng, pixel=shown).top for _ in range(2000))
    assert set(counts) == set(firsts)
    assert min(counts.values()) > 0.8 * 2000 / len(firsts)


def test_small_images_are_centred() -> None:
    assert place_crop((3, 4), (8, 8), rng=generator()) == Place(top=-2, left=-2)
    assert place_crop((1, 1), (2, 1), rng=generator()) == Place(top=0, left=0)
