"""Cleaning up masks and label images: worked cases, both connectivities, and properties against slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pixelwise.errors import DataError, UsageError
from pixelwise.postprocess import morphology as m

STRUCTURE = {4: ndimage.generate_binary_structure(2, 1), 8: ndimage.generate_binary_structure(2, 2)}
connectivities = pytest.mark.parametrize("connectivity", [4, 8])


def picture(*rows):
    return np.array([[int(character) for character in row] for row in rows], np.int32)


@st.composite
def label_images(draw, most=4):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, draw(st.integers(1, most)), shape)


def same_partition(one, other):
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@connectivities
@given(labels=label_images())
@settings(max_examples=60, deadline=None)
def test_components_are_those_of_scipy(connectivity, labels):
    found = m.connected_components(labels > 0, connectivity=connectivity)
    wanted = ndimage.label(labels > 0, STRUCTURE[connectivity])[0]
    assert found.dtype == np.int32
    assert same_partition(found, wanted)
    assert set(np.unique(found)) == set(np.unique(wanted))


@connectivities
@given(labels=label_images())
@settings(max_examples=60, deadline=None)
def test_pieces_are_the_components_of_each_label(connectivity, labels):
    found = m.pieces(labels, connectivity=connectivity)
    assert ((found > 0) == (labels > 0)).all()
    total = 0
    for label in range(1, labels.max() + 1):
        wanted, count = ndimage.label(labels == label, STRUCTURE[connectivity])
        assert same_partition(np.where(labels == label, found, 0), wanted)
        assert set(found[labels == label]) == set(range(total + 1, total + count + 1))
        total += count


@given(labels=label_images(most=9))
@settings(max_examples=60, deadline=None)
def test_renumbering_counts_in_reading_order(labels):
    names = {}
    wanted = [names.setdefault(v, len(names) + 1) if v else 0 for v in labels.ravel().tolist()]
    found = m.renumber(labels)
    assert found.ravel().tolist() == wanted
    assert found.dtype == np.int32
    assert (m.renumber(found) == found).all()


@connectivities
@given(labels=label_images(most=2))
@settings(max_examples=60, deadline=None)
def test_holes_are_those_of_scipy(connectivity, labels):
    # scipy fills from outside: the structure is the connectivity of the background.
    wanted = ndimage.binary_fill_holes(labels > 0, STRUCTURE[12 - connectivity])
    found = m.fill_holes(labels > 0, connectivity=connectivity)
    assert found.dtype == bool
    assert (found == wanted).all()


def test_a_hole_leaks_through_a_corner_only_for_four_connected_objects():
    ring = picture("0110", "1001", "0110")
    assert not m.fill_holes(ring)[1, 1]
    assert m.fill_holes(ring, connectivity=8)[1, 1]


def test_only_what_one_object_encloses_is_filled():
    gap = picture("1122", "1002", "1122")
    assert (m.fill_object_holes(gap) == gap).all()
    nested = picture("11111", "10001", "10201", "10001", "11111")
    assert (m.fill_object_holes(nested) == nested).all()
    touching = picture("11133", "10130", "11133")
    assert (m.fill_object_holes(touching) == picture("11133", "11130", "11133")).all()


def test_specks_go_and_the_rest_keeps_its_numbers():
    labels = picture("110", "003", "503", "000")
    assert (m.remove_small_objects(labels, 2) == picture("110", "003", "003", "000")).all()
    assert (m.remove_small_objects(labels, 1) == labels).all()
    assert not m.remove_small_objects(labels, 99).any()
    assert m.remove_small(picture("10", "01"), 2).sum() == 0
    assert m.remove_small(picture("10", "01"), 2, connectivity=8).sum() == 2


def test_the_largest_piece_stays_and_of_equals_the_first():
    assert (m.keep_largest(picture("0011", "1000", "1011")) == picture("0011", "0000", "0000")).all()
    assert not m.keep_largest(picture("00", "00")).any()
    labels = picture("2011", "2010", "0101", "2001")
    assert (m.keep_largest_pieces(labels) == picture("2011", "2010", "0000", "0000")).all()


@pytest.mark.parametrize("radius", [0, 1, 2])
@given(labels=label_images(most=2))
@settings(max_examples=40, deadline=None)
def test_opening_and_closing_are_what_their_definitions_say(radius, labels):
    mask = labels > 0
    opened, closed = m.opening(mask, radius), m.closing(mask, radius)
    assert (opened <= mask).all()
    assert (closed >= mask).all()
    assert (m.opening(opened, radius) == opened).all()
    assert (m.closing(closed, radius) == closed).all()
    assert (m.closing(~mask, radius) == ~opened).all()
    assert (opened == union_of_discs(mask, radius)).all()


def union_of_discs(mask, radius):
    """Every disc around a pixel of the image that holds no pixel outside the mask."""
    rows, columns = np.indices(mask.shape)
    covered = np.zeros_like(mask)
    for row, column in np.ndindex(mask.shape):
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        if mask[disc].all():
            covered |= disc
    return covered


@given(labels=label_images(), radius=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_objects_are_opened_and_closed_one_by_one(labels, radius):
    opened, closed = m.open_objects(labels, radius), m.close_objects(labels, radius)
    assert ((closed == labels) | (labels == 0)).all()
    taken = labels > 0
    for label in range(1, labels.max() + 1):
        assert ((opened == label) == m.opening(labels == label, radius)).all()
        wanted = (labels == label) | (m.closing(labels == label, radius) & ~taken)
        assert ((closed == label) == wanted).all()
        taken |= wanted


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
@pytest.mark.parametrize("value", [0, 1])
def test_the_smallest_images_pass(shape, value):
    labels = np.full(shape, value, np.int32)
    for result in (
        m.connected_components(labels),
        m.pieces(labels),
        m.renumber(labels),
        m.fill_object_holes(labels),
        m.remove_small_objects(labels, 1),
        m.keep_largest_pieces(labels),
        m.open_objects(labels, 3),
        m.close_objects(labels, 3),
    ):
        assert (result == labels).all()


def test_what_is_no_label_image_is_refused():
    with pytest.raises(DataError, match="rows × columns"):
        m.connected_components(np.zeros((0, 3)))
    with pytest.raises(DataError, match="whole numbers"):
        m.renumber(np.zeros((2, 2)))
    with pytest.raises(DataError, match="set void to 0"):
        m.renumber(np.array([[-1]]))
    with pytest.raises(DataError, match="16777215"):
        m.renumber(np.array([[1 << 24]]))
    with pytest.raises(UsageError, match="choose 4"):
        m.connected_components(np.ones((1, 1)), connectivity=6)
    with pytest.raises(UsageError, match="radius"):
        m.opening(np.ones((1, 1)), -1)
