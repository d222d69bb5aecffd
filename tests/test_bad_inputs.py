"""Awkward images and masks through the commands: each is read as it is, or refused in a sentence that names it.

The commands run in this process, as `pixelwise` would: a crash is a failed test. Each test ends within 20 seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from bad_inputs import (
    CODES,
    EVERY_ITEM,
    MASKS_READ,
    MASKS_REFUSED,
    NAMES,
    READ,
    REFUSED,
    STACK,
    TRUTH,
    Pixels,
    brighter,
    draw_beside,
    draw_scene,
    write_pair,
)
from pixelwise.bundle import Bundle
from pixelwise.config import RuntimeConfig
from pixelwise.data.dataset import open_dataset
from pixelwise.inference.predict import Prediction, Predictor, predict
from pixelwise.runtime import prepare
from pixelwise.task import VOID
from run_commands import SHORT, Run, Said, little_to_collect, runner, train_model, write_corpus

pytestmark = pytest.mark.timeout(20, func_only=True)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Trainings of two steps without the time of much else."""
    with little_to_collect():
        yield


@pytest.fixture
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The awkward inputs."""
    return write_corpus(tmp_path_factory.getbasetemp() / "awkward")


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two classes in colour images."""
    return train_model(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a folder of its own."""
    return runner(tmp_path, monkeypatch, capsys)


def json_of(said: Said) -> Any:
    return json.loads(said.out, parse_constant=lambda word: pytest.fail(f"{word} in the result"))


def independent(pixels_HWC: Pixels, model: Path) -> Prediction:
    """What a model says of pixels that pixelwise did not read."""
    runtime = prepare(RuntimeConfig(device="cpu"))
    return predict(pixels_HWC, Predictor.of(Bundle.load(model), runtime))


def no_runs() -> bool:
    return not list(Path("runs").glob("*"))


def test_each_item_has_a_test(corpus: Path) -> None:
    manifest = {entry["path"] for entry in json.loads((corpus / "manifest.json").read_text())}
    without_encoding = {path for path in manifest if path.startswith("b'")}  # the bytes of a whole path, as Python text
    assert len(without_encoding) == 1
    assert manifest - without_encoding == EVERY_ITEM - {f"names/{NAMES['no UTF-8']}"}


# Images


@pytest.mark.parametrize("name", READ)
def test_an_image_is_read_alike_by_all_commands(name: str, corpus: Path, run: Run) -> None:
    """Other readers find the same pixels: in the statistics of the training, in the scores and in the masks."""
    path = corpus / "images" / name
    pixels_HWC = READ[name](path)
    (part := Path("data/train/images")).mkdir(parents=True)
    (masks := Path("data/train/masks")).mkdir()
    shutil.copy(path, part)
    Image.fromarray(truth := brighter(pixels_HWC)).save(masks / f"{path.stem}.png")
    draw_beside(Path("data/train"), "good_0", channels=pixels_HWC.shape[2], seed=0)
    draw_beside(Path("data/val"), "good_1", channels=pixels_HWC.shape[2], seed=1)

    assert (seen := run("doctor", "data")).code == 0, seen.out
    assert run("train", "data", *SHORT, "--name", "run").code == 0
    model = Path("runs/run/model.safetensors")
    check_statistics(Bundle.load(model), [pixels_HWC, good_image(part)])

    predicted = independent(pixels_HWC, model)
    scores = json_of(run("evaluate", "run", "data", "--all", "--json", "--device", "cpu"))
    of_item = next(one for one in scores["per_image"] if one["name"] == f"train/{path.stem}")
    assert of_item["pixels"] == truth.size
    assert of_item["pixel_accuracy"] == pytest.approx((predicted.labels == truth).mean(), abs=1e-9)

    assert run("predict", "run", part, "--out", "out", "--scores", "--device", "cpu").code == 0
    with Image.open(Path("out") / f"{path.stem}.png") as labels:
        assert np.array_equal(np.array(labels), predicted.labels)
    written = tifffile.imread(Path("out/scores") / f"{path.stem}.tif")
    assert np.abs(written - 65535 * predicted.scores_KHW.astype(np.float64)).max() <= 1
    assert np.isfinite(predicted.scores_KHW).all()


def good_image(images: Path) -> Pixels:
    path = next(images.glob("good_*"))
    values = tifffile.imread(path) if path.suffix == ".tif" else np.array(Image.open(path))
    return np.atleast_3d(values)


def check_statistics(bundle: Bundle, images: list[Pixels]) -> None:
    pixels = np.concatenate([image.reshape(-1, image.shape[2]).astype(np.float64) for image in images])
    assert bundle.normalisation.mean == pytest.approx(pixels.mean(axis=0), rel=1e-6)
    assert bundle.normalisation.std == pytest.approx(pixels.std(axis=0), rel=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_is_refused_by_all_commands(name: str, corpus: Path, model: Path, run: Run) -> None:
    expected = REFUSED[name]
    path = corpus / "images" / name
    for part in ("images", "masks"):
        Path("data", part).mkdir(parents=True)
    shutil.copy(path, "data/images")
    Image.fromarray(np.indices(expected.size)[0].astype(np.uint8) % 2).save(Path("data/masks") / f"{path.stem}.png")
    for seed in range(3):
        draw_beside(Path("data"), f"good_{seed}", channels=expected.channels, seed=seed)

    seen = run("doctor", "data")
    assert (seen.code, f"images/{name}" in seen.out, expected.words in seen.out) == (2, True, True), seen.out
    trained = run("train", "data", *SHORT)
    assert (trained.code, name in trained.err, expected.words in trained.err) == (2, True, True), trained.err
    assert no_runs()
    if expected.channels == 3:
        scored = run("evaluate", model, "data", "--out", "scores")
        assert (scored.code, name in scored.err, expected.words in scored.err) == (2, True, True), scored.err

    masks = run("predict", model, "data/images", "--out", "out")
    assert (masks.code, name in masks.out, expected.words in masks.out) == (3, True, True), masks.out
    written = sorted(mask.stem for mask in Path("out").glob("*.png"))
    assert written == (["good_0", "good_1", "good_2"] if expected.channels == 3 else [])


@pytest.mark.parametrize("name", ["animated.gif", "float32_nan_inf.tif", "truncated_half.jpg", "idat_bitflip.png"])
def test_an_image_that_only_validates_stops_the_training_too(name: str, corpus: Path, run: Run) -> None:
    expected = REFUSED[name]
    draw_beside(Path("data/train"), "good", channels=expected.channels, seed=0)
    draw_beside(Path("data/val"), "other", channels=expected.channels, seed=1)
    shutil.copy(corpus / "images" / name, "data/val/images")
    mask = Image.fromarray(np.indices(expected.size)[0].astype(np.uint8) % 2)
    mask.save(Path("data/val/masks") / f"{Path(name).stem}.png")
    trained = run("train", "data", *SHORT, "--name", "run")
    assert (trained.code, name in trained.err, expected.words in trained.err) == (2, True, True), trained.err
    assert {path.name for path in Path("runs").rglob("*") if path.is_file()} <= {"plan.toml", ".lock"}


def test_images_of_other_channels_are_refused_by_a_model_of_three(corpus: Path, model: Path, run: Run) -> None:
    channels = {name: read(corpus / "images" / name).shape[2] for name, read in READ.items()}
    others = {name: count for name, count in channels.items() if count != 3}
    assert {1, 4, 13} == set(others.values())
    Path("images").mkdir()
    for name in others:
        shutil.copy(corpus / "images" / name, Path("images") / f"{name.replace('.', '_')}{Path(name).suffix}")
    draw_beside(Path("good"), "good", channels=3, seed=0)
    shutil.copy("good/images/good.png", "images")
    masks = run("predict", model, "images", "--out", "out", "--json")
    failed = json_of(masks)["failed"]
    assert masks.code == 3
    assert [path.name for path in Path("out").glob("*.png")] == ["good.png"]
    for name, count in others.items():
        assert f"the model takes 3 channels, the image has {count};" in failed[name.replace(".", "_")]


def test_every_page_of_a_stack_gets_its_mask(corpus: Path, model: Path, run: Run) -> None:
    """Three frames, each rolled by nine columns more."""
    Path("data/images").mkdir(parents=True)
    shutil.copy(corpus / "images" / STACK, "data/images")
    assert run("predict", model, "data/images", "--out", "out", "--device", "cpu").code == 0
    with Image.open(corpus / "images" / STACK) as stack:
        for page in range(3):
            stack.seek(page)
            predicted = independent(np.array(stack.convert("RGB")), model)
            with Image.open(f"out/multipage_{page:03d}.png") as labels:
                assert np.array_equal(np.array(labels), predicted.labels)
    assert len(list(Path("out").glob("*.png"))) == 3

    draw_beside(Path("data"), "good", channels=3, seed=0)
    Image.fromarray(TRUTH).save("data/masks/multipage.png")
    for command in (["doctor", "data"], ["train", "data", *SHORT], ["evaluate", model, "data"]):
        seen = run(*command)
        assert seen.code == 2
        assert "a stack of 3 pages whose mask" in seen.out + seen.err
    assert no_runs()


# Masks


def with_mask(path: Path, beside: str) -> Path:
    """A data set of a mask on its image, and of two good pairs in the given coding."""
    for number, (part, shift) in enumerate((("train", (3, -7)), ("val", (-5, 3)))):
        mask_HW = np.roll(TRUTH, shift, (0, 1))
        write_pair(Path("data", part), f"good_{number}", draw_scene(mask_HW, seed=number), CODES[beside](mask_HW))
    Image.fromarray(draw_scene(TRUTH, seed=2)).save(Path("data/train/images") / f"{path.stem}.png")
    shutil.copy(path, "data/train/masks")
    return Path("data/train/images") / f"{path.stem}.png"


@pytest.mark.parametrize("name", MASKS_READ)
def test_a_mask_is_read_alike_by_all_commands(name: str, corpus: Path, run: Run) -> None:
    expected = MASKS_READ[name]
    image = with_mask(corpus / "masks" / name, expected.beside)
    seen = run("doctor", "data")
    assert (seen.code, expected.words in seen.out) == (0, True), seen.out
    dataset = open_dataset(Path("data"))
    (sample,) = (sample for sample in dataset.samples if sample.image.path == image)
    assert np.array_equal(dataset.read(sample)[1], expected.truth)

    assert run("train", "data", *SHORT, "--name", "run").code == 0
    rows = [json.loads(line) for line in Path("runs/run/log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    scores = json_of(run("evaluate", "run", "data", "--all", "--json", "--device", "cpu"))
    of_item = next(one for one in scores["per_image"] if one["name"] == sample.name)
    counts = expected.truth != VOID
    predicted = independent(np.array(Image.open(image)), Path("runs/run/model.safetensors"))
    assert (of_item["pixels"], of_item["void_pixels"]) == (counts.sum(), (~counts).sum())
    if counts.any():
        right = (predicted.labels == expected.truth)[counts].mean()
        assert of_item["pixel_accuracy"] == pytest.approx(right, abs=1e-9)


@pytest.mark.parametrize("name", MASKS_REFUSED)
def test_a_mask_is_refused_and_mended_where_it_can_be(name: str, corpus: Path, run: Run) -> None:
    expected = MASKS_REFUSED[name]
    image = with_mask(corpus / "masks" / name, expected.beside)
    seen = run("doctor", "data")
    assert seen.code == (2 if expected.mended is None else 3), seen.out
    trained = run("train", "data", *SHORT)
    assert trained.code == 2
    assert all(words in said for words in expected.words for said in (seen.out, trained.err)), trained.err
    assert expected.accepted or name in trained.err  # masks from 1 are wrong together, not one by one
    assert no_runs()

    assert run("doctor", "data", "--fix", "copy").code == (3 if expected.mended is None else 0)
    copy = open_dataset(Path("copy"))
    mended = [sample for sample in copy.samples if sample.name == f"train/{image.stem}"]
    assert len(mended) == (expected.mended is not None)
    for sample in mended:
        assert np.array_equal(copy.read(sample)[1], expected.mended)
    if expected.accepted:
        assert run("train", "data", *SHORT, *expected.accepted, "--name", "run").code == 0


def test_a_model_refuses_masks_with_other_values(corpus: Path, model: Path, run: Run) -> None:
    """Its own classes are 0 and 1."""
    with_mask(corpus / "masks" / "out_of_range_7.png", "0 and 1")
    scored = run("evaluate", model, "data", "--out", "scores")
    assert scored.code == 2
    assert "out_of_range_7.png: value 7 in 280 pixels (9.1 %); rule: only 0, 1, and 255 for void" in scored.err


def test_minus_one_is_void_only_if_that_is_declared(tmp_path: Path, run: Run) -> None:
    """What the manifest says of int64_minus1.tif, which does not hold it."""
    mask = tmp_path / "signed.tif"
    tifffile.imwrite(mask, np.where(TRUTH == 2, -1, TRUTH.astype(np.int64)))
    with_mask(mask, "classes")
    seen, trained = run("doctor", "data"), run("train", "data", *SHORT)
    assert (seen.code, trained.code) == (3, 2)
    assert "value -1 in 280 pixels" in seen.out
    assert "signed.tif: value -1 in 280 pixels" in trained.err
    declared = open_dataset(Path("data"), ignore_index=-1)
    (read,) = (declared.read(sample)[1] for sample in declared.samples if sample.name.endswith("signed"))
    assert np.array_equal(read == declared.task.ignore_index, TRUTH == 2)
    assert run("doctor", "data", "--ignore-index", "-1").code == 0
