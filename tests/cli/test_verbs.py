"""The command line, as a user types it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pixelwise.bundle import Bundle
from pixelwise.cli.main import VERBS, main
from pixelwise.data.synthetic import write_data_set
from pixelwise.training.journal import read_journal

SMALL = ["model.width=4", "model.depth=2", "training.batch=2", "training.crop=[32,32]", "runtime.threads=1"]


def command(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return int(leaving.value.code or 0)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a model was trained on drawn cells."""
    folder = tmp_path_factory.mktemp("walk")
    write_data_set(folder / "cells", images=8, size=(64, 64), channels=1, seed=0)
    write_data_set(folder / "others", images=3, size=(65, 49), channels=1, seed=1)
    before = Path.cwd()
    os.chdir(folder)
    try:
        settings = [*SMALL, "model.width=8", "training.learning_rate=0.01", "training.crop=[64,64]"]
        assert command("train", "cells", *settings, "--steps", "60", "--name", "run") == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def at_walk(walk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(walk)
    return walk


def test_a_run_leaves_everything_that_is_promised(at_walk: Path) -> None:
    run = at_walk / "runs" / "run"
    names = {path.name for path in run.iterdir()}
    assert names >= {"plan.toml", "model.safetensors", "last.safetensors", "checkpoint.safetensors", "log.jsonl"}
    assert names >= {"scores.json", "curves.png", "predictions"}
    assert (run / "predictions" / "contact_sheet.png").is_file()
    rows = read_journal(run / "log.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 61))
    scores = json.loads((run / "scores.json").read_text())
    assert scores["mean_iou"] > 0.6


def test_scores_of_new_images(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("evaluate", "run", "others", "--json") == 0
    shown = capsys.readouterr()
    scores = json.loads(shown.out)
    assert scores["mean_iou"] > 0.6
    assert len(scores["per_image"]) == 3
    assert "one confusion matrix" in shown.err
    assert "nan" not in shown.out.lower()


def test_scores_of_challenges_and_intervals(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("evaluate", "run", "others", "--metrics", "isbi2012", "--intervals", "--json") == 0
    shown = capsys.readouterr()
    scores = json.loads(shown.out)
    assert 0.5 < scores["isbi2012"]["scores"]["V_Rand after thinning"] <= 1
    assert scores["isbi2012"]["scores"]["pixel error"] < 0.5
    assert "warping error, splits and mergers" in shown.err
    low, high = (scores["intervals"]["mean_iou"][end] for end in ("low", "high"))
    assert low <= scores["mean_iou"] <= high
    assert f"{low:.4f} to {high:.4f}" in shown.err
    assert "objects" not in scores


def test_a_model_of_classes_alone_is_scored_by_its_pieces(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("evaluate", "run", "others", "--metrics", "dsb2018", "--json") == 0
    shown = capsys.readouterr()
    scores = json.loads(shown.out)
    assert "connected pieces of" in shown.err
    assert scores["dsb2018"]["scores"]["score (mean)"] == scores["objects"]["dsb_score"]
    assert scores["dsb2018"]["scores"]["IoU above 0.50"] == scores["objects"]["ap50"]
    assert sum(image["objects"]["true_objects"] for image in scores["per_image"]) == scores["objects"]["true_objects"]


@pytest.fixture(scope="module")
def borders(walk: Path) -> Path:
    """A run on single cells, whose borders were learned."""
    for name, images, seed in (("single", 6, 2), ("single-others", 2, 3)):
        write_data_set(walk / "drawn" / name, images=images, size=(64, 64), channels=1, seed=seed)
        (walk / name).mkdir()
        (walk / "drawn" / name / "images").rename(walk / name / "images")
        (walk / "drawn" / name / "instances").rename(walk / name / "masks")
    with contextlib.chdir(walk):
        settings = [*SMALL, "data.target=borders", "training.border_weight=10", "training.learning_rate=0.01"]
        assert command("train", "single", *settings, "training.validate_every=20", "--steps", "40", "--name", "b") == 0
    return walk / "runs" / "b"


def test_a_run_of_borders_tunes_and_scores_its_objects(borders: Path) -> None:
    bundle = Bundle.load(borders / "model.safetensors")
    assert bundle.task.names == ("background", "object", "border")
    assert bundle.instances is not None
    assert bundle.instances.form == "softmax3"
    scores = json.loads((borders / "scores.json").read_text())
    assert 0 <= scores["objects"]["dsb_score"] <= scores["objects"]["ap50"] <= 1
    validated = [row["scores"] for row in read_journal(borders / "log.jsonl") if "scores" in row]
    assert all("dsb_score" in row for row in validated)
    untuned = max(row["dsb_score"] for row in validated if row["mean_iou"] == scores["mean_iou"])
    assert scores["objects"]["dsb_score"] >= untuned


@pytest.mark.parametrize(
    ("settings", "classes", "form"),
    [
        (("data.masks=instances",), ["background", "foreground"], "plain"),
        (("data.target=borders", "data.border_form=sigmoid2"), ["object", "border"], "sigmoid2"),
        (
            ("data.target=borders", "data.border_form=sigmoid2_full", "data.border_place=around", "data.border=1"),
            ["object", "border"],
            "sigmoid2_full",
        ),
    ],
)
def test_every_way_to_single_objects(
    at_walk: Path, borders: Path, settings: tuple[str, ...], classes: list[str], form: str
) -> None:
    assert (
        command("train", "single", *SMALL, *settings, "training.learning_rate=0.01", "--steps", "80", "--name", form)
        == 0
    )
    bundle = Bundle.load(Path("runs", form, "model.safetensors"))
    assert list(bundle.task.names) == classes
    assert bundle.instances is not None
    assert bundle.instances.form == form
    assert (bundle.coding.place == "around") == ("data.border_place=around" in settings)
    assert command("evaluate", form, "single-others", "--metrics", "dsb2018", "--out", f"scores-{form}") == 0
    scores = json.loads(Path(f"scores-{form}/scores.json").read_text())
    assert scores["objects"]["aji"] > 0.3
    assert max(one["iou"] for one in scores["classes"]) > 0.7
    assert command("predict", form, "single-others/images", "--out", f"objects-{form}", "--overlays", "--geojson") == 0
    labels = [np.array(Image.open(path)) for path in Path(f"objects-{form}").glob("*.png")]
    assert set(np.unique(labels)) <= set(range(bundle.task.codes))
    features = [json.loads(path.read_text())["features"] for path in Path(f"objects-{form}/geojson").iterdir()]
    assert {feature["properties"]["classification"]["name"] for one in features for feature in one} == {
        classes[-1] if form == "plain" else "object"
    }


def test_classes_that_overlap_are_learned_scored_and_predicted(at_walk: Path) -> None:
    for source, folder in (("cells", Path("parts")), ("others", Path("other-parts"))):
        (folder / "masks").mkdir(parents=True)
        shutil.copytree(Path(source, "images"), folder / "images")
        for path in Path(source, "masks").iterdir():
            cell_HW = np.array(Image.open(path)) > 0
            core_HW = ndimage.binary_erosion(cell_HW, iterations=3)
            for word, there_HW in (("cell", cell_HW), ("core", core_HW)):
                Image.fromarray(there_HW.astype(np.uint8) * 255).save(folder / "masks" / f"{path.stem}_{word}.png")
    declared = ("data.masks=overlapping", 'data.classes=["core","cell"]')
    network = ("model.width=8", "training.crop=[64,64]", "training.learning_rate=0.01")
    assert command("train", "parts", *SMALL, *network, *declared, "--steps", "80", "--name", "parts") == 0
    task = Bundle.load(Path("runs/parts/model.safetensors")).task
    assert (task.names, task.kind) == (("core", "cell"), "overlapping")
    assert command("evaluate", "parts", "other-parts", "--out", "scores-parts") == 0
    scores = json.loads(Path("scores-parts/scores.json").read_text())
    assert [one["name"] for one in scores["classes"]] == ["core", "cell"]
    assert min(one["iou"] for one in scores["classes"]) > 0.6
    # What is predicted has the form of masks: as the truth of the same images it agrees with itself.
    assert command("predict", "parts", "other-parts/images", "--out", "predicted/masks") == 0
    shutil.copytree("other-parts/images", "predicted/images")
    assert command("evaluate", "parts", "predicted", "--out", "scores-predicted") == 0
    agreed = json.loads(Path("scores-predicted/scores.json").read_text())
    assert [one["iou"] for one in agreed["classes"]] == [1, 1]


def test_a_finished_run_of_borders_is_resumed_to_the_same_model(at_walk: Path, borders: Path) -> None:
    before = (borders / "model.safetensors").read_bytes()
    assert command("train", "--resume", "--name", "b") == 0
    assert (borders / "model.safetensors").read_bytes() == before


def test_objects_are_scored_and_predicted(at_walk: Path, borders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("evaluate", "b", "single-others", "--metrics", "dsb2018", "--intervals", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["objects"]["true_objects"] == sum(
        int(np.array(Image.open(path)).max()) for path in Path("single-others/masks").iterdir()
    )
    assert set(scores["intervals"]) == {"level", "draws", "mean_iou", "pixel_accuracy", "dsb_score"}
    assert command("evaluate", "b", "single-others", "--metrics", "isbi2012") == 1
    assert "this model has 3 classes" in capsys.readouterr().err

    assert command("predict", "b", "single-others/images", "--out", "objects", "--overlays", "--geojson", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    lines = Path("objects/counts.csv").read_text().splitlines()
    assert len(lines) == 3
    for line in lines[1:]:
        name, number = line.split(",")[:2]
        assert result["objects"][name] == int(number) == np.array(Image.open(f"objects/instances/{name}.png")).max()
        features = json.loads(Path(f"objects/geojson/{name}.geojson").read_text())["features"]
        assert len(features) == int(number)
        assert Path(f"objects/overlays/{name}.png").is_file()


def test_images_of_the_training_are_left_out_and_that_is_said(
    at_walk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "runs/run", "cells") == 0
    assert "7 of 8 images were trained on and are left out" in capsys.readouterr().out
    assert command("evaluate", "runs/run", "cells", "--all") == 0
    assert "flatter" in capsys.readouterr().out
    assert command("evaluate", "runs/run", "cells", "--split", "test") == 1


def test_masks_for_a_folder(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("predict", "run", "others/images", "--out", "masks", "--scores", "--overlays") == 0
    capsys.readouterr()
    for path in sorted((at_walk / "others" / "images").iterdir()):
        with Image.open(at_walk / "masks" / path.name) as mask, Image.open(path) as image:
            assert mask.mode == "P"
            assert mask.size == image.size
    # A data set's masks are not taken for images.
    assert command("predict", "run", "others", "--out", "again") == 0
    assert "3 masks" in capsys.readouterr().out


def test_some_inputs_failed(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = at_walk / "mixed"
    mixed.mkdir()
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(mixed / "good.png")
    (mixed / "bad.png").write_bytes(b"not an image")
    assert command("predict", "run", "mixed", "--out", "mixed-masks", "--json") == 3
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert list(result["failed"]) == ["bad"]
    assert list(result["masks"]) == ["good"]
    assert "bad.png" in shown.err


def test_the_plan_runs_again_to_the_same_weights(at_walk: Path) -> None:
    assert command("train", "--config", "runs/run/plan.toml", "--name", "again") == 0
    for name in ("model.safetensors", "last.safetensors"):
        assert (at_walk / "runs/again" / name).read_bytes() == (at_walk / "runs/run" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "cells", "--name", "run"], 1, "--resume"),
        (["train", "nowhere"], 1, "nowhere"),
        (["train"], 1, "no data"),
        (["train", "cells", "training.stepz=3"], 1, "training.steps"),
        (["train", "cells", "--steps", "3", "--minutes", "2"], 1, "one length"),
        (["train", "cells", "model.name=unett", "--steps", "1"], 1, "'unet'"),
        (["train", "cells", "model.widht=3", "--steps", "1"], 1, "'width'"),
        (["train", "cells", "training.loss=ce+dise", "--steps", "1"], 1, "'dice'"),
        (["train", "cells", "runtime.device=cuda", "--steps", "1"], 1, "cuda"),
        (["train", "cells", "--name", "a/b", "--steps", "1"], 1, "plain name"),
        (["train", "cells", "--config", "none.toml"], 1, "none.toml"),
        (["evaluate", "unknown", "cells"], 1, "runs here: "),
        (["predict", "cells/images/nothing.png", "cells"], 1, "runs here: "),
        (["evaluate", "run", "others", "--metrics", "camvid"], 1, "is for 11 classes"),
        (["evaluate", "run", "nowhere", "--metrics", "voc2012"], 1, "is for 21 classes"),
        (["evaluate", "run", "others", "--metrics", "dsb2081"], 1, "'dsb2018'"),
        (["train", "others", "data.target=borders", "data.masks=index", "--steps", "1"], 1, "data.masks=instances"),
        (["predict", "run", "nowhere"], 1, "nowhere"),
        (["predict", "run"], 1, "--help"),
        (["trian", "cells"], 1, "--help"),
        (["train", "--stepss", "3"], 1, "--help"),
    ],
)
def test_refusals_are_one_message_with_the_right_exit_code(
    at_walk: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    runs = sorted(path.name for path in Path("runs").iterdir())
    assert command(*arguments) == code
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert sorted(path.name for path in Path("runs").iterdir()) == runs, "a refused command leaves no run behind"


def test_resuming_with_another_plan_or_data_is_refused(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data_set(at_walk / "changing", images=4, size=(40, 40), channels=1, seed=5)
    assert command("train", "changing", *SMALL, "--steps", "2", "--name", "changing") == 0
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(sorted((data / "images").iterdir())[0])
    capsys.readouterr()
    assert command("train", "--resume", "--name", "changing") == 2
    assert "the data was 4 images" in capsys.readouterr().err
    assert command("train", "--resume", "--name", "changing", "--force") == 0
    assert "resumed all the same: the data was" in capsys.readouterr().out


def test_a_resume_takes_no_other_settings_and_deletes_nothing(
    at_walk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (at_walk / "runs" / "run").rglob("*") if path.is_file()}
    assert command("train", "--resume", "--name", "run", "training.loss=ce") == 1
    assert "training.loss = ce+dice, not ce" in capsys.readouterr().err
    assert command("train", "--config", "runs/run/plan.toml", "--resume", "--name", "run") == 1
    assert "leave out --config" in capsys.readouterr().err
    assert command("train", "--resume", "--name", "run", "training.workers=1") == 0
    before = {path: path.read_bytes() for path in (at_walk / "runs" / "run").rglob("*") if path.is_file()}
    assert command("train", "nowhere", "--resume", "--name", "run") == 1
    (at_walk / "runs" / "run" / "plan.toml").rename(at_walk / "plan.toml")
    assert command("train", "nowhere", "--resume", "--name", "run") == 1
    assert command("train", "--resume", "--name", "run") == 1
    assert "no plan yet" in capsys.readouterr().err
    (at_walk / "plan.toml").rename(at_walk / "runs" / "run" / "plan.toml")
    after = {path: path.read_bytes() for path in (at_walk / "runs" / "run").rglob("*") if path.is_file()}
    assert {k: v for k, v in after.items() if k.name != ".lock"} == {
        k: v for k, v in before.items() if k.name != ".lock"
    }


def test_resuming_without_a_name_means_the_newest_run_of_the_data(
    at_walk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("train", "others", "--resume") == 1
    assert "no run runs/others-1 to resume" in capsys.readouterr().err
    assert command("train", "others", *SMALL, "--steps", "1") == 0
    assert command("train", "others", "--resume") == 0
    assert not (at_walk / "runs" / "others-2").exists()


def test_nothing_that_is_there_is_replaced_unasked(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = sorted((at_walk / "others" / "masks").iterdir())
    before = [path.read_bytes() for path in truth]
    assert command("predict", "run", "others", "--out", "others/masks") == 1
    assert "--replace" in capsys.readouterr().err
    assert [path.read_bytes() for path in truth] == before
    assert command("predict", "run", "others", "--out", "twice") == 0
    assert command("predict", "run", "others", "--out", "twice", "--flips") == 1
    assert command("predict", "run", "others", "--out", "twice", "--flips", "--replace") == 0
    assert command("predict", "run", "others", "--out", "twice") == 1
    assert command("predict", "run", "others/images", "--out", "others/images", "--replace") == 1
    assert command("evaluate", "run", "others") == 0
    capsys.readouterr()
    assert command("evaluate", "run", "others") == 0
    assert "evaluated-others-" in capsys.readouterr().out, "the scores from before are kept"


def test_a_run_stopped_before_it_had_a_model_says_so(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early = at_walk / "runs" / "early"
    early.mkdir()
    (early / "last.safetensors").write_bytes((at_walk / "runs" / "run" / "last.safetensors").read_bytes())
    assert command("predict", "early", "others") == 1
    assert "before its first validation" in capsys.readouterr().err
    assert command("predict", "runs/early/last.safetensors", "others", "--out", "early-masks") == 0


def test_images_of_another_number_of_channels_are_named(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data_set(at_walk / "coloured", images=1, size=(40, 40), channels=3, seed=0)
    assert command("predict", "run", "coloured") == 3
    assert "cells_000.png: the model takes 1 channel" in capsys.readouterr().out
    assert command("evaluate", "run", "coloured") == 2
    assert "cells_000" in capsys.readouterr().err


def test_a_lack_of_memory_is_a_sentence(at_walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", "cells", "--steps", "1", "training.crop=[9000000,9000000]", "--name", "huge") == 2
    assert "lower training.batch" in capsys.readouterr().err


def test_help_is_fast_and_names_every_verb() -> None:
    began = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pixelwise", "--help"], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - began < 5, "even on a busy machine"
    assert all(verb in shown.stdout for verb in VERBS)
    for heavy in ("torch", "numpy", "cv2", "PIL", "matplotlib", "scipy"):
        assert f"| {heavy}\n" not in shown.stderr.replace("|   ", "| ").replace("  ", ""), heavy


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    assert capsys.readouterr().out.startswith("pixelwise 0")
