from __future__ import annotations

import math

import pytest
import tomlkit
from pydantic import BaseModel

from pixelwise.config import LONGEST_FILE, ModelConfig, RunConfig, parse_config, read_config
from pixelwise.errors import UsageError


def with_override(text: str) -> RunConfig:
    return read_config(overrides=[text])


# To text and back


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        read_config(
            overrides=["data.classes=['a', 'b\"\\n']", "training.crop=[64, 96]", "model.width=8", "training.loss="]
        ),
        read_config(overrides=["training.steps=7", "augment.turn=false", "data.ignore_index=11", "data.path=C:\\x é"]),
    ],
)
def test_a_configuration_survives_the_way_through_toml(config, tmp_path):
    (tmp_path / "plan.toml").write_text(config.to_toml(), "utf-8")
    assert read_config(tmp_path / "plan.toml") == config


def test_every_field_stands_under_its_comment():
    lines = RunConfig().to_toml().splitlines()
    for name, section in RunConfig():
        assert f"[{name}]" in lines
        for field, details in type(section).model_fields.items():
            assert details.description, f"{name}.{field} has no documentation"
            below = lines[lines.index(f"# {details.description}") + 1]
            assert below.removeprefix("# ").startswith(f"{field} ="), below


def test_a_field_without_a_value_is_shown_commented_out():
    assert "# steps =" in RunConfig().to_toml()
    assert tomlkit.parse(RunConfig().to_toml())["training"].get("steps") is None


def test_a_configuration_never_changes_after_reading():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().training.batch = 3  # type: ignore[misc]


# Overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("training.steps=1_000", 1000),
        ("training.learning_rate=1e-3", 0.001),
        ("training.learning_rate=1", 1.0),
        ("training.loss=0.5*ce+dice", "0.5*ce+dice"),
        ("training.loss = 'ce'", "ce"),
        ("augment.flip=False", False),
        ("augment.turn=none", None),
        ("training.crop=[32, 48]", (32, 48)),
        ("data.classes=['sky', 'tree']", ("sky", "tree")),
        ("data.path=", ""),
        ("data.path=a=b.c", "a=b.c"),
        ("training.scales=[0.5, 0.75, 1]", (0.5, 0.75, 1.0)),
        ("predict.scales=[1]", (1.0,)),
        ("training.freeze=1", 1.0),
        ("data.target=borders", "borders"),
        ("training.class_weights=none", "none"),
        ("training.class_weights=median", "median"),
        ("training.class_weight_values=[1, 0, 2.5]", (1.0, 0.0, 2.5)),
    ],
)
def test_an_override_of_every_type(text, value):
    section, _, field = text.partition("=")[0].strip().partition(".")
    assert getattr(getattr(with_override(text), section), field) == value


def test_overrides_lie_on_top_of_the_file_and_the_last_one_counts(tmp_path):
    (tmp_path / "a.toml").write_text("[training]\nsteps = 5\nbatch = 2\n")
    config = read_config(tmp_path / "a.toml", ["training.steps=6", "training.steps=7"])
    assert (config.training.steps, config.training.batch, config.training.ema) == (7, 2, 0.99)


def test_none_empties_a_value_of_the_file(tmp_path):
    (tmp_path / "a.toml").write_text("[training]\nsteps = 5\n")
    assert read_config(tmp_path / "a.toml", ["training.steps=none"]).training.steps is None


def test_values_can_be_replaced_in_a_copy():
    config = RunConfig()
    assert config.with_values({"training": {"steps": 10}}).training.steps == 10
    assert config.training.steps is None
    with pytest.raises(UsageError, match=r"training\.steps = 0"):
        config.with_values({"training": {"steps": 0}})


def test_the_width_of_borders_counts_only_where_they_are_learned():
    assert RunConfig().data.border_width == with_override("data.border=7").data.border_width == 0
    assert with_override("data.border=7").with_values({"data": {"target": "borders"}}).data.border_width == 7


