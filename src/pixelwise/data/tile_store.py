"""The store of a large result: written tile by tile by any number of processes, and gone on with after any kill.

    OUT.zarr/labels/classes/0   a layer that stays, at full size; 1, 2, ... are its smaller sizes
    OUT.zarr/.pixelwise         job.json, the markers of finished tiles, and what stages leave for later ones

One core of the image is one file (shard) of each layer, so no two writers ever meet in a file. The files of a tile come
first, each complete or absent; its marker comes last and holds their SHA-256. What has no marker does not count: to
read it is an error, and other programs show the fill value, which is no class.

Damage of a file of one stage makes that tile of that stage undone and nothing else: later stages keep what they made of
it, since it will be the same bytes again. For this all that a stage needs is kept; who never wants to check or mend a
result again may remove `.pixelwise`, and the layers stay what they are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.ome_zarr import store_metadata
from pixelwise.data.store_plan import PRIVATE, WORK_FILES, StorePlan, StoreStage, stage_of
from pixelwise.data.tile_markers import Fault, Marker, MarkerFolder, fault_of, measured
from pixelwise.data.zarr_array import ZarrArray
from pixelwise.errors import DataError, UsageError, printable
from pixelwise.files import folder_lock, remove_leftovers, system_refusals, write_bytes, write_json
from pixelwise.tiles import Window

JOB, TILES = f"{PRIVATE}/job.json", f"{PRIVATE}/tiles"
METADATA = "metadata"
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that is not as it was written: of which stage and tile, its path within the store, what is wrong.

    The stage is `metadata`, and the tile None, for a file that describes the store.
    """

    stage: str
    index: int | None
    file: str
    fault: Fault

    def __str__(self) -> str:
        tile = "" if self.index is None else f" (stage {self.stage}, tile {self.index})"
        return f"{printable(self.file)}{tile} is {self.fault}"


