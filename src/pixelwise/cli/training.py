"""Carrying out a training order: data, plan, run, scores and pictures, in this order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pixelwise.bundle import Bundle, instances_of
from pixelwise.cli.screen import Screen, counted
from pixelwise.cli.showing import Wanted, score_and_show, show_findings
from pixelwise.config import RunConfig, read_config
from pixelwise.data.curves import plot_curves
from pixelwise.data.dataset import Dataset, open_dataset
from pixelwise.data.layouts import Sample
from pixelwise.data.memory import Kept
from pixelwise.data.splits import split_samples
from pixelwise.errors import UsageError
from pixelwise.evaluation.evaluate import Measures, evaluate, merge
from pixelwise.evaluation.tuning import dsb_score_of, tune_objects
from pixelwise.files import MODEL_FILE, folder_lock, write_text
from pixelwise.inference.predict import Predictor, predict
from pixelwise.losses.registry import parse_loss
from pixelwise.models.registry import build_model
from pixelwise.postprocess.instances import InstanceSettings, tune
from pixelwise.runtime import memory_refusals, prepare
from pixelwise.training.distributed import Ranks, joined_ranks
from pixelwise.training.journal import read_journal
from pixelwise.training.plan import complete_plan, fix_length
from pixelwise.training.run import HARMLESS, LOG, PLAN, Score, Services, run
from pixelwise.training.setup import Parts, check_network, make_parts, measure_step
from pixelwise.training.weights import EncoderWeights, expected_normalisation

SECONDS_FOR_PICTURES = 4.0
MOST_TUNED = 32
MEANS_SHOWN = ("mean_iou", "mean_f1", "pixel_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user asked for; `began` is the start of the command on the monotonic clock, seconds.

    asked  file and overrides together, defaults elsewhere
    typed  the overrides, as section.key, that stood on the command line
    config whether a file of settings was given
    """

    asked: RunConfig
    typed: tuple[str, ...]
    config: bool
    folder: Path
    began: float
    resume: bool = False
    force: bool = False


def carry_out(order: Order, screen: Screen) -> bool:
    """Train, score and draw; False where the user stopped the training before its end."""
    with joined_ranks() as ranks:
        if not ranks.writes:
            screen = Screen(quiet=True)
        with _held(order.folder) if ranks.writes else nullcontext(), memory_refusals():
            return _carry_out(order, ranks, screen)


def _carry_out(order: Order, ranks: Ranks, screen: Screen) -> bool:
    # The settings.
    stored = _stored_plan(order, screen)
    asked = stored or order.asked
    check_settings(asked, resumed=stored is not None)
    runtime = prepare(asked.runtime)

    # The data.
    data = asked.data
    dataset = open_dataset(
        Path(data.path),
        classes=data.classes,
        ignore_index=data.ignore_index,
        masks=data.masks,
        border=data.border_width,
        form=data.border_form,
    )
    split = split_samples(dataset.samples, validation=data.validation, seed=asked.training.seed)
    training, validation = split
    counts = f"{counted(len(training), 'image')} to train on, {counted(len(validation), 'image')} to validate"
    screen.say(*dataset.survey.describe(), counts)
    show_findings(dataset, screen)
    if training == validation:
        screen.warn(
            "there is one image only: it trains the model and validates it, so its scores say nothing of others"
        )

    # The plan.
    plan = complete_plan(asked, dataset, training_images=len(training), device=runtime.device.type)
    parts = make_parts(plan, dataset, split, runtime=runtime, ranks=ranks)
    score = score_on(validation, dataset, ranks)
    if plan.training.steps is None:
        screen.say("timing a step on this machine")
        parts = _with_length(parts, order)
    _write_plan(parts, order)
    screen.say(runtime.describe(), *describe_plan(parts), f"run: {order.folder}")
    for line in doubts(parts):
        screen.warn(line)

    # The training.
    steps_done = len([row for row in read_journal(order.folder / LOG) if "loss" in row])
    with screen.training(parts.plan.training.steps or 0, steps_done) as bar:
        services = Services(score=score, watch=bar.watch, warn=screen.warn, force=order.force)
        finished = run(parts, order.folder, services)
    if not finished:
        screen.say(f"stopped; go on with: pixelwise train --resume --name {order.folder.name}")
        return False

    # The scores and the pictures.
    if ranks.writes:
        report(parts, order.folder, screen)
    ranks.wait()
    return True


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The run's folder for this process alone; a folder made for a run that then had nothing to keep goes again."""
    with folder_lock(folder):
        try:
            yield
        finally:
            if {path.name for path in folder.glob("*")} <= {".lock"}:
                with suppress(OSError):
                    (folder / ".lock").unlink(missing_ok=True)
                    folder.rmdir()


