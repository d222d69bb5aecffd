"""What is left on disk and on the screen after an evaluation: the table, scores.json, and pictures of the extremes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixelwise.cli.screen import Screen
from pixelwise.data.contact_sheet import SheetRow, contact_sheet
from pixelwise.data.dataset import Dataset
from pixelwise.data.layouts import Sample
from pixelwise.data.pictures import write_mask, write_picture
from pixelwise.errors import Finding
from pixelwise.evaluation.challenges import PIECES, find_challenge
from pixelwise.evaluation.evaluate import Evaluation, ImageResult, Measures, evaluate
from pixelwise.evaluation.intervals import interval_lines, intervals_to_dict, score_intervals
from pixelwise.files import make_folder, write_json
from pixelwise.inference.predict import Predictor, predict

SHOWN_WORST, SHOWN_BEST = 5, 3
FINDINGS_SHOWN = 5


def show_findings(findings: Sequence[Finding], screen: Screen) -> None:
    """Say what was found in the data that is no reason to refuse it."""
    for finding in findings[:FINDINGS_SHOWN]:
        screen.warn(str(finding))
    if len(findings) > FINDINGS_SHOWN:
        screen.warn(f"… and {len(findings) - FINDINGS_SHOWN} more like these")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an evaluation leaves: files in `folder`, the table of a challenge, intervals beside the scores."""

    folder: Path
    challenge: str | None = None
    intervals: bool = False


def score_and_show(
    samples: Sequence[Sample], *, dataset: Dataset, predictor: Predictor, wanted: Wanted, screen: Screen
) -> Evaluation:
    """Evaluate the samples, print the tables, write scores.json and pictures of the worst and the best.

    Raises UsageError where the challenge is not of the predictor's task.
    """
    challenge = None
    if wanted.challenge is not None:
        challenge = find_challenge(wanted.challenge, predictor.task, predictor.instances)
        if challenge.objects and predictor.instances is None:
            predictor = replace(predictor, instances=PIECES)
            screen.say(f"objects are the connected pieces of {predictor.task.names[-1]}, as this model finds no others")
    evaluation = evaluate(
        screen.progress(samples, total=len(samples), title="scoring"),
        read=dataset.read,
        predict=lambda image_HWC: predict(image_HWC, predictor),
        task=predictor.task,
        measures=Measures(
            true_objects=dataset.read_instances if predictor.instances else None,
            regions=challenge is not None and challenge.regions,
        ),
    )
    result = {"data": str(dataset.folder.path), "flips": predictor.settings.flips, **evaluation.to_dict()}
    screen.say(*evaluation.table())
    if challenge is not None:
        screen.say("", *challenge.table(evaluation))
        result[wanted.challenge or ""] = challenge.to_dict(evaluation)
    if wanted.intervals:
        intervals = score_intervals(evaluation)
        screen.say("", *interval_lines(intervals))
        result["intervals"] = intervals_to_dict(intervals)
    _leave(evaluation, result, dataset=dataset, predictor=predictor, folder=wanted.folder)
    screen.say(f"scores of every image in {wanted.folder / 'scores.json'}, pictures in {wanted.folder / 'predictions'}")
    screen.result(result)
    return evaluation


def _leave(
    evaluation: Evaluation, result: dict[str, Any], *, dataset: Dataset, predictor: Predictor, folder: Path
) -> None:
    write_json(make_folder(folder) / "scores.json", result)
    draw_extremes(evaluation, dataset=dataset, predictor=predictor, folder=folder / "predictions")


def draw_extremes(evaluation: Evaluation, *, dataset: Dataset, predictor: Predictor, folder: Path) -> None:
    """Write the labels of the worst and the best images, and one contact sheet of them, the worst first."""
    worst = evaluation.worst(SHOWN_WORST)
    best = [result for result in evaluation.best(SHOWN_BEST) if result not in worst]
    rows = [
        _row(result, place, dataset, predictor)
        for place, results in (("worst", worst), ("best", best))
        for result in results
    ]
    for row in rows:
        write_mask(folder / "labels" / f"{row.name}.png", row.labels_HW, predictor.task)
    write_picture(folder / "contact_sheet.png", contact_sheet(rows, predictor.task))


def _row(result: ImageResult, place: str, dataset: Dataset, predictor: Predictor) -> SheetRow:
    sample = next(sample for sample in dataset.samples if sample.name == result.name)
    image_HWC, mask_HW = dataset.read(sample)
    measure = "mean IoU" if result.instances is None else "DSB score"
    score = "all void" if result.all_void else f"{place}: {measure} {result.rank:.3f}"
    prediction = predict(image_HWC, predictor)
    return SheetRow(
        name=sample.name,
        score=score,
        image_HWC=image_HWC,
        mask_HW=mask_HW,
        labels_HW=prediction.labels,
        truth_HW=dataset.read_instances(sample) if predictor.instances else None,
        instances_HW=prediction.instances_HW,
    )
