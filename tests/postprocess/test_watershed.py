"""The watershed against a slow definition, cutting at necks, and that each piece is divided by itself."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pixelwise.postprocess.morphology import connected_components, pieces, renumber
from pixelwise.postprocess.watershed import split_by_distance, watershed

NEIGHBOURS = {4: [(-1, 0), (0, -1), (0, 1), (1, 0)]}
NEIGHBOURS[8] = [*NEIGHBOURS[4], (-1, -1), (-1, 1), (1, -1), (1, 1)]
connectivities = pytest.mark.parametrize("connectivity", [4, 8])


@st.composite
def landscapes(draw):
    """Heights (few or many), seeds, and where the flood may go."""
    shape = draw(st.tuples(st.integers(1, 10), st.integers(1, 10)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height = rng.integers(0, draw(st.sampled_from([1, 3, 255])), shape, endpoint=True)
    seeds = np.where(rng.random(shape) < draw(st.sampled_from([0.0, 0.04, 0.2])), rng.integers(1, 4, shape), 0)
    return height, seeds.astype(np.int32), rng.random(shape) < draw(st.sampled_from([0.5, 0.8, 1.0]))


def ways(height, seeds, allowed, label, connectivity):
    """(highest pixel on the way, steps within that level) from a seed to each pixel, by Dijkstra's algorithm."""
    best = dict.fromkeys(zip(*np.nonzero(seeds == label), strict=True), (-1, 0))
    queue = [(way, pixel) for pixel, way in best.items()]
    heapq.heapify(queue)
    while queue:
        way, (row, column) = heapq.heappop(queue)
        if way > best[row, column]:
            continue
        for down, right in NEIGHBOURS[connectivity]:
            pixel = r, c = row + down, column + right
            if 0 <= r < height.shape[0] and 0 <= c < height.shape[1] and allowed[pixel] and not seeds[pixel]:
                top = max(way[0], int(height[pixel]))
                longer = (top, way[1] + 1 if top == way[0] else 0)
                if longer < best.get(pixel, (math.inf, 0)):
                    best[pixel] = longer
                    heapq.heappush(queue, (longer, pixel))
    return best


@connectivities
@given(landscape=landscapes())
@settings(max_examples=120, deadline=None)
def test_every_pixel_goes_to_a_seed_with_the_lowest_pass(connectivity, landscape):
    height, seeds, allowed = landscape
    found = watershed(height, seeds, allowed, connectivity=connectivity)
    reached = {label: ways(height, seeds, allowed, label, connectivity) for label in (1, 2, 3)}
    for pixel in np.ndindex(height.shape):
        passes = {label: way[pixel][0] for label, way in reached.items() if pixel in way}
        if not passes:
            assert found[pixel] == 0
        else:
            assert passes[found[pixel]] == min(passes.values())


@connectivities
@given(landscape=landscapes())
@settings(max_examples=80, deadline=None)
def test_on_a_plain_every_pixel_goes_to_a_nearest_seed(connectivity, landscape):
    height, seeds, allowed = landscape
    flat = np.zeros_like(height)
    found = watershed(flat, seeds, allowed, connectivity=connectivity)
    reached = {label: ways(flat, seeds, allowed, label, connectivity) for label in (1, 2, 3)}
    for pixel in zip(*np.nonzero(found), strict=True):
        steps = {label: way[pixel] for label, way in reached.items() if pixel in way}
        assert steps[found[pixel]] == min(steps.values())


@connectivities
@given(landscape=landscapes())
@settings(max_examples=60, deadline=None)
def test_basins_are_connected_to_their_seeds(connectivity, landscape):
    height, seeds, allowed = landscape
    numbered = pieces(seeds, connectivity=connectivity)
    found = watershed(height, numbered, allowed, connectivity=connectivity)
    assert pieces(found, connectivity=connectivity).max() == numbered.max()
    assert (found[numbered > 0] == numbered[numbered > 0]).all()
    assert not found[~allowed & (numbered == 0)].any()


