"""Looking into a network, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.cells import cell_len

from pixelwise.bundle import Bundle
from pixelwise.cli.main import main
from pixelwise.models.registry import MODELS

SMALL = ["model.width=4", "model.depth=2", "--channels", "1"]


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["inspect", *arguments])
    return int(leaving.value.code or 0)


@pytest.fixture
def result(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """What a successful command writes for programs."""

    def run(*arguments: str) -> dict:
        assert command(*arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return run


# Models by name


def test_a_unet_as_it_was_published(result):
    found = result("unet", "model.width=64")
    assert found["parameters"] == 31_037_698
    assert found["image"] == [3, 256, 256]
    assert found["output"] == [2, 256, 256]
    assert found["multiply_adds"] == 48_171_581_440
    assert found["stride"] == 16
    assert found["receptive_field"]["rows"] == [188, 204]
    assert len(found["layers"]) == 23
    assert found["layers"][9]["receptive_field"]["rows"] == [140, 140]
    assert found["model"]["options"]["width"] == 64
    assert not found["model"]["saved"]
    assert "gradients" not in found


def test_what_a_person_reads(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert command("unet", "model.width=64") == 0
    text = capsys.readouterr().out
    assert "unet (Ronneberger et al., MICCAI 2015, arXiv 1505.04597)" in text
    assert "width=64 depth=4" in text
    assert "3 channels, 2 classes, an image of 256 × 256" in text
    assert "31,037,698, 124.2 MB in float32, as published" in text
    assert "48.2 G: one per weight and place of a convolution" in text
    assert "188–204 pixels, by the place of the output" in text
    assert "4 transposed convolutions, even: no checkerboard" in text
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    assert sum(line.startswith("encoder.levels.") for line in text.splitlines()) == 10


def test_another_size_and_other_channels(result):
    found = result("unet", *SMALL, "--classes", "5", "--size", "33x65")
    assert found["image"] == [1, 33, 65]
    assert found["output"] == [5, 33, 65]


def test_what_differs_from_the_paper_is_said(capsys):
    assert command("unet", *SMALL) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "published: 31,037,698 with 3 channels, 2 classes, width=64" in text
    assert "1 channel, 2 classes" in text


def test_networks_that_see_the_whole_image_and_layers_that_run_through_their_weights(capsys):
    assert command("parsenet", "model.width=2", "--size", "64") == 0
    text = capsys.readouterr().out
    assert "receptive field       the whole image" in text
    assert "no checkerboard" in text
    assert command("patch_classifier", "model.width=2", "--size", "20") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "in layers that do not run as such" in text
    assert "of them between the layers" in text
    assert "95 pixels; up to 47 pixels beyond the output's own place" in text


def test_uneven_upsampling_is_named(capsys):
    assert command("unet_tgs", "model.width=1", "--size", "32") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "4 transposed convolutions; unevenness (0 none, 1 holes) 0.75 in decoder.0.up and 3 more" in text


def test_many_layers_are_summed_up_and_depth_says_how(capsys):
    assert command("fc_densenet56", "model.growth=1", "model.width=2", "--size", "32") == 0
    text = capsys.readouterr().out
    assert "105 layers, summed up by the first 3 parts" in text
    assert len(text.splitlines()) < 60
    assert command("unet", *SMALL, "--depth", "1") == 0
    text = capsys.readouterr().out
    assert "13 layers, summed up by the first part of their names; --depth 0 shows all" in text
    lines = text.partition("─\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["encoder", "decoder", "head"]
    assert command("unet", *SMALL, "--depth", "0") == 0
    assert "summed up" not in capsys.readouterr().out


# With weights


def test_gradients_and_pictures(result, tmp_path):
    found = result("unet", *SMALL, "--figures", str(tmp_path / "new" / "pictures"))
    names = sorted(path.name for path in (tmp_path / "new" / "pictures").iterdir())
    assert names == ["checkerboard.png", "gradients.png", "receptive_field.png"]
    for name in names:
        with Image.open(tmp_path / "new" / "pictures" / name) as picture:
            assert picture.format == "PNG"
    assert 3 < found["effective_field"] <= 44
    layers = {row["name"]: row["gradient"] for row in found["gradients"]}
    assert layers["head"] > 0
    assert {layer["name"] for layer in found["layers"]} <= set(layers)


def test_gradients_are_a_column_and_the_same_each_time(capsys):
    assert command("unet", *SMALL, "--classes", "1", "--gradients") == 0
    first = capsys.readouterr().out
    assert "gradient\n" in first
    assert "gradients             from " in first
    torch.rand(3)
    assert command("unet", *SMALL, "--classes", "1", "--gradients") == 0
    assert capsys.readouterr().out == first


def test_a_network_that_begins_with_zeros_has_no_effective_field_yet(capsys, tmp_path):
    options = ["model.width=1", "model.hidden=2", "--classes", "2", "--size", "32"]
    assert command("fcn32s", *options, "--figures", str(tmp_path)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "none: with fresh weights, the logits do not depend on the image" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gradients.png"]


# Saved models


@pytest.fixture
def saved(tmp_path: Path, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> Path:
    make_bundle().save(tmp_path / "runs" / "cells" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["cells", "runs/cells", "runs/cells/model.safetensors"])
def test_a_saved_model_by_run_folder_or_file(saved, result, name):
    found = result(name)
    assert found["model"] == {
        "name": "unet",
        "in_channels": 1,
        "classes": 2,
        "options": found["model"]["options"],
        "saved": True,
    }
    assert found["model"]["options"]["width"] == 4
    assert found["image"] == [1, 256, 256]


def test_the_weights_of_a_saved_model_are_the_ones_that_are_looked_at(saved, result, make_bundle):
    fresh = result("cells", "--gradients")["gradients"]
    bundle = make_bundle(seed=1)
    bundle.save(saved / "other.safetensors")
    other = result("other.safetensors", "--gradients")["gradients"]
    assert [row["name"] for row in fresh] == [row["name"] for row in other]
    assert [row["weight"] for row in fresh] != [row["weight"] for row in other]
    expected = bundle.build_network().head.weight.norm().item() ** 2
    bias = bundle.build_network().head.bias.norm().item() ** 2
    assert other[-1]["weight"] == pytest.approx((expected + bias) ** 0.5, rel=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["unett"], 1, "did you mean 'unet'? pixelwise models lists the models"),
        (["zzz"], 1, "there is no model, run or file 'zzz'"),
        (["cels"], 1, "did you mean 'cells'?"),
        (["unet", "model.widht=3"], 1, "'width'"),
        (["unet", "model.width=big"], 1, "width = 'big'"),
        (["unet", "training.steps=3"], 1, "'training.steps=3' says nothing of the network"),
        (["unet", "width=3"], 1, "write model.option=value"),
        (["unet", "model.name=segnet"], 1, "model.name is not an option"),
        (["unet", "--size", "0"], 1, "from 1 to 65536"),
        (["unet", "--size", "12y5"], 1, "--size '12y5'"),
        (["unet", "--size", "70000x4"], 1, "rows x columns"),
        (["unet", "--classes", "0"], 1, "classes = 0: choose a value from 1 to 255"),
        (["unet", "--channels", "0"], 1, "in_channels = 0"),
        (["unet", "--depth", "-1"], 1, "--help"),
        (["cells", "--channels", "1"], 1, "leave them out"),
        (["cells", "model.width=3"], 1, "leave them out"),
        (["."], 1, "runs here: cells"),
        (["damaged.safetensors"], 2, "damaged.safetensors"),
        ([], 1, "--help"),
    ],
)
def test_refusals_are_one_message_with_the_right_exit_code(saved, capsys, arguments, code, words):
    (saved / "damaged.safetensors").write_bytes(b"not a model")
    assert command(*arguments) == code
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_a_folder_for_pictures_that_cannot_be_made(saved, capsys):
    (saved / "taken").write_text("a file")
    assert command("unet", *SMALL, "--figures", "taken/pictures") == 2
    assert "taken" in capsys.readouterr().err


def test_a_name_of_a_model_is_never_a_run(saved, result, make_bundle):
    make_bundle().save(saved / "runs" / "segnet_basic" / "model.safetensors")
    assert not result("segnet_basic", "model.width=2")["model"]["saved"]
    assert result("runs/segnet_basic")["model"]["saved"]
    assert "segnet_basic" in MODELS
