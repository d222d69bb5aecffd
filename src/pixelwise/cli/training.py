"""Carrying out a training order: data, plan, run, scores and pictures, in this order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pixelwise.bundle import Bundle, instances_of
from pixelwise.cli.screen import Screen, counted
from pixelwise.cli.showing import Wanted, score_and_show, show_findings
from pixelwise.config import RunConfig, read_config
from pixelwise.data.curves import plot_curves
from pixelwise.data.dataset import Dataset
from pixelwise.data.layouts import Sample
from pixelwise.data.memory import Kept
from pixelwise.errors import UsageError
from pixelwise.evaluation.evaluate import Measures, evaluate, merge
from pixelwise.evaluation.tuning import dsb_score_of, tune_objects
from pixelwise.files import MODEL_FILE, folder_lock, write_text
from pixelwise.inference.predict import Predictor, predict
from pixelwise.losses.registry import parse_loss
from pixelwise.models.registry import build_model
from pixelwise.postprocess.instances import InstanceSettings, tune
from pixelwise.runtime import Runtime, memory_limit, memory_refusals, prepare
from pixelwise.training.distributed import Ranks, joined_ranks
from pixelwise.training.draft import Draft, draft_plan, split_rule, timed_plan
from pixelwise.training.estimate import LONGEST_PROBE, Probe, fit_memory, probe_training, resume_advice
from pixelwise.training.fingerprint import MOST_READ
from pixelwise.training.journal import read_journal
from pixelwise.training.plan import Plan, make_plan, reasons_that_hold, value_of
from pixelwise.training.run import HARMLESS, LOG, PLAN, Score, Services, run
from pixelwise.training.setup import Parts, check_network, make_parts
from pixelwise.training.watch import FirstEpoch
from pixelwise.training.weights import EncoderWeights, expected_normalisation

SECONDS_FOR_PICTURES = 4.0  # and for the final scores
MOST_TUNED = 32
MEANS_SHOWN = ("mean_iou", "mean_f1", "pixel_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user asked for; `began` is the start of the command on the monotonic clock, seconds.

    asked  file and overrides together, defaults elsewhere
    typed  the overrides, as section.key, that stood on the command line
    config whether a file of settings was given
    reasons why settings of that file are what they are, by section.key
    """

    asked: RunConfig
    typed: tuple[str, ...]
    config: bool
    folder: Path
    began: float
    resume: bool = False
    force: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)


def carry_out(order: Order, screen: Screen) -> bool:
    """Train, score and draw; False where the user stopped the training before its end."""
    with joined_ranks() as ranks:
        if not ranks.writes:
            screen = Screen(quiet=True)
        with _held(order.folder) if ranks.writes else nullcontext(), memory_refusals():
            return _carry_out(order, ranks, screen)


def _carry_out(order: Order, ranks: Ranks, screen: Screen) -> bool:
    # The settings.
    stored = stored_plan(order, screen)
    asked = stored or order.asked
    check_settings(asked, resumed=stored is not None)
    runtime = prepare(asked.runtime)

    # The data and the plan.
    draft = draft_plan(asked, device=runtime.device.type, most=0 if stored else MOST_READ)
    training, validation = draft.split.train, draft.split.validation
    counts = f"{counted(len(training), 'image')} to train on, {counted(len(validation), 'image')} to validate"
    screen.say(*draft.dataset.survey.describe(), counts)
    show_findings(draft.findings, screen)
    if training == validation:
        screen.warn(
            "there is one image only: it trains the model and validates it, so its scores say nothing of others"
        )

    # What it takes on this machine.
    if stored:
        plan = draft.plan
        parts = make_parts(plan.config, draft.dataset, (training, validation), runtime=runtime, ranks=ranks)
    else:
        screen.say("measuring a step on this machine")
        parts, plan = _fitted(draft, order, runtime=runtime, ranks=ranks, screen=screen)
    first = FirstEpoch(draft.dataset.task.names, parts.job.settings, images=len(training), warn=screen.warn)
    score = score_on(validation, draft.dataset, ranks, seen=first.validated)  # reads every validation image once
    if order.reasons:
        held = reasons_that_hold(order.reasons, plan, draft.facts, device=runtime.device.type)
        plan = replace(plan, reasons={**held, **plan.reasons})
    _write_plan(plan, order, ranks)
    screen.say(runtime.describe(), *describe_plan(parts), f"run: {order.folder}")
    for line in doubts(parts):
        screen.warn(line)

    # The training.
    steps_done = len([row for row in read_journal(order.folder / LOG) if "loss" in row])
    with (
        screen.training(parts.plan.training.steps or 0, steps_done) as bar,
        memory_refusals(resume_advice(parts.plan, order.folder.name)),
    ):
        services = Services(score=score, watch=_both(first.see, bar.watch), warn=screen.warn, force=order.force)
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


