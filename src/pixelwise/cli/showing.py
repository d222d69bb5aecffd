"""What is left on disk and on the screen after an evaluation: the table, scores.json, and pictures of the extremes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelwise.cli.screen import Screen
from pixelwise.data.contact_sheet import SheetRow, contact_sheet
from pixelwise.data.dataset import Dataset
from pixelwise.data.layouts import Sample
from pixelwise.data.pictures import write_mask, write_picture
from pixelwise.evaluation.evaluate import Evaluation, ImageResult, evaluate
from pixelwise.files import make_folder, write_json
from pixelwise.inference.predict import Predictor, predict

SHOWN_WORST, SHOWN_BEST = 5, 3
FINDINGS_SHOWN = 5


def show_findings(dataset: Dataset, screen: Screen) -> None:
    """Say what the checks of the data found that is no reason to refuse it."""
    for finding in dataset.findings[:FINDINGS_SHOWN]:
        screen.warn(str(finding))
    if len(dataset.findings) > FINDINGS_SHOWN:
        screen.warn(f"… and {len(dataset.findings) - FINDINGS_SHOWN} more like these")


def score_and_show(
    samples: Sequence[Sample], *, dataset: Dataset, predictor: Predictor, folder: Path, screen: Screen
) -> Evaluation:
    """Evaluate the samples, print the table, write scores.json and pictures of the worst and the best to `folder`."""
    evaluation = evaluate(
        screen.progress(samples, total=len(samples), title="scoring"),
        read=dataset.read,
        predict=lambda image_HWC: predict(image_HWC, predictor).labels,
        task=predictor.task,
    )
    screen.say(*evaluation.scores.table())
    result = {"data": str(dataset.folder.path), "flips": predictor.settings.flips, **evaluation.to_dict()}
    write_json(make_folder(folder) / "scores.json", result)
    draw_extremes(evaluation, dataset=dataset, predictor=predictor, folder=folder / "predictions")
    screen.say(f"scores of every image in {folder / 'scores.json'}, pictures in {folder / 'predictions'}")
    screen.result(result)
    return evaluation


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
    score = "all void" if result.all_void else f"{place}: mean IoU {result.mean_iou:.3f}"
    labels_HW = predict(image_HWC, predictor).labels
    return SheetRow(name=sample.name, score=score, image_HWC=image_HWC, mask_HW=mask_HW, labels_HW=labels_HW)
