"""Semantic, instance and panoptic labels: worked cases, the ways back, and what cannot be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError
from pixelwise.postprocess import labels as lb
from pixelwise.postprocess.morphology import renumber

VOID = 255


@st.composite
def scenes(draw):
    """A mask with void and its things (every class but 0) as objects."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.choice([0, 1, 2, 3, VOID], shape).astype(np.uint8)
    return mask, lb.split_classes(mask, [1, 2, 3])


def test_touching_pieces_of_two_classes_are_two_objects():
    mask = np.array([[1, 1, 2], [0, 255, 1], [2, 2, 0]])
    assert lb.split_classes(mask, [1, 2]).tolist() == [[1, 1, 2], [0, 0, 3], [4, 4, 0]]
    assert lb.split_classes(mask, [1, 2], connectivity=8).tolist() == [[1, 1, 2], [0, 0, 1], [3, 3, 0]]
    assert lb.split_classes(mask, [1]).tolist() == [[1, 1, 0], [0, 0, 2], [0, 0, 0]]
    assert not lb.split_classes(mask, []).any()


@given(scene=scenes())
@settings(max_examples=60, deadline=None)
def test_instances_painted_with_their_classes_are_the_mask_again(scene):
    mask, instances = scene
    painted = lb.paint_classes(instances, lb.classes_of_instances(mask, instances), background=0)
    assert (painted == np.where(mask == VOID, 0, mask)).all()
    assert (lb.split_classes(painted, [1, 2, 3]) == instances).all()


@given(scene=scenes())
@settings(max_examples=60, deadline=None)
def test_panoptic_numbers_come_back(scene):
    mask, instances = scene
    panoptic = lb.to_panoptic(mask, instances)
    assert (panoptic[mask == VOID] == 255_000).all()
    mask_again, instances_again = lb.from_panoptic(panoptic)
    assert (mask_again == mask).all()
    assert (instances_again == instances).all()
    assert (lb.rgb_to_panoptic(lb.panoptic_to_rgb(panoptic)) == panoptic).all()


def test_negative_void_survives_in_panoptic_numbers_but_is_no_colour():
    mask, instances = np.array([[-1, 4]]), np.array([[0, 999]])
    panoptic = lb.to_panoptic(mask, instances)
    assert panoptic.tolist() == [[-1000, 4999]]
    assert lb.from_panoptic(panoptic)[0].tolist() == [[-1, 4]]
    with pytest.raises(DataError, match="ignore index from 0"):
        lb.panoptic_to_rgb(panoptic)


def test_colours_hold_three_bytes():
    numbers = np.array([[0, 255, 256, 65536, 16777215, 26001]])
    colours = lb.panoptic_to_rgb(numbers)
    assert colours[0].tolist() == [[0, 0, 0], [255, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255], [145, 101, 0]]
    assert (lb.rgb_to_panoptic(colours) == numbers).all()


@given(scene=scenes())
@settings(max_examples=60, deadline=None)
def test_cityscapes_numbers_come_back(scene):
    mask, instances = scene
    ids = lb.to_cityscapes(mask, instances)
    assert ((ids < 1000) == (instances == 0)).all()
    mask_again, instances_again = lb.from_cityscapes(ids)
    assert (mask_again == mask).all()
    assert (instances_again == renumber(instances)).all()
    for thing in (1, 2, 3):
        numbers = np.unique(ids[ids // 1000 == thing])
        assert (numbers == thing * 1000 + np.arange(numbers.size)).all()


def test_objects_are_numbered_within_their_class():
    mask = np.array([[2, 0, 1, 2, 2]])
    assert lb.number_within_classes(mask, np.array([[9, 0, 4, 7, 8]])).tolist() == [[1, 0, 1, 2, 3]]


def test_a_thousandth_object_needs_numbers_within_classes():
    instances = np.arange(1, 1501).reshape(1, -1)
    mask = np.where(instances <= 750, 1, 2)
    with pytest.raises(DataError, match="number_within_classes"):
        lb.to_panoptic(mask, instances)
    panoptic = lb.to_panoptic(mask, lb.number_within_classes(mask, instances))
    assert np.unique(panoptic).size == 1500
    with pytest.raises(DataError, match="at most 1000"):
        lb.to_cityscapes(np.ones_like(instances), instances)


def test_what_cannot_be_said_is_refused():
    one = np.array([[1, 1]])
    with pytest.raises(DataError, match=r"classes \[3, 4\]"):
        lb.classes_of_instances(np.array([[3, 4]]), one)
    with pytest.raises(DataError, match="object 1 has no class"):
        lb.paint_classes(one, {2: 5})
    with pytest.raises(DataError, match="class 0"):
        lb.to_cityscapes(np.array([[0, 0]]), one)
    with pytest.raises(DataError, match="hold 0 to 999"):
        lb.to_cityscapes(np.array([[-1, 3]]), np.array([[0, 1]]))
    with pytest.raises(DataError, match="same image"):
        lb.to_panoptic(np.array([[1]]), one)
    with pytest.raises(DataError, match="8-bit RGB"):
        lb.rgb_to_panoptic(np.zeros((2, 2, 4), np.uint8))


@pytest.mark.parametrize("mask", [np.array([[VOID]]), np.array([[0]]), np.full((3, 2), VOID)])
def test_images_without_objects_pass(mask):
    instances = lb.split_classes(mask, [1])
    assert not instances.any()
    assert lb.classes_of_instances(mask, instances) == {}
    assert (lb.from_panoptic(lb.to_panoptic(mask, instances))[0] == mask).all()
    assert (lb.from_cityscapes(lb.to_cityscapes(mask, instances))[0] == mask).all()
