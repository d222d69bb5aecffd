"""Pieces that lie across cores and hold several objects: near ones, far ones, and what lies in their holes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from merging import assembled, cases, merged, new_merge, run_stages

from pixelwise.inference.divide import divide_pieces
from pixelwise.inference.regions import unpack_regions
from pixelwise.postprocess.instances import InstanceSettings, evidence_of, find_instances, objects_of

SOFTMAX3 = InstanceSettings(form="softmax3")


def evidence_by_hand(picture):
    """`#` is a seed, `+` foreground without a seed, `.` background."""
    pixels_HW = np.array([list(line) for line in picture.split()])
    return np.stack([np.select([pixels_HW == "#", pixels_HW == "+"], [3, 1]), 100 * (pixels_HW == "+")]).astype(
        np.uint8
    )


CHAIN = evidence_by_hand("""
    ............
    .##+##+##+#.
    .##+##+##+#.
    ............
    .#........#.
    .#........#.
""")


@given(case=cases(forms=("softmax3", "sigmoid2", "sigmoid2_full")))
@settings(max_examples=120, deadline=None)
def test_objects_that_touch_are_parted_as_in_the_whole_image(case):
    scores_KHW, settings_, core, seed = case
    assert np.array_equal(
        merged(evidence_of(scores_KHW, settings_), settings_, core, seed), find_instances(scores_KHW, settings_)
    )


@pytest.mark.parametrize("core", [1, 2, 3, 4, 5, 7, 12])
def test_a_chain_of_objects_across_cores(core):
    found_HW = merged(CHAIN, SOFTMAX3, core)
    assert found_HW.max() == 6
    assert found_HW[1, [1, 4, 7, 10]].tolist() == [1, 2, 3, 4]
    assert found_HW[4, [1, 10]].tolist() == [5, 6]
    assert np.array_equal(found_HW, objects_of(CHAIN, SOFTMAX3))


def test_the_owner_of_a_joined_piece_has_all_its_objects_and_others_none():
    merge = new_merge(CHAIN, SOFTMAX3, 4)
    run_stages(merge, until="number")
    owned = [len(merge.load("regions", index)["regions"]) for index in range(len(merge.grid))]
    # The chain is of the first core, with its four objects; the two below lie at the sides of their own cores.
    assert owned == [4, 0, 0, 1, 0, 1]
    assert merge.load("crops", 0)["boxes"].tolist() == [[1, 1, 3, 11]]
    assert merge.load("crops", 3)["boxes"].tolist() == [[4, 1, 6, 2]]
    assert not any(merge.load("objects", index)["objects"].any() for index in range(6))


def test_a_closed_piece_needs_no_crop():
    merge = new_merge(CHAIN, SOFTMAX3, 7)
    run_stages(merge, until="number")
    assert merge.load("objects", 0)["objects"][4:, :3].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert merge.load("crops", 0)["boxes"].tolist() == [[1, 1, 3, 11]]
    assert len(merge.load("regions", 0)["regions"]) == 5


def test_far_pieces_are_read_by_themselves_and_near_ones_with_the_core():
    merge = new_merge(CHAIN, SOFTMAX3, 4)
    run_stages(merge, until="divide")
    merge.store.windows.clear()
    divide_pieces(merge, 0)
    core, chain = merge.store.windows
    assert core.shape == (5, 5)
    assert (chain.top, chain.left, chain.bottom, chain.right) == (0, 0, 4, 12)


@pytest.mark.parametrize("core", [2, 3, 5, 8])
@pytest.mark.parametrize(("inside", "smallest", "filled"), [(".", 1, True), ("#", 1, False), ("#", 5, True)])
def test_a_hole_is_filled_where_what_lies_in_it_was_small(core, inside, smallest, filled):
    evidence_2HW = evidence_by_hand(f"""
        #########
        #.......#
        #..{inside}{inside}{inside}..#
        #.......#
        #########
    """)
    settings_ = replace(SOFTMAX3, smallest=smallest)
    found_HW = merged(evidence_2HW, settings_, core)
    assert np.array_equal(found_HW, objects_of(evidence_2HW, settings_))
    assert (found_HW[1, 1] == 1) == filled
    assert (found_HW[2, 4] == 2) == (not filled)


def test_a_core_within_the_hole_of_an_object_is_filled_though_it_has_no_pixel_of_it():
    evidence_2HW = np.zeros((2, 12, 12), np.uint8)
    evidence_2HW[0] = 3
    evidence_2HW[0, 1:-1, 1:-1] = 0
    merge = new_merge(evidence_2HW, SOFTMAX3, 4)
    run_stages(merge)
    assert merge.load("join", 4)["owners"].tolist() == [0]
    assert (assembled(merge) == 1).all()


def test_a_hole_between_two_objects_of_one_piece_stays():
    evidence_2HW = evidence_by_hand("""
        ###+###
        #.....#
        #.....#
        ###+###
    """)
    for core in (1, 3, 5):
        found_HW = merged(evidence_2HW, SOFTMAX3, core)
        assert found_HW.max() == 2
        assert not found_HW[1:3, 1:6].any()


def test_the_regions_of_joined_pieces_are_kept_with_those_of_the_core():
    merge = new_merge(CHAIN, SOFTMAX3, 5)
    run_stages(merge)
    regions = np.concatenate([unpack_regions(merge.load("regions", i)["regions"]) for i in range(len(merge.grid))])
    areas = np.bincount(assembled(merge).ravel().astype(int))[1:]
    assert np.sort(regions, order="first")["area"].tolist() == areas.tolist()
