"""Images of awkward pieces, a store in memory, and the whole of merging in one call, for the tests of merging."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

from pixelwise.inference.merge import stages_of
from pixelwise.inference.parts import Merge
from pixelwise.postprocess.instances import FORM_CHANNELS, InstanceSettings
from pixelwise.tiles import TileGrid

KINDS = ("noise", "blobs", "snake", "spiral", "rings", "checkerboard", "diagonals", "full", "empty")


class MemoryStore:
    """Evidence from an array; parts and objects in dictionaries."""

    def __init__(self, evidence_2HW):
        self.evidence_2HW = evidence_2HW
        self.parts = {}
        self.objects = {}
        self.windows = []

    def read_evidence(self, window):
        self.windows.append(window)
        return self.evidence_2HW[:, window.top : window.bottom, window.left : window.right].copy()

    def read_part(self, stage, index):
        return self.parts[stage, index]

    def write_part(self, stage, index, data):
        self.parts[stage, index] = data

    def write_objects(self, index, objects_HW):
        assert objects_HW.dtype == np.uint64
        self.objects[index] = objects_HW


def new_merge(evidence_2HW, settings, core, largest=1 << 40):
    grid = TileGrid(evidence_2HW.shape[1:], core)
    return Merge(store=MemoryStore(evidence_2HW), grid=grid, settings=settings, largest=largest)


def run_stages(merge, seed=0, until=None):
    """Run all stages, or those before `until`, the cores in a random order."""
    rng = np.random.default_rng(seed)
    for stage in itertools.takewhile(lambda stage: stage.name != until, stages_of(merge)):
        if stage.by_core:
            for index in rng.permutation(len(merge.grid)).tolist():
                stage.run(merge, index)
        else:
            stage.run(merge)


def assembled(merge):
    """The objects of all cores as one image."""
    objects_HW = np.full(merge.grid.shape, 2**64 - 1, np.uint64)
    for index, core_HW in merge.store.objects.items():
        objects_HW[merge.grid.window(index).slices] = core_HW
    return objects_HW


def merged(evidence_2HW, settings, core, seed=0):
    """The objects of evidence, made core by core."""
    merge = new_merge(evidence_2HW, settings, core)
    run_stages(merge, seed)
    return assembled(merge)


def drawn(kind, shape, rng):
    """A map of 0 to 1 of one kind of pieces."""
    rows, columns = np.indices(shape)
    match kind:
        case "noise":
            return rng.random(shape)
        case "blobs":
            smooth = ndimage.gaussian_filter(rng.random(shape), rng.choice([0.7, 1.5, 3.0]))
            return (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)
        case "snake":
            turns = np.where(rows // 2 % 2 == 0, shape[1] - 1, 0)
            return ((rows % 2 == 0) | (columns == turns)).astype(float)
        case "spiral":
            return spiral(shape).astype(float)
        case "rings":
            from_edge = np.minimum(np.minimum(rows, shape[0] - 1 - rows), np.minimum(columns, shape[1] - 1 - columns))
            return (from_edge % rng.integers(2, 5) == 0).astype(float)
        case "checkerboard":
            return ((rows + columns) % 2).astype(float)
        case "diagonals":
            return ((rows + columns) % rng.integers(2, 6) == 0).astype(float)
    return np.full(shape, float(kind == "full"))


def spiral(shape):
    """A way of one pixel that winds inwards, with a gap of one pixel."""
    map_HW = np.zeros(shape, bool)
    row, column, down, right = 0, -1, 0, 1
    for _ in range(4 * max(shape)):
        moved = False
        while free(map_HW, row + down, column + right, down, right):
            row, column, moved = row + down, column + right, True
            map_HW[row, column] = True
        if not moved:
            break
        down, right = right, -down
    return map_HW


def free(map_HW, row, column, down, right):
    """Whether a pixel may be entered: inside, not taken, and the one behind it not taken either."""
    inside = 0 <= row < map_HW.shape[0] and 0 <= column < map_HW.shape[1]
    if not inside or map_HW[row, column]:
        return False
    ahead = row + down, column + right
    return not (0 <= ahead[0] < map_HW.shape[0] and 0 <= ahead[1] < map_HW.shape[1] and map_HW[ahead])


def scores_of(mask_HW, border_HW, form):
    """Scores of a form, from how much a pixel is of an object and how much of a border."""
    inside_HW = mask_HW * (1 - border_HW)
    channels = {
        "softmax3": [1 - mask_HW, inside_HW, mask_HW - inside_HW],
        "sigmoid2": [inside_HW, mask_HW - inside_HW],
        "sigmoid2_full": [mask_HW, border_HW],
        "plain": [1 - mask_HW, mask_HW],
    }[form]
    return np.stack(channels).clip(0, 1).astype(np.float32)


def random_scores(rng, shape, kind, form):
    """Scores of one kind, some pixels of which are turned over."""
    mask_HW = drawn(kind, shape, rng)
    mask_HW = np.where(rng.random(shape) < rng.choice([0, 0.03, 0.2]), 1 - mask_HW, mask_HW)
    border_HW = ndimage.gaussian_filter(rng.random(shape), rng.choice([0, 0.8]))
    return scores_of(mask_HW, border_HW, form)


@st.composite
def settings_of_objects(draw, forms=tuple(FORM_CHANNELS)):
    return InstanceSettings(
        form=draw(st.sampled_from(forms)),
        neck=draw(st.sampled_from([0.0, 0.6, 1.0])),
        connectivity=draw(st.sampled_from([4, 8])),
        smallest=draw(st.sampled_from([1, 2, 5, 30])),
        smallest_seed=draw(st.sampled_from([1, 3])),
        fill_holes=draw(st.booleans()),
    )


@st.composite
def cases(draw, forms=tuple(FORM_CHANNELS)):
    """Scores, settings, the side of a core (at most about 80 cores), and a seed."""
    settings_ = draw(settings_of_objects(forms))
    core = draw(st.integers(1, 40))
    shape = tuple(draw(st.integers(1, min(60, 9 * core))) for _ in range(2))
    seed = draw(st.integers(0, 2**32))
    scores_KHW = random_scores(np.random.default_rng(seed), shape, draw(st.sampled_from(KINDS)), settings_.form)
    return scores_KHW, settings_, core, seed
