"""`pixelwise evaluate`: honest scores on images with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixelwise.cli.options import verb_of
from pixelwise.cli.runs import find_model, free_folder
from pixelwise.cli.screen import Screen, counted

if TYPE_CHECKING:
    from pixelwise.bundle import Bundle
    from pixelwise.data.layouts import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What stands behind `pixelwise evaluate`."""

    run: Annotated[str, typer.Argument(help="A run's name or folder, or a model file.")]
    data: Annotated[Path, typer.Argument(help="Folder of images and masks.")]
    split: Annotated[str | None, typer.Option(help="Only this part of the data: train, val or test.")] = None
    everything: Annotated[bool, typer.Option("--all", help="Score the images of the training too.")] = False
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for scores and pictures [RUN/evaluated-DATA].")
    ] = None
    metrics: Annotated[
        str | None, typer.Option(help="Also a challenge's own measures: isbi2012, dsb2018, camvid, voc2012.")
    ] = None
    intervals: Annotated[bool, typer.Option("--intervals", help="Also 95 % intervals, by the bootstrap.")] = False
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirror images and turns: 8 x slower.")] = False
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto: the first that is there.")] = "auto"
    json: Annotated[bool, typer.Option("--json", help="Write the scores as JSON to stdout.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do and take; write nothing.")] = False

    def folder_name(self) -> str:
        """What the folder of the scores is called beside the model."""
        words = ["evaluated", self.data.resolve().name, self.split, "flips" if self.flips else None]
        return "-".join(word for word in words if word)


def score_model(options: EvaluateOptions) -> None:
    """Score a model on images with masks. Images that it was trained on are left out, and that is said."""
    from pixelwise.bundle import Bundle
    from pixelwise.cli.showing import Wanted, score_and_show, show_findings
    from pixelwise.cli.tiling import show_prediction, within_memory
    from pixelwise.config import RuntimeConfig
    from pixelwise.data.dataset import open_like
    from pixelwise.evaluation.challenges import find_challenge
    from pixelwise.inference.predict import Predictor
    from pixelwise.runtime import prepare

    # The model, and the images that it has not seen.
    screen = Screen(json=options.json)
    model = find_model(options.run)
    bundle = Bundle.load(model)
    if options.metrics is not None:
        find_challenge(options.metrics, bundle.task, bundle.instances)
    dataset = open_like(options.data, task=bundle.task, coding=bundle.coding)
    show_findings(dataset.findings, screen)
    samples = choose_samples(dataset.samples, bundle, split=options.split, everything=options.everything, screen=screen)

    # One evaluation.
    runtime = prepare(RuntimeConfig(device=options.device))
    predictor = Predictor.of(bundle, runtime, bundle.predict.with_flips(options.flips))
    folder = options.out or free_folder(model.parent, options.folder_name())
    screen.say(f"{counted(len(samples), 'image')} · {runtime.describe()}")
    if options.dry_run:
        show_prediction(samples, predictor, folder=folder, bytes_per_pixel=0.0, screen=screen)
        return
    wanted = Wanted(folder=folder, challenge=options.metrics, intervals=options.intervals)
    within_memory(
        predictor,
        lambda fitting: score_and_show(samples, dataset=dataset, predictor=fitting, wanted=wanted, screen=screen),
        samples=samples,
        screen=screen,
    )


evaluate_verb = verb_of(score_model, EvaluateOptions)


def choose_samples(
    samples: Sequence[Sample], bundle: Bundle, *, split: str | None, everything: bool, screen: Screen
) -> list[Sample]:
    """The samples to score: those of the part that was asked for, without those that the model was trained on."""
    from pixelwise.data.fingerprints import image_fingerprints
    from pixelwise.errors import UsageError

    chosen = [sample for sample in samples if split in (None, sample.split)]
    if not chosen:
        parts = sorted({str(sample.split) for sample in samples})
        raise UsageError(f"there are no images in --split {split}; this data has {', '.join(parts)}")
    trained_on, chose = (set(bundle.provenance.get(key, ())) for key in ("trained_on", "validated_on"))
    fingerprints = image_fingerprints(chosen)
    seen = {name for name, fingerprint in fingerprints.items() if fingerprint in trained_on}
    unseen = [sample for sample in chosen if sample.name not in seen]
    if seen and (everything or not unseen):
        screen.warn(f"{len(seen)} of {len(chosen)} images were trained on: these scores flatter the model")
        return chosen
    if seen:
        screen.say(f"{len(seen)} of {len(chosen)} images were trained on and are left out; --all scores them too")
    if any(fingerprints[sample.name] in chose for sample in unseen):
        screen.say("some of these images chose the best model of the training, which flatters it a little")
    return unseen
