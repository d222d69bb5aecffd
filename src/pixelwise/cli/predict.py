"""`pixelwise predict`: masks for new images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixelwise.cli.runs import find_model
from pixelwise.cli.screen import Screen, counted
from pixelwise.errors import EXIT_DONE, EXIT_SOME_FAILED

if TYPE_CHECKING:
    from pixelwise.inference.folder import Done


def predict_verb(
    run: Annotated[str, typer.Argument(help="A run's name or folder, or a model file.")],
    images: Annotated[Path, typer.Argument(help="An image, a TIFF stack, or a folder of images.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the masks [predictions/RUN/IMAGES].")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Also write the scores, as 16-bit TIFF.")] = False,
    overlays: Annotated[bool, typer.Option("--overlays", help="Also write pictures to look at.")] = False,
    geojson: Annotated[
        bool, typer.Option("--geojson", help="Also write the objects, or the classes, as polygons.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace masks that are there already.")] = False,
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirror images and turns: 8 x slower.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto: the first that is there.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")] = False,
) -> int:
    """Write a mask for every image: an indexed PNG with the colours of the classes.

    A model of borders (data.target=borders) also writes single objects: their numbers to instances/, and counts.csv.
    """
    from pixelwise.bundle import Bundle
    from pixelwise.config import RuntimeConfig
    from pixelwise.data.layouts import find_images
    from pixelwise.inference.folder import Outputs, predict_folder
    from pixelwise.inference.predict import Predictor
    from pixelwise.runtime import memory_refusals, prepare

    # The model and the images.
    screen = Screen(json=json)
    model = find_model(run)
    bundle = Bundle.load(model)
    found = find_images(images)
    name = images.resolve().stem if images.is_file() else images.resolve().name
    folder = out or Path("predictions") / (model.parent.resolve().name) / name
    runtime = prepare(RuntimeConfig(device=device))
    screen.say(f"{counted(len(found.samples), 'image')} · {runtime.describe()}")
    reasons = Counter(reason for _, reason in found.skipped)
    screen.say(*(f"skipped {counted(count, 'file')}: {reason}" for reason, count in reasons.items()))

    # The masks.
    predictor = Predictor.of(bundle, runtime, bundle.predict.with_flips(flips))
    outputs = Outputs(folder=folder, scores=scores, overlays=overlays, geojson=geojson, replace=replace)
    with memory_refusals():
        results = predict_folder(found, predictor, outputs)
        done = list(screen.progress(results, total=len(found.samples), title="predicting"))

    return _report(done, folder, screen)


def _report(done: list[Done], folder: Path, screen: Screen) -> int:
    """Say what was written and what failed; the exit code."""
    failed = {one.name: one.failure for one in done if one.failure}
    for failure in failed.values():
        screen.warn(failure)
    failures = f", {counted(len(failed), 'image')} failed" if failed else ""
    screen.say(f"{counted(len(done) - len(failed), 'mask')} in {folder}{failures}")
    result = {"folder": str(folder), "masks": {one.name: str(one.labels) for one in done if one.labels}}
    objects = {one.name: one.count.objects for one in done if one.count}
    if objects:
        screen.say(f"{counted(sum(objects.values()), 'object')} in {counted(len(objects), 'image')}, see counts.csv")
    screen.result({**result, **({"objects": objects} if objects else {}), "failed": failed})
    return EXIT_SOME_FAILED if failed else EXIT_DONE
