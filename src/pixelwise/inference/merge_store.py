"""The store of a large result as the stages of merging see it: evidence, objects, and parts, each a small file.

The parts of a stage are files of their own, each with its SHA-256 in front; the tile's marker comes last.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.store_plan import WORK_FILES
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import DataError, printable
from pixelwise.files import write_bytes
from pixelwise.inference.large_plan import EVIDENCE, MERGE_FILE, OBJECTS
from pixelwise.tiles import Window

FILES_PER_FOLDER = 1000
DIGEST = 32


class StoreOfMerge:
    """What one stage reads and writes while it runs for one tile; `finish` marks the tile as done."""

    def __init__(self, store: TileStore, stage: str, index: int) -> None:
        self._store, self._stage, self._index = store, stage, index
        self._written: dict[str, str] = {}
        self._objects: dict[str, NDArray[Any]] = {}

    def read_evidence(self, window: Window) -> NDArray[np.uint8]:
        """The evidence of a window, uint8 (2, h, w)."""
        return self._store.read(EVIDENCE, window)

    def read_part(self, stage: str, index: int) -> bytes:
        """What a stage wrote for a core; raises DataError where it is not there or not as it was written."""
        path = self._store.folder / _part_path(stage, index)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _damaged(path, f"cannot be read ({error.strerror})") from error
        if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
            raise _damaged(path, "is not as it was written")
        return data[DIGEST:]

    def write_part(self, stage: str, index: int, data: bytes) -> None:
        """Keep what a stage has to say of a core."""
        digest = hashlib.sha256(data)
        write_bytes(self._store.folder / _part_path(stage, index), digest.digest() + data)
        self._written[f"{stage}/{index}"] = digest.hexdigest()

    def write_objects(self, index: int, objects_HW: NDArray[np.uint64]) -> None:
        """Keep the objects of the core until `finish` writes them."""
        assert index == self._index, "a stage writes the core that it runs for"
        self._objects = {OBJECTS: objects_HW}

    def finish(self) -> None:
        """Write the objects, and mark the tile as done."""
        listing = json.dumps(self._written, indent=0, sort_keys=True).encode()
        self._store.write(self._index, self._stage, self._objects, {MERGE_FILE: listing})


def damaged_parts(store: TileStore, stage: str, index: int) -> list[str]:
    """The parts of a finished tile of a stage that are not as they were written, by their paths in the store."""
    listed: dict[str, str] = json.loads(store.read_file(index, stage, MERGE_FILE))
    paths = {_part_path(name.partition("/")[0], int(name.partition("/")[2])): sha for name, sha in listed.items()}
    return [path for path, sha in paths.items() if _digest(store.folder / path) != sha]


def _digest(path: Path) -> str:
    """The SHA-256 of the content of a part; empty where it cannot be read, or the one in front of it is another."""
    try:
        data = path.read_bytes()
    except OSError:
        return ""
    digest = hashlib.sha256(data[DIGEST:])
    return digest.hexdigest() if digest.digest() == data[:DIGEST] else ""


def _part_path(stage: str, index: int) -> str:
    return f"{WORK_FILES}/parts/{stage}/{index // FILES_PER_FOLDER}/{index}"


def _damaged(path: object, what: str) -> DataError:
    return DataError(
        f"{printable(path)} {what}; run the same command with --check, and what it is made of is done again"
    )
