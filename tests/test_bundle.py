"""The saved model: complete, safe to open, refused where it does not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelwise.archive import Archive, save_archive
from pixelwise.bundle import Bundle, Network, instances_of
from pixelwise.data.masks import Coding
from pixelwise.errors import BundleError, TrainingError
from pixelwise.inference.predict import Predictor, predict
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.runtime import Runtime


def test_a_saved_model_predicts_the_same(make_bundle: Callable[..., Bundle], runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle()
    bundle.save(tmp_path / "model.safetensors")
    loaded = Bundle.load(tmp_path / "model.safetensors")
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8)
    before, after = (predict(image_HWC, Predictor.of(one, runtime)).scores_KHW for one in (bundle, loaded))
    np.testing.assert_array_equal(before, after)
    assert replace(loaded, weights={}) == replace(bundle, weights={})


def test_how_objects_are_made_is_saved(make_bundle: Callable[..., Bundle], runtime: Runtime, tmp_path: Path) -> None:
    settings = InstanceSettings(form="plain", foreground=0.25, smallest=7)
    replace(make_bundle(), instances=settings).save(tmp_path / "model.safetensors")
    loaded = Bundle.load(tmp_path / "model.safetensors")
    assert loaded.instances == settings
    assert Predictor.of(loaded, runtime).instances == settings
    make_bundle().save(tmp_path / "model.safetensors")
    assert Bundle.load(tmp_path / "model.safetensors").instances is None


def test_a_model_saved_without_a_word_on_objects_finds_none(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle()
    description = bundle._description()
    del description["instances"]
    save_archive(tmp_path / "old.safetensors", Archive(dict(bundle.weights), description), kind="model")
    assert Bundle.load(tmp_path / "old.safetensors").instances is None


def test_borders_that_were_learned_part_objects() -> None:
    assert instances_of(Coding(kind="instances", border=3)) == InstanceSettings(form="softmax3", neck=0.7)
    full = Coding(kind="instances", border=3, form="sigmoid2_full")
    assert instances_of(full) == InstanceSettings(form="sigmoid2_full", neck=0.7)
    assert instances_of(Coding(kind="instances")) == InstanceSettings(form="plain", neck=0.7)
    assert instances_of(Coding(kind="binary", values=(0, 255))) is None


def test_the_same_model_gives_the_same_bytes(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_bundle().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_that_are_not_finite_are_never_saved(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle()
    bundle.save(tmp_path / "model.safetensors")
    good = (tmp_path / "model.safetensors").read_bytes()
    bad = {name: value.clone() for name, value in bundle.weights.items()}
    bad["head.bias"][0] = float("nan")
    with pytest.raises(TrainingError, match=r"head\.bias"):
        replace(bundle, weights=bad).save(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == good


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d["network"].update(name="os.system"), "os.system"),
        (lambda d: d["network"].update(options={"width": 10**9, "depth": 2}), "width"),
        (lambda d: d["network"].update(options={"width": 4, "depth": 2, "_target_": "os.system"}), "_target_"),
        (lambda d: d["network"].update(options={"width": "4", "depth": 2}), "width"),
        (lambda d: d["network"].update(in_channels=3), "channels|shape|weights"),
        (lambda d: d["network"].update(_instantiator="os.system"), "_instantiator"),
        (lambda d: d["task"].update(names=["only one"]), "classes"),
        (lambda d: d["task"].update(kind="magic"), "magic"),
        (lambda d: d["task"].update(names=["a", "b", "c"], colours=[[0, 0, 0]] * 3), "weights"),
        (lambda d: d["normalisation"].update(std=[0.0]), "std|deviation"),
        (lambda d: d["predict"].update(tile=-5), "tile"),
        (lambda d: d.update(extra="x"), "extra"),
        (lambda d: d.pop("coding"), "coding"),
        (lambda d: d["coding"].update(kind="pickle"), "pickle|kind"),
        (lambda d: d.update(instances={"form": "os.system"}), "instances"),
        (lambda d: d.update(instances=InstanceSettings(form="plain").to_dict() | {"seed": 7.0}), "seed = 7"),
        (lambda d: d.update(instances=InstanceSettings(form="softmax3").to_dict()), "3 outputs, the task has 2"),
        (lambda d: d.update(instances=[]), "instances|holds"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path, damage: Callable[[dict], object], message: str
) -> None:
    bundle = make_bundle()
    description = copy.deepcopy(bundle._description())
    damage(description)
    path = tmp_path / "bad.safetensors"
    save_archive(path, Archive(dict(bundle.weights), description), kind="model")
    with pytest.raises(BundleError, match=message) as refusal:
        Bundle.load(path)
    assert "bad.safetensors" in str(refusal.value)


@pytest.mark.parametrize("change", ["missing", "foreign", "shape", "type"])
def test_weights_of_another_network_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path, change: str
) -> None:
    bundle = make_bundle()
    weights = dict(bundle.weights)
    match change:
        case "missing":
            del weights["head.bias"]
        case "foreign":
            weights["evil"] = torch.zeros(1)
        case "shape":
            weights["head.bias"] = torch.zeros(3)
        case "type":
            weights["head.bias"] = weights["head.bias"].double()
    replace(bundle, weights=weights).save(tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match=r"head\.bias|evil"):
        Bundle.load(tmp_path / "model.safetensors")


def test_a_huge_network_is_refused_without_its_memory(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle()
    huge = Network(name="unet", in_channels=1, options={"width": 1024, "depth": 8})
    replace(bundle, network=huge).save(tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match="weights"):
        Bundle.load(tmp_path / "model.safetensors")
