"""`pixelwise predict` for one image of any size: tile by tile, into OUT.zarr or OUT.tif."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixelwise.bundle import Bundle
from pixelwise.cli.screen import Screen, counted
from pixelwise.cli.tiling import warn_of_disk
from pixelwise.config import RuntimeConfig
from pixelwise.data.label_tiff import write_label_tiff
from pixelwise.data.large_images import open_large
from pixelwise.data.store_plan import PRIVATE, StorePlan
from pixelwise.data.stored import LARGEST_IMAGE, MOST_VALUES
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import EXIT_DONE, EXIT_SOME_FAILED, DataError, PixelwiseError, UsageError, printable
from pixelwise.files import folder_lock
from pixelwise.inference.cluster import runner_of, threads_of_worker
from pixelwise.inference.large import (
    Step,
    TileDone,
    check_source,
    count_objects,
    damage_of,
    run_step,
    seam_of,
    steps_left,
    table_is_whole,
    write_table,
)
from pixelwise.inference.large_estimate import estimate_large
from pixelwise.inference.large_plan import (
    CLASSES,
    NETWORK,
    OBJECTS,
    LargeJob,
    ScoreType,
    Wish,
    open_job,
    plan_large,
)
from pixelwise.inference.runners import Runner
from pixelwise.runtime import duration, memory_refusals, parse_bytes
from pixelwise.tiles import TileGrid

TIFF_SUFFIXES = (".tif", ".tiff")
ZARR_SUFFIX = ".zarr"
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeOptions:
    """What the options of `pixelwise predict` ask of a large image; `out` is OUT.zarr or OUT.tif."""

    model: Path
    image: Path
    out: Path
    scores: ScoreType
    flips: bool
    skip_flat: bool
    level: int
    page: int | None
    fill_missing: bool
    memory: str
    workers: int
    scheduler: str
    device: str
    check: bool
    one_tile: bool
    replace: bool
    dry_run: bool

    @property
    def is_tiff(self) -> bool:
        """Whether the result is a TIFF; then the store is beside it until it is written."""
        return self.out.suffix.lower() in TIFF_SUFFIXES

    @property
    def store(self) -> Path:
        """The folder of the tiles."""
        return self.out.with_name(f"{self.out.name}.tiles{ZARR_SUFFIX}") if self.is_tiff else self.out

    @property
    def table(self) -> Path:
        """Where the table of the objects goes."""
        return self.out.with_name(f"{self.out.stem}-objects.csv")

    @property
    def objects_tiff(self) -> Path:
        """Where the objects go, if the result is a TIFF."""
        return self.out.with_name(f"{self.out.stem}-objects{self.out.suffix}")


def is_large(image: Path, out: Path | None) -> bool:
    """Whether an image is to be predicted tile by tile: where the result is to be one Zarr or one TIFF; and a Zarr
    folder or a TIFF that is too large to be read at once, where nothing is said of the result.
    """
    if out is not None:
        return out.suffix.lower() in (ZARR_SUFFIX, *TIFF_SUFFIXES)
    return is_zarr(image) or _too_large(image)


def is_zarr(image: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return any((image / name).exists() for name in ZARR_FILES)


def _too_large(image: Path) -> bool:
    """Whether a TIFF has more values than are read at once; what cannot be opened is refused later, with its reason."""
    if image.suffix.lower() not in TIFF_SUFFIXES or not image.is_file():
        return False
    with suppress(PixelwiseError), open_large(image) as opened:
        pixels = math.prod(opened.shape)
        return pixels > LARGEST_IMAGE or pixels * opened.channels > MOST_VALUES
    return False


def predict_large(options: LargeOptions, screen: Screen) -> int:
    """Write labels, and what else the model and the options say, for an image of any size."""
    _check(options)
    bundle = Bundle.load(options.model)
    wish = Wish(
        source=options.image,
        model=options.model,
        store=options.store,
        settings=bundle.predict.with_flips(options.flips),
        runtime=RuntimeConfig(
            device=options.device, threads=threads_of_worker(options.workers) * bool(options.workers)
        ),
        scores=options.scores,
        skip_flat=options.skip_flat,
        level=options.level,
        page=options.page,
        missing_chunks="fill" if options.fill_missing else "refuse",
        memory=parse_bytes(options.memory) if options.memory else None,
    )
    with memory_refusals("give more with --memory, or free some"):
        job, plan = plan_large(wish)
        with open_job(job) as image:
            screen.say(f"image: {image.describe()}")
        screen.say(_windows_text(job, plan), f"result: {_tiles_text(plan)} in {printable(options.out)}")
        if options.is_tiff and options.replace and _is_of_other_job(job, plan):
            job, plan = plan_large(replace(wish, store=_aside(wish.store)))
            job = replace(job, store=wish.store.resolve())
            if not options.dry_run:
                with folder_lock(job.store / PRIVATE):
                    _remove(job.store)
        if options.dry_run:
            return _say_estimate(job, plan, options, screen)
        with (
            runner_of(workers=options.workers, scheduler=options.scheduler) as runner,
            TileStore.open(job.store, plan) as store,
        ):
            return _work(job, store, options, runner, screen)


def _work(job: LargeJob, store: TileStore, options: LargeOptions, runner: Runner, screen: Screen) -> int:
    if options.check:
        _mend(store, screen)
    if options.one_tile:
        return _try_one(job, store, runner, screen)
    notes, failed, changed = Counter[str](), list[TileDone](), False
    for step in steps_left(job):
        done = list(_shown(job, step, runner, screen))
        failed = [one for one in done if one.failure]
        notes.update(one.note for one in done)
        changed = changed or bool(done)
        if step.stage == NETWORK and done:
            check_source(job, store)
        if failed:
            break
    if notes["flat"]:
        name = printable(store.plan.layer(CLASSES).colours[0].name)
        screen.say(f"{counted(notes['flat'], 'tile')} with nothing to be seen, taken as {name} without the network")
    if notes["small"]:
        screen.warn(
            f"memory was lacking: {counted(notes['small'], 'tile')} seen in smaller windows; the result is the same"
        )
    if failed:
        return _say_failures(failed, store, options.out, screen)
    return _finish(job, store, options, screen, changed=changed)


def _finish(job: LargeJob, store: TileStore, options: LargeOptions, screen: Screen, *, changed: bool) -> int:
    """The table, and the TIFF; `changed`: whether any tile was done."""
    result: dict[str, Any] = {"out": str(options.out), "tiles": len(store.plan.grid), "failed": {}}
    if job.instances is not None and (changed or not table_is_whole(store, options.table, every_byte=options.check)):
        if not changed and options.table.exists():
            screen.say(f"{printable(options.table)} is not as it was written; it is written again")
        task = Bundle.load(job.model).task
        write_table(job, store, options.table, class_name=task.names[task.object_class])
    if job.instances is not None:
        result["objects"] = count_objects(options.table)
        screen.say(f"{counted(result['objects'], 'object')}, see {printable(options.table)}")
    if job.tiling.way != "exact":
        seam = seam_of(job, store.plan.grid)
        result["seam_score"] = seam
        if seam is not None:
            screen.say(
                f"seam score: {seam:.3f} (1 is no seam): the network sees the whole image, windows are not exact"
            )
    if options.is_tiff:
        _export(job, store, options, result.get("objects"))
    screen.say(f"labels in {printable(options.out)}")
    screen.result(result)
    return EXIT_DONE


def _export(job: LargeJob, store: TileStore, options: LargeOptions, objects: int | None) -> None:
    """The layers as TIFF; then the tiles are not needed any more."""
    with open_job(job) as image:
        tags = [] if image.place is None else [tag[:4] for tag in image.place.extra_tags()]
    write_label_tiff(options.out, store, CLASSES, tags=tags)
    if job.instances is not None:
        write_label_tiff(options.objects_tiff, store, OBJECTS, largest=objects, tags=tags)
    _remove(store.folder)


def _shown(job: LargeJob, step: Step, runner: Runner, screen: Screen) -> Iterator[TileDone]:
    done = step.tiles - len(step.missing)
    if done and step.missing:
        screen.say(f"{step.stage}: {done} of {counted(step.tiles, 'tile')} are done already")
    title = step.stage if step.stage == NETWORK else f"after the network: {step.stage}"
    return screen.tiles(
        run_step(job, step, runner), total=step.tiles, done=done, title=title, pixels=lambda one: one.pixels
    )


def _try_one(job: LargeJob, store: TileStore, runner: Runner, screen: Screen) -> int:
    """Do the tile in the middle, and say what all would take."""
    grid = store.plan.grid
    middle = grid.rows // 2 * grid.columns + grid.columns // 2
    began = time.monotonic()
    (done,) = run_step(job, Step(stage=NETWORK, missing=(middle,), tiles=len(grid)), runner)
    if done.failure:
        return _say_failures([done], store, store.folder, screen)
    took = time.monotonic() - began
    screen.say(
        f"tile {middle}, {_place(middle, grid)}, took {took:.1f} seconds; {counted(len(grid), 'tile')} would take "
        f"about {duration(took * len(grid))} with one worker; it is kept in {printable(store.folder)}"
    )
    screen.result({"tile": middle, "seconds": took, "tiles": len(grid)})
    return EXIT_DONE


def _mend(store: TileStore, screen: Screen) -> None:
    damages = damage_of(store)
    screen.say(*(f"damaged: {damage}" for damage in damages))
    screen.say(
        f"{counted(len(damages), 'file')} damaged; the tiles are done again" if damages else "no file is damaged"
    )
    store.mend(damages)


def _say_failures(failed: list[TileDone], store: TileStore, out: Path, screen: Screen) -> int:
    plan = store.plan
    for one in failed:
        grid = plan.tiles(plan.stage(one.stage))
        screen.warn(f"tile {one.index} ({_place(one.index, grid)}) failed in the stage {one.stage}: {one.failure}")
    screen.say(
        f"{counted(len(failed), 'tile')} failed, all others are done; run the same command again to go on with these, "
        "or give a mended image another --out"
    )
    screen.result({"out": str(out), "failed": {str(one.index): one.failure for one in failed}})
    return EXIT_SOME_FAILED


def _say_estimate(job: LargeJob, plan: StorePlan, options: LargeOptions, screen: Screen) -> int:
    store = None if options.replace and _is_of_other_job(job, plan) else TileStore.look(job.store, plan)
    if store is not None:
        done, tiles = len(store.finished(NETWORK)), len(plan.grid)
        screen.say(f"{NETWORK}: {done} of {counted(tiles, 'tile')} are done already, and not left out of what follows")
    estimate = estimate_large(job, plan, workers=max(1, options.workers))
    screen.say(f"would write: {printable(options.out)}", *estimate.describe())
    warn_of_disk(job.store.parent, estimate.disk, screen)
    screen.result({"out": str(options.out), "tiles": len(plan.grid), "estimate": estimate.to_dict()})
    return EXIT_DONE


def _check(options: LargeOptions) -> None:
    if options.is_tiff and options.scores:
        raise UsageError("scores are kept in a Zarr; give --out OUT.zarr, or leave --scores out")
    # What an unfinished run of this image left beside its tiles is ours.
    for path in [options.table, *([options.out, options.objects_tiff] if options.is_tiff else [])]:
        if path.exists() and not (options.store.exists() or options.replace or options.dry_run):
            raise UsageError(f"{printable(path)} is there already; choose another --out, or replace it with --replace")
    for path in (options.out, options.table, options.objects_tiff):
        if path.resolve() in (options.image.resolve(), options.model.resolve()):
            what = "image" if path.resolve() == options.image.resolve() else "model"
            raise UsageError(f"{printable(path)} is the {what} itself; choose another --out")
    if options.store.exists() and options.replace and not options.is_tiff:
        raise UsageError(
            f"{printable(options.store)} is there already, and a Zarr is not replaced; remove it, or choose another "
            "--out"
        )


def _is_of_other_job(job: LargeJob, plan: StorePlan) -> bool:
    """Whether tiles of another job lie beside a TIFF that is to be replaced: they go as well."""
    try:
        return job.store.exists() and TileStore.join(job.store).plan != plan
    except DataError:
        return True


def _remove(store: Path) -> None:
    """Remove a store, which is whole or not there at any time; what a kill left of that is removed the next time."""
    aside = _aside(store)
    shutil.rmtree(aside, ignore_errors=True)
    store.rename(aside)
    shutil.rmtree(aside)


def _aside(store: Path) -> Path:
    return store.with_name(f"{store.name}.removed")


def _windows_text(job: LargeJob, plan: StorePlan) -> str:
    shape = plan.grid.shape
    if job.tiling.way == "exact" and len(plan.grid) == 1 and job.tiling.core >= max(shape):
        return f"network: sees the image of {shape[1]} x {shape[0]} pixels whole"
    return f"network: {job.tiling.describe()}"


def _tiles_text(plan: StorePlan) -> str:
    grid = plan.grid
    return "1 tile" if len(grid) == 1 else f"{len(grid)} tiles of up to {grid.core} x {grid.core} pixels"


def _place(index: int, grid: TileGrid) -> str:
    window = grid.window(index)
    return f"rows {window.top} to {window.bottom}, columns {window.left} to {window.right}"