def _stored_plan(order: Order, screen: Screen) -> RunConfig | None:
    """The plan of a run that is resumed, None for a new one; refuses typed settings that differ from it."""
    path = order.folder / PLAN
    if not order.resume or not path.is_file():
        if order.resume:
            screen.say(f"there is nothing to resume in {order.folder} yet: beginning")
        if not order.asked.data.path:
            raise UsageError(
                f"{order.folder} has no plan yet; say again what to train on: "
                f"pixelwise train DATA --name {order.folder.name} --resume"
            )
        return None
    if order.config:
        raise UsageError(f"{path} is the plan of the run that is resumed; leave out --config, or start a new run")
    stored = read_config(path)
    changes: dict[str, dict[str, object]] = {}
    for key in order.typed:
        section, _, name = key.partition(".")
        before, now = (getattr(getattr(config, section), name, None) for config in (stored, order.asked))
        if before != now and key not in HARMLESS and not order.force:
            raise UsageError(
                f"{order.folder} was begun with {key} = {before}, not {str(now) or 'none'}; "
                "leave it out to resume, start a new run, or change it knowingly with --force"
            )
        if before != now:
            changes.setdefault(section, {})[name] = now
    if order.asked.data.path:
        changes.setdefault("data", {})["path"] = order.asked.data.path
    return stored.with_values(changes)


def check_settings(asked: RunConfig, *, resumed: bool) -> None:
    """Refuse a loss, a network, arguments or parts that do not exist, before any data is read.

    Pretrained weights too, but for a run that is resumed: it has its weights in the checkpoint.
    """
    parse_loss(asked.training.loss)
    with torch.device("meta"):
        network = build_model(asked.model.name, in_channels=1, classes=2, options=asked.model.options)
    check_network(network, asked)
    weights = None if resumed else EncoderWeights.of(asked.model)
    if weights:
        weights.load(network)


def _with_length(parts: Parts, order: Order) -> Parts:
    """The parts with a plan whose number of steps fits the time budget, the same in every process."""
    ranks, minutes = parts.job.ranks, parts.plan.training.minutes
    assert minutes is not None, "a plan without steps has a time budget"
    step, validating = measure_step(parts), _measure_validation(parts)
    afterwards = SECONDS_FOR_PICTURES + _measure_tuning(parts)
    used = time.monotonic() - order.began + afterwards
    plan = fix_length(parts.plan, budget=60 * minutes, used=used, step=step, validation=validating)
    plan = ranks.gather(plan)[0]
    return replace(parts, plan=plan, job=replace(parts.job, settings=plan.training))


def _measure_validation(parts: Parts) -> float:
    """Seconds that a validation takes, from one image, the largest share of any process."""
    network = parts.job.runtime.place(parts.network.build(parts.job.task)).eval()
    image_HWC, _ = parts.dataset.read(parts.validation[0])
    predictor = parts.predictor(network)
    predict(image_HWC, predictor)
    began = time.perf_counter()
    predict(image_HWC, predictor)
    seconds = (time.perf_counter() - began) * math.ceil(len(parts.validation) / parts.job.ranks.count)
    return max(parts.job.ranks.gather(seconds))


def _measure_tuning(parts: Parts) -> float:
    """Seconds that tuning the objects takes at the end, from one image as if all were right; 0 without objects."""
    settings, samples = instances_of(parts.dataset.coding), tuning_samples(parts)
    if settings is None:
        return 0.0
    _, mask_HW = parts.dataset.read(samples[0])
    present_BKHW, _ = parts.job.task.truth(torch.from_numpy(mask_HW[None]))
    scores_KHW = present_BKHW[0].numpy().astype(np.float32)
    began = time.perf_counter()
    tune([(scores_KHW, parts.dataset.read_instances(samples[0]))], settings, dsb_score_of)
    return max(parts.job.ranks.gather(time.perf_counter() - began)) * len(samples)


def _write_plan(parts: Parts, order: Order) -> None:
    path = order.folder / PLAN
    if parts.job.ranks.writes and not (order.resume and path.is_file()):
        write_text(path, parts.plan.to_toml())


def describe_plan(parts: Parts) -> list[str]:
    """Lines for a person: the network and the optimiser; the steps; where the encoder starts from, if not at random."""
    plan, settings = parts.plan, parts.plan.training
    options = ", ".join(f"{key} {value}" for key, value in plan.model.options.items())
    crop = " x ".join(str(side) for side in settings.crop or ())
    passes = (settings.steps or 0) * settings.batch / len(parts.training)
    return [
        f"{plan.model.name} ({options}), loss {settings.loss}, {settings.optimizer} {settings.learning_rate:g}",
        f"{settings.steps} steps of {settings.batch} crops of {crop} pixels: {passes:.1f} passes over the images",
        *_describe_weights(parts),
    ]


