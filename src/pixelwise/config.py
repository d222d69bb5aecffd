"""RunConfig: every setting of a run, as typed sections, read from and written to TOML.

A plan (`runs/<name>/plan.toml`) is a RunConfig with nothing left open; a recipe is one that sets a few values. The
text under each field is its documentation: it becomes the comment in the file. Only `training/` and `cli/` take a
whole RunConfig; other rooms take plain values, or one section where it is what they are about (`AugmentConfig`).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from pixelwise.errors import UsageError, printable

LONGEST_FILE = 1_000_000
REASON = "why: "  # what a comment in a plan begins with that says why a value is what it is


def _text(value: Any) -> Any:
    return "" if value is None else value


def _word(value: Any) -> Any:
    return "none" if value is None else value


def _with_one(scales: tuple[float, ...]) -> tuple[float, ...]:
    if scales and (1 not in scales or len(set(scales)) < len(scales)):
        raise PydanticCustomError("scales", "give different numbers, and 1 among them, such as [0.5,0.75,1]")
    return scales


ClassWeights = Annotated[Literal["none", "inverse", "median", "effective"], BeforeValidator(_word)]
Scales = Annotated[tuple[Annotated[float, Field(gt=0, le=4)], ...], AfterValidator(_with_one)]


class Section(BaseModel):
    """A group of settings: unknown keys, NaN and infinity are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which images and masks, and how to read them."""

    path: str = ""
    """folder with the images and the masks"""
    classes: tuple[str, ...] = ()
    """class names in the order of their indices; empty: found from the masks and the layout"""
    ignore_index: int | None = None
    """mask value that counts nowhere; empty: found (11 for CamVid, else 255 where it occurs)"""
    masks: Literal["auto", "index", "binary", "colours", "instances", "overlapping"] = "auto"
    """what the values in the masks are; auto: found by reading all of them, but never that classes overlap"""
    target: Literal["classes", "borders"] = "classes"
    """borders: masks of single objects are learned as inside and border, so that touching objects can be told apart"""
    border: int = Field(2, ge=1, le=50)
    """for the target borders: a pixel is border where another object (around: anything else) is within so many of it"""
    border_place: Literal["between", "around"] = "between"
    """between: where objects touch; around: the contour of every object, which a short training learns as well"""
    border_form: Literal["softmax3", "sigmoid2", "sigmoid2_full"] = "softmax3"
    """softmax3: background, inside, border; sigmoid2: inside and border; sigmoid2_full: whole objects and border"""
    validation: float = Field(0.15, gt=0, lt=1)
    """share of the training images kept out to choose the best model, where the folder has no such part itself"""
    groups: str = ""
    """images that stay on one side: stacks, folders, a table (.csv, .toml), or an expression with the group in ()"""
    folds: int = Field(0, ge=0, le=1000)
    """cross-validation: the images are dealt out into so many parts, each of which validates once; 0: a share"""
    fold: int = Field(0, ge=0)
    """which of these parts validates, from 0"""
    stratify: bool = False
    """give training and validation like shares of each class"""

    @property
    def border_width(self) -> int:
        """Width in pixels of the borders that are learned, 0 where the classes are learned as they are."""
        return self.border if self.target == "borders" else 0


class ModelConfig(BaseModel):
    """Which network. Besides the fields below, the keys are the arguments of that network, such as width and depth."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    name: str = "unet"
    """name of the network in pixelwise.models.MODELS"""
    encoder_weights: Annotated[str, BeforeValidator(_text)] = ""
    """what the encoder starts from: imagenet, or a file .safetensors; empty or none: random weights, as all else"""
    encoder_sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    """checksum of the file of those weights: filled in by the first run, checked when the plan is run again"""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the network, by name."""
        return dict(self.model_extra or {})


class AugmentConfig(Section):
    """Random changes of each training image. All geometry is one displacement field and one resampling."""

    flip: bool = True
    """mirror left to right, with probability 1/2"""
    turn: bool | None = None
    """turn by 0, 90, 180 or 270 degrees; empty: yes, but for photographs (CamVid, VOC), where up and down differ"""
    rotate: float = Field(15.0, ge=0, le=180)
    """largest rotation, degrees"""
    scale: float = Field(0.2, ge=0, lt=1)
    """largest change of size: 0.2 is a factor between 1/1.2 and 1.2"""
    shear: float = Field(5.0, ge=0, lt=45)
    """largest shear, degrees"""
    elastic: float = Field(10.0, ge=0, le=100)
    """pixels, standard deviation of displacements on a 3x3 grid; left alone, at most a tenth of the crop's side"""
    brightness: float = Field(0.2, ge=0, le=5)
    """largest shift, in standard deviations of the training images"""
    contrast: float = Field(0.2, ge=0, lt=5)
    """largest change of contrast: 0.2 is a factor between 1/1.2 and 1.2"""
    noise: float = Field(0.1, ge=0, le=5)
    """largest standard deviation of added noise, in those of the training images; for one image in four"""
    blur: float = Field(1.0, ge=0, le=10)
    """largest standard deviation, in pixels, of a Gaussian blur; for one image in four"""
    balance: float = Field(0.5, ge=0, le=1)
    """share of the crops placed so as to hold a pixel of a class drawn with equal chance from those in the image"""


