"""Masks for a folder of images, on any number of workers, and gone on with after any stop.

One task is one image. A bad image never stops the others, no file that is there and is not ours is replaced unasked,
and after a kill the same command does what is missing; see `folder_journal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pixelwise.data.layouts import Folder, Sample
from pixelwise.files import file_hash, make_folder, system_refusals, write_text
from pixelwise.inference.folder import Done, ObjectCount, Outputs, count_table
from pixelwise.inference.folder_journal import FileFacts, FolderJournal, ImageEntry
from pixelwise.inference.folder_plan import FolderPlan
from pixelwise.inference.predict import Predictor
from pixelwise.inference.runners import Here, Outcome, Runner

TEMPORARIES = ".pixelwise-*"
FAR = (2**20, 2**20)
FORMAT = 1


def job_of(images: Folder, model: Path, predictor: Predictor, outputs: Outputs) -> dict[str, Any]:
    """All that decides the results, beside the images themselves, for the journal; hashes the model's file."""
    return {
        "format": FORMAT,
        "images": str(images.path.resolve()),
        "model": file_hash(model),
        "settings": predictor.settings.model_dump(mode="json"),
        "device": predictor.runtime.device.type,
        "precision": predictor.runtime.precision,
        "outputs": {"scores": outputs.scores, "overlays": outputs.overlays, "geojson": outputs.geojson},
    }


def inexact_tile(predictor: Predictor) -> int:
    """The window that decides the labels of large images; 0 where windows are exact, and their size decides nothing."""
    tiling = predictor.tiling(FAR)
    assert tiling is not None, "no window holds an image that large"
    return 0 if tiling.way == "exact" else tiling.side


def predict_folder(plan: FolderPlan, work: Callable[[Sample], Done], runner: Runner | None = None) -> Iterator[Done]:
    """Do the images that are left, and say what became of each, as they come; then the table of the objects of all.

    work    `predict_image` with a predictor, or `predict_by_job`
    runner  where it is done; None: here, one after another

    Raises OutputError where the disk refuses, and what any image is refused for that all would be.
    """
    make_folder(plan.outputs.folder)
    _remove_temporaries(plan)
    counts = {one.name: one.count for one in plan.done if one.count}
    sources = {sample.name: plan.sources[sample.image.path] for sample in plan.left}
    if plan.left:
        plan.journal.start(replace=plan.outputs.replace)
    for outcome in (runner or Here()).run(work, _Announced(plan.left, plan.journal)):
        done = _done_of(outcome)
        if done.refusal is not None:
            raise done.refusal
        _keep(plan, done, sources[done.name])
        if done.count is not None:
            counts[done.name] = done.count
        yield done
    if plan.finds_objects:
        _write_table(plan, counts)


class _Announced(Sequence[Sample]):
    """Images, of which the journal has each before it is taken: what a kill leaves of it is then known to be ours."""

    def __init__(self, samples: Sequence[Sample], journal: FolderJournal) -> None:
        self._samples, self._journal = samples, journal

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, place: Any) -> Any:
        sample = self._samples[place]
        self._journal.begin(sample.name)
        return sample


def _done_of(outcome: Outcome[Sample, Done]) -> Done:
    if outcome.result is not None:
        return outcome.result
    return Done(name=outcome.task.name, failure=f"{outcome.task.image}: {outcome.failure}")


def _keep(plan: FolderPlan, done: Done, source: tuple[int, int] | None) -> None:
    """Journal an image; one that failed has the files that are there, and is to be done again."""
    if done.failure is None:
        count = None if done.count is None else asdict(done.count)
        plan.journal.keep(done.name, ImageEntry(source=source, files=done.files, count=count))
        return
    paths = plan.outputs.paths(done.name, objects=plan.finds_objects)
    ours = {kind: path for kind, path in paths.items() if path not in plan.foreign}
    there = {kind: FileFacts.of(path) for kind, path in ours.items() if path.is_file()}
    plan.journal.keep(done.name, ImageEntry(files=there))


def _write_table(plan: FolderPlan, counts: dict[str, ObjectCount]) -> None:
    """Write the rows in the order of the images, unless the table is there as it should be."""
    names = [sample.name for sample in plan.images.samples if sample.name in counts]
    text, path, journal = count_table({name: counts[name] for name in names}), plan.outputs.counts, plan.journal
    if not journal.table_begun and journal.table and path.is_file() and _reads(path, text):
        return
    journal.start(replace=plan.outputs.replace)
    journal.begin_table()
    write_text(path, text)
    journal.keep_table(FileFacts.of(path))


def _reads(path: Path, text: str) -> bool:
    with system_refusals(path):
        return path.read_bytes() == text.encode("utf-8", "backslashreplace")


def _remove_temporaries(plan: FolderPlan) -> None:
    for folder in plan.leftovers:
        with system_refusals(folder):
            for path in folder.glob(TEMPORARIES):
                path.unlink(missing_ok=True)
