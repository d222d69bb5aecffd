"""The rules that fill in a plan, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pixelwise.config import RunConfig, read_config
from pixelwise.inference.receptive_field import receptive_field
from pixelwise.models.registry import MODELS, build_model, model_options
from pixelwise.training.fingerprint import ClassFacts, Fingerprint, ObjectSizes
from pixelwise.training.plan import Plan, make_plan
from pixelwise.training.rules import (
    LEAST_TOUCHING,
    MODEL_RULES,
    NOTES,
    RULES,
    Choice,
    Question,
    choose_balance,
    choose_batch,
    choose_class_weights,
    choose_crop,
    choose_depth,
    choose_elastic,
    choose_network,
    choose_target,
    choose_tile,
    choose_turn,
    choose_validation,
    choose_width,
    unet_field,
)


def facts(**changes: object) -> Fingerprint:
    cells = ObjectSizes(count=9, area=(314.0, 10.0), diameter=(20.0, 3.6))
    usual = Fingerprint(
        layout="images and masks",
        images=20,
        read=20,
        smallest=(300, 300),
        median=(300, 300),
        usual=(300, 300),
        largest=(300, 300),
        channels=1,
        bits=8,
        classes=(ClassFacts(name="background", share=0.8), ClassFacts(name="cell", share=0.2, objects=cells)),
        void=0.0,
        instances=False,
        photograph=False,
        intensities=((1.0, 2.0, 3.0, 4.0, 250.0),),
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def ask(rule: object, *overrides: str, device: str = "cpu", **changes: object) -> Choice:
    question = Question(facts=facts(**changes), plan=read_config(overrides=overrides), device=device)
    return rule(question)  # type: ignore[operator, no-any-return]


def plan(*overrides: str, device: str = "cpu", **changes: object) -> Plan:
    return make_plan(read_config(overrides=overrides), facts(**changes), device=device)


@pytest.mark.parametrize("rule", [*RULES.values(), *NOTES.values(), *MODEL_RULES["unet"].values()])
def test_every_rule_gives_a_reason_in_one_line(rule) -> None:
    for changes in ({}, {"read": 0, "intensities": ()}, {"instances": True, "touching": 0.5}, {"photograph": True}):
        reason = ask(rule, **changes).reason
        assert reason
        assert "\n" not in reason
        assert not reason.endswith(".")


def test_every_value_is_one_that_the_settings_take() -> None:
    for key, rule in RULES.items():
        section, _, name = key.partition(".")
        value = ask(rule).value
        config = RunConfig().with_values({section: {name: value}})
        assert getattr(getattr(config, section), name) == value


def test_rules_and_the_defaults_of_the_settings_say_the_same() -> None:
    """A rule has a constant of its own; the default of the field, that of a GPU, counts where no rule is asked."""
    open_ones = {"augment.turn", "training.crop"}
    for key in RULES.keys() - open_ones:
        section, _, name = key.partition(".")
        assert ask(RULES[key], device="cuda").value == getattr(getattr(RunConfig(), section), name), key


# What is learned


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "do not number single objects"),
        ({"instances": True}, "none was looked at"),
        ({"instances": True, "touching": LEAST_TOUCHING / 2}, "only 2.5 % of the objects touch"),
        ({"instances": True, "touching": 0.3}, "30 % of the objects touch another one; cut at their necks"),
    ],
)
def test_classes_are_learned_and_the_reason_says_what_of_objects(changes: dict, words: str) -> None:
    choice = ask(choose_target, **changes)
    assert choice.value == "classes"
    assert words in choice.reason


def test_how_single_objects_come_about_is_noted() -> None:
    def noted(*overrides: str, **changes: object) -> str:
        return str(plan("training.steps=1", *overrides, **changes).notes["objects"].value)

    assert noted() == "none"
    assert noted(instances=True) == "pieces, cut at necks"
    assert noted("data.target=borders", instances=True) == "watershed from the insides"


def test_few_images_for_validation_are_said() -> None:
    assert "about 4 of 24 images" in ask(choose_validation).reason
    assert "rough" not in ask(choose_validation).reason
    assert "rough" in ask(choose_validation, images=5).reason
    assert "one of 5 folds" in ask(choose_validation, "data.folds=5").reason
    assert "validation part of its own" in ask(choose_validation, own_validation=True).reason


# The network


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_what_an_output_sees_is_what_is_measured(depth: int) -> None:
    network = build_model("unet", in_channels=1, classes=2, options={"width": 2, "depth": depth})
    field = receptive_field(network, 1, stride=network.stride)
    assert field is not None
    assert field.rows[0] <= unet_field(depth) <= field.rows[1]


@pytest.mark.parametrize(
    ("crop", "diameter", "depth"),
    [
        ("[256,256]", 20, 4),
        ("[256,256]", 199, 4),
        ("[256,256]", 230, 5),
        ("[192,192]", 230, 4),
        ("[512,512]", 5000, 6),
        ("[32,64]", 20, 4),
        ("[31,64]", 20, 3),
        ("[16,16]", 20, 3),
        ("[3,3]", 1, 1),
        ("[1,1]", 1, 1),
    ],
)
def test_depth_suits_the_objects_and_leaves_cells_at_the_bottom(crop: str, diameter: float, depth: int) -> None:
    sizes = ObjectSizes(count=1, area=(1.0, 1.0), diameter=(diameter, 1.0))
    classes = (ClassFacts(name="a", share=0.5), ClassFacts(name="b", share=0.5, objects=sizes))
    assert ask(choose_depth, f"training.crop={crop}", classes=classes).value == depth


def test_width_is_half_on_a_cpu() -> None:
    assert [ask(choose_width, device=device).value for device in ("cpu", "cuda", "mps")] == [16, 32, 32]
    assert "four times the steps" in ask(choose_width).reason


def test_pretrained_weights_are_named_for_photographs_of_colours() -> None:
    assert "--encoder-weights imagenet" in ask(choose_network, photograph=True, channels=3).reason
    assert "--encoder-weights" not in ask(choose_network, photograph=True, channels=1).reason
    assert "--encoder-weights" not in ask(choose_network, channels=3).reason


def test_every_other_network_is_that_of_its_paper() -> None:
    for name in set(MODELS) - {"unet"}:
        small = [f"model.{key}={value}" for key, value in MODELS[name].small.items()]
        made = plan("training.steps=3", f"model.name={name}", *small).config.model.options
        assert made == model_options(name) | dict(MODELS[name].small)


# Crops and what is done to them


@pytest.mark.parametrize(
    ("size", "crop"), [((512, 512), (256, 256)), ((360, 480), (256, 256)), ((31, 33), (32, 48)), ((1, 5000), (32, 256))]
)
def test_crops(size: tuple[int, int], crop: tuple[int, int]) -> None:
    assert ask(choose_crop, usual=size).value == crop


def test_photographs_are_not_turned() -> None:
    assert ask(choose_turn).value is True
    assert ask(choose_turn, photograph=True).value is False
    assert "0.86" in ask(choose_turn, photograph=True, up_down=0.8559).reason


@pytest.mark.parametrize(("crop", "elastic"), [("[256,256]", 10.0), ("[32,64]", 3.2), ("[100,99]", 9.9)])
def test_small_crops_are_deformed_less(crop: str, elastic: float) -> None:
    assert ask(choose_elastic, f"training.crop={crop}").value == elastic


def test_a_rare_class_is_named() -> None:
    rare = (ClassFacts(name="a", share=0.999), ClassFacts(name="speck", share=0.001), ClassFacts(name="none", share=0))
    assert "speck (0.1 % of the pixels)" in ask(choose_class_weights, classes=rare).reason
    assert "median" not in ask(choose_class_weights).reason
    assert "speck, 0.1 % of the pixels" in ask(choose_balance, classes=rare).reason


def test_large_images_are_cut_and_small_ones_are_not() -> None:
    assert "predicted whole" in ask(choose_tile).reason
    assert "predicted whole" not in ask(choose_tile, largest=(2000, 2000)).reason


@pytest.mark.parametrize(("device", "batch"), [("cpu", 4), ("cuda", 8), ("mps", 8)])
def test_a_cpu_takes_more_and_smaller_steps(device: str, batch: int) -> None:
    choice = ask(choose_batch, device=device)
    assert choice.value == batch
    assert "0006-what-pays" in choice.reason
