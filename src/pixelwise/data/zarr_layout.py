"""What is in a Zarr folder: arrays and groups of versions 2 and 3, OME-Zarr images, and which axis is what.

Zarr specifications v2 and v3; OME-NGFF 0.1 to 0.5 (Moore et al.: OME-NGFF: a next-generation file format for expanding
bioimaging data-access strategies. Nature Methods 2021). Only JSON is read here, and only within the folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pixelwise.data.images import DECODER_ERRORS
from pixelwise.data.large_source import check_level
from pixelwise.data.pixel_size import PixelSize, both, micrometres
from pixelwise.data.stored import refusal
from pixelwise.errors import ImageFileError, printable

LONGEST_JSON = 2**26
MOST_CHANNELS = 16
"""The most channels that an axis without a name is taken for."""
OLDEST_AXES = ("t", "c", "z", "y", "x")
CHANNEL_NAMES = ("c", "channel", "channels", "band", "bands")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrNode:
    """An array or a group: its folder, its version (2 or 3), its metadata (none of a v2 group) and its attributes."""

    folder: Path
    version: int
    is_array: bool
    metadata: Json = field(repr=False)
    attributes: Json = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an array."""
        return tuple(int(side) for side in self.metadata["shape"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrImage:
    """An array that holds one image.

    rows, columns     numbers of its axes
    channel           the number of the axis of channels, or None
    index             for every axis: the index to take where it is none of these
    levels            height and width of each level, full size first
    """

    array: ZarrNode
    rows: int
    columns: int
    channel: int | None
    index: tuple[int, ...]
    levels: tuple[tuple[int, int], ...]
    pixel_size: PixelSize | None = None


def find_image(folder: Path, level: int, page: int | None) -> ZarrImage:
    """The image in a folder, at one level of its pyramid; `page` is one of the planes of other axes.

    Raises ImageFileError where there is none or several, or it is not clear which axis is what.
    """
    node = read_node(folder)
    if node.is_array:
        return _image([node], _axes(node), level, page)
    multiscales = _multiscales(node)
    datasets = multiscales["datasets"]
    arrays = [read_node(_inside(node.folder, dataset["path"])) for dataset in datasets]
    axes, units = _ome_axes(multiscales)
    image = _image(arrays, axes, level, page)
    return replace(image, pixel_size=_pixel_size(axes, units, [datasets[level], multiscales]))


def read_node(folder: Path) -> ZarrNode:
    """The metadata of an array or group; raises ImageFileError where the folder holds none."""
    try:
        if (folder / "zarr.json").is_file():
            found = _json(folder / "zarr.json")
            is_array = {"array": True, "group": False}[found["node_type"]]
            return ZarrNode(
                folder=folder, version=3, is_array=is_array, metadata=found, attributes=found.get("attributes", {})
            )
        for name in (".zarray", ".zgroup"):
            if (folder / name).is_file():
                others = _json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
                metadata = _json(folder / name)
                return ZarrNode(
                    folder=folder, version=2, is_array=name == ".zarray", metadata=metadata, attributes=others
                )
    except ImageFileError:
        raise
    except DECODER_ERRORS as error:
        found_text = f"damaged Zarr metadata ({str(error).strip() or type(error).__name__})"
        raise refusal(folder, found=found_text, rule="metadata that can be read", fix="copy it again") from error
    rule = "a picture file, or the folder of a Zarr array or group (with zarr.json, .zarray or .zgroup)"
    raise refusal(folder, found="a folder that is no Zarr", rule=rule, fix="give the path of an image")


def _json(path: Path) -> Json:
    if path.stat().st_size > LONGEST_JSON:
        raise ValueError(f"{path.name} has more than {LONGEST_JSON} bytes")
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return found


def _inside(folder: Path, name: str) -> Path:
    """A part of a group, which may not lie outside of it."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise ValueError(f"a path {name!r} that leaves the folder")
    return folder.joinpath(*parts)


def _multiscales(group: ZarrNode) -> Json:
    """The description of the pyramid of an OME-Zarr image."""
    found = group.attributes.get("ome", group.attributes).get("multiscales", [])
    if len(found) == 1 and found[0]["datasets"]:
        multiscales: Json = found[0]
        return multiscales
    inside = sorted(child.name for child in group.folder.iterdir() if _is_node(child))
    names = ", ".join(printable(name) for name in inside[:10]) or "nothing"
    kind = f"a Zarr group of {len(found)} OME images" if found else "a Zarr group that is no OME-Zarr image"
    fix = "give the path of one image or array within it"
    raise refusal(group.folder, found=f"{kind}, with {names} in it", rule="one image", fix=fix)


def _is_node(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def _ome_axes(multiscales: Json) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Names and units of the axes: objects since OME-NGFF 0.4, names in 0.3, always five of them before."""
    axes = multiscales.get("axes", OLDEST_AXES)
    named = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]
    names = tuple("c" if axis.get("type") == "channel" else str(axis["name"]).lower() for axis in named)
    return names, tuple(axis.get("unit") for axis in named)


def _pixel_size(axes: Sequence[str], units: Sequence[str | None], described: Sequence[Json]) -> PixelSize | None:
    """From the scales of the level and of the whole pyramid."""
    sides: list[float | None] = []
    for axis in ("y", "x"):
        at = axes.index(axis) if axis in axes else 0
        transforms = [transform for part in described for transform in part.get("coordinateTransformations", [])]
        scales = [transform["scale"][at] for transform in transforms if transform.get("type") == "scale"]
        sides.append(micrometres(math.prod(map(float, scales)), units[at]) if scales else None)
    return both(*sides)


def _axes(array: ZarrNode) -> tuple[str, ...]:
    """The names of the axes of a plain array: as it tells them, else by their lengths."""
    named = array.metadata.get("dimension_names") or array.attributes.get("_ARRAY_DIMENSIONS") or ()
    names = tuple("c" if str(name).lower() in CHANNEL_NAMES else str(name).lower() for name in named)
    if len(names) == len(array.shape) and {"y", "x"} <= set(names):
        return names
    shape = array.shape
    leading = next((i for i, side in enumerate(shape[:-3]) if side != 1), max(0, len(shape) - 3))
    return (*("other",) * leading, *_unnamed_axes(array.folder, shape[leading:]))


def _unnamed_axes(folder: Path, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Rows and columns, and channels where there are three axes: the first or the last, the one of few values."""
    if len(shape) == 2:
        return "y", "x"
    if len(shape) == 3 and shape[0] != shape[2] and min(shape[0], shape[2]) <= MOST_CHANNELS:
        return ("c", "y", "x") if shape[0] < shape[2] else ("y", "x", "c")
    rule = f"rows and columns, with channels first or last (at most {MOST_CHANNELS}), or axes with names"
    fix = "name the axes c, y and x (dimension_names in zarr.json), or save it as OME-Zarr"
    raise refusal(folder, found=f"an array of {' x '.join(map(str, shape))} without names of axes", rule=rule, fix=fix)


def _image(arrays: Sequence[ZarrNode], axes: tuple[str, ...], level: int, page: int | None) -> ZarrImage:
    """One level of an image whose levels are `arrays`."""
    folder = arrays[0].folder
    for array in arrays:
        if len(array.shape) != len(axes) or any(axes.count(name) != 1 for name in "yx") or axes.count("c") > 1:
            found = f"axes {', '.join(map(printable, axes))} of an array of {len(array.shape)} dimensions"
            raise refusal(folder, found=found, rule="one y, one x, at most one c", fix="name the axes anew")
        if 0 in array.shape:
            found = f"an array of {' x '.join(map(str, array.shape))}"
            raise refusal(folder, found=found, rule="at least one pixel", fix="save the image again")
    rows, columns = axes.index("y"), axes.index("x")
    levels = tuple((array.shape[rows], array.shape[columns]) for array in arrays)
    check_level(folder, level, levels)
    return ZarrImage(
        array=arrays[level],
        rows=rows,
        columns=columns,
        channel=axes.index("c") if "c" in axes else None,
        index=_index(arrays[level], axes, page),
        levels=levels,
    )


def _index(array: ZarrNode, axes: tuple[str, ...], page: int | None) -> tuple[int, ...]:
    """The plane of all axes but rows, columns and channels; raises ImageFileError where there are several."""
    sides = tuple(1 if name in ("y", "x", "c") else side for name, side in zip(axes, array.shape, strict=True))
    planes = math.prod(sides)
    if page is None and planes > 1:
        long = ", ".join(f"{printable(name)}: {side}" for name, side in zip(axes, sides, strict=True) if side > 1)
        fix = f"choose one page, 0 to {planes - 1}, or save each plane as an image of its own"
        raise refusal(array.folder, found=f"{planes} planes ({long})", rule="one flat image", fix=fix)
    if page is not None and not 0 <= page < planes:
        rule = f"pages 0 to {planes - 1}"
        raise refusal(array.folder, found=f"no page {page}", rule=rule, fix="choose one of these pages")
    rest, index = page or 0, []
    for side in reversed(sides):
        rest, here = divmod(rest, side)
        index.append(here)
    return tuple(reversed(index))
