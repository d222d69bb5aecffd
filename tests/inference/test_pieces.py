"""Open and closed pieces, the faces of cores, and sets that are joined, each against a slow way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import cases
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as components_of_graph

from pixelwise.inference.pieces import (
    DisjointSets,
    Sides,
    facing_lines,
    number_open,
    numbers_before,
    outer_lines,
    touching,
    whole_objects,
)
from pixelwise.postprocess.instances import FOREGROUND, evidence_of, objects_of
from pixelwise.postprocess.morphology import connected_components, renumber
from pixelwise.tiles import TileGrid, Window

MIDDLE, EVERYTHING = Window(2, 2, 5, 6), Window(0, 0, 3, 4)


def test_open_pieces_are_numbered_as_a_walk_along_the_sides_meets_them():
    labels_HW = np.array([[0, 5, 0, 3], [2, 0, 4, 0], [0, 1, 0, 3]], np.int32)
    assert number_open(labels_HW, MIDDLE, (9, 9)).tolist() == [0, 4, 3, 2, 0, 1]
    assert not number_open(labels_HW, EVERYTHING, (3, 4)).any()
    assert number_open(labels_HW, Window(0, 0, 3, 4), (9, 4)).tolist() == [0, 1, 0, 2, 0, 0]


@pytest.mark.parametrize(("window", "cut"), [(MIDDLE, "tlbr"), (EVERYTHING, ""), (Window(0, 5, 3, 9), "lb")])
def test_sides_are_cut_where_the_image_goes_on(window, cut):
    map_HW = np.arange(12).reshape(3, 4)
    lines = {"t": [0, 1, 2, 3], "l": [0, 4, 8], "b": [8, 9, 10, 11], "r": [3, 7, 11]}
    shape = (9, 9) if cut else (3, 4)
    assert [line.tolist() for line in outer_lines(map_HW, window, shape)] == [lines[side] for side in cut]
    at_edge = outer_lines(map_HW, window, shape, cut=False)
    assert [line.tolist() for line in at_edge] == [line for side, line in lines.items() if side not in cut]


@given(case=cases())
@settings(max_examples=120, deadline=None)
def test_closed_pieces_of_a_window_have_the_objects_of_the_whole_image(case):
    scores_KHW, settings_, _, seed = case
    evidence_2HW = evidence_of(scores_KHW, settings_)
    shape = evidence_2HW.shape[1:]
    rng = np.random.default_rng(seed)
    (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)).tolist() for side in shape)
    window = Window(top, left, bottom, right)
    found_HW, pieces_HW = whole_objects(evidence_2HW[:, *window.slices], window, shape, settings_)
    assert np.array_equal(pieces_HW > 0, evidence_2HW[0][window.slices] & FOREGROUND > 0)

    # Objects of the whole image whose piece does not touch a cut side; their first pixels are of their pieces.
    whole_HW = objects_of(evidence_2HW, settings_)
    numbers, first = np.unique(whole_HW, return_index=True)
    piece_of = connected_components(evidence_2HW[0] & FOREGROUND, connectivity=settings_.connectivity)
    inside_HW = np.zeros(shape, bool)
    inside_HW[window.slices] = True
    seen_HW = np.where(inside_HW, piece_of, 0)
    cut = np.concatenate([[0], *outer_lines(seen_HW[window.slices], window, shape)])
    closed = np.setdiff1d(seen_HW, np.append(cut, piece_of[~inside_HW]))
    expected_HW = np.where(np.isin(whole_HW, numbers[np.isin(piece_of.ravel()[first], closed)]), whole_HW, 0)
    assert np.array_equal(found_HW, renumber(expected_HW)[window.slices])


@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 12)), core=st.integers(1, 7), diagonal=st.booleans())
@settings(max_examples=60, deadline=None)
def test_facing_lines_show_every_pair_of_pixels_of_different_cores(shape, core, diagonal):
    numbers_HW = np.arange(1, shape[0] * shape[1] + 1).reshape(shape)
    grid = TileGrid(shape, core)
    sides = (Sides.of(numbers_HW[grid.window(index).slices]) for index in range(len(grid)))
    found = [
        pair
        for one, other in facing_lines(grid, sides)
        for pair in zip(*(part.tolist() for part in touching(one, other, 8 if diagonal else 4)), strict=True)
    ]
    expected = set()
    for (row, column), (down, right) in itertools.product(np.ndindex(shape), ((0, 1), (1, 0), (1, 1), (1, -1))):
        r, c = row + down, column + right
        wanted = r < shape[0] and 0 <= c < shape[1] and (diagonal or not down * right)
        if wanted and (row // core, column // core) != (r // core, c // core):
            expected.add(frozenset((int(numbers_HW[row, column]), int(numbers_HW[r, c]))))
    assert {frozenset(pair) for pair in found} == expected


def test_pairs_that_are_equal_are_told_once_in_a_row():
    one, other = np.array([1, 1, 1, 0, 1, -2]), np.array([7, 7, 8, 8, 8, 9])
    assert [part.tolist() for part in touching(one, other, 4)] == [[1, 1], [7, 8]]


@given(count=st.integers(1, 60), rounds=st.integers(0, 4), seed=st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_sets_are_the_components_of_the_graph_of_pairs(count, rounds, seed):
    rng = np.random.default_rng(seed)
    sets, pairs = DisjointSets(count), [np.zeros((2, 0), int)]
    for _ in range(rounds):
        pairs.append(rng.integers(0, count, (2, rng.integers(0, count))))
        sets.join(*pairs[-1])
    some, others = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(some.size), (some, others)), shape=(count, count))
    _, components = components_of_graph(graph, directed=False)
    lowest = sets.lowest()
    expected = [np.flatnonzero(components == component).min() for component in components]
    assert lowest.tolist() == expected
    assert lowest.dtype == np.int64


@pytest.mark.parametrize("order", ["up", "down", "star", "random"])
def test_long_chains_are_joined_in_few_rounds(order):
    count = 200_000
    chain = np.stack([np.arange(count - 1), np.arange(1, count)])
    pairs = {
        "up": chain,
        "down": chain[:, ::-1],
        "star": np.stack([np.full(count - 1, count - 1), np.arange(count - 1)]),
        "random": np.random.default_rng(0).permutation(count)[chain],
    }[order]
    sets = DisjointSets(count)
    for some in np.array_split(pairs, 7, axis=1):
        sets.join(*some)
    assert not sets.lowest().any()


def test_numbers_go_on_from_core_to_core():
    before = numbers_before([3, 0, 2])
    lines = np.array([1, 0, -4], np.int32)
    moved = Sides(lines, lines, lines, lines).moved(before[2])
    assert before.tolist() == [0, 3, 3, 5]
    assert moved.left.tolist() == [4, 0, -4]
    assert moved.left.dtype == np.int64
    assert Sides.read(moved.lines).lines.keys() == {"top", "left", "bottom", "right"}
