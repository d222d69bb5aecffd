"""Random changes of a training image and its mask, in one resampling.

Mirror image, quarter turn, rotation, scale, shear, elastic deformation and the crop itself are one map: for each pixel
of the crop, the point of the image that it shows. So an image is interpolated once, not once per operation, and a crop
of a large image costs its own pixels only. Brightness, contrast and normalisation are one multiply-add.

The map is a sum of five products of a function of the row and a function of the column (three for the elastic
deformation, which is separable, and two for the linear part), that is, a matrix product of rank five:

    source(r, c) = centre + L (r, c) + E(r, c)

H rows, W columns, C channels. Points are (row, column), in pixels; the offset of a crop's pixel is its distance from
the middle of the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pixelwise.config import AugmentConfig
from pixelwise.data.crops import Place
from pixelwise.data.normalise import Normalisation
from pixelwise.errors import UsageError
from pixelwise.task import VOID

GRID = 3
RARELY = 0.25
CUBIC_REACH = 1.25**2
CHANNELS_AT_ONCE = 4
LARGEST_MASK_VALUE = 2**24
TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])
MIRROR = np.array([[1.0, 0.0], [0.0, -1.0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How an image and its mask become a training sample.

    settings       how strong the random changes are
    crop           height and width of a sample, pixels
    normalisation  of the grey values
    void           the mask value for what lies outside the image: the task's ignore index. Where a task has none, use
                   255, which is never a class, and train with 255 ignored: what was never seen must count nowhere
    """

    settings: AugmentConfig
    crop: tuple[int, int]
    normalisation: Normalisation
    void: int = VOID

    def __post_init__(self) -> None:
        if min(self.crop) < 1:
            raise UsageError(f"a crop of {self.crop[0]}x{self.crop[1]} pixels: both sides must be at least 1")
        if abs(self.void) > LARGEST_MASK_VALUE:
            raise UsageError(
                f"void value {self.void}: choose one between -{LARGEST_MASK_VALUE} and {LARGEST_MASK_VALUE}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """Everything random about one sample, but for its place.

    turns        quarter turns against the clock, before the mirroring
    mirrored     left and right are exchanged
    deformation  matrix (2, 2) from offsets in the turned, mirrored crop to offsets in the image: rotate, shear, scale
    grid         displacements in pixels, (2, 3, 3): of rows and of columns, at the crop's corners, edges and middle
    gain, shift  factor and addition to the normalised grey values
    noise, blur  standard deviations, of the normalised grey values and in pixels; 0: none
    noise_seed   what the noise is drawn from
    """

    turns: int = 0
    mirrored: bool = False
    deformation: NDArray[np.float64]
    grid: NDArray[np.float64]
    gain: float = 1.0
    shift: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    noise_seed: int = 0

    def box(self, crop: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the part of the image that becomes a crop: exchanged by an odd quarter turn."""
        return crop if self.turns % 2 == 0 else (crop[1], crop[0])

    @property
    def orientation(self) -> NDArray[np.float64]:
        """The turning and mirroring: an orthogonal matrix (2, 2) from offsets in the crop to offsets in the image."""
        turned = np.linalg.matrix_power(TURN, self.turns)
        return turned @ MIRROR if self.mirrored else turned

    @property
    def linear(self) -> NDArray[np.float64]:
        """L of the map."""
        return self.deformation @ self.orientation


def draw_change(rng: np.random.Generator, settings: AugmentConfig) -> Change:
    """A random change; each kind is drawn always, so switching one off does not alter the others.

    `settings.turn` left open means no turning. Noise and blur touch one image in four.
    """
    mirrored, turns = rng.random() < 0.5, int(rng.integers(4))
    angle, shear = np.radians(rng.uniform(-1, 1, 2) * (settings.rotate, settings.shear))
    size, gain = np.power((1 + settings.scale, 1 + settings.contrast), rng.uniform(-1, 1, 2))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    noise, blur = rng.uniform(0, 1, 2) * (settings.noise, settings.blur) * (rng.random(2) < RARELY)
    return Change(
        turns=turns if settings.turn else 0,
        mirrored=bool(settings.flip and mirrored),
        deformation=rotation @ np.array([[1.0, 0.0], [np.tan(shear), 1.0]]) / size,
        grid=rng.standard_normal((2, GRID, GRID)) * settings.elastic,
        gain=float(gain),
        shift=float(rng.uniform(-1, 1) * settings.brightness),
        noise=float(noise),
        blur=float(blur),
        noise_seed=int(rng.integers(2**63)),
    )


def augment(
    image_HWC: NDArray[Any], mask_HW: NDArray[Any], *, change: Change, place: Place, preparation: Preparation
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One training sample: the crop of the image, changed and normalised, and the crop of its mask.

    Outside the image the image is mirrored at its edge pixels, as often as needed, and the mask is void. Masks take the
    nearest pixel, so no value arises that was not there. Values of masks are exact up to 2**24.
    Raises DataError where the image has another number of channels than the normalisation.
    """
    part, source = _part(mask_HW.shape, change=change, place=place, crop=preparation.crop)

    # Grey values first, on the part of the image that is needed, then one interpolation of each
    adjusted = preparation.normalisation.adjusted(gain=change.gain, shift=change.shift)
    image = _warp_image(adjusted.apply(image_HWC[part]), source)
    mask = _warp_mask(mask_HW[part], source, preparation.void)

    # What a camera adds
    if change.blur:
        image = _blur(image, change.blur)
    if change.noise:
        image += change.noise * _normal_numbers(image.shape, change.noise_seed)
    return image, mask


def warp_weight(
    weight_HW: NDArray[np.float32], *, change: Change, place: Place, preparation: Preparation
) -> NDArray[np.float32]:
    """The crop that `augment` makes of an image and its mask, of a weight for each pixel: interpolated, 0 outside."""
    part, source = _part(weight_HW.shape, change=change, place=place, crop=preparation.crop)
    warped = cv2.remap(
        weight_HW[part], source[1], source[0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0.0
    )
    return warped.astype(np.float32, copy=False)


def source_map(change: Change, crop: tuple[int, int], *, centre: tuple[float, float]) -> NDArray[np.float32]:
    """For each pixel of the crop, the point of the image that it shows: (2, H, W), rows then columns.

    `centre` is the point shown in the middle of the crop where the elastic displacement is 0 there. The displacements
    of the grid are spread by bicubic interpolation (Keys 1981, a = -1/2), after Ronneberger et al. 2015, section 3.1.
    """
    row_offsets, column_offsets = (_offsets(side) for side in crop)
    by_row = np.empty((2, crop[0], GRID + 2), np.float32)
    by_row[..., :GRID] = _cubic_weights(row_offsets, crop[0]) @ change.grid
    by_row[..., GRID] = np.outer(change.linear[:, 0], row_offsets) + np.asarray(centre)[:, None]
    by_row[..., GRID + 1] = change.linear[:, 1:]
    by_column = np.stack([*_cubic_weights(column_offsets, crop[1]).T, np.ones(crop[1]), column_offsets])
    # Row by row, because larger products would go to several threads
    return (by_row[:, :, None] @ by_column.astype(np.float32)).reshape(2, *crop)


def _part(
    shape: tuple[int, ...], *, change: Change, place: Place, crop: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """The part of an image that a crop comes from, and the map from the crop to the points of that part."""
    centre = _centre(change, place, crop)
    reach = np.abs(change.linear) @ _half(crop) + CUBIC_REACH * np.abs(change.grid).max(axis=(1, 2))
    rows, columns = (_span(centre[axis], reach[axis], shape[axis]) for axis in (0, 1))
    return (rows, columns), source_map(change, crop, centre=(centre[0] - rows.start, centre[1] - columns.start))


def _centre(change: Change, place: Place, crop: tuple[int, int]) -> NDArray[np.float64]:
    """The centre of the map: that of the place, moved where needed so that the place's pixel stays where it is."""
    middle = np.array([place.top, place.left]) + _half(change.box(crop))
    if place.pixel is None:
        return middle
    distance = place.pixel - middle
    row, column = change.orientation.T @ distance
    displaced = _cubic_weights(row[None], crop[0]) @ change.grid @ _cubic_weights(column[None], crop[1]).T
    moved: NDArray[np.float64] = place.pixel - change.deformation @ distance - displaced.ravel()
    return moved


def _half(size: tuple[int, int]) -> NDArray[np.float64]:
    return (np.array(size) - 1) / 2


def _offsets(side: int) -> NDArray[np.float64]:
    return np.arange(side, dtype=np.float64) - (side - 1) / 2


def _cubic_weights(offsets: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Weights (n, 3) of the grid points for each offset; the outer ones lie on the crop's first and last pixel."""
    position = offsets * ((GRID - 1) / max(side - 1, 1)) + (GRID - 1) / 2
    distance = np.abs(position[:, None] - np.arange(-1, GRID + 1))
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    # The outermost points are repeated beyond the edge
    weights[:, 1] += weights[:, 0]
    weights[:, -2] += weights[:, -1]
    return weights[:, 1:-1]


def _span(centre: float, reach: float, length: int) -> slice:
    """The pixels along one side that points within `reach` of `centre` need, with what is mirrored at the edges."""
    first, last = int(np.floor(centre - reach)) - 1, int(np.ceil(centre + reach)) + 1
    return slice(
        min(max(0, min(first, 2 * (length - 1) - last)), length - 1),
        min(length, max(last, -first) + 1),
    )


def _warp_image(image_HWC: NDArray[np.float32], source: NDArray[np.float32]) -> NDArray[np.float32]:
    channels = image_HWC.shape[2]
    parts = [
        _warp_channels(np.ascontiguousarray(image_HWC[..., first : first + CHANNELS_AT_ONCE]), source)
        for first in range(0, channels, CHANNELS_AT_ONCE)
    ]
    warped: NDArray[np.float32] = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return warped


def _warp_channels(image_HWC: NDArray[Any], source: NDArray[np.float32]) -> NDArray[Any]:
    """Linear interpolation of at most four channels; OpenCV is much faster with four than with three."""
    three = image_HWC.shape[2] == 3
    padded = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2RGBA) if three else image_HWC
    warped = cv2.remap(padded, source[1], source[0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    cut = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB) if three else warped
    return cut.reshape(*cut.shape[:2], -1)


def _warp_mask(mask_HW: NDArray[Any], source: NDArray[np.float32], void: int) -> NDArray[np.int64]:
    warped = cv2.remap(
        mask_HW.astype(np.float32),
        source[1],
        source[0],
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float(void),
    )
    return warped.astype(np.int64)


def _blur(image_HWC: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    blurred: NDArray[Any] = cv2.GaussianBlur(image_HWC, (0, 0), sigma)
    return blurred.reshape(image_HWC.shape)


def _normal_numbers(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Standard normal numbers; torch draws them 2.5 times as fast as numpy."""
    numbers: NDArray[np.float32] = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    return numbers
