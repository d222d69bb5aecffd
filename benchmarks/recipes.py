"""What borders, border weights and losses of unbalanced classes are worth: the same network, steps and seed each time.

    python benchmarks/recipes.py isbi2012 DATA --steps 400
    python benchmarks/recipes.py dsb2018 DATA --steps 500
    python benchmarks/recipes.py camvid DATA --steps 400
    python benchmarks/recipes.py plan-isbi2012 DATA --minutes 3      (also plan-dsb2018, plan-camvid)
    python benchmarks/recipes.py plan-synthetic --minutes 3

Each row is one `pixelwise train`, scored by one `pixelwise evaluate` on images that took no part in the training, and
printed as a row of a table in Markdown as soon as it is there. Of ISBI 2012 the last quarter of the slices is kept out,
of DSB2018 every fifth image; CamVid brings its validation frames; drawn cells are drawn twice, with two seeds. The last
lines compare what the plan chooses by itself with settings chosen by hand; on a machine that does nothing else, for it
is at equal minutes, not equal steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pixelwise.bundle import Bundle
from pixelwise.config import RuntimeConfig, read_config
from pixelwise.data.dataset import open_like
from pixelwise.data.layouts import find_samples
from pixelwise.data.splits import split_samples
from pixelwise.data.synthetic import write_data_set
from pixelwise.evaluation.tuning import tune_objects
from pixelwise.inference.predict import Predictor, predict
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.runtime import prepare

Row = dict[str, float]
Parts = tuple[Path, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Recipes on one data set: settings of the training by name, how to evaluate, and what to show of the scores."""

    recipes: dict[str, tuple[str, ...]]
    evaluation: tuple[str, ...]
    columns: Callable[[dict[str, Any]], Row]
    divide: Callable[[Path, Path], Parts]
    afterwards: dict[str, tuple[str, Callable[[Path, Path, Path], None]]] = field(default_factory=dict)
    """By name: the recipe whose model is taken, and what makes another of it (model, training data, new model)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all recipes of one data set and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=COMPARISONS | PLANS)
    parser.add_argument("data", type=Path, nargs="?", default=Path(), help="the folder of the data set")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=400)
    length.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument(
        "--settings", nargs="*", default=[], help="further settings of every training: section.key=value"
    )
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for line in rows((COMPARISONS | PLANS)[asked.name], asked, folder):
            print(line, flush=True)


def rows(comparison: Comparison, asked: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the table, each as soon as it is known."""
    training, kept_out = comparison.divide(asked.data.resolve(), folder)
    head = False
    for name, settings in comparison.recipes.items():
        if asked.only and name not in asked.only:
            continue
        began = time.monotonic()
        length = ("--minutes", asked.minutes) if asked.minutes else ("--steps", asked.steps)
        length = (f"training.seed={asked.seed}", *length, *asked.settings)
        pixelwise(folder, "train", training, *settings, *length, "--name", run_name(name), "--json")
        took = time.monotonic() - began
        models = {name: folder / "runs" / run_name(name) / "model.safetensors"}
        for further, (source, change) in comparison.afterwards.items():
            if source == name:
                models[further] = models[name].with_name(f"{run_name(further)}.safetensors")
                change(models[name], training, models[further])
        for title, model in models.items():
            scores = pixelwise(folder, "evaluate", model, kept_out, *comparison.evaluation, "--json")
            row = comparison.columns(scores)
            if not head:
                head = True
                yield f"| recipe | {' | '.join(row)} | seconds |"
                yield "|---|" + "---|" * (len(row) + 1)
            yield f"| {title} | {' | '.join(f'{value:.4f}' for value in row.values())} | {took:.0f} |"


def run_name(recipe: str) -> str:
    """The name of a recipe as that of a folder."""
    return "-".join(recipe.replace("+", " ").replace(",", " ").split())


def pixelwise(folder: Path, *arguments: object) -> dict[str, Any]:
    """What a command prints as JSON."""
    command = [sys.executable, "-m", "pixelwise", *map(str, arguments)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}\n{ended.stderr[-3000:]}")
    scores: dict[str, Any] = json.loads(ended.stdout)
    return scores


# The data


def divide_slices(data: Path, folder: Path) -> Parts:
    """The first three quarters of the slices, and the last quarter."""
    samples = find_samples(data).samples
    first = len(samples) * 3 // 4
    parts = folder / "first", folder / "last"
    for part, chosen in zip(parts, (samples[:first], samples[first:]), strict=True):
        for sample in chosen:
            for kind, source in (("images", sample.image), ("masks", sample.masks[0])):
                (part / kind).mkdir(parents=True, exist_ok=True)
                _link(part / kind / source.path.name, source.path)
    return parts


def divide_folders(data: Path, folder: Path) -> Parts:
    """Every fifth folder of one image is kept out."""
    parts = folder / "most", folder / "fifth"
    for place, one in enumerate(sorted(path for path in data.rglob("*") if (path / "masks").is_dir())):
        part = parts[place % 5 == 0]
        part.mkdir(parents=True, exist_ok=True)
        _link(part / one.name, one)
    return parts


def drawn(_: Path, folder: Path) -> Parts:
    """Images of drawn cells to train with, and others that were drawn from another seed."""
    parts = folder / "drawn", folder / "other"
    for seed, (part, images) in enumerate(zip(parts, (24, 12), strict=True)):
        if not part.exists():
            write_data_set(part, images=images, seed=seed)
    return parts