def stored_plan(order: Order, screen: Screen) -> RunConfig | None:
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
        before, now = value_of(stored, key), value_of(order.asked, key)
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
    split_rule(asked)
    with torch.device("meta"):
        network = build_model(asked.model.name, in_channels=1, classes=2, options=asked.model.options)
    check_network(network, asked)
    weights = None if resumed else EncoderWeights.of(asked.model)
    if weights:
        weights.load(network)


def _fitted(draft: Draft, order: Order, *, runtime: Runtime, ranks: Ranks, screen: Screen) -> tuple[Parts, Plan]:
    """The parts and the plan of a new run: within the memory that is there, with the steps that its minutes allow.

    The same in every process. Several processes together take no measures against a lack of memory.
    """
    parts: list[Parts] = []
    split = draft.split.train, draft.split.validation
    timed = draft.plan.config.training.steps is None

    def measure(config: RunConfig, limit: int | None) -> Probe:
        parts[:] = [make_parts(config, draft.dataset, split, runtime=runtime, ranks=ranks)]
        return probe_training(parts[0], seconds=LONGEST_PROBE if timed else 0.0, limit=limit)

    alone = ranks.count == 1  # else a process that lowers something by itself would leave the others waiting for it
    fitted = fit_memory(
        order.asked if alone else draft.plan.config,
        plan=lambda settled: make_plan(settled, draft.facts, device=runtime.device.type) if alone else draft.plan,
        measure=measure,
        limit=memory_limit(runtime.device) if alone else None,
    )
    for key, why in fitted.lowered.items():
        screen.warn(f"{key}: {why}")
    plan = fitted.plan.with_config(parts[0].plan)  # with the weights of the classes
    if timed:
        used = time.monotonic() - order.began + SECONDS_FOR_PICTURES + _measure_tuning(parts[0])
        plan = ranks.gather(timed_plan(plan, fitted.probe, used=used))[0]
    return replace(parts[0], plan=plan.config, job=replace(parts[0].job, settings=plan.config.training)), plan


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


def _write_plan(plan: Plan, order: Order, ranks: Ranks) -> None:
    """Keep the plan with its reasons."""
    path = order.folder / PLAN
    if ranks.writes and not (order.resume and path.is_file()):
        write_text(path, plan.to_toml())


def _both(*watchers: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def watch(row: dict[str, Any]) -> None:
        for watcher in watchers:
            watcher(row)

    return watch


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


def score_on(
    validation: Sequence[Sample], dataset: Dataset, ranks: Ranks, *, seen: Callable[[NDArray[np.int64]], None]
) -> Score:
    """The function that scores a predictor on the validation images, shared out over all processes.

    `seen` is told the counts of each validation.

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
        seen(whole.scores.counts_KK)
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

    >>> describe_settings(InstanceSettings(form="plain", neck=0.7, smallest=8))
    'foreground above 0.5, cut at necks below 0.7 of the width, at least 8 pixels'
    """
    parts = [f"foreground above {settings.foreground:g}"]
    parts += [] if settings.form == "plain" else [f"seeds above {settings.seed:g}"]
    parts += [f"cut at necks below {settings.neck:g} of the width"] if settings.neck else ["in connected pieces"]
    return ", ".join([*parts, f"at least {settings.smallest} pixels"])


def tuning_samples(parts: Parts) -> Sequence[Sample]:
    """The validation images that the objects are tuned on."""
    return parts.validation[:: math.ceil(len(parts.validation) / MOST_TUNED)]
