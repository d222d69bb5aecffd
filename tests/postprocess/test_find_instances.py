"""Objects from scores: the four forms of target, each piece by itself, tidying, tuning."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pixelwise.errors import DataError, UsageError
from pixelwise.postprocess import instances as inst
from pixelwise.postprocess.instances import (
    FOREGROUND,
    SEED,
    InstanceSettings,
    evidence_of,
    find_instances,
    objects_of,
    tune,
)
from pixelwise.postprocess.morphology import connected_components, pieces, renumber

SOFTMAX3 = InstanceSettings(form="softmax3")
connectivities = pytest.mark.parametrize("connectivity", [4, 8])


def two_cells():
    """Two cells that touch: inside, border and mask, for every form."""
    mask, border = np.zeros((2, 8, 13))
    mask[1:7, 1:12] = 0.95
    border[1:7, 6] = 0.9
    return mask, border


def scores_of(form):
    mask, border = two_cells()
    inside = np.clip(mask - border, 0, 1)
    return np.stack(
        {
            "softmax3": [1 - mask, inside, mask - inside],
            "sigmoid2": [inside, border],
            "sigmoid2_full": [mask, border],
            "plain": [1 - mask, mask],
        }[form]
    ).astype(np.float32)


@pytest.mark.parametrize("form", ["softmax3", "sigmoid2", "sigmoid2_full"])
@connectivities
def test_a_border_parts_two_cells_and_every_pixel_is_of_one(form, connectivity):
    found = find_instances(scores_of(form), InstanceSettings(form=form, connectivity=connectivity))
    assert found.dtype == np.int32
    assert ((found > 0) == (two_cells()[0] > 0.5)).all()
    assert (found[1:7, 1:6] == 1).all()
    assert (found[1:7, 7:12] == 2).all()
    assert set(found[1:7, 6]) <= {1, 2}


@pytest.mark.parametrize("neck", [0.0, 0.5])
def test_without_a_border_two_cells_side_by_side_are_one(neck):
    assert find_instances(scores_of("plain"), InstanceSettings(form="plain", neck=neck)).max() == 1


@pytest.mark.parametrize("form", ["softmax3", "sigmoid2", "sigmoid2_full", "plain"])
def test_seeds_are_cut_at_their_necks_where_the_border_was_missed(form):
    inside = np.pad(dumbbell(10, 10, 5, 24), 1).astype(np.float32)
    channels = {"softmax3": [1 - inside, inside, 0 * inside], "plain": [1 - inside, inside]}
    scores = np.stack(channels.get(form, [inside, 0 * inside]))
    assert find_instances(scores, InstanceSettings(form=form)).max() == 1
    cut = find_instances(scores, InstanceSettings(form=form, neck=0.7))
    assert cut.max() == 2
    assert ((cut > 0) == (inside > 0)).all()


def test_thresholds_are_exceeded_not_met():
    scores = np.array([[[0.5, 0.4]], [[0.5, 0.6]]])
    assert find_instances(scores, InstanceSettings(form="plain")).tolist() == [[0, 1]]


def test_a_piece_without_a_seed_is_an_object_if_it_is_large_enough():
    inside, border = np.array([[[0.9, 0.9, 0.0, 0.3, 0.3, 0.0, 0.3]], [[0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.5]]])
    scores = np.stack([1 - inside - border, inside, border])
    assert find_instances(scores, SOFTMAX3).tolist() == [[1, 1, 0, 2, 2, 0, 3]]
    assert find_instances(scores, replace(SOFTMAX3, smallest=2)).tolist() == [[1, 1, 0, 2, 2, 0, 0]]


def test_small_seeds_are_dropped_and_their_pixels_are_not():
    inside = np.array([[0.9, 0.9, 0.4, 0.9, 0.0]])
    scores = np.stack([1 - inside - 0.1, inside, np.full_like(inside, 0.1)])
    some = replace(SOFTMAX3, foreground=0.3)
    assert find_instances(scores, some).tolist() == [[1, 1, 2, 2, 0]]
    assert find_instances(scores, replace(some, smallest_seed=2)).tolist() == [[1, 1, 1, 1, 0]]


def test_holes_are_filled_unless_told_otherwise():
    ring = np.pad(np.zeros((2, 2)), 1, constant_values=0.9)
    scores = np.stack([1 - ring, ring, 0 * ring])
    assert (find_instances(scores, SOFTMAX3) == 1).all()
    assert find_instances(scores, replace(SOFTMAX3, fill_holes=False)).sum() == 12


@pytest.mark.parametrize("form", list(inst.FORM_CHANNELS))
@connectivities
@given(seed=st.integers(0, 2**32), height=st.integers(1, 12), width=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_objects_are_whole_numbered_in_order_and_cover_the_foreground(form, connectivity, seed, height, width):
    settings_ = InstanceSettings(form=form, connectivity=connectivity, fill_holes=False)
    scores = np.random.default_rng(seed).dirichlet(np.ones(3), (height, width)).transpose(2, 0, 1)
    if form == "plain":
        scores = np.stack([1 - scores[0], scores[0]])
    scores = scores[: len(settings_.channels)].astype(np.float32)
    foreground = {"softmax3": 1 - scores[0], "sigmoid2": scores[:2].sum(axis=0), "plain": scores[1]}.get(
        form, scores[0]
    )
    found = find_instances(scores, settings_)
    assert ((found > 0) == (foreground > 0.5)).all()
    first = np.unique(found, return_index=True)[1][np.unique(found) > 0]
    assert (np.diff(first) > 0).all()
    assert set(found.ravel()) <= set(range(first.size + 1))
    assert pieces(found, connectivity=connectivity).max() == found.max()
    assert (find_instances(scores, settings_) == found).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (31, 33)])
@pytest.mark.parametrize("neck", [0.0, 0.5])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything_are_no_object_and_one(shape, neck, value):
    plain = InstanceSettings(form="plain", neck=neck)
    one = np.full(shape, value, np.float32)
    assert (find_instances(np.stack([1 - one, one]), plain) == value).all()
    assert (find_instances(np.stack([1 - one, one, 0 * one]), SOFTMAX3) == value).all()


def dumbbell(radius, lesser, neck, gap):
    """Two discs with centres `gap` apart, joined by a bar of the given width."""
    rows, columns = np.indices((2 * radius + 5, gap + 2 * radius + 5))
    middle = radius + 2
    mask = (rows - middle) ** 2 + (columns - middle) ** 2 <= radius**2
    mask |= (rows - middle) ** 2 + (columns - middle - gap) ** 2 <= lesser**2
    return mask | ((abs(rows - middle) <= neck // 2) & (columns >= middle) & (columns <= middle + gap))


@st.composite
def evidence_of_pieces(draw):
    """Settings, and evidence of several pieces in noise of some coarseness."""
    settings_ = InstanceSettings(
        form=draw(st.sampled_from(list(inst.FORM_CHANNELS))),
        neck=draw(st.sampled_from([0.0, 0.7, 1.0])),
        connectivity=draw(st.sampled_from([4, 8])),
        smallest=draw(st.sampled_from([1, 4])),
        smallest_seed=draw(st.sampled_from([1, 3])),
        fill_holes=draw(st.booleans()),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    noise = ndimage.gaussian_filter(rng.random((3, *shape)), (0, *[draw(st.sampled_from([0, 1, 2]))] * 2))
    scores = (noise - noise.min()) / max(np.ptp(noise), 1e-9)
    return settings_, evidence_of(scores[: len(settings_.channels)], settings_)


@given(case=evidence_of_pieces())
@settings(max_examples=150, deadline=None)
def test_each_piece_decides_by_itself_what_its_objects_are(case):
    settings_, evidence = case
    whole = objects_of(evidence, settings_)
    parts = connected_components(evidence[0] & FOREGROUND, connectivity=settings_.connectivity)
    for label, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        box = np.s_[max(0, rows.start - 1) : rows.stop + 1, max(0, columns.start - 1) : columns.stop + 1]
        seen, piece = evidence[:, *box], parts[box] == label

        # Holes may hold other pieces; without filling, what is outside of the piece does not matter at all.
        if not settings_.fill_holes:
            seen = seen * piece
        expected = only_of(whole, parts == label)
        assert (renumber(expected[box]) == renumber(only_of(objects_of(seen, settings_), piece))).all()
        expected[box] = 0
        assert not expected.any()


def only_of(labels, piece):
    """The objects whose first pixel is of a piece: the first one is never of a filled hole."""
    numbers, first = np.unique(labels, return_index=True)
    return labels * np.isin(labels, numbers[piece.ravel()[first] & (numbers > 0)])


@pytest.mark.parametrize("form", list(inst.FORM_CHANNELS))
def test_evidence_of_a_part_is_that_of_the_whole(form):
    settings_ = InstanceSettings(form=form, foreground=0.4, seed=0.6)
    scores = np.random.default_rng(3).dirichlet(np.ones(3), (9, 11)).transpose(2, 0, 1)[: len(settings_.channels)]
    whole = evidence_of(scores, settings_)
    assert (evidence_of(scores[:, 2:7, 3:], settings_) == whole[:, 2:7, 3:]).all()
    assert set(np.unique(whole[0])) == ({0, FOREGROUND} if form == "plain" else {0, FOREGROUND, FOREGROUND | SEED})
    assert whole[1].any() == (form != "plain")
    assert (objects_of(whole, settings_) == find_instances(scores, settings_)).all()


def test_evidence_by_hand():
    inside, border = np.array([[[1.00099, 0.6, 0.6, 0.0]], [[-0.00099, 0.3, 0.5, -0.0005]]], np.float32)
    found = evidence_of(np.stack([inside, border]), InstanceSettings(form="sigmoid2", foreground=0.95))
    # Foreground inside + border: 1, 0.9, 1, 0; inside without border: 1, 0.42, 0.3, 0.
    assert found.tolist() == [[[3, 0, 1, 0]], [[0, 148, 178, 255]]]
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    "evidence",
    [np.zeros((2, 4, 4)), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((2, 0, 4), np.uint8)],
)
def test_evidence_that_is_none_is_refused(evidence):
    with pytest.raises(DataError, match=r"evidence of shape .* what evidence_of makes"):
        objects_of(evidence, SOFTMAX3)


def test_scores_that_are_none_are_refused():
    with pytest.raises(DataError, match="background, inside, border"):
        find_instances(np.zeros((2, 4, 4)), SOFTMAX3)
    with pytest.raises(DataError, match="rows × columns"):
        find_instances(np.zeros((3, 0, 4)), SOFTMAX3)
    for value in (-3.0, 1.5, math.nan, math.inf):
        with pytest.raises(DataError, match="not logits"):
            find_instances(np.full((3, 2, 2), value), SOFTMAX3)
    # Blending windows may miss 1 by a rounding error.
    assert find_instances(np.full((3, 2, 2), 1 + 1e-6), SOFTMAX3).max() == 0


def test_settings_come_back_from_json():
    some = InstanceSettings(form="plain", foreground=0.25, smallest=7, connectivity=8)
    assert InstanceSettings.from_dict(json.loads(json.dumps(some.to_dict()))) == some
    assert some.channels == ("background", "foreground")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("form", "other"),
        ("form", ["plain"]),
        ("neck", 1.5),
        ("foreground", 1.5),
        ("foreground", "0.5"),
        ("seed", math.nan),
        ("seed", None),
        ("smallest", 0),
        ("smallest", 2.5),
        ("smallest", True),
        ("smallest", 10**30),
        ("smallest_seed", -1),
        ("fill_holes", 1),
        ("connectivity", 6),
        ("connectivity", 4.0),
        ("foreign", 1),
    ],
)
def test_settings_that_are_none_are_refused(name, value):
    with pytest.raises(UsageError, match="not the settings of instances"):
        InstanceSettings.from_dict(SOFTMAX3.to_dict() | {name: value})


def test_settings_must_be_whole():
    values = SOFTMAX3.to_dict()
    del values["seed"]
    with pytest.raises(UsageError, match="it must hold"):
        InstanceSettings.from_dict(values)
    with pytest.raises(UsageError, match="not the settings"):
        InstanceSettings.from_dict([])  # type: ignore[arg-type]


def same(found, truth):
    return float((found == truth).all())


def test_tuning_finds_the_threshold_and_the_area():
    foreground = np.array([[0.65, 0.65, 0.0, 0.9, 0.0] + [0.65] * 8 + [0.45]])
    truth = np.array([[0] * 5 + [1] * 8 + [0]])
    settings_ = InstanceSettings(form="plain")
    tuned = tune(iter([(np.stack([1 - foreground, foreground]), truth)]), settings_, same)
    assert tuned == replace(settings_, foreground=0.5, smallest=8)


def test_tuning_parts_plain_masks_where_that_is_better():
    foreground = np.kron([[1.0, 1.0]], np.ones((9, 9)))
    foreground[:3, 8:10] = foreground[-3:, 8:10] = 0.0
    truth = np.kron([[1, 2]], np.ones((9, 9), int)) * (foreground > 0)
    images = [(np.stack([1 - foreground, foreground]), truth)]
    settings_ = InstanceSettings(form="plain")
    assert tune(images, settings_, same).neck > 0
    assert tune(images, settings_, same, necks=[0.0]).neck == 0


def test_of_equals_the_settings_given_win():
    settings_ = InstanceSettings(form="plain", foreground=0.55, smallest=3)
    images = [(scores_of("plain"), np.ones((8, 13)))]
    assert tune(images, settings_, lambda found, truth: 1.0) == settings_
    assert tune(images, settings_, lambda found, truth: math.nan) == settings_


def test_tuning_takes_the_mean_over_images_and_leaves_out_undefined_scores():
    images = [(scores_of("softmax3"), np.array([[weight]])) for weight in (1.0, 2.0, math.nan)]
    seen = []

    def score(found, truth):
        seen.append(truth.item())
        return (found > 0).mean() * truth.item()

    tuned = tune(images, replace(SOFTMAX3, foreground=1.0), score)
    assert tuned == replace(SOFTMAX3, foreground=0.3, seed=0.3)
    assert len(seen) == 3 * (1 + 4 * 6 * 6 * 5)


def test_tuning_agrees_with_finding():
    scores = np.random.default_rng(0).dirichlet(np.ones(3), (12, 12)).transpose(2, 0, 1)
    found = []
    tune([(scores, np.zeros((1, 1)))], SOFTMAX3, lambda objects, truth: found.append(objects) or 0.0)
    for candidate, objects in zip(inst._candidates(SOFTMAX3, inst.NECKS), found, strict=True):
        assert (find_instances(scores, candidate) == objects).all()


def test_tuning_needs_an_image_that_fits():
    with pytest.raises(DataError, match="at least one"):
        tune([], SOFTMAX3, same)
    with pytest.raises(DataError, match="channels"):
        tune([(np.zeros((2, 4, 4)), np.zeros((4, 4)))], SOFTMAX3, same)
