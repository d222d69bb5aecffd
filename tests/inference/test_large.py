"""An image of any size, read and written tile by tile: the same as in memory, whatever the tiles, killed or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from pixelwise.bundle import Bundle, Network
from pixelwise.config import PredictConfig, RuntimeConfig
from pixelwise.data.masks import Coding
from pixelwise.data.synthetic import draw_cells
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import DataError, UsageError
from pixelwise.inference import large, large_plan
from pixelwise.inference.large import damage_of, flat, run_step, seam_of, steps_left, write_table
from pixelwise.inference.large_plan import CLASSES, OBJECTS, SCORES, LargeJob, Wish, plan_large
from pixelwise.inference.predict import Predictor, predict
from pixelwise.inference.runners import Here
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.runtime import LackOfMemoryError, Runtime, resident_memory
from pixelwise.tiles import TileGrid, Window

SMALL = RuntimeConfig(threads=1, precision="fp32")
FORMS = {
    "classes": None,
    "pieces": InstanceSettings(form="plain", foreground=0.45, smallest=8),
    "necks": InstanceSettings(form="plain", foreground=0.45, neck=0.7, smallest=8),
}


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A picture of cells, 300 x 420 pixels, as a tiled TIFF."""
    picture = draw_cells(size=(300, 420), seed=4)
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, picture.image_HWC[..., 0], tile=(64, 64), compression="zlib")
    return path


@pytest.fixture
def small_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_plan, "CORES", (128,))
    monkeypatch.setattr(large_plan, "CHUNK", 32)


