"""Regions of objects against plain counting, added up over windows, and the table of them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import drawn, merged, new_merge, run_stages, scores_of

from pixelwise.errors import OutputError
from pixelwise.inference import regions as table
from pixelwise.inference.merge import stages_of
from pixelwise.inference.regions import (
    add_regions,
    box_of,
    no_regions,
    ordered_regions,
    pack_regions,
    regions_of,
    unpack_regions,
    write_regions,
)
from pixelwise.postprocess.instances import InstanceSettings, evidence_of
from pixelwise.tiles import TileGrid, Window

PLAIN, SOFTMAX3 = InstanceSettings(form="plain"), InstanceSettings(form="softmax3")


def counted(labels_HW, window, width):
    """The regions of labels, pixel by pixel."""
    found = []
    for label in range(1, labels_HW.max() + 1):
        rows, columns = np.nonzero(labels_HW == label)
        rows, columns = rows + window.top, columns + window.left
        sums = len(rows), rows.sum(), columns.sum()
        box = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        found.append(((rows * width + columns).min(), *sums, *box))
    return found


@st.composite
def label_images(draw):
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(0, draw(st.sampled_from([1, 2, 6])), shape, endpoint=True)
    return np.searchsorted(np.unique(labels[labels > 0]), labels, side="right") * (labels > 0)


@given(labels_HW=label_images(), top=st.integers(0, 2**31), left=st.integers(0, 1000), band=st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_regions_are_what_counting_says(labels_HW, top, left, band):
    window = Window(top, left, top + labels_HW.shape[0], left + labels_HW.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "BAND_PIXELS", band)
        found = regions_of(labels_HW, window, 2**31)
    names = ["first", "area", "rows", "columns", "top", "left", "bottom", "right"]
    assert found[names].tolist() == counted(labels_HW, window, 2**31)
    assert unpack_regions(pack_regions(found)).tolist() == found.tolist()


@given(labels_HW=label_images(), core=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_regions_of_parts_add_up_to_those_of_the_whole(labels_HW, core):
    grid = TileGrid(labels_HW.shape, core)
    totals = no_regions(labels_HW.max())
    for index in range(len(grid)):
        window = grid.window(index)
        parts = regions_of(labels_HW[window.slices], window, labels_HW.shape[1])
        add_regions(totals, np.arange(len(parts)), parts)
    assert np.array_equal(totals, regions_of(labels_HW, Window(0, 0, *labels_HW.shape), labels_HW.shape[1]))


def test_several_parts_may_go_to_one_region():
    totals = no_regions(2)
    add_regions(totals, np.array([1, 1, 1]), regions_of(np.array([[1, 0, 2, 3]]), Window(7, 5, 8, 9), 100))
    assert totals["area"].tolist() == [0, 3]
    assert box_of(totals[1]) == Window(7, 5, 8, 9)
    assert (totals["first"][1], totals["columns"][1]) == (705, 5 + 7 + 8)


@pytest.mark.parametrize("settings_", [PLAIN, SOFTMAX3], ids=["plain", "softmax3"])
def test_the_table_by_hand(tmp_path, settings_):
    mask_HW = np.zeros((6, 8))
    mask_HW[0, 7] = mask_HW[1:4, 1:6] = mask_HW[5, 0] = 1
    mask_HW[2, 2:5] = 0  # a hole, which is filled
    merge = new_merge(evidence_of(scores_of(mask_HW, 0 * mask_HW, settings_.form), settings_), settings_, 3)
    run_stages(merge)
    assert write_regions(tmp_path / "regions.csv", merge, class_name="cell, round") == 3
    assert (tmp_path / "regions.csv").read_text("utf-8").splitlines() == [
        "id,class,area,centroid_row,centroid_column,top,left,bottom,right",
        '1,"cell, round",1,0.000,7.000,0,7,1,8',
        '2,"cell, round",15,2.000,3.000,1,1,4,6',
        '3,"cell, round",1,5.000,0.000,5,0,6,1',
    ]


@pytest.mark.parametrize("settings_", [PLAIN, SOFTMAX3], ids=["plain", "softmax3"])
def test_the_table_says_what_the_map_shows(tmp_path, settings_, monkeypatch):
    monkeypatch.setattr(table, "ROWS_AT_ONCE", 3)
    rng = np.random.default_rng(11)
    scores_KHW = scores_of(drawn("blobs", (40, 50), rng), drawn("noise", (40, 50), rng), settings_.form)
    evidence_2HW = evidence_of(scores_KHW, settings_)
    merge = new_merge(evidence_2HW, settings_, 7)
    run_stages(merge)
    count = write_regions(tmp_path / "regions.csv", merge, class_name="cell")
    objects_HW = merged(evidence_2HW, settings_, 50)
    with (tmp_path / "regions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert count == len(rows) == objects_HW.max() > 5
    for row in rows:
        places = np.argwhere(objects_HW == int(row["id"]))
        assert len(places) == int(row["area"])
        assert places.mean(axis=0) == pytest.approx(
            [float(row["centroid_row"]), float(row["centroid_column"])], abs=1e-3
        )
        assert [int(row["top"]), int(row["left"])] == places.min(axis=0).tolist()
        assert [int(row["bottom"]), int(row["right"])] == (places.max(axis=0) + 1).tolist()


def test_an_object_waits_that_begins_below_the_core_of_its_owner():
    # One piece of two objects, of which the second begins in the lower row of cores; the first core owns both.
    inside_HW = np.zeros((6, 6))
    inside_HW[:, 1] = 1
    border_HW = np.zeros((6, 6))
    border_HW[2:4, 1] = 0.6
    evidence_2HW = evidence_of(scores_of(inside_HW, border_HW, "softmax3"), SOFTMAX3)
    merge = new_merge(evidence_2HW, SOFTMAX3, 3)
    run_stages(merge)
    assert [regions["area"].tolist() for regions in ordered_regions(merge)] == [[3], [3]]
    assert len(merge.load("regions", 0)["regions"]) == 2


def test_no_object_is_a_table_with_a_head_alone(tmp_path):
    merge = new_merge(np.zeros((2, 5, 5), np.uint8), SOFTMAX3, 2)
    run_stages(merge, until=stages_of(merge)[-1].name)
    assert write_regions(tmp_path / "regions.csv", merge, class_name="cell") == 0
    assert (tmp_path / "regions.csv").read_text("utf-8").count("\n") == 1


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    merge = new_merge(np.zeros((2, 2, 2), np.uint8), PLAIN, 2)
    run_stages(merge)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"regions\.csv"):
        write_regions(tmp_path / "file" / "regions.csv", merge, class_name="cell")