def test_a_model_takes_any_argument():
    model = with_override("model.anything=[1, 2]").model
    assert model == ModelConfig.model_validate({"name": "unet", "anything": [1, 2]})
    assert model.options == {"anything": [1, 2]}


def test_what_an_encoder_starts_from_is_no_argument_of_the_network():
    model = with_override("model.encoder_weights=imagenet").with_values({"model": {"width": 8}}).model
    assert model.encoder_weights == "imagenet"
    assert model.options == {"width": 8}


# Refusals


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.step=3", "no setting 'training.step'; did you mean 'training.steps'"),
        ("trainig.steps=3", "no setting 'trainig'; did you mean 'training'"),
        ("augment.elastc=3", "did you mean 'augment.elastic'"),
        ("steps=3", "write section.key=value"),
        ("training.steps", "write section.key=value"),
        ("training.steps=0", r"training.steps = 0: input should be greater than or equal to 1"),
        ("training.steps=many", r"training.steps = 'many'"),
        ("training.batch=none", r"training.batch = None"),
        ("training.optimizer=adam", "'adamw' or 'sgd'"),
        ("training.learning_rate=nan", "finite number"),
        ("training.learning_rate=inf", "finite number"),
        ("predict.overlap=0.9", "less than 0.9"),
        ("training.crop=[1, 2, 3]", r"training.crop"),
        ("data.validation=1", "less than 1"),
        ("training.scales=[0.5, 0.75]", r"training.scales = [0.5, 0.75]: give different numbers, and 1 among them"),
        ("predict.scales=[1, 1]", "give different numbers"),
        ("training.scales=[1, 0]", "greater than 0"),
        ("training.freeze=1.5", "less than or equal to 1"),
        ("training.encoder_rate=0", "greater than 0"),
        ("training.auxiliary=-1", "greater than or equal to 0"),
        ("data.target=instances", "'classes' or 'borders'"),
        ("data.border=0", "greater than or equal to 1"),
        ("training.class_weights=mean", "'none', 'inverse', 'median' or 'effective'"),
        ("training.class_weight_values=[1, -1]", "greater than or equal to 0"),
        ("training.border_sigma=0", "greater than 0"),
        ("model.encoder_sha256=abc", "should match pattern"),
    ],
)
def test_a_wrong_override_is_told_with_the_next_step(text, said):
    with pytest.raises(UsageError, match=said.replace("[", r"\[")) as caught:
        with_override(text)
    assert "pydantic" not in str(caught.value)


def test_every_wrong_value_is_told_at_once():
    with pytest.raises(UsageError, match="the file") as caught:
        parse_config({"training": {"steps": 0, "batch": "x"}, "augment": {"flips": 1}}, "the file")
    assert [name in str(caught.value) for name in ("training.steps", "training.batch", "augment.flip")] == [True] * 3


def test_a_section_that_is_a_value_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text("training = 3\n")
    with pytest.raises(UsageError, match="'training' is not a section"):
        read_config(tmp_path / "a.toml", ["training.steps=1"])
    with pytest.raises(UsageError, match="training = 3"):
        read_config(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"steps = = 3", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"[training]\nsteps = 1\nsteps = 2", "is not TOML"),
        (b"x = " + b"[" * 100_000, "is not TOML"),
        (b"#" * (LONGEST_FILE + 1), "is larger than any configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(content, said, tmp_path):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(UsageError, match=f"bad.toml {said}"):
        read_config(tmp_path / "bad.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*none\.toml: No such file"):
        read_config(tmp_path / "none.toml")


def test_every_default_is_inside_its_own_limits():
    for _, section in RunConfig():
        assert isinstance(section, BaseModel)
        assert type(section).model_validate(section.model_dump()) == section
    assert all(math.isfinite(value) for value in RunConfig().augment.model_dump().values() if value is not None)
