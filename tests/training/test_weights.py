"""Pretrained weights: what they are, when they are loaded, and how images are scaled for them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pixelwise.archive import load_archive
from pixelwise.bundle import Bundle
from pixelwise.cli.main import main
from pixelwise.cli.train import read_asked
from pixelwise.config import ModelConfig, read_config
from pixelwise.data.dataset import open_dataset
from pixelwise.data.normalise import measure
from pixelwise.data.synthetic import write_data_set
from pixelwise.errors import UsageError
from pixelwise.models.registry import build_model, model_options
from pixelwise.runtime import Runtime
from pixelwise.training import weights
from pixelwise.training.distributed import Ranks
from pixelwise.training.plan import complete_plan
from pixelwise.training.run import MODEL_FILE, Services, run
from pixelwise.training.setup import Parts, make_parts, make_state, start_encoder
from pixelwise.training.weights import EncoderWeights, encoder_name, expected_normalisation, pin_weights

NETWORK = {"name": "unet_encoder", "encoder": "test_efficientnet", "width": 4}
SETTINGS = [f"model.{key}={value}" for key, value in NETWORK.items()] + [
    "training.batch=2",
    "training.crop=[64,64]",
    "training.steps=6",
    "training.validate_every=2",
    "training.freeze=0.3",
    "training.encoder_rate=0.1",
    "runtime.threads=1",
    "runtime.device=cpu",
]
SHORT = [*SETTINGS, "training.steps=1", "training.validate_every=1"]
UNPUBLISHED = "efficientnet_lite4"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a classifier, as timm would publish them."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "test_efficientnet.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=5).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data") / "cells", images=4, size=(70, 64), channels=3, seed=0)


def make(data: Path, file: Path | str, runtime: Runtime, *more: str) -> Parts:
    dataset = open_dataset(data)
    asked = read_config(overrides=[*SETTINGS, f"model.encoder_weights={file}", *more])
    plan = complete_plan(asked, dataset, training_images=3, device="cpu")
    split = list(dataset.samples[:3]), list(dataset.samples[3:])
    return make_parts(plan, dataset, split, runtime=runtime, ranks=Ranks())


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return int(leaving.value.code or 0)


# Loading


def test_a_run_begins_with_them_in_the_encoder_and_nowhere_else(data, file, runtime):
    parts = make(data, file, runtime)
    state = make_state(parts)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    assert start_encoder(state, parts) == [], "nothing is missing"
    published = load_file(file)
    after = state.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in changed if not name.startswith("encoder.")} == set()
    assert torch.equal(after["encoder.network.conv_stem.weight"], published["conv_stem.weight"])
    assert all(torch.equal(value, state.average.values[name]) for name, value in after.items())
    assert make_state(make(data, "", runtime)).network.state_dict().keys() == after.keys()


def test_a_run_without_them_begins_as_always(data, runtime):
    parts = make(data, "none", runtime)
    state = make_state(parts)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    assert parts.weights is None
    assert start_encoder(state, parts) == []
    assert all(torch.equal(value, before[name]) for name, value in state.network.state_dict().items())


def test_what_a_file_lacks_is_told(data, file, runtime, tmp_path):
    tensors = {name: value for name, value in load_file(file).items() if name != "conv_stem.weight"}
    save_file(tensors, tmp_path / "part.safetensors")
    parts = make(data, tmp_path / "part.safetensors", runtime)
    (line,) = start_encoder(make_state(parts), parts)
    assert "part.safetensors" in line
    assert "conv_stem.weight" in line


# The plan


def test_the_plan_holds_full_path_and_checksum_and_is_complete(data, file, monkeypatch, tmp_path):
    monkeypatch.chdir(file.parent)
    dataset = open_dataset(data)
    asked = read_config(overrides=[*SETTINGS, f"model.encoder_weights={file.name}"])
    plan = complete_plan(asked, dataset, training_images=3, device="cpu")
    assert plan.model.encoder_weights == str(file)
    assert plan.model.encoder_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert plan.model.options == model_options("unet_encoder") | {"encoder": "test_efficientnet", "width": 4}
    (tmp_path / "plan.toml").write_text(plan.to_toml())
    assert complete_plan(read_config(tmp_path / "plan.toml"), dataset, training_images=3, device="cpu") == plan


def test_a_pinned_plan_needs_no_file_until_the_weights_are_loaded(data, file, runtime, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    pins = pin_weights(ModelConfig.model_validate({**NETWORK, "encoder_weights": str(copy)}))
    copy.unlink()
    model = ModelConfig.model_validate({**NETWORK, **pins})
    assert pin_weights(model) == pins
    parts = make(data, copy, runtime, f"model.encoder_sha256={pins['encoder_sha256']}")
    with pytest.raises(UsageError, match=r"copy\.safetensors: there is no such file"):
        start_encoder(make_state(parts), parts)


def test_other_weights_than_those_of_the_plan_are_refused(data, file, runtime):
    parts = make(data, file, runtime, f"model.encoder_sha256={'0' * 64}")
    with pytest.raises(UsageError, match=r"not the file of weights that the plan names \(sha256 000000000000"):
        start_encoder(make_state(parts), parts)


def test_a_network_that_none_fit_is_refused(file):
    with pytest.raises(UsageError, match="no published weights fit the encoder of unet"):
        EncoderWeights.of(ModelConfig.model_validate({"name": "unet", "encoder_weights": str(file)}))
    assert encoder_name(ModelConfig.model_validate({"name": "unet_paper"})) == ""
    assert encoder_name(ModelConfig.model_validate(NETWORK)) == "test_efficientnet"


def test_weights_are_tried_on_without_memory(file):
    model = ModelConfig.model_validate({**NETWORK, "encoder_weights": str(file)})
    with torch.device("meta"):
        network = build_model(model.name, in_channels=1, classes=2, options=model.options)
    loaded = EncoderWeights.of(model).load(network)
    assert not loaded.missing
    assert all(value.is_meta for value in network.state_dict().values())


def test_a_non_commercial_licence_is_known_for_what_it_is():
    facts: dict[str, Any] = {"network": "convnextv2_atto", "source": "imagenet", "sha256": "f" * 64}
    weights = EncoderWeights(**facts, licence="cc-by-nc-4.0")
    assert weights.is_non_commercial
    assert "sha256 ffffffffffff…, licence: cc-by-nc-4.0" in weights.describe()
    assert not EncoderWeights(**facts, licence="apache-2.0").is_non_commercial
    assert EncoderWeights(**weights.to_dict()) == weights


def test_published_weights_have_their_licence_and_a_file_has_none_that_is_known(file):
    pinned = {**NETWORK, "encoder_sha256": "0" * 64}
    published = EncoderWeights.of(ModelConfig.model_validate({**pinned, "encoder_weights": "imagenet"}))
    assert published.licence == timm.get_pretrained_cfg("test_efficientnet").license
    assert EncoderWeights.of(ModelConfig.model_validate({**pinned, "encoder_weights": str(file)})).licence == "unknown"


# Normalisation


def test_colour_images_of_8_bits_are_scaled_as_the_weights_expect(data, file, runtime):
    config = timm.get_pretrained_cfg("test_efficientnet")
    parts = make(data, file, runtime)
    np.testing.assert_allclose(parts.normalisation.mean, [255 * value for value in config.mean])
    np.testing.assert_allclose(parts.normalisation.std, [255 * value for value in config.std])
    own = make(data, "none", runtime).normalisation
    assert own == measure(parts.dataset.read(sample)[0] for sample in parts.training)
    assert own != parts.normalisation


def test_other_images_are_scaled_by_their_own_statistics(file, runtime, tmp_path):
    grey = write_data_set(tmp_path / "grey", images=4, size=(40, 40), channels=1, seed=0)
    parts = make(grey, file, runtime)
    assert parts.normalisation == measure(parts.dataset.read(sample)[0] for sample in parts.training)
    assert expected_normalisation(parts.weights, parts.dataset.survey) is None


def test_only_what_the_weights_know_is_scaled_by_their_statistics(data):
    survey = open_dataset(data).survey
    weights = EncoderWeights(network="test_efficientnet", source="x", sha256="", licence="unknown")
    assert expected_normalisation(weights, survey) is not None
    for other in ({"dtypes": ("uint16",)}, {"dtypes": ("uint16", "uint8")}, {"channels": (4,)}, {"channels": (1, 3)}):
        assert expected_normalisation(weights, replace(survey, **other)) is None
    assert expected_normalisation(replace(weights, network=UNPUBLISHED), survey) is None


# Whole runs


class Stop(Exception):  # noqa: N818
    """As a kill would, but in this process."""


def services(stop_at: int = 0) -> Services:
    def watch(row: dict[str, Any]) -> None:
        if "loss" in row and row["step"] == stop_at:
            raise Stop

    return Services(score=lambda _: {"mean_iou": 0.5}, watch=watch, warn=pytest.fail)


def test_a_run_is_resumed_without_the_file_and_ends_with_the_same_bytes(data, file, runtime, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    parts = make(data, copy, runtime)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    assert run(parts, tmp_path / "whole", services())
    with pytest.raises(Stop):
        run(parts, tmp_path / "stopped", services(stop_at=3))
    copy.unlink()
    assert run(parts, tmp_path / "stopped", services())
    whole, stopped = ((tmp_path / name / MODEL_FILE).read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped
    facts = Bundle.load(tmp_path / "whole" / MODEL_FILE).provenance["encoder_weights"]
    assert facts == {
        "network": "test_efficientnet",
        "source": str(copy),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "licence": "unknown",
    }
    identity = load_archive(tmp_path / "whole" / "checkpoint.safetensors", kind="checkpoint").description["identity"]
    assert identity["model.encoder_sha256"] == facts["sha256"]


# The command line


@pytest.fixture
def at_data(data, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return data


def test_what_the_user_sees(at_data, file, capsys):
    command_line = ["train", str(at_data), *SHORT, "--name", "run", "--encoder-weights"]
    assert command(*command_line, str(file)) == 0
    shown = capsys.readouterr().out
    assert f"encoder test_efficientnet starts from {file} (sha256 " in shown
    assert "licence: unknown" in shown
    assert "images are normalised as these weights expect" in shown
    assert "warning" not in shown
    assert command(*command_line, str(file), "--resume") == 0
    assert command(*command_line, "none", "--resume") == 1
    assert f"was begun with model.encoder_weights = {file}, not none;" in capsys.readouterr().err


def test_non_commercial_weights_are_warned_of(at_data, file, capsys, monkeypatch):
    monkeypatch.setattr(weights, "fetch_weights", lambda name: file)
    monkeypatch.setattr(weights, "weights_licence", lambda name: "cc-by-nc-4.0")
    assert command("train", str(at_data), *SHORT, "--encoder-weights", "imagenet", "--name", "run") == 0
    shown = capsys.readouterr().out
    assert "starts from the weights that timm publishes" in shown
    assert "warning: the weights of test_efficientnet and what is trained from them may not be used commer" in shown


def test_a_frozen_encoder_of_random_weights_is_warned_of(at_data, capsys):
    assert command("train", str(at_data), *SHORT, "--name", "run") == 0
    assert "warning: training.freeze = 0.3 keeps an encoder of random weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chosen", "words"),
    [("nowhere.safetensors", "nowhere.safetensors: there is no such file"), ("data.png", "is not a whole safetensors")],
)
def test_weights_that_cannot_be_read_are_refused_before_the_data_is(at_data, capsys, chosen, words):
    Image.fromarray(np.zeros((99, 99), np.uint8)).save("data.png")
    assert command("train", "cells", *SETTINGS, "--encoder-weights", chosen, "--name", "run") == 1
    assert words in capsys.readouterr().err
    assert not Path("runs/run").exists()


def test_weights_on_the_command_line_replace_those_of_a_file_of_settings(file, tmp_path, monkeypatch):
    monkeypatch.chdir(file.parent)
    (tmp_path / "plan.toml").write_text(
        f'[model]\nencoder_weights = "imagenet"\nencoder_sha256 = "{"0" * 64}"\n', "utf-8"
    )
    kept = read_asked(tmp_path / "plan.toml", [], None).model
    assert (kept.encoder_weights, kept.encoder_sha256) == ("imagenet", "0" * 64)
    changed = read_asked(tmp_path / "plan.toml", [f"model.encoder_weights={file.name}"], None).model
    assert (changed.encoder_weights, changed.encoder_sha256) == (str(file), "")
    none = read_asked(tmp_path / "plan.toml", ["model.encoder_weights=none"], None).model
    assert (none.encoder_weights, none.encoder_sha256) == ("", "")