class TrainingConfig(Section):
    """How the weights are found."""

    steps: int | None = Field(None, ge=1)
    """length of the training, in updates of the weights"""
    epochs: float | None = Field(None, gt=0)
    """length as passes over the training images; used where steps is empty"""
    minutes: float | None = Field(None, gt=0)
    """length as a time budget; the step is timed on this machine and steps is fixed from it"""
    batch: int = Field(8, ge=1, le=4096)
    """crops per step, over all processes together"""
    crop: tuple[int, int] | None = None
    """height and width of a crop, pixels; empty: chosen from the sizes of the images"""
    loss: str = "ce+dice"
    """sum of losses from pixelwise.losses.LOSSES, each with an optional factor: 0.5*ce+dice"""
    class_weights: ClassWeights = "none"
    """weight of each class in the loss: by inverse or median frequency or effective number of its training pixels"""
    class_weight_values: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """these weights, by class: filled in by the first run, checked when the plan is run again; your own with none"""
    border_weight: float = Field(0.0, ge=0, le=1000)
    """added to the weight of background between objects (U-Net: 10), which are pieces of all classes but the first"""
    border_sigma: float = Field(5.0, gt=0, le=100)
    """pixels: that weight falls to 61 % where the distances to the two nearest objects together are so large"""
    auxiliary: float = Field(0.0, ge=0, le=10)
    """weight of the same loss on the network's intermediate maps (deep supervision); 0: none; PSPNet has 0.4"""
    scales: Scales = ()
    """sizes at which each crop is seen, the maximum of their logits counts (DeepLab: [0.5,0.75,1]); empty: its own"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd is with Nesterov momentum"""
    learning_rate: float = Field(2e-3, gt=0)
    """the highest learning rate of the schedule"""
    encoder_rate: float = Field(1.0, gt=0, le=1)
    """the encoder learns at this share of the learning rate; a usual value for pretrained weights is 0.1"""
    stage_rate: float = Field(1.0, gt=0, le=1)
    """each stage of the encoder learns at this share of the rate of the next deeper one; ULMFiT has 1/2.6"""
    freeze: float = Field(0.0, ge=0, le=1)
    """share of the steps, at the beginning, in which the encoder does not learn"""
    weight_decay: float = Field(1e-2, ge=0)
    """decay of weights (not of biases and norms)"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """momentum of sgd, or first beta of adamw"""
    schedule: Literal["cosine", "poly", "onecycle"] = "cosine"
    """course of the learning rate: warm-up then cosine, warm-up then polynomial, or one cycle"""
    warmup: float = Field(0.1, ge=0, lt=1)
    """share of the steps in which the learning rate rises from 0"""
    clip: float = Field(1.0, gt=0)
    """largest norm of the gradient"""
    ema: float = Field(0.99, ge=0, lt=1)
    """decay per step of the moving average of the weights that is validated and kept; 0: the weights themselves"""
    validate_every: int | None = Field(None, ge=1)
    """steps between two validations, each with a checkpoint; empty: a twentieth of the steps"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of everything random: weights, order, crops, augmentation, dropout"""
    workers: int = Field(0, ge=0, le=64)
    """processes that prepare batches; 0: in the training process. The batches are the same for any number"""


class RuntimeConfig(Section):
    """What runs it, and how fast."""

    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto: the first that is there"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bfloat16 where the processor computes in it, else float32"""
    channels_last: bool = True
    """keep the channels of a pixel side by side in memory"""
    allocator: bool = True
    """keep freed memory in the process instead of giving it back to the system (glibc only)"""
    threads: int = Field(0, ge=0, le=1024)
    """processor threads; 0: one per core, shared out over the processes of one machine"""
    deterministic: bool = True
    """refuse operations that give other results when repeated (not on mps)"""