@pytest.fixture
def model(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Callable[..., Path]:
    """Writes a model: dark is background, bright a cell, with a random network on top."""

    def write(objects: InstanceSettings | None = None, **settings) -> Path:
        bundle = replace(make_bundle(predict=PredictConfig(**settings)), instances=objects)
        if objects:
            bundle = replace(bundle, coding=Coding(kind="instances"))
        path = tmp_path / "model.safetensors"
        bundle.save(path)
        return path

    return write


def run(wish: Wish) -> tuple[LargeJob, TileStore]:
    job, plan = plan_large(wish)
    with TileStore.open(job.store, plan) as store:
        for step in steps_left(job):
            failures = [done.failure for done in run_step(job, step, Here()) if done.failure]
            assert not failures
        return job, store


def read_all(store: TileStore, layer: str) -> np.ndarray:
    return store.read(layer, Window(0, 0, *store.plan.grid.shape))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flips", [False, True], ids=["plain", "flips"])
@pytest.mark.usefixtures("small_cores")
def test_tiles_give_what_the_whole_image_gives(
    cells: Path, model: Callable[..., Path], tmp_path: Path, runtime: Runtime, form: str, flips: bool
) -> None:
    image_HWC, settings = tifffile.imread(cells)[..., None], PredictConfig(flips=flips)
    scores_KHW = predict(image_HWC, Predictor.of(Bundle.load(model()), runtime, settings)).scores_KHW
    middle = float(np.quantile(scores_KHW[1], 0.6))  # a random network is sure of nothing
    path = model(FORMS[form] and replace(FORMS[form], foreground=middle), flips=flips, tile=96)
    job, store = run(Wish(source=cells, model=path, store=tmp_path / "out.zarr", runtime=SMALL, scores="uint16"))
    assert len(store.plan.grid) == 12
    assert job.tiling.way == "exact"

    whole = predict(image_HWC, Predictor.of(Bundle.load(path), runtime, settings))
    np.testing.assert_array_equal(read_all(store, CLASSES), whole.labels)
    np.testing.assert_allclose(read_all(store, SCORES) / 65535, whole.scores_KHW, atol=2e-5)
    if whole.instances_HW is not None:
        assert whole.instances_HW.max() > 20
        np.testing.assert_array_equal(read_all(store, OBJECTS), whole.instances_HW)
    half = store.read(CLASSES, Window(0, 0, 150, 210), level=1)
    np.testing.assert_array_equal(half, whole.labels[::2, ::2])


@pytest.mark.usefixtures("small_cores")
def test_what_is_done_is_not_done_again(cells: Path, model: Callable[..., Path], tmp_path: Path) -> None:
    wish = Wish(source=cells, model=model(FORMS["pieces"], tile=96), store=tmp_path / "out.zarr", runtime=SMALL)
    job, plan = plan_large(wish)
    with TileStore.open(job.store, plan):
        first = next(steps_left(job))
        assert first.missing == tuple(range(12))
        done = list(run_step(job, replace(first, missing=(7, 2)), Here()))
        assert [(one.index, one.pixels) for one in done] == [(7, 128 * (420 - 3 * 128)), (2, 128 * 128)]
        assert next(steps_left(job)).missing == (0, 1, 3, 4, 5, 6, 8, 9, 10, 11)
        with pytest.raises(DataError, match="not done for tile 0, 1, 3, 4, 5 and 5 more"):
            read_all(TileStore.join(job.store), CLASSES)
    _, whole = run(wish)
    _, fresh = run(replace(wish, store=tmp_path / "fresh.zarr"))
    for layer in (CLASSES, OBJECTS):
        np.testing.assert_array_equal(read_all(whole, layer), read_all(fresh, layer))


@pytest.mark.usefixtures("small_cores")
def test_a_store_goes_on_with_its_own_tiles_whatever_the_memory(
    cells: Path, model: Callable[..., Path], tmp_path: Path
) -> None:
    here = resident_memory(torch.device("cpu"))
    wish = Wish(
        source=cells, model=model(), store=tmp_path / "out.zarr", runtime=SMALL, memory=2 * here + 2_000_000_000
    )
    job, plan = plan_large(wish)
    with TileStore.open(job.store, plan):
        pass
    other, again = plan_large(replace(wish, memory=2 * here))
    assert other.tiling == job.tiling
    assert again == plan
    elsewhere, _ = plan_large(replace(wish, memory=2 * here, store=tmp_path / "other.zarr"))
    assert elsewhere.tiling.side <= job.tiling.side
    with (
        pytest.raises(UsageError, match="scores is"),
        TileStore.open(job.store, plan_large(replace(wish, scores="uint8"))[1]),
    ):
        pass


@pytest.mark.usefixtures("small_cores")
def test_a_tile_that_fails_is_named_and_the_others_are_done(
    cells: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, plan = plan_large(Wish(source=cells, model=model(), store=tmp_path / "out.zarr", runtime=SMALL))
    real, tried = large.scores_of_part, []

    def poisoned(read, part: Window, **rest):
        if part.top == part.left == 128:
            tried.append(part)
            raise RuntimeError("bad tile")
        return real(read, part, **rest)

    monkeypatch.setattr(large, "scores_of_part", poisoned)
    with TileStore.open(job.store, plan) as store:
        done = list(run_step(job, next(steps_left(job)), Here()))
        assert {one.index: one.failure for one in done if one.failure} == {5: "RuntimeError: bad tile"}
        assert len(tried) == 3
        assert store.missing("network") == [5]


@pytest.mark.usefixtures("small_cores")
def test_flat_tiles_are_taken_as_the_first_class(tmp_path: Path, model: Callable[..., Path]) -> None:
    image = np.full((128, 384), 240, np.uint8)
    image[40:80, 300:340] = 20
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64))
    wish = Wish(source=tmp_path / "a.tif", model=model(), store=tmp_path / "out.zarr", runtime=SMALL, skip_flat=True)
    job, plan = plan_large(wish)
    with TileStore.open(job.store, plan) as store:
        done = list(run_step(job, next(steps_left(job)), Here()))
        assert [one.note for one in done] == ["flat", "flat", ""]
        assert not store.read(CLASSES, Window(0, 0, 128, 256)).any()
    assert flat(np.zeros((1, 1, 3)), (1.0, 1.0, 1.0))
    assert not flat(np.random.default_rng(0).normal(size=(70, 70, 2)) * 200, (50.0, 50.0))


@pytest.mark.usefixtures("small_cores")
def test_pixels_that_were_not_measured_are_void(tmp_path: Path, model: Callable[..., Path]) -> None:
    image = np.full((150, 200), 90, np.uint8)
    image[:, :60] = 255
    tag = (42113, 2, 0, "255", True)  # GDAL_NODATA
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), extratags=[tag], metadata=None)
    settings = InstanceSettings(form="plain", foreground=0.0)
    job, store = run(Wish(source=tmp_path / "a.tif", model=model(settings), store=tmp_path / "out.zarr", runtime=SMALL))
    labels_HW, objects_HW = read_all(store, CLASSES), read_all(store, OBJECTS)
    assert (labels_HW[:, :60] == 255).all()
    assert (labels_HW[:, 60:] < 2).all()
    assert not objects_HW[:, :60].any()
    assert (objects_HW[:, 60:] == 1).all()
    assert write_table(job, store, tmp_path / "table.csv", class_name="cell") == 1
    assert (tmp_path / "table.csv").read_text().splitlines()[1].startswith(f"1,cell,{150 * 140},")


