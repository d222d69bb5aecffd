"""Plain forms without necks: pieces and holes of any size, put together from parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from merging import assembled, cases, merged, new_merge, run_stages

from pixelwise.inference.plain_objects import one_object_per_piece
from pixelwise.inference.regions import unpack_regions
from pixelwise.postprocess.instances import InstanceSettings, evidence_of, find_instances, objects_of

PLAIN = InstanceSettings(form="plain")
CORES = pytest.mark.parametrize("core", [1, 2, 3, 4, 7, 20])


def mask_by_hand(picture):
    """Evidence from a picture of `#` and `.`."""
    mask_HW = np.array([list(line) for line in picture.split()]) == "#"
    return np.stack([mask_HW, 0 * mask_HW]).astype(np.uint8)


RINGS = mask_by_hand("""
    ...........
    .#########.
    .#.......#.
    .#.#####.#.
    .#.#...#.#.
    .#.#.#.#.#.
    .#.#...#.#.
    .#.#####.#.
    .#.......#.
    .#########.
    ...........
""")


@given(case=cases(forms=("plain",)))
@settings(max_examples=150, deadline=None)
def test_pieces_of_any_size_are_as_in_the_whole_image(case):
    scores_KHW, settings_, core, seed = case
    settings_ = replace(settings_, neck=0.0)
    merge = new_merge(evidence_of(scores_KHW, settings_), settings_, core, largest=1)
    run_stages(merge, seed)
    assert np.array_equal(assembled(merge), find_instances(scores_KHW, settings_))


@CORES
@pytest.mark.parametrize(
    ("smallest", "centre", "inner", "between"),
    [(1, 3, 2, 0), (2, 2, 2, 0), (20, 1, 1, 1)],
    ids=["all rings", "a speck goes", "the inner ring goes"],
)
def test_a_hole_is_filled_by_the_one_object_around_it(core, smallest, centre, inner, between):
    found_HW = merged(RINGS, replace(PLAIN, smallest=smallest), core)
    assert found_HW[5, [0, 1, 2, 3, 5]].tolist() == [0, 1, between, inner, centre]
    assert found_HW[5, 4] == {1: 0, 2: 2, 20: 1}[smallest]


@CORES
def test_holes_stay_where_that_is_asked_for(core):
    found_HW = merged(RINGS, replace(PLAIN, fill_holes=False), core)
    assert np.array_equal(found_HW > 0, RINGS[0] > 0)
    assert found_HW.max() == 3


@CORES
def test_a_hole_that_reaches_the_edge_of_the_image_is_none(core):
    evidence_2HW = mask_by_hand("""
        ######
        #....#
        #.....
        #....#
        ######
    """)
    assert np.array_equal(merged(evidence_2HW, PLAIN, core), evidence_2HW[0])


@CORES
@pytest.mark.parametrize("connectivity", [4, 8])
def test_a_hole_leaks_through_a_corner_only_where_objects_do_not_hold_there(core, connectivity):
    evidence_2HW = mask_by_hand("""
        .......
        .####..
        .#..#..
        .#...#.
        .#####.
        .......
    """)
    settings_ = replace(PLAIN, connectivity=connectivity)
    found_HW = merged(evidence_2HW, settings_, core)
    assert np.array_equal(found_HW, objects_of(evidence_2HW, settings_))
    assert (found_HW[2, 2] > 0) == (connectivity == 8)


@CORES
def test_what_lies_between_two_objects_is_not_filled(core):
    evidence_2HW = mask_by_hand("""
        .####.
        #....#
        #....#
        #....#
        .####.
    """)
    found_HW = merged(evidence_2HW, replace(PLAIN, connectivity=4), core)
    assert found_HW.max() == 4
    assert np.array_equal(found_HW > 0, evidence_2HW[0] > 0)
    assert (merged(evidence_2HW, replace(PLAIN, connectivity=8), core)[1:4, 1:5] == 1).all()


def test_small_or_not_is_said_by_the_area_over_all_cores():
    evidence_2HW = mask_by_hand("..####..\n#......#")
    for core in (1, 2, 3, 4):
        assert merged(evidence_2HW, replace(PLAIN, smallest=4), core)[0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
        assert not merged(evidence_2HW, replace(PLAIN, smallest=5), core).any()


def test_regions_hold_the_filled_gaps_of_all_cores():
    merge = new_merge(RINGS, replace(PLAIN, smallest=20), 4)
    run_stages(merge)
    (region,) = (unpack_regions(merge.load("regions", i)["regions"]) for i in range(len(merge.grid)) if i == 0)
    assert region.tolist() == [(12, 1, 1, 81, 5 * 81, 5 * 81, 10, 10)]
    assert sum(len(merge.load("regions", i)["regions"]) for i in range(len(merge.grid))) == 1


def test_pieces_that_are_cut_at_necks_hold_several_objects():
    assert one_object_per_piece(PLAIN)
    assert not one_object_per_piece(replace(PLAIN, neck=0.1))
    assert not one_object_per_piece(InstanceSettings(form="softmax3"))
