"""Checkerboards: up-sampling that gives some places of a map more contributions than their neighbours.

A transposed convolution whose kernel is not a multiple of its stride overlaps itself unevenly, and draws that pattern
into everything it makes: Odena, Dumoulin, Olah, "Deconvolution and Checkerboard Artifacts", Distill 2016. Feeding ones
through unit weights counts the contributions of every place. B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pixelwise.inference.dependence import dependent_outputs, unit_kernel

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkerboard:
    """How often each place of a map is contributed to, `overlaps_HW`, per input channel."""

    overlaps_HW: NDArray[np.float64]

    @property
    def inside(self) -> NDArray[np.float64]:
        """The middle half of the map, away from its border."""
        height, width = self.overlaps_HW.shape
        return self.overlaps_HW[height // 4 : height - height // 4, width // 4 : width - width // 4]

    @property
    def counts(self) -> list[float]:
        """The different counts inside, from small to large."""
        return [float(count) for count in np.unique(self.inside.round(9))]

    @property
    def score(self) -> float:
        """Spread of the counts inside, (largest - smallest) / largest: 0 is even, 1 leaves holes."""
        largest, smallest = float(self.inside.max()), float(self.inside.min())
        spread = (largest - smallest) / largest if largest else 0.0
        return spread if spread > ROUNDING else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"score": self.score, "counts": self.counts}


def checkerboard(module: nn.Module, in_channels: int, *, size: int = 16) -> Checkerboard:
    """The overlap counts of an up-sampling layer, of several in a row, or of any other module.

    A map of ones of `size` rows and columns goes through it with all weights 1; `size` should be large enough for the
    border not to reach its inside. The module may lie on the meta device, and is left as it was.

    >>> checkerboard(nn.ConvTranspose2d(8, 4, 3, stride=2), 8).counts
    [1.0, 2.0, 4.0]
    >>> checkerboard(nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1), 8).score
    0.0
    """
    ones = torch.ones(1, in_channels, size, size, dtype=torch.float64, device="cpu", requires_grad=True)
    output = dependent_outputs(module, ones, kernel=unit_kernel)[""]
    return Checkerboard(overlaps_HW=output.detach().mean((0, 1)).numpy())


def upsampling_layers(network: nn.Module) -> dict[str, nn.ConvTranspose2d]:
    """The layers of a network that can overlap unevenly, by their names: its transposed convolutions with a stride.

    >>> list(upsampling_layers(nn.Sequential(nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 2, stride=2))))
    ['1']
    """
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.ConvTranspose2d) and max(layer.stride) > 1
    }
