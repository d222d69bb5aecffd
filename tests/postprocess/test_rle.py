"""Run lengths: the contests' worked example, COCO's format by hand and by its own code, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError, UsageError
from pixelwise.postprocess import rle

MASK = np.array([[0, 1, 0], [0, 1, 1], [0, 0, 1]])


@st.composite
def masks(draw):
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return np.kron(mask, np.ones(draw(st.sampled_from([(1, 1), (40, 3)])), bool))


def test_the_contests_count_from_one_by_column_or_by_row():
    assert rle.encode_runs(MASK) == "4 2 8 2"
    assert rle.encode_runs(MASK, order="rows") == "2 1 5 2 9 1"
    assert (rle.decode_runs("2 1 5 2 9 1", 3, 3, order="rows") == MASK).all()
    assert rle.encode_runs(np.zeros((4, 4))) == ""
    assert rle.encode_runs(np.ones((4, 4))) == "1 16"
    assert not rle.decode_runs(" ", 4, 4).any()
    assert (rle.decode_runs("8 2 4 2", 3, 3) == MASK).all()


@pytest.mark.parametrize("order", ["columns", "rows"])
@given(mask=masks())
@settings(max_examples=60, deadline=None)
def test_decoding_gives_the_mask_back(order, mask):
    text = rle.encode_runs(mask, order=order)
    assert (rle.decode_runs(text, *mask.shape, order=order) == mask).all()
    flat = mask.ravel(order="F" if order == "columns" else "C")
    numbers = [int(word) for word in text.split()]
    assert sum(numbers[1::2]) == flat.sum()
    assert all(flat[s - 1] and (s == 1 or not flat[s - 2]) for s in numbers[::2])


@pytest.mark.parametrize("text", ["1", "a 2", "1 2 3", "-1 2", "0 2", "9 2", "1 0", "1 3 2 1", "1 2.5", "1 ² "])
def test_what_are_no_runs_of_the_image_is_refused(text):
    with pytest.raises(DataError, match="run lengths"):
        rle.decode_runs(text, 3, 3)


def test_sizes_and_orders_are_checked():
    with pytest.raises(DataError, match="at least 1 × 1"):
        rle.decode_runs("", 0, 3)
    with pytest.raises(UsageError, match="columns, rows"):
        rle.encode_runs(MASK, order="diagonals")
    with pytest.raises(UsageError, match="columns, rows"):
        rle.decode_runs("", 3, 3, order="diagonals")


def test_coco_counts_start_with_zeros():
    assert rle.coco_counts(MASK) == [3, 2, 2, 2]
    assert rle.coco_counts(1 - MASK) == [0, 3, 2, 2, 2]
    assert rle.coco_counts(np.zeros((2, 3))) == [6]
    assert rle.coco_counts(np.ones((2, 3))) == [0, 6]


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([], ""),
        ([0], "0"),
        ([15], "?"),  # one group holds -16 to 15
        ([16], "`0"),  # 16 = 10000₂ would read as -16: a second group of zeros
        ([31], "o0"),
        ([32], "P1"),
        ([1000], "Xo0"),  # 1000 = 0·32² + 31·32 + 8
        ([5, 5, 5, 4], "555O"),  # 4 - 5 = -1 in one group, 31 + 48
        ([5, 40, 5, 4], "5X15lN"),  # 4 - 40 = -36 = -2·32 + 28
    ],
)
def test_compressed_counts_by_hand(counts, text):
    assert rle.compress_counts(counts) == text
    assert rle.expand_counts(text) == counts


@given(st.lists(st.integers(0, 2**40), max_size=12))
def test_any_counts_come_back(counts):
    text = rle.compress_counts(counts)
    assert rle.expand_counts(text) == counts
    assert all("0" <= character <= "o" for character in text)


@given(mask=masks(), compressed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_coco_gives_the_mask_back(mask, compressed):
    segmentation = rle.to_coco_rle(mask, compressed=compressed)
    assert isinstance(segmentation["counts"], str) == compressed
    assert (rle.from_coco_rle(segmentation) == mask).all()


@given(mask=masks())
@settings(max_examples=60, deadline=None)
def test_coco_is_that_of_pycocotools(mask):
    theirs = pytest.importorskip("pycocotools.mask").encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle.to_coco_rle(mask)["counts"] == theirs["counts"].decode()


@given(mask=masks(), top=st.integers(0, 3), left=st.integers(0, 3), below=st.integers(0, 3), beside=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_counts_of_a_box_are_those_of_the_image(mask, top, left, below, beside):
    image = np.pad(mask, ((top, below), (left, beside)))
    assert rle.box_counts(mask, top=top, left=left, size=image.shape) == rle.coco_counts(image)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": []},
        {"size": [2, 2], "counts": "22 "},
        {"size": [2, 2], "counts": "2P"},
        {"size": [2, 2], "counts": ["a"]},
        {"size": [2], "counts": "22"},
        {"size": [0, 2], "counts": "0"},
        {"size": ["2", 2], "counts": "22"},
        {"size": [2, 2], "counts": None},
        {"counts": "22"},
    ],
)
def test_what_is_not_coco_is_refused(segmentation):
    with pytest.raises(DataError, match="run lengths"):
        rle.from_coco_rle(segmentation)
