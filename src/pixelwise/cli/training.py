"""Carrying out a training order: data, plan, run, scores and pictures, in this order."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixelwise.bundle import Bundle
from pixelwise.cli.screen import Screen
from pixelwise.cli.showing import score_and_show
from pixelwise.config import RunConfig, read_config
from pixelwise.data.curves import plot_curves
from pixelwise.data.dataset import Dataset, open_dataset
from pixelwise.data.layouts import Sample
from pixelwise.data.memory import Kept
from pixelwise.data.splits import split_samples
from pixelwise.errors import PixelwiseError
from pixelwise.evaluation.evaluate import evaluate, merge
from pixelwise.files import folder_lock, write_text
from pixelwise.inference.predict import Predictor, predict
from pixelwise.runtime import Runtime, prepare
from pixelwise.training.distributed import Ranks, joined_ranks
from pixelwise.training.journal import read_journal
from pixelwise.training.plan import complete_plan, fix_length
from pixelwise.training.run import LOG, MODEL, PLAN, Score, Services, run
from pixelwise.training.setup import Parts, make_parts, measure_step

SECONDS_FOR_PICTURES = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user asked for; `began` is the start of the command on the monotonic clock, seconds."""

    asked: RunConfig
    folder: Path
    began: float
    resume: bool = False
    force: bool = False


def carry_out(order: Order, screen: Screen) -> bool:
    """Train, score and draw; False where the user stopped the training before its end."""
    with joined_ranks() as ranks:
        if not ranks.writes:
            screen = Screen(quiet=True)
        with folder_lock(order.folder) if ranks.writes else nullcontext():
            try:
                return _carry_out(order, ranks, screen)
            except PixelwiseError:
                _leave_no_empty_run(order.folder)
                raise


def _carry_out(order: Order, ranks: Ranks, screen: Screen) -> bool:
    # The data.
    asked = _stored_plan(order) or order.asked
    dataset = _open(asked)
    training, validation = split_samples(dataset.samples, validation=asked.data.validation, seed=asked.training.seed)
    screen.say(*dataset.survey.describe(), f"{len(training)} images to train on, {len(validation)} to validate")

    # The plan.
    runtime = prepare(asked.runtime)
    plan = complete_plan(asked, dataset, training_images=len(training))
    parts = make_parts(plan, dataset, training, runtime=runtime, ranks=ranks)
    if plan.training.steps is None:
        screen.say("timing a step on this machine")
        parts = _with_length(parts, validation, order)
    _write_plan(parts, order)
    screen.say(runtime.describe(), *_describe_plan(parts), f"run: {order.folder}")

    # The training.
    services = Services(
        score=_score_on(validation, dataset, ranks), watch=lambda _: None, warn=screen.warn, force=order.force
    )
    rows_done = len([row for row in read_journal(order.folder / LOG) if "loss" in row])
    assert parts.plan.training.steps is not None, "the plan is complete"
    with screen.training(parts.plan.training.steps, rows_done) as bar:
        finished = run(parts, order.folder, replace(services, watch=bar.watch))
    if not finished:
        screen.say(f"stopped; go on with: pixelwise train --resume --name {order.folder.name}")
        return False

    # The scores and the pictures.
    if ranks.writes:
        _report(order.folder, dataset, validation, runtime, screen)
    ranks.wait()
    return True


def _stored_plan(order: Order) -> RunConfig | None:
    """The plan of a run that is resumed; None where it was stopped before it had one."""
    path = order.folder / PLAN
    return read_config(path) if order.resume and path.is_file() else None


def _leave_no_empty_run(folder: Path) -> None:
    """Delete the folder of a run that was refused before it had a plan."""
    if not (folder / PLAN).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _open(asked: RunConfig) -> Dataset:
    data = asked.data
    return open_dataset(Path(data.path), classes=data.classes, ignore_index=data.ignore_index, masks=data.masks)


def _with_length(parts: Parts, validation: Sequence[Sample], order: Order) -> Parts:
    """The parts with a plan whose number of steps fits the time budget, the same in every process."""
    ranks, minutes = parts.job.ranks, parts.plan.training.minutes
    assert minutes is not None, "a plan without steps has a time budget"
    step = measure_step(parts)
    validating = _measure_validation(parts, validation)
    left = 60 * minutes - (time.monotonic() - order.began) - SECONDS_FOR_PICTURES
    plan = ranks.gather(fix_length(parts.plan, seconds=left, step=step, validation=validating))[0]
    return replace(parts, plan=plan, job=replace(parts.job, settings=plan.training))


def _measure_validation(parts: Parts, validation: Sequence[Sample]) -> float:
    """Seconds that a validation takes, from one image, the largest share of any process."""
    network = parts.job.runtime.place(parts.network.build(parts.job.task)).eval()
    predictor = _predictor(parts, network)
    image_HWC, _ = parts.dataset.read(validation[0])
    predict(image_HWC, predictor)
    began = time.perf_counter()
    image_HWC, _ = parts.dataset.read(validation[0])
    predict(image_HWC, predictor)
    seconds = (time.perf_counter() - began) * math.ceil(len(validation) / parts.job.ranks.count)
    return max(parts.job.ranks.gather(seconds))


def _predictor(parts: Parts, network: Any) -> Predictor:
    return Predictor(
        network=network,
        task=parts.job.task,
        normalisation=parts.normalisation,
        runtime=parts.job.runtime,
        settings=parts.plan.predict,
    )


def _write_plan(parts: Parts, order: Order) -> None:
    path = order.folder / PLAN
    if parts.job.ranks.writes and not (order.resume and path.is_file()):
        write_text(path, parts.plan.to_toml())


def _describe_plan(parts: Parts) -> list[str]:
    plan = parts.plan
    options = ", ".join(f"{key} {value}" for key, value in plan.model.options.items())
    crop = " x ".join(str(side) for side in plan.training.crop or ())
    passes = (plan.training.steps or 0) * plan.training.batch / len(parts.training)
    settings = plan.training
    return [
        f"{plan.model.name} ({options}), loss {settings.loss}, {settings.optimizer} {settings.learning_rate:g}",
        f"{settings.steps} steps of {settings.batch} crops of {crop} pixels: {passes:.1f} passes over the images",
    ]


def _score_on(validation: Sequence[Sample], dataset: Dataset, ranks: Ranks) -> Score:
    """The function that scores a predictor on the validation images, shared out over all processes."""
    mine = ranks.share(validation)
    read = Kept(read=dataset.read, size=lambda pair: pair[0].nbytes + pair[1].nbytes)

    def score(predictor: Predictor) -> Mapping[str, float | None]:
        part = evaluate(mine, read=read, predict=lambda image: predict(image, predictor).labels, task=predictor.task)
        means = merge(ranks.gather(part)).scores.means
        wanted = ("mean_iou", "mean_f1", "pixel_accuracy")
        return {name: None if math.isnan(means[name]) else means[name] for name in wanted}

    return score


def _report(folder: Path, dataset: Dataset, validation: Sequence[Sample], runtime: Runtime, screen: Screen) -> None:
    """Scores of the best model on the validation images, with pictures, and the curves of the training."""
    bundle = Bundle.load(folder / MODEL)
    plot_curves(read_journal(folder / LOG), folder / "curves.png")
    screen.say("", f"the best model, of step {bundle.provenance['step']}, on the {len(validation)} validation images:")
    predictor = Predictor.of(bundle, runtime)
    score_and_show(validation, dataset=dataset, predictor=predictor, folder=folder, screen=screen)
    screen.say(f"model in {folder / MODEL}, curves in {folder / 'curves.png'}")
