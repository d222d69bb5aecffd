"""The JSON files of a store, so that viewers open it: OME-Zarr 0.5 for each layer that stays, Zarr v3 for each array.

    OUT.zarr            the first map that is no map of labels (the scores), else the first layer, as an image
    OUT.zarr/labels     the names of the layers of labels
    OUT.zarr/labels/X   all sizes of a layer of labels with its colours, over the image

Source: Next-generation file formats (OME-NGFF) version 0.5, sections multiscales and labels; Moore et al.: OME-Zarr: a
cloud-optimized bioimaging file format with international community support. Histochemistry and Cell Biology 2023.
"""

from __future__ import annotations

from typing import Any

from pixelwise.data.store_plan import LABELS, LabelColour, StoreLayer, StorePlan

VERSION = "0.5"
BLACK = (0, 0, 0)


def store_metadata(plan: StorePlan) -> dict[str, dict[str, Any]]:
    """The content of every `zarr.json`, by its path within the store; arrays of the work are among them."""
    kept = plan.kept
    labels = [layer.name.removeprefix(f"{LABELS}/") for layer in kept if layer.is_labels]
    groups: dict[str, dict[str, Any]] = {"": {}}
    for layer in kept:
        parts = layer.name.split("/")
        groups |= {"/".join(parts[:n]): {} for n in range(1, len(parts))}
        groups[layer.name] = layer_attributes(plan, layer)
    if labels:
        groups[LABELS] = {"version": VERSION, LABELS: labels}
    if kept:
        shown = next((layer for layer in kept if not layer.is_labels), kept[0])
        groups[""] = {"version": VERSION, "multiscales": [_multiscale(plan, shown, folder=f"{shown.name}/")]}

    arrays = [plan.array(layer) for layer in plan.layers if layer.work]
    arrays += [plan.array(layer, level) for layer in kept for level in range(plan.levels)]
    files = {f"{name}/zarr.json".lstrip("/"): _group(attributes) for name, attributes in groups.items()}
    return files | {f"{array.path}/zarr.json": array.metadata() for array in arrays}


def layer_attributes(plan: StorePlan, layer: StoreLayer) -> dict[str, Any]:
    """What OME-Zarr says of one layer: its sizes with their scale and, of labels, what the values mean."""
    attributes: dict[str, Any] = {"version": VERSION, "multiscales": [_multiscale(plan, layer)]}
    if layer.is_labels:
        attributes["image-label"] = {"source": {"image": "../" * (layer.name.count("/") + 1)}}
    if layer.colours:
        attributes["image-label"] |= {
            "colors": [{"label-value": c.value, "rgba": _rgba(c)} for c in layer.colours],
            "properties": [{"label-value": c.value, "name": c.name} for c in layer.colours],
        }
    return attributes


def _multiscale(plan: StorePlan, layer: StoreLayer, folder: str = "") -> dict[str, Any]:
    size = plan.pixel_size
    unit = {} if size is None else {"unit": size.unit}
    channel = [] if layer.channels is None else [{"name": "c", "type": "channel"}]
    return {
        "name": layer.name.split("/")[-1],
        "axes": [*channel, *({"name": name, "type": "space"} | unit for name in "yx")],
        "datasets": [
            {"path": f"{folder}{level}", "coordinateTransformations": _transformations(plan, layer, level)}
            for level in range(plan.levels)
        ],
        "type": "nearest" if layer.is_labels else "mean",
    }


def _transformations(plan: StorePlan, layer: StoreLayer, level: int) -> list[dict[str, Any]]:
    """From pixels of one size to the world, by the centres of pixels: a mean lies between those that it is of."""
    size, step = plan.pixel_size, 2**level
    sides = (1.0, 1.0) if size is None else (size.height, size.width)
    front = [] if layer.channels is None else [1.0]
    scale = {"type": "scale", "scale": [*front, *(side * step for side in sides)]}
    if layer.is_labels or not level:
        return [scale]
    shift = [0.0 for _ in front] + [side * (step - 1) / 2 for side in sides]
    return [scale, {"type": "translation", "translation": shift}]


def _rgba(colour: LabelColour) -> list[int]:
    """Black, the colour of a background, shows the image below."""
    return [*colour.colour, 0 if colour.colour == BLACK else 255]


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes} if attributes else {}}
