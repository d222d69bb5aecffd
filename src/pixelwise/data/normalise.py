"""Grey values on a scale that networks like: each channel minus its mean, divided by its standard deviation.

Both numbers are measured once, over all training images, and travel with the model. Every image that the model ever
sees passes through `Normalisation.apply`.

H rows, W columns, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError, UsageError

LEAST_STD, LARGEST = 1e-30, 1e30
ROUNDING = 1e-12
BLOCK_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of each channel, in raw grey values.

    Raises UsageError unless both are of one length of at least 1, all numbers are finite (up to 1e30) and every
    standard deviation is above 0 (at least 1e-30, so that float32 can divide by it).

    >>> Normalisation(mean=(100.0,), std=(20.0,)).apply(np.full((1, 2, 1), 140, np.uint8)).ravel()
    array([2., 2.], dtype=float32)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise UsageError(f"{len(self.mean)} means and {len(self.std)} deviations: give one of each per channel")
        if not all(abs(value) <= LARGEST for value in (*self.mean, *self.std)):
            raise UsageError(f"mean {self.mean}, std {self.std}: every number must be finite, and at most {LARGEST:g}")
        if min(self.std) < LEAST_STD:
            raise UsageError(f"std {self.std}: every standard deviation must be above 0, at least {LEAST_STD:g}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalisation:
        """The normalisation that `to_dict` wrote; raises UsageError on anything else."""
        try:
            mean, std = ([number + 0.0 for number in values[key]] for key in ("mean", "std"))
        except (KeyError, TypeError, OverflowError) as error:
            raise UsageError(f"not the description of a normalisation: {error}; it holds lists mean and std") from error
        return cls(tuple(mean), tuple(std))

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {key: list(numbers) for key, numbers in asdict(self).items()}

    @property
    def channels(self) -> int:
        """How many channels an image must have."""
        return len(self.mean)

    def adjusted(self, *, gain: float, shift: float) -> Normalisation:
        """The normalisation after which values are `gain` times as far from 0 and `shift` higher.

        So brightness (shift) and contrast (gain) cost nothing: they are other numbers in the same multiply-add.
        """
        std = tuple(deviation / gain for deviation in self.std)
        mean = tuple(centre - shift * deviation for centre, deviation in zip(self.mean, std, strict=True))
        return replace(self, mean=mean, std=std)

    def apply(self, image_HWC: NDArray[Any]) -> NDArray[np.float32]:
        """The image in float32: (image - mean) / std.

        Types that float32 cannot hold (32-bit integers, float64) lose digits only after the mean is subtracted.
        Raises DataError where the image has another number of channels.
        """
        self._check_channels(image_HWC)
        height, width, channels = image_HWC.shape
        rows = image_HWC.reshape(height, width * channels)
        exact = np.float32 if np.can_cast(rows.dtype, np.float32) else np.float64
        centred: NDArray[Any] = np.subtract(rows, np.tile(np.asarray(self.mean, exact), width), dtype=exact)
        centred *= np.tile((1 / np.asarray(self.std)).astype(exact), width)
        return centred.astype(np.float32, copy=False).reshape(image_HWC.shape)

    def _check_channels(self, image_HWC: NDArray[Any]) -> None:
        if image_HWC.ndim != 3:
            raise DataError(f"an image has rows, columns and channels; this array has the shape {image_HWC.shape}")
        if image_HWC.shape[2] != self.channels:
            raise DataError(
                f"the model takes {_count(self.channels)}, the image has {image_HWC.shape[2]}; "
                "give images like those that the model was trained on"
            )


def measure(images: Iterable[NDArray[Any]]) -> Normalisation:
    """Mean and standard deviation of each channel over all pixels of all images (H, W, C), in one pass.

    Deviations from each block's own mean are added up in float64 and merged (Chan, Golub and LeVeque 1983), so large
    offsets cost no digits and the order of the images none beyond rounding. A channel that is constant (its deviation
    is below 1e-12 of its mean) gets the standard deviation 1: its values become 0, never NaN.
    Raises DataError for no images, no pixels, unequal numbers of channels, and values that are not finite.

    >>> measure([np.array([[[0], [2]]]), np.array([[[4]]])])
    Normalisation(mean=(2.0,), std=(1.632993161855452,))
    """
    count, mean, squares = 0, np.zeros(0), np.zeros(0)
    for values in _blocks(images):
        if count and values.shape[1] != mean.size:
            raise DataError(
                f"one image has {_count(mean.size)}, another has {values.shape[1]}; all training images need the same"
            )
        block_mean = values.mean(axis=0)
        block_squares = np.square(values - block_mean).sum(axis=0)
        if not count:
            mean, squares = np.zeros_like(block_mean), np.zeros_like(block_mean)
        total = count + len(values)
        step = block_mean - mean
        mean = mean + step * (len(values) / total)
        squares = squares + block_squares + step**2 * (count * (len(values) / total))
        count = total
    if not count:
        raise DataError("there are no pixels to measure the normalisation from; give at least one image")
    return _from_moments(mean, np.sqrt(squares / count))


def _blocks(images: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float64]]:
    """Pixels by channels, in float64, of a few million values at a time."""
    for image_HWC in images:
        if image_HWC.ndim != 3:
            raise DataError(f"an image has rows, columns and channels; this array has the shape {image_HWC.shape}")
        pixels = image_HWC.reshape(-1, image_HWC.shape[2])
        length = max(1, BLOCK_VALUES // max(1, pixels.shape[1]))
        for start in range(0, len(pixels), length):
            yield pixels[start : start + length].astype(np.float64)


def _from_moments(mean: NDArray[np.float64], std: NDArray[np.float64]) -> Normalisation:
    if not math.isfinite(float(np.sum(np.abs(mean)) + np.sum(std))):
        raise DataError("the images hold values that are not finite (NaN or infinity); replace them before training")
    constant = std <= np.maximum(ROUNDING * np.abs(mean), LEAST_STD)
    return Normalisation(_floats(mean), _floats(np.where(constant, 1.0, std)))


def _floats(values: NDArray[np.float64] | Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _count(channels: int) -> str:
    return f"{channels} channel" if channels == 1 else f"{channels} channels"