def _describe_weights(parts: Parts) -> list[str]:
    if parts.weights is None:
        return []
    expected = parts.normalisation == expected_normalisation(parts.weights, parts.dataset.survey)
    scaled = "as these weights expect them" if expected else "by the mean and the deviation of the training images"
    return [parts.weights.describe(), f"images are normalised {scaled}"]


def doubts(parts: Parts) -> list[str]:
    """What a person should think about before the training begins."""
    freeze, lines = parts.plan.training.freeze, []
    if parts.weights and parts.weights.is_non_commercial:
        name = parts.weights.network
        lines.append(f"the weights of {name} and what is trained from them may not be used commercially")
    if freeze and not parts.weights:
        lines.append(
            f"training.freeze = {freeze:g} keeps an encoder of random weights from learning; give --encoder-weights too"
        )
    return lines


def score_on(validation: Sequence[Sample], dataset: Dataset, ranks: Ranks) -> Score:
    """The function that scores a predictor on the validation images, shared out over all processes.

    Each image is read here once, so that a file that cannot be read stops the run before its first step.
    """
    mine = ranks.share(validation)
    instances = instances_of(dataset.coding)
    read = Kept(read=dataset.read, size=lambda pair: pair[0].nbytes + pair[1].nbytes)
    read_objects = Kept(read=dataset.read_instances, size=lambda objects_HW: objects_HW.nbytes)
    for sample in mine:
        read(sample)

    def score(predictor: Predictor) -> Mapping[str, float | None]:
        finder = replace(predictor, instances=instances)
        part = evaluate(
            mine,
            read=read,
            predict=lambda image_HWC: predict(image_HWC, finder),
            task=predictor.task,
            measures=Measures(true_objects=read_objects if instances else None),
        )
        whole = merge(ranks.gather(part))
        shown = {name: whole.scores.means[name] for name in MEANS_SHOWN}
        if whole.objects is not None:
            shown["dsb_score"] = whole.objects.counts.dsb_score
        return {name: None if math.isnan(value) else value for name, value in shown.items()}

    return score


def report(parts: Parts, folder: Path, screen: Screen) -> None:
    """Scores of the best model on the validation images, with pictures, and the curves of the training.

    Where it finds objects, it is first told how, from these images.
    """
    path = folder / MODEL_FILE
    bundle = Bundle.load(path)
    instances = tuned(bundle, parts, screen)
    if instances != bundle.instances:
        bundle = replace(bundle, instances=instances)
        bundle.save(path)
    plot_curves(read_journal(folder / LOG), folder / "curves.png")
    shown = counted(len(parts.validation), "validation image")
    screen.say("", f"the best model, of step {bundle.provenance['step']}, on the {shown} that it was chosen by:")
    predictor = Predictor.of(bundle, parts.job.runtime)
    wanted = Wanted(folder=folder)
    score_and_show(parts.validation, dataset=parts.dataset, predictor=predictor, wanted=wanted, screen=screen)
    screen.say(f"model in {path}, curves in {folder / 'curves.png'}")


def tuned(bundle: Bundle, parts: Parts, screen: Screen) -> InstanceSettings | None:
    """How the model finds objects, with the thresholds and the smallest area that suit the validation images best.

    At most MOST_TUNED of these are used, evenly chosen. None for a model whose masks hold no single objects.
    """
    settings = instances_of(bundle.coding)
    if settings is None:
        return None
    samples = tuning_samples(parts)
    predictor = replace(Predictor.of(bundle, parts.job.runtime), instances=None)
    watched = screen.progress(samples, total=len(samples), title="tuning the objects")
    found = tune_objects(
        watched,
        settings,
        read=lambda sample: (*parts.dataset.read(sample), parts.dataset.read_instances(sample)),
        predict=lambda image_HWC: predict(image_HWC, predictor),
        task=bundle.task,
    )
    screen.say(f"objects: {describe_settings(found)} (tuned on {counted(len(samples), 'validation image')})")
    return found


def describe_settings(settings: InstanceSettings) -> str:
    """How objects are made of scores, in a few words.

    >>> describe_settings(InstanceSettings(form="plain", split="components", smallest=8))
    'foreground above 0.5, its pieces, at least 8 pixels'
    """
    parted = f"seeds above {settings.seed:g}"
    if settings.form == "plain":
        necks = f"cut at necks below {settings.seed:g} of the width"
        parted = necks if settings.split == "distance" else "its pieces"
    return f"foreground above {settings.foreground:g}, {parted}, at least {settings.smallest} pixels"


def tuning_samples(parts: Parts) -> Sequence[Sample]:
    """The validation images that the objects are tuned on."""
    return parts.validation[:: math.ceil(len(parts.validation) / MOST_TUNED)]