TilingWay = Literal["auto", "exact", "fading", "average", "inner"]


class PredictConfig(Section):
    """How masks are made for new images; stored in the model."""

    tile: int = Field(0, ge=0, le=16384)
    """side of a window, pixels; 0: as large as memory allows where windows are exact, else 1024"""
    tiling: TilingWay = "auto"
    """exact: the same as of the whole image; fading, average, inner: overlapping windows; auto: exact where possible"""
    overlap: float = Field(0.25, ge=0, lt=0.9)
    """share of a window that overlaps the next one, where windows are not exact"""
    flips: bool = False
    """average the scores of the image, its mirror images and its quarter turns: eight times the work"""
    scales: Scales = ()
    """average the scores of the image at these sizes, such as [0.75,1,1.25]; empty: its own size"""

    def with_flips(self, wanted: bool) -> PredictConfig:
        """The same settings, averaging over mirror images and turns where that is wanted."""
        return self.model_copy(update={"flips": True}) if wanted else self


class RunConfig(Section):
    """Every setting of a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    predict: PredictConfig = PredictConfig()

    def with_values(self, values: Mapping[str, Mapping[str, Any]]) -> RunConfig:
        """A copy with some values replaced, by section: `config.with_values({"training": {"steps": 10}})`.

        What was left to its default stays so, and can still be told from what was asked for (`model_fields_set`).
        """
        merged = self.model_dump(exclude_unset=True)
        for section, changed in values.items():
            merged[section] = {**merged.get(section, {}), **changed}
        return parse_config(merged, "the configuration")

    def to_toml(self, reasons: Mapping[str, str] | None = None) -> str:
        """The whole configuration as commented TOML that `read_config` takes back.

        `reasons` say why a value is what it is, by section.key; each becomes a second comment above its value.
        """
        document = tomlkit.document()
        document.add(
            tomlkit.comment("A complete run of pixelwise. To run it again: pixelwise train --config plan.toml")
        )
        for name, section in self:
            why = {key.removeprefix(f"{name}."): text for key, text in (reasons or {}).items()}
            document.add(name, _toml_table(section, why))
        return tomlkit.dumps(document)


def read_config(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration of a TOML file with `section.key=value` overrides on top; the defaults where there is no file.

    Raises UsageError naming the nearest key for an unknown one, and the value and the rule for a wrong one.

    >>> read_config(overrides=["training.steps=10", "model.width=16"]).model.options
    {'width': 16}
    """
    values = _read_toml(path) if path else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, field = key.strip().partition(".")
        if not equals or not dot:
            raise UsageError(f"cannot understand {override!r}; write section.key=value, such as training.steps=1000")
        if not isinstance(values.setdefault(section, {}), dict):
            raise UsageError(f"{section!r} is not a section; write section.key=value")
        values[section][field] = _parse_value(text.strip())
    return parse_config(values, str(path) if path else "the command line")


def parse_config(values: dict[str, Any], source: str) -> RunConfig:
    """A RunConfig from plain values; `source` is named in the error."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise UsageError(f"{source}:\n{problems}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise UsageError(f"{printable(path)} is larger than any configuration ({LONGEST_FILE} bytes)")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read {printable(path)}: {error.strerror}; give --config an existing TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{printable(path)} is not TOML: {error}") from error


def _parse_value(text: str) -> Any:
    """The TOML value of a command-line text, or the text itself where it is none."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "tuple_type":
        return f'{key} = {problem["input"]!r}: give a list, such as [256,256] or \'["cell","border"]\''
    if problem["type"] != "extra_forbidden":
        return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    sections = {name: type(section).model_fields for name, section in RunConfig()}
    known = [*sections, *(f"{name}.{field}" for name, fields in sections.items() for field in fields)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"there is no setting {key!r}; did you mean {near[0]!r}?"


def _toml_table(section: BaseModel, reasons: Mapping[str, str]) -> tomlkit.items.Table:
    """A section as a TOML table, each field under its comments; an empty field is shown commented out."""
    table = tomlkit.table()
    fields = type(section).model_fields
    for name, value in section.model_dump().items():
        if name in fields:
            table.add(tomlkit.comment(fields[name].description or ""))
        if name in reasons:
            table.add(tomlkit.comment(f"{REASON}{printable(reasons[name])}"))
        if value is None:
            table.add(tomlkit.comment(f"{name} ="))
        else:
            table.add(name, list(value) if isinstance(value, tuple) else value)
    return table
