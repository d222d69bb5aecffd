"""Masks for a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pixelwise.bundle import Bundle
from pixelwise.data.layouts import find_images
from pixelwise.errors import UsageError
from pixelwise.inference.folder import Outputs, predict_folder
from pixelwise.inference.predict import Predictor
from pixelwise.runtime import Runtime


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
    done = {one.name: one for one in predict_folder(find_images(images), Predictor.of(bundle, runtime), outputs)}
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
    (one,) = predict_folder(find_images(tmp_path / "turned.jpg"), Predictor.of(make_bundle(), runtime), outputs)
    with Image.open(one.labels) as mask:
        assert mask.size == (10, 24)


def test_an_input_is_never_replaced(make_bundle: Callable[..., Bundle], runtime: Runtime, images: Path) -> None:
    before = (images / "a.png").read_bytes()
    results = predict_folder(find_images(images), Predictor.of(make_bundle(), runtime), Outputs(folder=images))
    with pytest.raises(UsageError, match="--out"):
        next(results)
    assert (images / "a.png").read_bytes() == before
