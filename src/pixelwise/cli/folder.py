"""`pixelwise predict` for a folder of images: here or on workers, gone on with, within the memory that is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pixelwise.cli.screen import Screen, counted
from pixelwise.cli.tiling import within_memory
from pixelwise.config import RuntimeConfig
from pixelwise.data.layouts import Folder, Sample
from pixelwise.inference.cluster import runner_of, threads_of_worker
from pixelwise.inference.folder import Done, FolderJob, Outputs, predict_by_job, predict_image
from pixelwise.inference.folder_journal import FolderJournal
from pixelwise.inference.folder_plan import FolderPlan, plan_folder
from pixelwise.inference.folder_run import inexact_tile, job_of, predict_folder
from pixelwise.inference.predict import Predictor
from pixelwise.runtime import memory_refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderTask:
    """What is asked of a folder of images. `check`: compare the bytes of what is done, and not the sizes alone."""

    images: Folder
    model: Path
    outputs: Outputs
    workers: int
    scheduler: str
    check: bool


def write_masks(task: FolderTask, predictor: Predictor, screen: Screen) -> list[Done]:
    """Do what is not done yet; what became of every image, in their order."""
    job = job_of(task.images, task.model, predictor, task.outputs)
    folder = task.outputs.folder
    journal = FolderJournal(folder, job)
    if not journal.folder.exists():  # a refusal leaves no trace then, not even a lock
        _plan(task, predictor, journal)
    with FolderJournal.open(folder, job) as journal:
        usual = predictor = _as_before(predictor, journal, screen)

        def work(fitting: Predictor) -> list[Done]:
            if fitting is not usual:  # images seen in windows of another size are not mixed with these
                journal.see_in(inexact_tile(fitting))
            return _attempt(task, fitting, journal, screen)

        if task.scheduler:  # what others have begun cannot be stopped, and would come between
            with memory_refusals():
                done = work(predictor)
        else:
            done = within_memory(predictor, work, samples=task.images.samples, screen=screen)
    places = {sample.name: place for place, sample in enumerate(task.images.samples)}
    return sorted(done, key=lambda one: places[one.name])


def left_to_do(task: FolderTask, predictor: Predictor, screen: Screen) -> tuple[tuple[Sample, ...], Predictor]:
    """The images that are not done yet, and how they will be seen; writes nothing. Raises what `write_masks` would."""
    journal = FolderJournal.look(task.outputs.folder, job_of(task.images, task.model, predictor, task.outputs))
    predictor = _as_before(predictor, journal, screen)
    plan = _plan(task, predictor, journal)
    _say_done(plan, screen)
    return plan.left, predictor


def _as_before(predictor: Predictor, journal: FolderJournal, screen: Screen) -> Predictor:
    """The predictor, with the windows of a run before that lacked memory for larger ones."""
    if not journal.tile:
        return predictor
    screen.say(f"going on with windows of {journal.tile} pixels, for lack of memory in the run before")
    return replace(predictor, settings=predictor.settings.model_copy(update={"tile": journal.tile}))


def _say_done(plan: FolderPlan, screen: Screen) -> None:
    if plan.done:
        are = "is" if len(plan.done) == 1 else "are"
        screen.say(f"{counted(len(plan.done), 'image')} {are} done already")


def _attempt(task: FolderTask, predictor: Predictor, journal: FolderJournal, screen: Screen) -> list[Done]:
    plan = _plan(task, predictor, journal)
    _say_done(plan, screen)
    workers, scheduler = (task.workers, task.scheduler) if plan.left else (0, "")
    with runner_of(workers=workers, scheduler=scheduler) as runner:
        results = predict_folder(plan, _work(task, predictor), runner)
        return [*plan.done, *screen.progress(results, total=len(plan.left), title="predicting")]


def _plan(task: FolderTask, predictor: Predictor, journal: FolderJournal) -> FolderPlan:
    finds_objects = predictor.instances is not None
    return plan_folder(task.images, task.outputs, journal, finds_objects=finds_objects, check=task.check)


def _work(task: FolderTask, predictor: Predictor) -> Callable[[Sample], Done]:
    """What is done for an image: with the network of this process, or with one that each worker loads."""
    if not (task.workers or task.scheduler):
        return partial(predict_image, predictor, task.outputs)
    device = predictor.runtime.device
    runtime = RuntimeConfig(
        device=str(device) if task.workers else device.type,
        precision=predictor.runtime.precision,
        threads=threads_of_worker(task.workers) * bool(task.workers),
    )
    job = FolderJob(
        model=task.model, outputs=task.outputs, settings=predictor.settings, runtime=runtime, memory=predictor.memory
    )
    return partial(predict_by_job, job)
