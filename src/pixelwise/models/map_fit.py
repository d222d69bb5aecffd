"""How the maps of a network lie on its image: measured by running it, so that it takes every size of image.

Over an image of H x W, map i of stride s_i should have ceil(H / s_i) x ceil(W / s_i) cells, each over its own s_i x s_i
pixels. What a network does instead is told by the numbers of cells at a few sizes:

    convolutions that keep the size     nothing to do: the image is taken as it is (ResNet, EfficientNet)
    sizes must be whole multiples       zeros continue the image below and to the right (VGG, DenseNet, ConvNeXt, Swin)
    convolutions without padding        zeros all around give back the border that they lose, and each map is cut where
                                        its cells lie over their own pixels again (Inception)

Zeros, because that is what padded convolutions see beyond the border of an image.

B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.errors import UsageError

Shapes = list[tuple[int, ...]]
Run = Callable[[int, int], Shapes]

SAMPLE = 128  # pixels; large enough for a cell of the deepest map of every network
WINDOWS = (*range(2, 9), 12, 16)  # cells of the deepest map that a window of attention may need at once
LARGEST_UNIT = 512  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFit:
    """What makes a network take every size of image, and where its maps then are.

    strides  pixels of the image per cell of each map
    axes     the axis of each map that holds its channels: 1, or 3 for (B, H, W, C)
    unit     heights and widths are continued to whole multiples of it, pixels
    before   zeros above and to the left, pixels
    after    zeros below and to the right, pixels
    skipped  cells of each map above and to the left of the image
    """

    strides: tuple[int, ...]
    axes: tuple[int, ...]
    unit: int = 1
    before: int = 0
    after: int = 0
    skipped: tuple[int, ...]

    def pad(self, image_BCHW: Tensor) -> Tensor:
        """The image continued by zeros to a size that the network takes."""
        if self.takes_every_size:
            return image_BCHW
        below, right = (-length % self.unit + self.after for length in image_BCHW.shape[-2:])
        return F.pad(image_BCHW, (self.before, right, self.before, below))

    def cut(self, maps: Sequence[Tensor], size: torch.Size | tuple[int, int]) -> list[Tensor]:
        """The part of each map that lies over an image of `size` (height, width), as (B, C, H, W)."""
        moved = [feature.movedim(axis, 1) for feature, axis in zip(maps, self.axes, strict=True)]
        if self.takes_every_size:
            return moved
        cut = []
        for feature, stride, skipped in zip(moved, self.strides, self.skipped, strict=True):
            rows, columns = (slice(skipped, skipped + _rounded_up(length, stride)) for length in size)
            cut.append(feature[..., rows, columns])
        return cut

    @property
    def takes_every_size(self) -> bool:
        """Whether the network does all this of its own accord."""
        return self.unit == 1 and not any((self.before, self.after, *self.skipped))


def fit_maps(run: Run, channels: Sequence[int], strides: Sequence[int]) -> MapFit:
    """The fit of a network that `run(height, width)` runs, giving the shapes of its maps.

    Raises UsageError for a network that takes no other sizes than its own, or whose maps are not at these strides.

    >>> fit = fit_maps(lambda height, width: [(1, 8, height // 2, width // 2)], [8], [2])  # pools without rounding up
    >>> fit.unit, fit.pad(torch.zeros(1, 3, 5, 4)).shape
    (2, torch.Size([1, 3, 6, 4]))
    """
    # Whole multiples of the unit must work; the network is asked with a height and a width one unit apart.
    unit, axes, cells = _unit(run, channels, strides)

    # Half of the cells that a map lacks are given back on each side, by margins of whole units.
    lacking = [_sample(unit) // stride - count for stride, count in zip(strides, cells, strict=True)]
    before = _margin([lack // 2 for lack in lacking], strides, unit)
    after = _margin([lack - lack // 2 for lack in lacking], strides, unit)
    skipped = tuple(before // stride - lack // 2 for lack, stride in zip(lacking, strides, strict=True))

    fit = MapFit(strides=tuple(strides), axes=axes, unit=unit, before=before, after=after, skipped=skipped)
    if not any(lacking) and _rounds_up_itself(run, fit):
        return replace(fit, unit=1)
    _check_smallest(run, unit + before + after)
    return fit


def _unit(run: Run, channels: Sequence[int], strides: Sequence[int]) -> tuple[int, tuple[int, ...], list[int]]:
    """The smallest multiple of the common stride of which the network takes all multiples.

    With it the axis of each map that holds its channels, and its rows at the sample's height.
    """
    common = math.lcm(*strides)
    for unit in [common, *(common * window for window in WINDOWS if common * window <= LARGEST_UNIT)]:
        try:
            shapes = run(_sample(unit), _sample(unit) + unit)
            axes = tuple(_channel_axis(*given, unit) for given in zip(shapes, channels, strides, strict=True))
        except Exception as error:  # networks refuse sizes with errors of every kind
            reason = error
        else:
            return unit, axes, [shape[_row_axis(axis)] for shape, axis in zip(shapes, axes, strict=True)]
    raise UsageError(f"it does not take images of every size ({first_line(reason)})") from reason


def _sample(unit: int) -> int:
    return _rounded_up(SAMPLE, unit) * unit


def _channel_axis(shape: tuple[int, ...], channels: int, stride: int, unit: int) -> int:
    """Where a map has its channels; the image was one unit wider than high."""
    for axis in (1, 3):
        rows = _row_axis(axis)
        if len(shape) == 4 and shape[axis] == channels and (shape[rows + 1] - shape[rows]) * stride == unit:
            return axis
    raise UsageError(f"it gives a map of shape {shape} where {channels} channels at stride {stride} were expected")


def _row_axis(channel_axis: int) -> int:
    """The axis of the rows; that of the columns follows it."""
    return 2 if channel_axis == 1 else 1


def _rounds_up_itself(run: Run, fit: MapFit) -> bool:
    """Whether the network gives ceil(H / s) cells of its own accord, down to a single pixel."""
    for size in ((1, 1), (SAMPLE + 1, SAMPLE + max(fit.strides) - 1)):
        try:
            shapes = run(*size)
        except Exception:  # as above
            return False
        for shape, stride, axis in zip(shapes, fit.strides, fit.axes, strict=True):
            rows = _row_axis(axis)
            if shape[rows : rows + 2] != tuple(_rounded_up(side, stride) for side in size):
                return False
    return True


def _check_smallest(run: Run, length: int) -> None:
    try:
        run(length, length)
    except Exception as error:  # as above
        raise UsageError(f"it does not take small images ({first_line(error)})") from error


def _margin(cells: Sequence[int], strides: Sequence[int], unit: int) -> int:
    """Whole units that hold so many cells of each map."""
    longest = max(count * stride for count, stride in zip(cells, strides, strict=True))
    return max(0, _rounded_up(longest, unit) * unit)


def _rounded_up(length: int, stride: int) -> int:
    """How many strides cover a length; for sizes known only when an exported network runs, too."""
    return -(-length // stride)


def first_line(error: Exception) -> str:
    """What an error of another library says, in short."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