@dataclass(frozen=True)
class TileStore:
    """An open store; to hand it to another process costs a few hundred bytes.

    `open` makes it and holds it for this process; `join` is for the processes that work for that one, and to read.
    """

    folder: Path
    plan: StorePlan

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, plan: StorePlan) -> Iterator[TileStore]:
        """Make the store, or go on with the one that is there and has the same plan.

        Raises UsageError where the folder is something else, holds another job (it says what differs), or is in use
        by another process, and OutputError where the system refuses.

        >>> import tempfile
        >>> from pixelwise.data.store_plan import StoreLayer
        >>> from pixelwise.tiles import TileGrid
        >>> layer = StoreLayer(name="labels/classes", dtype="uint8", fill=255, stage="network")
        >>> stages = (StoreStage("network"),)
        >>> plan = StorePlan(job={}, grid=TileGrid((4, 6), 4), layers=(layer,), stages=stages, chunk=2)
        >>> with TileStore.open(Path(tempfile.mkdtemp()) / "out.zarr", plan) as store:
        ...     store.write(1, "network", {"labels/classes": np.ones((4, 2), np.uint8)})
        ...     store.missing("network"), store.read("labels/classes", Window(0, 4, 1, 6))
        ([0], array([[1, 1]], dtype=uint8))
        """
        _refuse_foreign(folder)
        with folder_lock(folder / PRIVATE):
            store = cls(folder, plan)
            if (folder / JOB).is_file():
                _refuse_other_job(cls.join(folder), plan)
            else:
                write_json(folder / JOB, {"plan": plan.to_dict(), "hash": plan.fingerprint})
            remove_leftovers(folder)
            store._write_metadata()
            yield store
            remove_leftovers(folder)  # of workers that were killed meanwhile

    @classmethod
    def look(cls, folder: Path, plan: StorePlan) -> TileStore | None:
        """The store of that plan as it is now, without holding it; None where nothing is. Raises what `open` would."""
        _refuse_foreign(folder)
        if not (folder / JOB).is_file():
            return None
        store = cls.join(folder)
        _refuse_other_job(store, plan)
        return store

    @classmethod
    def join(cls, folder: Path) -> TileStore:
        """The store that is in a folder; raises DataError where there is none, or its plan is damaged."""
        try:
            kept = json.loads((folder / JOB).read_text("utf-8"))
            plan = StorePlan.from_dict(kept["plan"])
            if plan.fingerprint != kept["hash"]:
                raise ValueError("it was changed")
            return cls(folder, plan)
        except FileNotFoundError as error:
            raise DataError(
                f"{printable(folder)} is no result of pixelwise, or its {PRIVATE} was removed: it has no {JOB}; "
                "move it away to begin again"
            ) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{printable(folder / JOB)} cannot be used ({error}); move the folder away and run again"
            ) from error

    # Tiles

    def write(
        self, index: int, stage: str, arrays: Mapping[str, NDArray[Any]], files: Mapping[str, bytes] | None = None
    ) -> None:
        """Keep what a stage made of a tile, and then mark the tile as finished.

        arrays  the core of every layer of the stage, (h, w) or (K, h, w), by the name of the layer
        files   the content of every file of the stage, by its name

        Raises OutputError where the system refuses; the tile is then not finished.
        """
        planned = self.plan.stage(stage)
        written = {}
        for path, data in self._contents(planned, index, arrays, files or {}):
            write_bytes(self.folder / path, data)
            written[path] = measured(data)
        self._markers(planned).put(index, Marker(self.plan.fingerprint, self._region(planned, index), written))

    def read(self, layer: str, window: Window, *, level: int = 0) -> NDArray[Any]:
        """The pixels of any window of a layer, (h, w) or (K, h, w), at full size or a smaller one.

        Raises DataError, naming the tiles, where one is not finished, and naming the file where one is damaged.
        """
        planned = self.plan.layer(layer)
        array, grid = self.plan.array(planned, level), self.plan.level_grid(level)
        assert window.overlap(Window(0, 0, *grid.shape)) == window, f"{window} is not within {grid.shape}"
        touched = grid.touching(window)
        self._refuse_unfinished(stage_of(planned, level), touched)
        values = np.empty((*array.shape[:-2], *window.shape), array.dtype)
        for index in touched:
            core = grid.window(index)
            part = core.overlap(window)
            assert part is not None, "only cores that touch the window are read"
            shard = array.shard_path(*divmod(index, grid.columns))
            values[(..., *part.within(window).slices)] = self._read_shard(array, shard, part.within(core))
        return values

    def read_file(self, index: int, stage: str, name: str) -> bytes:
        """A small file of a finished tile; raises DataError where it is not there, or is not as it was written."""
        planned = self.plan.stage(stage)
        path = _file_path(self.plan, planned, index, name)
        self._refuse_unfinished(stage, [index])
        try:
            data = (self.folder / path).read_bytes()
            if self._markers(planned).get(index).files[path] != measured(data):
                raise ValueError("it was changed after it was written")
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(path, error) from error
        return data

    # Which tiles are done

    def finished(self, stage: str) -> set[int]:
        """The tiles for which a stage is done."""
        return self._markers(self.plan.stage(stage)).indices()

    def missing(self, stage: str) -> list[int]:
        """The tiles for which a stage is still to be done, in their order."""
        done = self.finished(stage)
        return [index for index in range(len(self.plan.tiles(self.plan.stage(stage)))) if index not in done]

    def forget(self, stage: str, indices: Iterable[int]) -> None:
        """Take tiles of a stage as not done, so that they, and only they, are done again."""
        markers = self._markers(self.plan.stage(stage))
        with system_refusals(markers.folder):
            for index in indices:
                markers.remove(index)

    # Damage

    def check(self) -> list[Damage]:
        """Read every file of every finished tile, and say which are not as they were written."""
        damages = [
            Damage(METADATA, None, path, fault)
            for path, data in self._metadata().items()
            if (fault := fault_of(self.folder / path, *measured(data)))
        ]
        for stage in (*self.plan.stages, *self.plan.pyramid):
            for index in sorted(self._markers(stage).indices()):
                damages += self.check_tile(stage.name, index)
        return damages

    def check_tile(self, stage: str, index: int) -> list[Damage]:
        """What `check` finds for one finished tile of one stage."""
        planned = self.plan.stage(stage)
        path = str(self._markers(planned).path(index).relative_to(self.folder))
        try:
            marker = self._markers(planned).get(index)
        except FileNotFoundError:
            return [Damage(stage, index, path, "missing")]
        except (OSError, ValueError):
            return [Damage(stage, index, path, "unreadable")]
        if (marker.job, marker.region) != (self.plan.fingerprint, self._region(planned, index)):
            return [Damage(stage, index, path, "changed")]
        faults = {file: fault_of(self.folder / file, *facts) for file, facts in marker.files.items()}
        return [Damage(stage, index, file, fault) for file, fault in faults.items() if fault]

    def mend(self, damages: Sequence[Damage]) -> None:
        """Forget the tiles with damage, and write again what describes the store; the stages then do the rest."""
        for damage in damages:
            if damage.index is not None:
                self.forget(damage.stage, [damage.index])
        self._write_metadata()

    # Files

    def _contents(
        self, stage: StoreStage, index: int, arrays: Mapping[str, NDArray[Any]], files: Mapping[str, bytes]
    ) -> Iterator[tuple[str, bytes]]:
        """Path and bytes of each file of a tile, one at a time."""
        targets, grid = self.plan.arrays(stage), self.plan.tiles(stage)
        core = grid.window(index).shape
        assert arrays.keys() == targets.keys(), f"stage {stage.name} writes {[*targets]}, not {[*arrays]}"
        for name, target in targets.items():
            given, wanted = arrays[name], (*target.shape[:-2], *core)
            assert given.shape == wanted, f"{name}, tile {index}: shape {given.shape}, not {wanted}"
            assert given.dtype == target.dtype, f"{name}: type {given.dtype}, not {target.dtype}"
            yield target.shard_path(*divmod(index, grid.columns)), target.encode(given)
        assert sorted(files) == sorted(stage.files), f"stage {stage.name} leaves {stage.files}, not {[*files]}"
        for name, data in files.items():
            yield _file_path(self.plan, stage, index, name), data

    def _read_shard(self, array: ZarrArray, path: str, window: Window) -> NDArray[Any]:
        try:
            with (self.folder / path).open("rb") as file:
                return array.decode(file, window)
        except (OSError, ValueError) as error:
            raise self._damaged(path, error) from error

    def _region(self, stage: StoreStage, index: int) -> tuple[int, int, int, int]:
        window = self.plan.tiles(stage).window(index)
        return window.top, window.left, window.bottom, window.right

    def _markers(self, stage: StoreStage) -> MarkerFolder:
        return MarkerFolder(self.folder / TILES / stage.name, self.plan.tiles(stage))

    def _metadata(self) -> dict[str, bytes]:
        return {
            path: (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
            for path, value in store_metadata(self.plan).items()
        }

    def _write_metadata(self) -> None:
        for path, data in self._metadata().items():
            if fault_of(self.folder / path, *measured(data)):
                write_bytes(self.folder / path, data)

    # Errors

    def _refuse_unfinished(self, stage: str, indices: Sequence[int]) -> None:
        markers = self._markers(self.plan.stage(stage))
        missing = [index for index in indices if not markers.has(index)]
        if missing:
            raise self._unfinished(stage, missing)

    def _unfinished(self, stage: str, missing: Sequence[int]) -> DataError:
        shown = ", ".join(map(str, missing[:SHOWN]))
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        return DataError(
            f"{printable(self.folder)}: the stage {stage} is not done for tile {shown}{more}; "
            "run the same command again to finish it"
        )

    def _damaged(self, path: str, error: Exception) -> DataError:
        reason = error.strerror if isinstance(error, OSError) else error
        return DataError(
            f"{printable(self.folder / path)} is damaged ({reason}); find all damage with --check, then run again"
        )


def _file_path(plan: StorePlan, stage: StoreStage, index: int, name: str) -> str:
    row, column = divmod(index, plan.tiles(stage).columns)
    return f"{WORK_FILES}/{stage.name}/{row}/{column}.{name}"


def _refuse_foreign(folder: Path) -> None:
    """A new store goes where nothing is, or where one was begun and killed before its plan was written."""
    with system_refusals(folder):
        others = [path.name for path in folder.iterdir() if path.name != PRIVATE] if folder.exists() else []
    if others and not (folder / JOB).is_file():
        raise UsageError(
            f"{printable(folder)} is there already and is no result of pixelwise, or its {PRIVATE} was removed: it "
            f"holds {printable(others[0])} and no {JOB}; choose another name for the result, or move it away"
        )


def _refuse_other_job(found: TileStore, plan: StorePlan) -> None:
    differences = found.plan.differences(plan)
    if differences:
        shown = "; ".join(differences[:SHOWN])
        raise UsageError(
            f"{printable(found.folder)} holds the result of another job: {shown}; "
            "choose another name for this one, or run that one with the same model, settings and image"
        )
