"""A folder that is gone on with: what is done stays, what is not is done, and what is not ours is left alone."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.bundle import Bundle
from pixelwise.config import PredictConfig, RuntimeConfig
from pixelwise.data.layouts import find_images
from pixelwise.data.synthetic import draw_cells
from pixelwise.errors import BundleError, UsageError
from pixelwise.inference.folder import Done, FolderJob, Outputs, predict_by_job, predict_image
from pixelwise.inference.folder_journal import FolderJournal
from pixelwise.inference.folder_plan import plan_folder
from pixelwise.inference.folder_run import inexact_tile, job_of, predict_folder
from pixelwise.inference.predict import Predictor
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.runtime import Runtime

SCRIPT = Path(__file__).with_name("folder_predictor.py")


@pytest.fixture
def place(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Path:
    """A folder with a model of objects, and eleven images that are named against their order; one is broken."""
    for number in range(11):
        path = tmp_path / "images" / f"{'ab'[number % 2]}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_cells(size=(40, 30 + number), seed=number).image_HWC[..., 0]).save(path)
    (tmp_path / "images/b/9.png").write_bytes(b"no image")
    objects = InstanceSettings(form="plain", foreground=0.4, smallest=4)
    replace(make_bundle(), instances=objects).save(tmp_path / "model.safetensors")
    return tmp_path


def run(place: Path, *, check: bool = False, seen: list[str] | None = None, **wanted: bool) -> tuple[int, list[str]]:
    """Do what is left: how many images were done already, and what failed; `seen` gets the names that are predicted."""
    images, model = find_images(place / "images"), place / "model.safetensors"
    predictor = Predictor.of(Bundle.load(model), _runtime())
    outputs = Outputs(folder=place / "out", **wanted)
    with FolderJournal.open(outputs.folder, job_of(images, model, predictor, outputs)) as journal:
        plan = plan_folder(images, outputs, journal, finds_objects=True, check=check)
        results = list(predict_folder(plan, partial(predict_image, predictor, outputs)))
    if seen is not None:
        seen += [one.name for one in results]
    return len(plan.done), [one.name for one in results if one.failure]


def _runtime() -> Runtime:
    from pixelwise.runtime import prepare

    return prepare(RuntimeConfig(device="cpu", precision="fp32", threads=1))


def tree(folder: Path) -> dict[str, bytes]:
    """All files but those of the journal."""
    paths = (path for path in folder.rglob("*") if path.is_file() and ".pixelwise" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_second_run_does_what_failed_and_changes_nothing(place: Path) -> None:
    assert run(place) == (0, ["b/9"])
    first, times = tree(place / "out"), {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.*")}
    seen: list[str] = []
    assert run(place, seen=seen) == (10, ["b/9"])
    assert seen == ["b/9"]
    assert tree(place / "out") == first
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path.suffix in (".png", ".csv"))
    rows = [row["image"] for row in csv.DictReader((place / "out/counts.csv").read_text().splitlines())]
    assert rows == ["a/0", "a/2", "a/4", "a/6", "a/8", "a/10", "b/1", "b/3", "b/5", "b/7"]


def test_what_is_missing_changed_or_new_is_done_again(place: Path) -> None:
    run(place)
    Image.fromarray(draw_cells(size=(40, 30), seed=77).image_HWC[..., 0]).save(place / "images/a/0.png")
    Image.fromarray(draw_cells(size=(20, 30), seed=78).image_HWC[..., 0]).save(place / "images/b/9.png")
    Image.fromarray(draw_cells(size=(20, 30), seed=79).image_HWC[..., 0]).save(place / "images/a/1.png")
    (place / "out/instances/a/2.png").unlink()
    seen: list[str] = []
    assert run(place, seen=seen) == (8, [])
    assert seen == ["a/0", "a/1", "a/2", "b/9"]
    again = tree(place / "out")
    (place / "out").rename(place / "before")
    run(place)
    assert tree(place / "out") == again, "the same as done at once; the table, too"


@pytest.mark.parametrize("file", ["a/2.png", "instances/b/1.png", "counts.csv"])
def test_a_file_changed_by_hand_is_not_replaced_unasked(place: Path, file: str) -> None:
    run(place)
    path, whole = place / "out" / file, tree(place / "out")
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(UsageError, match=r"not as the same command wrote it.*--replace"):
        run(place)
    assert path.read_bytes().endswith(b"!")
    assert run(place, replace=True)[0] == (10 if file == "counts.csv" else 9)
    assert tree(place / "out") == whole


def test_a_change_that_keeps_the_size_is_found_where_bytes_are_compared(place: Path) -> None:
    run(place)
    path, whole = place / "out/b/1.png", tree(place / "out")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert run(place)[0] == 10, "sizes alone are compared, and the file is left"
    assert path.read_bytes() != data
    with pytest.raises(UsageError, match="--replace"):
        run(place, check=True)
    assert run(place, check=True, replace=True)[0] == 9
    assert tree(place / "out") == whole


def test_other_settings_another_model_or_files_of_others_are_refused(place: Path) -> None:
    run(place)
    first = tree(place / "out")
    with pytest.raises(UsageError, match="is there already"):
        run(place, geojson=True)
    model = Bundle.load(place / "model.safetensors")
    replace(model, predict=PredictConfig(flips=True)).save(place / "model.safetensors")
    with pytest.raises(UsageError, match="is there already"):
        run(place)
    assert tree(place / "out") == first
    assert run(place, replace=True)[0] == 0
    assert run(place)[0] == 10, "now they are ours"
    assert len(list((place / "out/.pixelwise").glob("*.jsonl"))) == 1


def test_a_mask_drawn_by_hand_for_a_failed_image_stays(place: Path) -> None:
    run(place)
    (place / "out/b/9.png").write_bytes(b"drawn")
    with pytest.raises(UsageError, match=r"b/9\.png is there already"):
        run(place)
    assert run(place, replace=True) == (10, ["b/9"])
    assert (place / "out/b/9.png").read_bytes() == b"drawn", "the image cannot be read, so nothing takes its place"
    with pytest.raises(UsageError, match=r"b/9\.png is there already"):
        run(place)


def test_kills_at_any_instant_change_nothing(place: Path) -> None:
    chance = random.Random(6)
    kills = [(chance.randint(0, 3), chance.uniform(0, 0.03)) for _ in range(14)]
    ended = subprocess.run(
        [sys.executable, SCRIPT, place, json.dumps([*kills, None, None])],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    states = json.loads(ended.stdout)
    assert [state[1] for state in states[-2:]] == [0, 0]
    assert -signal.SIGKILL in [state[1] for state in states]
    assert len({state[0] for state in states}) > 2, "some died on the way"
    assert [state[0] for state in states] == sorted(state[0] for state in states), "nothing done is lost"
    assert states[-1][0] == 10
    found = tree(place / "out")
    (place / "out").rename(place / "killed")
    run(place, scores=True, overlays=True, geojson=True)
    assert found == tree(place / "out")


def test_half_an_image_and_half_a_table_are_done_again(place: Path) -> None:
    whole = run(place) and tree(place / "out")
    (journal,) = (place / "out/.pixelwise").glob("*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:5]) + lines[5][:20])  # a/4 is begun, and not kept
    for name in ("a/4", "instances/a/4"):
        (place / "out" / f"{name}.png").write_bytes(b"half")
    (place / "out/a/.pixelwise-77-left.png").write_bytes(b"")
    for name in ("a/6", "a/8", "a/10", "b/1", "b/3", "b/5", "b/7"):
        (place / "out" / f"{name}.png").unlink()
        (place / "out" / f"instances/{name}.png").unlink()
    (place / "out/counts.csv").unlink()
    assert run(place)[0] == 2
    assert tree(place / "out") == whole


def test_other_windows_are_not_mixed(place: Path, runtime: Runtime) -> None:
    images, model = find_images(place / "images"), place / "model.safetensors"
    predictor = Predictor.of(Bundle.load(model), runtime)
    assert inexact_tile(predictor) == 0, "a U-Net has exact windows"
    fading = replace(predictor, settings=PredictConfig(tiling="fading", tile=256))
    assert inexact_tile(fading) == 256
    outputs = Outputs(folder=place / "out")
    run(place)
    with FolderJournal.open(outputs.folder, job_of(images, model, predictor, outputs)) as journal:
        journal.see_in(256)
        plan = plan_folder(images, outputs, journal, finds_objects=True)
        assert (len(plan.done), len(plan.left)) == (0, 11), "all are ours, and to be done again"


def test_a_model_that_cannot_be_used_ends_all(place: Path) -> None:
    (sample, *_) = find_images(place / "images").samples
    (place / "broken.safetensors").write_bytes(b"nothing")
    outputs = Outputs(folder=place / "out")
    job = FolderJob(
        model=place / "broken.safetensors", outputs=outputs, settings=PredictConfig(), runtime=RuntimeConfig()
    )
    done = predict_by_job(job, sample)
    assert isinstance(done.refusal, BundleError)
    with FolderJournal.open(outputs.folder, {}) as journal:
        plan = plan_folder(find_images(place / "images"), outputs, journal, finds_objects=True)
        with pytest.raises(BundleError, match=r"broken\.safetensors"):
            list(predict_folder(plan, partial(predict_by_job, job)))


def test_a_mistake_of_ours_in_one_image_is_named_and_the_others_go_on(place: Path) -> None:
    def work(sample: object) -> Done:
        raise KeyError("lost")

    outputs = Outputs(folder=place / "out")
    with FolderJournal.open(outputs.folder, {}) as journal:
        plan = plan_folder(find_images(place / "images"), outputs, journal, finds_objects=False)
        failures = [one.failure for one in predict_folder(plan, work)]
    assert len(failures) == 11
    assert failures[0] == f"{place}/images/a/0.png: KeyError: 'lost'"


def test_each_file_is_looked_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    stat = Path.stat
    images, outputs = find_images(place / "images"), Outputs(folder=place / "out", overlays=True)
    monkeypatch.setattr(Path, "stat", lambda path, **more: looked.append(os.fspath(path)) or stat(path, **more))
    plan_folder(images, outputs, FolderJournal(outputs.folder, {}), finds_objects=False)
    assert len(looked) == len(set(looked)) == 3 * 11


def test_workers_give_the_same_files(place: Path) -> None:
    pytest.importorskip("distributed")
    from pixelwise.inference.cluster import local_cluster

    run(place)
    images, model = find_images(place / "images"), place / "model.safetensors"
    outputs = Outputs(folder=place / "workers")
    runtime = RuntimeConfig(device="cpu", precision="fp32", threads=1)
    job = FolderJob(model=model, outputs=outputs, settings=PredictConfig(), runtime=runtime)
    with local_cluster(2) as cluster, FolderJournal.open(outputs.folder, {}) as journal:
        plan = plan_folder(images, outputs, journal, finds_objects=True)
        done = list(predict_folder(plan, partial(predict_by_job, job), cluster))
        after = plan_folder(images, outputs, journal, finds_objects=True)
    assert sorted(one.name for one in done) == sorted(sample.name for sample in images.samples)
    assert {one.name for one in done if one.failure} == {"b/9"}
    assert [sample.name for sample in after.left] == ["b/9"]
    assert tree(place / "workers") == tree(place / "out")
    assert np.array(Image.open(place / "workers/a/0.png")).shape == (40, 30)
