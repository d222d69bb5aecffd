"""Objects made core by core are those of the whole image, number by number, for any core, order and form."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from merging import KINDS, assembled, cases, drawn, merged, new_merge, random_scores, run_stages, scores_of, spiral

from pixelwise.errors import DataError
from pixelwise.inference.divide import divide_pieces
from pixelwise.inference.merge import stages_of
from pixelwise.inference.regions import ordered_regions, regions_of
from pixelwise.postprocess.instances import FORM_CHANNELS, InstanceSettings, evidence_of, find_instances
from pixelwise.tiles import Window

SOFTMAX3 = InstanceSettings(form="softmax3")
PLAIN = InstanceSettings(form="plain")
connectivities = pytest.mark.parametrize("connectivity", [4, 8])


@given(case=cases())
@settings(max_examples=250, deadline=None)
def test_objects_of_cores_are_those_of_the_whole_image(case):
    scores_KHW, settings_, core, seed = case
    merge = new_merge(evidence_of(scores_KHW, settings_), settings_, core)
    run_stages(merge, seed)
    whole_HW = find_instances(scores_KHW, settings_)
    assert np.array_equal(assembled(merge), whole_HW)

    # So are their regions, in the order of their numbers.
    height, width = whole_HW.shape
    regions = np.concatenate(list(ordered_regions(merge)))
    assert np.array_equal(regions, regions_of(whole_HW, Window(0, 0, height, width), width))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", list(FORM_CHANNELS))
def test_every_kind_of_pieces_over_many_cores(kind, form):
    rng = np.random.default_rng(len(kind))
    for core, shape, connectivity in ((1, (5, 6), 8), (3, (16, 14), 4), (8, (35, 27), 8)):
        neck, smallest = float(rng.choice([0, 0.7])), int(rng.choice([1, 4]))
        settings_ = InstanceSettings(form=form, connectivity=connectivity, neck=neck, smallest=smallest)
        scores_KHW = random_scores(rng, shape, kind, form)
        found = merged(evidence_of(scores_KHW, settings_), settings_, core)
        assert np.array_equal(found, find_instances(scores_KHW, settings_))


@pytest.mark.parametrize("core", [1, 2, 5, 31])
@pytest.mark.parametrize("form", ["plain", "softmax3"])
def test_one_object_winds_through_all_cores(core, form):
    side = min(30, 9 * core)
    mask_HW = spiral((side, side)).astype(float)
    scores_KHW = scores_of(mask_HW, np.zeros_like(mask_HW), form)
    settings_ = InstanceSettings(form=form)
    assert np.array_equal(merged(evidence_of(scores_KHW, settings_), settings_, core), mask_HW)


@connectivities
@pytest.mark.parametrize("form", ["plain", "softmax3"])
def test_pieces_meet_at_the_corner_of_four_cores(connectivity, form):
    settings_ = InstanceSettings(form=form, connectivity=connectivity)
    for mask_HW in (np.eye(4), np.eye(4)[::-1]):
        found = merged(evidence_of(scores_of(mask_HW, 0 * mask_HW, form), settings_), settings_, 2)
        assert found.max() == (4 if connectivity == 4 else 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (4, 4)])
@pytest.mark.parametrize("settings_", [PLAIN, SOFTMAX3, replace(PLAIN, neck=0.7)], ids=["plain", "softmax3", "neck"])
@pytest.mark.parametrize("value", [0, 1])
def test_nothing_and_everything_are_no_object_and_one_over_cores(shape, settings_, value):
    mask_HW = np.full(shape, float(value))
    evidence_2HW = evidence_of(scores_of(mask_HW, 0 * mask_HW, settings_.form), settings_)
    for core in (1, 3, 40):
        assert (merged(evidence_2HW, settings_, core) == value).all()


@pytest.mark.parametrize("settings_", [PLAIN, SOFTMAX3, replace(PLAIN, neck=0.7)], ids=["plain", "softmax3", "neck"])
def test_a_stage_that_runs_again_or_elsewhere_writes_the_same_bytes(settings_):
    scores_KHW = random_scores(np.random.default_rng(5), (40, 33), "blobs", settings_.form)
    one, other = (new_merge(evidence_of(scores_KHW, settings_), settings_, 8) for _ in range(2))
    run_stages(one, seed=1)
    parts = dict(one.store.parts)
    for stage in stages_of(one)[::-1]:
        for index in (3, 0):
            stage.run(one, index) if stage.by_core else stage.run(one)
    run_stages(other, seed=2)
    assert parts == one.store.parts == other.store.parts
    assert all(np.array_equal(core_HW, one.store.objects[index]) for index, core_HW in other.store.objects.items())


def test_stages_and_their_task_travel_to_other_processes():
    settings_ = replace(SOFTMAX3, smallest=2)
    scores_KHW = random_scores(np.random.default_rng(6), (20, 20), "blobs", "softmax3")
    merge = new_merge(evidence_of(scores_KHW, settings_), settings_, 7)
    for stage in stages_of(merge):
        merge, stage = pickle.loads(pickle.dumps((merge, stage)))  # noqa: S301
        for index in range(len(merge.grid)) if stage.by_core else [None]:
            stage.run(merge, index) if stage.by_core else stage.run(merge)
    assert np.array_equal(assembled(merge), find_instances(scores_KHW, settings_))


def test_small_objects_are_divided_with_their_core_in_one_reading():
    squares_HW = np.kron(np.ones((12, 12)), np.pad(np.ones((3, 3)), 1))
    merge = new_merge(evidence_of(scores_of(squares_HW, 0 * squares_HW, "softmax3"), SOFTMAX3), SOFTMAX3, 16)
    run_stages(merge, until="divide")
    merge.store.windows.clear()
    for index in range(len(merge.grid)):
        divide_pieces(merge, index)
    assert len(merge.store.windows) == len(merge.grid)
    assert max(window.shape for window in merge.store.windows) <= (20, 20)


@pytest.mark.parametrize("settings_", [SOFTMAX3, replace(PLAIN, neck=0.5)], ids=["softmax3", "neck"])
def test_a_piece_that_is_too_large_to_be_divided_is_refused_by_name(settings_):
    mask_HW = np.zeros((30, 40))
    mask_HW[5:25, 12] = mask_HW[20, 12:33] = mask_HW[1, 30:39] = 1
    merge = new_merge(evidence_of(scores_of(mask_HW, 0 * mask_HW, settings_.form), settings_), settings_, 8, 22 * 23)
    run_stages(merge)
    assert assembled(merge).max() == 2
    tight = new_merge(merge.store.evidence_2HW, settings_, 8, largest=22 * 23 - 1)
    with pytest.raises(DataError, match=r"rows 5 to 25 and columns 12 to 33 .* 506 pixels .* 505 are allowed"):
        run_stages(tight)
    with pytest.raises(DataError, match=r"\(and 1 other pieces are too large\)"):
        run_stages(replace(tight, largest=10))


def test_a_plain_piece_is_never_too_large():
    evidence_2HW = evidence_of(scores_of(drawn("snake", (20, 20), None), np.zeros((20, 20)), "plain"), PLAIN)
    merge = new_merge(evidence_2HW, PLAIN, 3, largest=1)
    run_stages(merge)
    assert np.array_equal(assembled(merge) > 0, evidence_2HW[0] > 0)
    assert assembled(merge).max() == 1


def test_numbers_are_ranks_of_first_pixels_and_not_of_owners():
    # The left core owns the piece that begins further down; the right one begins at the top.
    mask_HW = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], float)
    for settings_ in (PLAIN, SOFTMAX3):
        found = merged(evidence_of(scores_of(mask_HW, 0 * mask_HW, settings_.form), settings_), settings_, 2)
        assert found.tolist() == [[0, 0, 0, 1], [0] * 4, [2] * 4, [0] * 4]