@pytest.mark.usefixtures("small_cores")
def test_a_network_that_sees_everything_states_its_seams(
    cells: Path, tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> None:
    bundle = make_bundle()
    network = Network(name="parsenet", in_channels=1, options={"width": 4})
    replace(
        bundle, network=network, weights=network.build(bundle.task).state_dict(), predict=PredictConfig(tile=160)
    ).save(tmp_path / "global.safetensors")
    wish = Wish(source=cells, model=tmp_path / "global.safetensors", store=tmp_path / "out.zarr", runtime=SMALL)
    job, store = run(wish)
    assert job.tiling.way == "inner"
    seam = seam_of(job, store.plan.grid)
    assert seam is not None
    assert seam > 0
    small = TileGrid((50, 50), 128)
    assert seam_of(replace(job, tiling=replace(job.tiling, side=5000)), small) is None


@pytest.mark.usefixtures("small_cores")
def test_damage_to_parts_is_found_and_mended(cells: Path, model: Callable[..., Path], tmp_path: Path) -> None:
    wish = Wish(source=cells, model=model(FORMS["necks"], tile=96), store=tmp_path / "out.zarr", runtime=SMALL)
    job, store = run(wish)
    before = read_all(store, OBJECTS)
    parts = sorted((job.store / ".pixelwise/work/files/parts").rglob("[0-9]*"))
    files = [path for path in parts if path.is_file()]
    files[3].write_bytes(files[3].read_bytes()[:-2])
    files[-1].unlink()
    shard = next(
        path for path in sorted((job.store / "labels/objects/0").rglob("*")) if path.name.isdigit() and path.is_file()
    )
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    with TileStore.open(job.store, store.plan) as opened:
        damages = damage_of(opened)
        assert len(damages) == 3
        opened.mend(damages)
        assert sum(len(step.missing) for step in steps_left(job)) == 3
    _, mended = run(wish)
    assert damage_of(mended) == []
    np.testing.assert_array_equal(read_all(mended, OBJECTS), before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": PredictConfig(scales=(0.5, 1.0))}, "predict.scales sees the whole image"),
        ({"settings": PredictConfig(tile=20, tiling="exact")}, "give more, or 0 for as many as memory allows"),
    ],
    ids=["scales", "tile"],
)
def test_settings_that_cannot_be_are_refused(
    cells: Path, model: Callable[..., Path], tmp_path: Path, change: dict, said: str
) -> None:
    wish = replace(Wish(source=cells, model=model(), store=tmp_path / "out.zarr", runtime=SMALL), **change)
    with pytest.raises(UsageError, match=said):
        plan_large(wish)


def test_an_image_of_other_channels_is_refused(tmp_path: Path, model: Callable[..., Path]) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(DataError, match="the image has 3 channels, the model takes 1"):
        plan_large(Wish(source=tmp_path / "rgb.tif", model=model(), store=tmp_path / "out.zarr", runtime=SMALL))


def test_the_tile_is_the_one_that_costs_least(
    cells: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_plan, "CHUNK", 32)
    wish = Wish(source=cells, model=model(), store=tmp_path / "out.zarr", runtime=SMALL)
    costs = []
    for budget in (3_000_000, 6_000_000, 12_000_000, 40_000_000):
        monkeypatch.setattr(large_plan, "window_budget", lambda *_, budget=budget: budget)
        alone: dict[int, float] = {}
        for cores in [(32,), (64,), (96,), (128,), (160,), (320,), (32, 64, 96, 128, 160, 320)]:
            monkeypatch.setattr(large_plan, "CORES", cores)
            try:
                job, plan = plan_large(wish)
            except LackOfMemoryError:
                continue
            halo, core = job.tiling.halo, plan.grid.core
            parts = [min(job.tiling.core, core - first) for first in range(0, core, job.tiling.core)]
            cost = sum(part + 2 * halo for part in parts) / core
            if len(cores) == 1:
                alone[core] = cost
        assert len(alone) > 1
        assert cost <= min(alone.values()) + 0.01
        costs.append(cost)
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]


@pytest.mark.usefixtures("small_cores")
def test_where_memory_lacks_a_tile_is_seen_in_smaller_windows(
    cells: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Wish(source=cells, model=model(tile=150), store=tmp_path / "out.zarr", runtime=SMALL)
    real, sides = large.scores_of_part, []

    def scarce(read, part: Window, *, tiling, **rest):
        sides.append(tiling.side)
        if tiling.side > 100:
            raise MemoryError
        return real(read, part, tiling=tiling, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(large, "scores_of_part", scarce)
        job, plan = plan_large(wish)
        with TileStore.open(job.store, plan) as store:
            done = list(run_step(job, next(steps_left(job)), Here()))
    assert {one.note for one in done} == {"small"}
    assert max(sides) == job.tiling.side > 100 > min(sides) > 2 * job.tiling.halo
    _, plenty = run(replace(wish, store=tmp_path / "plenty.zarr"))
    np.testing.assert_array_equal(read_all(store, CLASSES), read_all(plenty, CLASSES))

    monkeypatch.setattr(large, "scores_of_part", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(LackOfMemoryError):
        large.do_step(job, "network", 0)
