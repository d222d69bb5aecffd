"""What the stages of merging read and write: evidence, objects, and small files between the stages, one per core.

A store is anything with the four methods of MergeStore: a folder, Zarr arrays, a dictionary. A part is a file that one
stage writes for one core and a later stage reads; a stage that runs again writes the same.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.tiles import TileGrid, Window

Array = NDArray[Any]
FASTEST = 1


class MergeStore(Protocol):
    """Where evidence comes from, where objects go to, and where parts are kept; must be picklable for several workers.

    A window is read by any worker; a part and a core are written by one.
    """

    def read_evidence(self, window: Window) -> NDArray[np.uint8]:
        """The evidence_2HW (see postprocess/instances.py) of a window, which may lie across cores."""

    def read_part(self, stage: str, index: int) -> bytes:
        """What a stage wrote for a core."""

    def write_part(self, stage: str, index: int, data: bytes) -> None:
        """Keep what a stage has to say of a core, in place of what it said before."""

    def write_objects(self, index: int, objects_HW: NDArray[np.uint64]) -> None:
        """The final objects of a core: 0 background, objects from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One image whose objects are made core by core.

    largest  pixels: a piece of foreground that lies across cores is divided as a whole, so the box around it must not
             be larger (see MEMORY_PER_PIXEL in divide.py). Not used for plain forms without necks
    """

    store: MergeStore
    grid: TileGrid
    settings: InstanceSettings
    largest: int

    def load(self, stage: str, index: int) -> dict[str, Array]:
        """The arrays that a stage wrote for a core."""
        return unpack_arrays(self.store.read_part(stage, index))

    def save(self, stage: str, index: int, arrays: Mapping[str, Array]) -> None:
        """Keep the arrays of a stage for a core."""
        self.store.write_part(stage, index, pack_arrays(arrays))


def pack_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Named arrays as bytes, compressed; the same arrays give the same bytes."""
    whole = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    return bytes(imagecodecs.zstd_encode(save(whole), level=FASTEST))


def unpack_arrays(data: bytes) -> dict[str, Array]:
    """The arrays that `pack_arrays` packed; nothing in them is ever run.

    >>> unpack_arrays(pack_arrays({"numbers": np.arange(3)}))
    {'numbers': array([0, 1, 2])}
    """
    return load(bytes(imagecodecs.zstd_decode(data)))
