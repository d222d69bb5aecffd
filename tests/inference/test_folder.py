"""Masks for a folder of images."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from pixelwise.bundle import Bundle
from pixelwise.data.layouts import find_images
from pixelwise.errors import UsageError
from pixelwise.inference.folder import Done, ObjectCount, Outputs, count_table, predict_image
from pixelwise.inference.folder_journal import FolderJournal
from pixelwise.inference.folder_plan import plan_folder
from pixelwise.inference.folder_run import predict_folder
from pixelwise.inference.predict import Prediction, Predictor, predict
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.runtime import Runtime


def predict_all(images: Path, predictor: Predictor, outputs: Outputs) -> list[Done]:
    """Masks for all images that are left."""
    with FolderJournal.open(outputs.folder, {}) as journal:
        plan = plan_folder(find_images(images), outputs, journal, finds_objects=predictor.instances is not None)
        return list(predict_folder(plan, partial(predict_image, predictor, outputs)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (20, 30)), ("b (1)", (1, 1)), ("c", (33, 31))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    return folder


def test_one_bad_image_does_not_stop_the_others(
    make_bundle: Callable[..., Bundle], runtime: Runtime, images: Path, tmp_path: Path
) -> None:
    bundle = make_bundle()
    outputs = Outputs(folder=tmp_path / "out", scores=True, overlays=True)
    done = {one.name: one for one in predict_all(images, Predictor.of(bundle, runtime), outputs)}
    assert set(done) == {"a", "b (1)", "c", "broken"}
    assert "broken.png" in done["broken"].failure
    assert not (tmp_path / "out" / "broken.png").exists()
    for name, size in (("a", (20, 30)), ("b (1)", (1, 1)), ("c", (33, 31))):
        with Image.open(tmp_path / "out" / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == size[::-1]
            assert mask.getpalette()[:6] == [part for colour in bundle.task.colours for part in colour]
            assert set(np.unique(np.array(mask))) <= {0, 1}
        assert tifffile.imread(tmp_path / "out" / "scores" / f"{name}.tif").shape == (2, *size)
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.png") as picture:
            assert picture.size == size[::-1]


def test_a_displayed_size_follows_the_exif_orientation(
    make_bundle: Callable[..., Bundle], runtime: Runtime, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((10, 24), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    outputs = Outputs(folder=tmp_path / "out")
    (one,) = predict_all(tmp_path / "turned.jpg", Predictor.of(make_bundle(), runtime), outputs)
    with Image.open(one.labels) as mask:
        assert mask.size == (10, 24)


def test_an_input_is_never_replaced(make_bundle: Callable[..., Bundle], runtime: Runtime, images: Path) -> None:
    before = (images / "a.png").read_bytes()
    for outputs in (Outputs(folder=images), Outputs(folder=images, replace=True)):
        with pytest.raises(UsageError, match="is an input"):
            predict_all(images, Predictor.of(make_bundle(), runtime), outputs)
    assert (images / "a.png").read_bytes() == before


class Bright(nn.Module):
    """Gives class 1 to bright pixels."""

    stride = 1

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image_BCHW), 4 * image_BCHW], dim=1)


@pytest.fixture
def finder(make_bundle: Callable[..., Bundle], runtime: Runtime) -> Predictor:
    """A predictor that takes bright pieces for objects."""
    predictor = Predictor.of(make_bundle(), runtime)
    return replace(predictor, network=Bright(), instances=InstanceSettings(form="plain"))


def test_a_model_of_objects_leaves_their_numbers_and_counts(finder: Predictor, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = {one.name: one for one in predict_all(images, finder, Outputs(folder=out, overlays=True))}
    with (out / "counts.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a", "b (1)", "c"], "the broken one has no row"
    for name in rows:
        expected = predict(np.array(Image.open(images / f"{name}.png"))[..., None], finder).instances_HW
        with Image.open(out / "instances" / f"{name}.png") as numbers, Image.open(out / f"{name}.png") as mask:
            assert numbers.mode == "I;16"
            np.testing.assert_array_equal(np.array(numbers), expected)
            assert mask.mode == "P"
        assert int(rows[name]["objects"]) == done[name].count.objects == expected.max()
        assert float(rows[name]["covered"]) == pytest.approx((expected > 0).mean(), abs=1e-6)
        with Image.open(out / "overlays" / f"{name}.png") as picture:
            assert picture.size == expected.shape[::-1]
    assert done["broken"].count is None


def test_models_of_classes_alone_leave_no_counts(
    make_bundle: Callable[..., Bundle], runtime: Runtime, images: Path, tmp_path: Path
) -> None:
    predictor = Predictor.of(make_bundle(), runtime)
    done = predict_all(images, predictor, Outputs(folder=tmp_path / "out"))
    assert {one.count for one in done} == {None}
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [".pixelwise", "a.png", "b (1).png", "c.png"]


def test_more_objects_than_a_png_can_number_go_into_a_tiff(
    finder: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances_HW = np.arange(1, 70_001, dtype=np.int32).reshape(200, 350)
    many = Prediction(np.ones((200, 350), np.uint8), np.ones((2, 200, 350), np.float32), instances_HW)
    monkeypatch.setattr("pixelwise.inference.folder.predict", lambda *_: many)
    (done,) = predict_all(images / "a.png", finder, Outputs(folder=tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out" / "instances").iterdir()] == ["a.tif"]
    stored = tifffile.imread(tmp_path / "out" / "instances" / "a.tif")
    assert stored.dtype == np.uint32
    np.testing.assert_array_equal(stored, instances_HW)
    assert done.count.objects == 70_000


@pytest.mark.parametrize("kind", ["objects", "classes"])
def test_polygons_have_the_area_of_the_pixels(finder: Predictor, images: Path, tmp_path: Path, kind: str) -> None:
    predictor = finder if kind == "objects" else replace(finder, instances=None)
    outputs = Outputs(folder=tmp_path / "out", geojson=True)
    (done,) = predict_all(images / "c.png", predictor, outputs)
    features = json.loads((tmp_path / "out" / "geojson" / "c.geojson").read_text())["features"]
    prediction = predict(np.array(Image.open(images / "c.png"))[..., None], predictor)
    if kind == "objects":
        assert len(features) == done.count.objects > 0
        assert sum(feature["properties"]["area"] for feature in features) == (prediction.instances_HW > 0).sum()
    else:
        assert sum(feature["properties"]["area"] for feature in features) == (prediction.labels == 1).sum()
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"cell"}


@pytest.mark.parametrize("taken", ["instances/a.png", "instances/a.tif", "counts.csv", "geojson/a.geojson"])
def test_no_result_of_before_is_replaced_unasked(finder: Predictor, images: Path, tmp_path: Path, taken: str) -> None:
    path = tmp_path / "out" / taken
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    outputs = Outputs(folder=tmp_path / "out", geojson=True)
    with pytest.raises(UsageError, match="--replace"):
        predict_all(images, finder, outputs)
    assert path.read_text() == "mine"
    assert len(predict_all(images, finder, replace(outputs, replace=True))) == 4


def test_counts_of_no_object_and_names_of_any_kind() -> None:
    counts = {'odd, "name"\n': ObjectCount.of(np.array([[0, 3, 3, 3, 1]]))}
    row = list(csv.reader(count_table(counts).splitlines(keepends=True)))[1]
    assert row == ['odd, "name"\n', "2", "2.0", "2.0", "1", "3", "0.8"]
    assert ObjectCount.of(np.zeros((3, 3), np.int32)).mean_area == ""
