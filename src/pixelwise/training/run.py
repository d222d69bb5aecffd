"""A run in its folder: what is written where, how a run begins, stops and is taken up again.

plan.toml                 complete, commented; `train --config plan.toml` repeats the run
model.safetensors         the model with the best validation score
last.safetensors          the model of the last checkpoint
checkpoint.safetensors    what a resume needs; checkpoint.previous.safetensors is the one before it
log.jsonl                 one row per step and per validation
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pixelwise import __version__
from pixelwise.bundle import Bundle, instances_of
from pixelwise.data.fingerprints import data_fingerprint, image_fingerprints
from pixelwise.data.loaders import training_batches
from pixelwise.errors import TrainingError
from pixelwise.files import LAST_FILE, MODEL_FILE, crash_point, name_hash, remove_leftovers
from pixelwise.inference.predict import Predictor
from pixelwise.training.distributed import Ranks
from pixelwise.training.journal import Journal
from pixelwise.training.loop import fit
from pixelwise.training.resume import State, load_checkpoint, save_checkpoint
from pixelwise.training.setup import Parts, make_state, start_encoder, steps_of

PLAN, LOG = "plan.toml", "log.jsonl"
HARMLESS = ("data.path", "training.workers")  # settings that do not change what is computed
Score = Callable[[Predictor], Mapping[str, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a run asks of the rooms above it.

    score   scores of a predictor on the validation images, the same in every process
    watch   sees every row of the log, for a progress bar
    warn    tells the user something that is not an error
    force   resume although the plan, the data or the versions differ
    """

    score: Score
    watch: Callable[[dict[str, Any]], None]
    warn: Callable[[str], None]
    force: bool = False


def run(parts: Parts, folder: Path, services: Services) -> bool:
    """Train from the last checkpoint in the folder, or from the beginning, to the end of the plan.

    False where the user stopped it (Ctrl-C, SIGTERM) before the end: a checkpoint of that step is then kept. The
    weights, the log (but for its timings) and the model are the same bytes however often the run was killed.
    """
    state, identity = make_state(parts), run_identity(parts)
    job = parts.job
    log_bytes = _take_up(folder, state, identity, job.ranks, services)
    if log_bytes is None:
        for line in start_encoder(state, parts):
            services.warn(line)
    assert job.settings.steps is not None, "the plan fixes the number of steps"
    if state.step > job.settings.steps:
        raise TrainingError(f"{folder} is at step {state.step} already, beyond training.steps = {job.settings.steps}")
    with _open_journal(folder, log_bytes or 0, parts, services) as journal:
        keeper = FolderKeeper(folder=folder, parts=parts, score=services.score, journal=journal, identity=identity)
        steps = steps_of(job, start=state.step, stop=job.settings.steps)
        batches = training_batches(parts.samples, steps, workers=job.settings.workers)
        with stop_signals() as stopped:
            return fit(state, batches, job=job, keeper=keeper, stopped=stopped)


class FolderKeeper:
    """Keeps what the loop gives it in the folder of the run; only the first process writes."""

    def __init__(
        self, *, folder: Path, parts: Parts, score: Score, journal: Journal | None, identity: dict[str, str]
    ) -> None:
        self._folder, self._parts, self._score = folder, parts, score
        self._journal, self._identity = journal, identity
        self._averaged = parts.job.runtime.place(parts.network.build(parts.job.task)).eval()
        self._scores: Mapping[str, float | None] = {}
        self._provenance = provenance(parts, identity)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write one row of the log."""
        if self._journal:
            self._journal.write(dict(row))

    def validate(self, state: State) -> Mapping[str, float | None]:
        """Scores of the averaged weights on the validation images."""
        job = self._parts.job
        job.ranks.take_from_first(state.average.values.values())  # batch norm has seen other images in each process
        self._averaged.load_state_dict(state.average.values)
        self._scores = self._score(self._parts.predictor(self._averaged))
        return self._scores

    def save(self, state: State, *, improved: bool) -> None:
        """Write the model where it is the best so far, the last model, then the checkpoint."""
        if not self._journal:
            return
        bundle = self._bundle(state)
        if improved:
            bundle.save(self._folder / MODEL_FILE)
        bundle.save(self._folder / LAST_FILE)
        crash_point("before-checkpoint")
        log_bytes = self._journal.flush()
        save_checkpoint(self._folder, state, log_bytes=log_bytes, identity=self._identity)

    def _bundle(self, state: State) -> Bundle:
        parts = self._parts
        return Bundle(
            task=parts.job.task,
            network=parts.network,
            normalisation=parts.normalisation,
            coding=parts.dataset.coding,
            predict=parts.plan.predict,
            instances=instances_of(parts.dataset.coding),
            weights=copy.copy(state.average.values),
            provenance={
                **self._provenance,
                "step": state.step,
                "forced": state.forced,
                "validation": dict(self._scores),
            },
        )


def _take_up(folder: Path, state: State, identity: dict[str, str], ranks: Ranks, services: Services) -> int | None:
    """Bring the state back from the checkpoint; the length of its log, None without one.

    The first process goes first: it may mend.
    """
    log_bytes = None
    for turn in range(2):
        if ranks.writes == (turn == 0):
            if ranks.writes:
                remove_leftovers(folder)
            log_bytes = load_checkpoint(folder, state, identity=identity, force=services.force, warn=services.warn)
        ranks.wait()
    return log_bytes


def _open_journal(
    folder: Path, log_bytes: int, parts: Parts, services: Services
) -> AbstractContextManager[Journal | None]:
    """The log of the run in the process that writes, nothing in the others."""
    if not parts.job.ranks.writes:
        return nullcontext()
    return Journal(folder / LOG, keep_bytes=log_bytes, watch=services.watch)


def run_identity(parts: Parts) -> dict[str, str]:
    """What a run is made of, by name: a checkpoint of one run does not continue another.

    Not in it: what is HARMLESS, where the data lies and the number of workers.
    """
    runtime, ranks = parts.job.runtime, parts.job.ranks
    settings = {
        f"{section}.{key}": str(value)
        for section, values in parts.plan.model_dump(mode="json").items()
        for key, value in values.items()
        if f"{section}.{key}" not in HARMLESS
    }
    validating = "\n".join(sample.name for sample in parts.validation)
    return {
        **settings,
        "the data": f"{len(parts.dataset.samples)} images, {data_fingerprint(parts.dataset.samples)}",
        "the split": f"{len(parts.validation)} images validate, {name_hash(validating)}",
        "pixelwise": __version__,
        "torch": torch.__version__,
        "the machine": f"{runtime.describe()} · {ranks.count} process(es)",
    }


def provenance(parts: Parts, identity: Mapping[str, str]) -> dict[str, Any]:
    """Where a model comes from: versions, data, plan, and which images it was trained on and chosen by."""
    return {
        **{key: identity[key] for key in ("pixelwise", "torch", "the data", "the machine")},
        "data_summary": parts.dataset.survey.to_dict(),
        "encoder_weights": parts.weights.to_dict() if parts.weights else {},
        "plan_toml": parts.plan.to_toml(),
        "trained_on": sorted(image_fingerprints(parts.training).values()),
        "validated_on": sorted(image_fingerprints(parts.validation).values()),
    }


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a wish that can be asked for; a second one ends the process at once."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, before[kind])

    before = {kind: signal.signal(kind, remember) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