def as_it_is(data: Path, _: Path) -> Parts:
    """Training and validation frames lie in folders of their own."""
    return data, data


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.symlink_to(target)


# Further models


def with_pieces(model: Path, training: Path, changed: Path) -> None:
    """The same network with each connected piece of the foreground as an object, tuned on its validation images."""
    bundle = Bundle.load(model)
    dataset = open_like(training, task=bundle.task, coding=bundle.coding)
    plan = read_config(model.with_name("plan.toml"))
    _, validation = split_samples(dataset.samples, validation=plan.data.validation, seed=plan.training.seed)
    predictor = replace(Predictor.of(bundle, prepare(RuntimeConfig())), instances=None)
    found = tune_objects(
        validation,
        InstanceSettings(form="plain"),
        read=lambda sample: (*dataset.read(sample), dataset.read_instances(sample)),
        predict=lambda image_HWC: predict(image_HWC, predictor),
        task=bundle.task,
        necks=(0.0,),
    )
    replace(bundle, instances=found).save(changed)


# The scores


def isbi_columns(scores: dict[str, Any]) -> Row:
    """The measures of the challenge, and the IoU of the membrane."""
    return {**scores["isbi2012"]["scores"], "membrane IoU": scores["classes"][0]["iou"]}


def dsb_columns(scores: dict[str, Any]) -> Row:
    """What counts nuclei."""
    objects = scores["objects"]
    names = {"dsb_score": "AP .50:.95", "ap50": "AP50", "panoptic_quality": "PQ", "aji": "AJI"}
    errors = {"count_error": "count error", "relative_count_error": "relative"}
    return {title: objects[name] for name, title in (names | errors).items()}


def class_columns(scores: dict[str, Any]) -> Row:
    """The means, then the IoU of each class."""
    means = {"mean IoU": scores["mean_iou"], "pixel accuracy": scores["pixel_accuracy"]}
    return {**means, "mean accuracy": scores["mean_accuracy"], **{c["name"]: c["iou"] for c in scores["classes"]}}


def few_columns(scores: dict[str, Any]) -> Row:
    """The means, and how well objects are found where they are."""
    objects = scores.get("objects", {})
    return {
        "mean IoU": scores["mean_iou"],
        "pixel accuracy": scores["pixel_accuracy"],
        **({"AP .50:.95": objects["dsb_score"]} if objects else {}),
    }


BY_HAND: dict[str, tuple[str, ...]] = {
    "the plan": (),
    "width 32": ("model.width=32",),
    "batch 8": ("training.batch=8",),
    "crops of 192, batch 8": ("training.crop=[192,192]", "training.batch=8"),
    "crops of 192, batch 12": ("training.crop=[192,192]", "training.batch=12"),
    "learning rate 0.001": ("training.learning_rate=0.001",),
    "cross-entropy": ("training.loss=ce",),
    "one cycle, no moving average": ("training.schedule=onecycle", "training.ema=0"),
}

COMPARISONS = {
    "isbi2012": Comparison(
        recipes={
            "cross-entropy": ("training.loss=ce",),
            "border weights": ("training.loss=ce", "training.border_weight=10"),
            "border and class weights": (
                "training.loss=ce",
                "training.border_weight=10",
                "training.class_weights=median",
            ),
        },
        evaluation=("--metrics", "isbi2012"),
        columns=isbi_columns,
        divide=divide_slices,
    ),
    "dsb2018": Comparison(
        recipes={
            "plain mask, cut at necks": (),
            "borders, softmax3": ("data.target=borders",),
            "borders, sigmoid2": ("data.target=borders", "data.border_form=sigmoid2"),
            "borders, sigmoid2_full": ("data.target=borders", "data.border_form=sigmoid2_full"),
            "contours, sigmoid2_full": (
                "data.target=borders",
                "data.border_form=sigmoid2_full",
                "data.border_place=around",
                "data.border=1",
            ),
        },
        evaluation=(),
        columns=dsb_columns,
        divide=divide_folders,
        afterwards={"plain mask, connected pieces": ("plain mask, cut at necks", with_pieces)},
    ),
    "camvid": Comparison(
        recipes={
            "cross-entropy": ("training.loss=ce",),
            "class-balanced cross-entropy": ("training.loss=ce", "training.class_weights=median"),
            "focal": ("training.loss=focal",),
            "class-balanced focal": ("training.loss=focal", "training.class_weights=median"),
            "cross-entropy + Dice": ("training.loss=ce+dice",),
        },
        evaluation=("--split", "val"),
        columns=class_columns,
        divide=as_it_is,
    ),
}

PLANS = {
    "plan-isbi2012": Comparison(recipes=BY_HAND, evaluation=(), columns=few_columns, divide=divide_slices),
    "plan-dsb2018": Comparison(recipes=BY_HAND, evaluation=(), columns=few_columns, divide=divide_folders),
    "plan-camvid": Comparison(recipes=BY_HAND, evaluation=("--split", "val"), columns=few_columns, divide=as_it_is),
    "plan-synthetic": Comparison(recipes=BY_HAND, evaluation=(), columns=few_columns, divide=drawn),
}

if __name__ == "__main__":
    main()