def test_a_wall_keeps_the_flood_back_until_it_is_under_water():
    height = np.array([[0, 9, 0, 0, 0, 5, 0]])
    seeds = np.array([[1, 0, 0, 0, 0, 0, 2]])
    assert watershed(height, seeds, np.ones((1, 7))).tolist() == [[1, 1, 2, 2, 2, 2, 2]]


def dumbbell(radius, lesser, neck, gap):
    """Two discs with centres `gap` apart, joined by a bar of the given width."""
    rows, columns = np.indices((2 * radius + 5, gap + 2 * radius + 5))
    middle = radius + 2
    mask = (rows - middle) ** 2 + (columns - middle) ** 2 <= radius**2
    mask |= (rows - middle) ** 2 + (columns - middle - gap) ** 2 <= lesser**2
    return mask | ((abs(rows - middle) <= neck // 2) & (columns >= middle) & (columns <= middle + gap))


@connectivities
@pytest.mark.parametrize(("radius", "lesser"), [(10, 10), (20, 6), (40, 10)])
def test_two_bulges_part_at_a_neck_below_their_share(connectivity, radius, lesser):
    gap = radius + lesser + 4
    narrow, wide = (dumbbell(radius, lesser, neck, gap) for neck in (lesser // 2, 2 * lesser - 1))
    found = split_by_distance(narrow, neck=0.5, connectivity=connectivity)
    assert found.max() == 2
    assert ((found > 0) == narrow).all()
    middle = radius + 2
    assert found[middle, middle] != found[middle, middle + gap]
    assert split_by_distance(wide, neck=0.5, connectivity=connectivity).max() == 1
    assert split_by_distance(narrow, neck=0.0, connectivity=connectivity).max() == 1


@connectivities
@pytest.mark.parametrize("neck", [0.0, 0.5, 1.0])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_split_keeps_the_mask_and_cuts_its_components(connectivity, neck, seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.random((20, 20)), 1.5) > 0.5
    found = split_by_distance(mask, neck=neck, connectivity=connectivity)
    whole = connected_components(mask, connectivity=connectivity)
    assert ((found > 0) == mask).all()
    assert found.max() >= whole.max()
    assert all(np.unique(whole[found == label]).size == 1 for label in range(1, found.max() + 1))
    assert pieces(found, connectivity=connectivity).max() == found.max()
    if neck == 0:
        assert found.max() == whole.max()


@connectivities
@pytest.mark.parametrize("neck", [0.4, 0.7, 1.0])
@given(seed=st.integers(0, 2**32), radius=st.integers(5, 12))
@settings(max_examples=10, deadline=None)
def test_a_piece_is_cut_alone_as_beside_others(connectivity, neck, seed, radius):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random((60, 60)), 3)
    disc = np.hypot(*np.ogrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    mask = np.pad(np.block([[smooth > np.median(smooth)], [np.zeros((1, 60), bool)]]), ((1, 30), (1, 7)))
    mask[62 : 63 + 2 * radius, 5 : 6 + 2 * radius] |= disc
    whole = split_by_distance(mask, neck=neck, connectivity=connectivity)
    parts = connected_components(mask, connectivity=connectivity)
    for label, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        box = np.s_[max(0, rows.start - 1) : rows.stop + 1, max(0, columns.start - 1) : columns.stop + 1]
        piece = parts[box] == label
        found = split_by_distance(piece, neck=neck, connectivity=connectivity)
        assert (found == renumber(np.where(piece, whole[box], 0))).all()


@pytest.mark.parametrize("place", [0, 1, 31, 5000, 40_000])
def test_a_piece_is_cut_alike_wherever_it_lies(place):
    smooth = ndimage.gaussian_filter(np.random.default_rng(8).random((40, 70)), 2.5)
    piece = np.pad(smooth > np.median(smooth), 1)
    alone = split_by_distance(piece, neck=0.8)
    assert alone.max() > 10
    assert (split_by_distance(np.pad(piece, ((0, 0), (place, 0))), neck=0.8)[:, place:] == alone).all()
    assert (split_by_distance(np.pad(piece, ((place, 0), (0, 0))), neck=0.8)[place:] == alone).all()
