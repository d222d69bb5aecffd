"""`pixelwise predict`: masks for new images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixelwise.cli.options import verb_of
from pixelwise.cli.runs import find_model
from pixelwise.cli.screen import Screen, counted
from pixelwise.errors import EXIT_DONE, EXIT_SOME_FAILED, UsageError, printable

if TYPE_CHECKING:
    from pixelwise.cli.large import LargeOptions
    from pixelwise.data.layouts import Folder, Sample
    from pixelwise.inference.folder import Done
    from pixelwise.runtime import Runtime

SHARED = (
    *("flips", "skip_flat", "level", "page", "fill_missing", "memory", "workers", "scheduler", "device"),
    *("check", "one_tile", "replace", "dry_run"),
)
"""options that mean the same for a large image"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """What stands behind `pixelwise predict`."""

    run: Annotated[str, typer.Argument(help="A run's name or folder, or a model file.")]
    images: Annotated[Path, typer.Argument(help="An image, a TIFF stack, a folder of images, or a Zarr of any size.")]
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the masks [predictions/RUN/IMAGES]; of one image of any size OUT.zarr or OUT.tif.",
        ),
    ] = None
    scores: Annotated[bool, typer.Option("--scores", help="Also write the scores, as 16-bit TIFF.")] = False
    overlays: Annotated[bool, typer.Option("--overlays", help="Also write pictures to look at.")] = False
    geojson: Annotated[bool, typer.Option("--geojson", help="Also write the objects, or the classes, as polygons.")] = (
        False
    )
    replace: Annotated[bool, typer.Option("--replace", help="Replace masks that are there already.")] = False
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirror images and turns: 8 x slower.")] = False
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto: the first that is there.")] = "auto"
    memory: Annotated[str, typer.Option(help="How much memory to take in all, such as 2GB [half of what is free].")] = (
        ""
    )
    workers: Annotated[int, typer.Option(min=0, help="So many worker processes, by Dask.")] = 0
    scheduler: Annotated[str, typer.Option(help="The workers of this Dask scheduler, tcp://...")] = ""
    score_bits: Annotated[int | None, typer.Option(help="OUT.zarr: bits of a score, 8 or 16 [16].")] = None
    page: Annotated[
        int | None,
        typer.Option(min=0, help="OUT.zarr, OUT.tif: page of a TIFF or plane of a Zarr, if there are several."),
    ] = None
    fill_missing: Annotated[
        bool, typer.Option("--fill-missing", help="OUT.zarr, OUT.tif: read chunks that a Zarr lacks as its fill value.")
    ] = False
    level: Annotated[
        int, typer.Option(min=0, help="OUT.zarr, OUT.tif: level of the image's pyramid; 0: full size.")
    ] = 0
    skip_flat: Annotated[bool, typer.Option("--skip-flat", help="OUT.zarr, OUT.tif: spare tiles without content.")] = (
        False
    )
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare every byte of what is done; of OUT.zarr, do again what is damaged."),
    ] = False
    one_tile: Annotated[bool, typer.Option("--one-tile", help="OUT.zarr, OUT.tif: try one tile, and stop.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do and take; write nothing.")] = False
    json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")] = False

    def folder(self, model: Path) -> Path:
        """Where the masks go."""
        images = self.images.resolve()
        name = images.stem if images.is_file() else images.name
        return self.out or Path("predictions") / model.parent.resolve().name / name


def predict_images(options: PredictOptions) -> int:
    """Write a mask for every image: an indexed PNG with the colours of the classes.

    A model of single objects also writes their numbers to instances/, and counts.csv. With --out OUT.zarr or OUT.tif
    one image of any size is predicted tile by tile. The same command, run again, goes on where it was stopped.
    """
    from pixelwise.cli import large

    screen = Screen(json=options.json)
    model = find_model(options.run)
    if options.workers and options.scheduler:
        raise UsageError("--workers starts workers on this machine, --scheduler has its own; give one of them")
    if large.is_large(options.images, options.out):
        return large.predict_large(_large_options(options, model), screen)
    _check_options(options)
    return _predict_folder(options, model, screen)


predict_verb = verb_of(predict_images, PredictOptions)


def _predict_folder(options: PredictOptions, model: Path, screen: Screen) -> int:
    from pixelwise.bundle import Bundle
    from pixelwise.cli.folder import FolderTask, left_to_do, write_masks
    from pixelwise.cli.tiling import show_prediction
    from pixelwise.config import RuntimeConfig
    from pixelwise.data.layouts import find_images
    from pixelwise.inference.estimate import bytes_per_pixel
    from pixelwise.inference.folder import Outputs
    from pixelwise.inference.predict import Predictor
    from pixelwise.runtime import prepare

    # The model and the images.
    bundle = Bundle.load(model)
    elsewhere = bool(options.scheduler)  # workers elsewhere have other working folders
    folder = options.folder(model).absolute() if elsewhere else options.folder(model)
    found = _without_results(find_images(options.images.absolute() if elsewhere else options.images), folder)
    runtime = prepare(RuntimeConfig(device=options.device))
    screen.say(f"{counted(len(found.samples), 'image')} · {runtime.describe()}")
    reasons = Counter(reason for _, reason in found.skipped)
    screen.say(*(f"skipped {counted(count, 'file')}: {reason}" for reason, count in reasons.items()))

    # The masks.
    predictor = replace(
        Predictor.of(bundle, runtime, bundle.predict.with_flips(options.flips)), memory=_memory(options, runtime)
    )
    wanted = {name: getattr(options, name) for name in ("scores", "overlays", "geojson", "replace")}
    outputs = Outputs(folder=folder, **wanted)
    task = FolderTask(
        images=found,
        model=model.resolve(),
        outputs=outputs,
        workers=options.workers,
        scheduler=options.scheduler,
        check=options.check,
    )
    if options.dry_run:
        left, predictor = left_to_do(task, predictor, screen)
        size = bytes_per_pixel(outputs, predictor)
        show_prediction(left, predictor, folder=folder, bytes_per_pixel=size, screen=screen)
        return EXIT_DONE
    return _report(write_masks(task, predictor, screen), folder, screen)


def _without_results(found: Folder, folder: Path) -> Folder:
    """The images without those in the folder of the results, where that lies among them."""
    results, images = folder.resolve(), found.path.resolve()
    if results == images or not results.is_relative_to(images):
        return found
    parts: dict[bool, list[Sample]] = {True: [], False: []}
    for sample in found.samples:
        parts[sample.image.path.resolve().is_relative_to(results)].append(sample)
    skipped = ((sample.image.path, "in the folder of the results") for sample in parts[True])
    return replace(found, samples=tuple(parts[False]), skipped=(*found.skipped, *skipped))


def _memory(options: PredictOptions, runtime: Runtime) -> int | None:
    """The budget for a window, bytes, of each of the workers on this machine; None: the usual one."""
    from pixelwise.inference.large_plan import window_budget
    from pixelwise.inference.tiling import usual_memory
    from pixelwise.runtime import parse_bytes

    workers = max(1, options.workers)
    if options.memory:
        return window_budget(parse_bytes(options.memory) // workers, runtime.device)
    return usual_memory(runtime.device) // workers if workers > 1 else None


def _large_options(options: PredictOptions, model: Path) -> LargeOptions:
    from pixelwise.cli.large import ZARR_SUFFIX, LargeOptions

    if options.score_bits not in (None, 8, 16):
        raise UsageError(f"--score-bits {options.score_bits}: choose 8 or 16")
    if options.score_bits and not options.scores:
        raise UsageError(f"--score-bits {options.score_bits} without --scores; give --scores as well, or leave it out")
    for name, asked in (("--overlays", options.overlays), ("--geojson", options.geojson)):
        if asked:
            raise UsageError(f"{name} is for images in a folder; of a large image look at the result, or leave it out")
    folder = options.folder(model)
    return LargeOptions(
        model=model,
        image=options.images,
        out=options.out or folder.with_name(folder.name.removesuffix(ZARR_SUFFIX) + ZARR_SUFFIX),
        scores=("uint8" if options.score_bits == 8 else "uint16") if options.scores else "",
        **{name: getattr(options, name) for name in SHARED},
    )


def _check_options(options: PredictOptions) -> None:
    """Refuse options that images in a folder have no use for, and a Zarr where a folder of images should be."""
    from pixelwise.cli.large import is_zarr

    if is_zarr(options.images):
        raise UsageError(f"{printable(options.images)} is a Zarr; give --out OUT.zarr or OUT.tif for its result")
    for name in ("level", "page", "fill_missing", "skip_flat", "one_tile", "score_bits"):
        if getattr(options, name) not in (0, False, None):
            raise UsageError(
                f"--{name.replace('_', '-')} is for one image of any size; give --out OUT.zarr or OUT.tif with it"
            )


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
