"""Labels of any size as one TIFF: tiled, compressed, with its colours, its place in the world and all smaller sizes.

Read from the store piece by piece and written as it comes, so memory does not grow with the image. Source: TIFF
Revision 6.0, with the extensions for tiles, SubIFDs (TIFF Technical Note 1) and BigTIFF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from pixelwise.data.pictures import require_suffix
from pixelwise.data.store_plan import PixelSize, StoreLayer
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import UsageError
from pixelwise.files import write_atomically
from pixelwise.tiles import TileGrid

TiffTag = tuple[int, int, int, Any]
SIDE_STEP, USUAL_SIDE = 16, 512
NO_DATA = 42113  # GDAL's tag: the value that is no class
ASCII = 2
LARGEST_CLASSIC = 2**32 - 2**25
CENTIMETRES = {"nanometer": 1e-7, "micrometer": 1e-4, "millimeter": 0.1, "centimeter": 1.0, "meter": 100.0}


def write_label_tiff(
    path: Path, store: TileStore, layer: str, *, largest: int | None = None, tags: Sequence[TiffTag] = ()
) -> None:
    """Write a finished layer of labels, with the sizes of its pyramid as SubIFDs, completely or not at all.

    largest  the highest label, the number of objects; None: it is looked for, in a pass over the layer
    tags     (code, data type, number of values, value) of the full size, such as those of GeoTIFF

    Labels of 8 bits are stored as they are, with their colours (white where there is none); others in 16 bits, or in
    32, which is the most that programs read. Raises UsageError for more labels than that and for layers that are no
    labels, DataError where tiles are not finished, and OutputError where the system refuses.
    """
    require_suffix(path, ".tif", ".tiff")
    planned = store.plan.layer(layer)
    dtype = _stored_type(store, planned, largest)
    look = _colours(planned) if dtype == np.uint8 else {"photometric": "minisblack"}
    own = [(NO_DATA, ASCII, 0, str(planned.fill))] if dtype == np.uint8 else []
    extra = [(*tag, True) for tag in [*tags, *own]]

    def write(temporary: Path) -> None:
        with tifffile.TiffWriter(temporary, bigtiff=_full_size(store, dtype) > LARGEST_CLASSIC) as file:
            for level in range(store.plan.levels):
                file.write(
                    _tiles(store, layer, level, dtype),
                    shape=store.plan.level_grid(level).shape,
                    dtype=dtype,
                    tile=(_side(store), _side(store)),
                    subfiletype=int(level > 0),
                    subifds=None if level else store.plan.levels - 1,
                    extratags=() if level else extra,
                    compression="adobe_deflate",
                    metadata=None,
                    software="pixelwise",
                    maxworkers=1,
                    **look,
                    **_resolution(store.plan.pixel_size, level),
                )

    write_atomically(path, write)


def _tiles(store: TileStore, layer: str, level: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The tiles of one size as TIFF has them: row by row, all of one side, with 0 beyond the edge."""
    side = _side(store)
    grid = TileGrid(store.plan.level_grid(level).shape, side)
    for index in range(len(grid)):
        labels_HW = store.read(layer, grid.window(index), level=level)
        if labels_HW.max() > np.iinfo(dtype).max:
            raise UsageError(f"layer {layer} holds {labels_HW.max()}, more than the largest label that was announced")
        tile_HW = np.zeros((side, side), dtype)
        tile_HW[: labels_HW.shape[0], : labels_HW.shape[1]] = labels_HW
        yield tile_HW


def _stored_type(store: TileStore, layer: StoreLayer, largest: int | None) -> np.dtype[Any]:
    if not layer.is_labels or layer.channels is not None or np.dtype(layer.dtype).kind != "u":
        raise UsageError(f"layer {layer.name} is no flat map of labels; write one under labels/ as TIFF")
    if layer.dtype == "uint8":
        return np.dtype("uint8")
    if largest is None:
        grid = TileGrid(store.plan.grid.shape, _side(store))
        largest = max(int(store.read(layer.name, grid.window(index)).max()) for index in range(len(grid)))
    for dtype in (np.dtype("uint16"), np.dtype("uint32")):
        if largest <= np.iinfo(dtype).max:
            return dtype
    raise UsageError(
        f"{largest} labels do not fit into the 32 bits of a TIFF that programs read; use {store.folder.name} itself"
    )


def _colours(layer: StoreLayer) -> dict[str, Any]:
    """A palette of 256 colours in 16 bits, (3, 256)."""
    colormap = np.full((3, 256), 65535, np.uint16)
    for one in layer.colours:
        colormap[:, one.value] = np.array(one.colour, np.uint16) * 257
    return {"photometric": "palette", "colormap": colormap}


def _resolution(size: PixelSize | None, level: int) -> dict[str, Any]:
    """Pixels per centimetre, where the unit is a length."""
    if size is None or size.unit not in CENTIMETRES:
        return {}
    width, height = (side * CENTIMETRES[size.unit] * 2**level for side in (size.width, size.height))
    return {"resolution": (1 / width, 1 / height), "resolutionunit": "CENTIMETER"}


def _full_size(store: TileStore, dtype: np.dtype[Any]) -> int:
    """Bytes of all sizes before they are compressed."""
    side = _side(store)
    tiles = sum(len(TileGrid(store.plan.level_grid(level).shape, side)) for level in range(store.plan.levels))
    return tiles * side**2 * dtype.itemsize


def _side(store: TileStore) -> int:
    """Side of a tile of the TIFF: a chunk of the store, so that each is read once, where TIFF allows it."""
    return USUAL_SIDE if store.plan.chunk % SIDE_STEP else store.plan.chunk
