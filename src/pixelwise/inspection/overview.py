"""All that can be said of a network without its weights: layers, cost, receptive fields, up-sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pixelwise.inference.receptive_field import ReceptiveField, receptive_fields
from pixelwise.inspection.checkerboard import Checkerboard, checkerboard, upsampling_layers
from pixelwise.inspection.summary import Layer, Summary, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A network, inspected.

    stride         its total stride
    field          what one of its outputs can see; None: the whole image
    fields         the same for an output in the middle of each layer that gives a map
    checkerboards  of its transposed convolutions, by name
    """

    summary: Summary
    stride: int
    field: ReceptiveField | None
    fields: Mapping[str, ReceptiveField | None]
    checkerboards: Mapping[str, Checkerboard]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a receptive field is null where it is the whole image, and absent where there is no map."""
        values = self.summary.to_dict()
        for layer in values["layers"]:
            if layer["source"] in self.fields:
                layer["receptive_field"] = _field_dict(self.fields[layer["source"]])
        return {
            **values,
            "stride": self.stride,
            "receptive_field": _field_dict(self.field),
            "checkerboards": {name: board.to_dict() for name, board in self.checkerboards.items()},
        }


def look_at(network: nn.Module, in_channels: int, size: tuple[int, int], *, stride: int) -> Overview:
    """Inspect a network of the meta device, for images of `size` (rows, columns); it must take images of every size.

    >>> import torch
    >>> with torch.device("meta"):
    ...     network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    >>> look_at(network, 1, (64, 64), stride=1).field
    ReceptiveField(rows=(5, 5), columns=(5, 5), reach=2, margin=2)
    """
    summary = summarise(network, in_channels, size)
    places = {"": stride} | dict.fromkeys(sorted({layer.source for layer in summary.layers if layer.source}), 1)
    fields = receptive_fields(network, in_channels, places, stride=stride)
    return Overview(
        summary=summary,
        stride=stride,
        field=fields.pop(""),
        fields=fields,
        checkerboards={
            name: checkerboard(layer, layer.in_channels) for name, layer in upsampling_layers(network).items()
        },
    )


def sees(overview: Overview, layer: Layer) -> str:
    """What an output of a layer can see, in a word: pixels, "all" for the whole image, "–" where it is no map."""
    if layer.source not in overview.fields:
        return "–"
    return str(overview.fields[layer.source] or "all")


def _field_dict(field: ReceptiveField | None) -> dict[str, Any] | None:
    return None if field is None else field.to_dict()
