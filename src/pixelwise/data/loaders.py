"""Training batches: endless, from any step on, the same for any number of worker processes and any split over ranks.

Sample number n of a run belongs to epoch n // count, at position n % count of that epoch's order of the images. The
order depends on (seed, epoch), the crop and the augmentation on (seed, epoch, image), and nothing on what was drawn
before. So a run that goes on from step 1000 needs no state but the number 1000. No global random state is touched.

B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pixelwise.data.augment import Preparation, augment, draw_change, warp_weight
from pixelwise.data.crops import ClassPixels, draw_pixel, find_class_pixels, place_crop
from pixelwise.data.memory import KEPT_BYTES, Kept
from pixelwise.errors import DataError, PixelwiseError, TrainingError, UsageError, printable

ORDER, SAMPLE, PIXELS, OWN_STEP = range(4)
Pair = tuple[NDArray[Any], NDArray[Any]]
Read = Callable[[int], Pair]
Weigh = Callable[[int], NDArray[np.float32]]
OwnStep = Callable[[NDArray[np.float32], NDArray[np.int64], np.random.Generator], Pair]


class Batch(NamedTuple):
    """What one step of training takes.

    image_BCHW  float32, normalised; the channels of a pixel lie side by side in memory (channels last)
    mask_BHW    int64: class indices and void
    names       the file of each image
    weight_BHW  float32: what comes on top of the weight of each pixel in the loss; None: nothing
    """

    image_BCHW: Tensor
    mask_BHW: Tensor
    names: tuple[str, ...]
    weight_BHW: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Which samples are wanted: steps `start` to `stop` (excluded), `batch` samples each over all `ranks` together.

    A rank takes its consecutive share of each batch. Raises UsageError where the batch does not divide by the ranks.

    >>> Steps(start=2, stop=3, batch=4, rank=1, ranks=2).samples(2)
    range(10, 12)
    """

    start: int
    stop: int
    batch: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % self.ranks:
            raise UsageError(
                f"a batch of {self.batch} cannot be shared by {self.ranks} processes; "
                f"set training.batch to a multiple of {self.ranks}"
            )
        if not 0 <= self.rank < self.ranks or self.start < 0:
            raise UsageError(f"rank {self.rank} of {self.ranks} from step {self.start}: ranks and steps count from 0")

    def samples(self, step: int) -> range:
        """The numbers of the samples that this rank takes at a step."""
        share = self.batch // self.ranks
        first = step * self.batch + self.rank * share
        return range(first, first + share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An image with its mask and the weights of its pixels in memory, and where the mask's classes are."""

    image_HWC: NDArray[Any]
    mask_HW: NDArray[Any]
    pixels: ClassPixels
    weight_HW: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        arrays = [self.image_HWC, self.mask_HW, *self.pixels.values()]
        return sum(array.nbytes for array in arrays) + (0 if self.weight_HW is None else self.weight_HW.nbytes)


class Crop(NamedTuple):
    """One training sample; weight_HW is None where the pixels of the image have no weights of their own."""

    image_HWC: NDArray[np.float32]
    mask_HW: NDArray[np.int64]
    weight_HW: NDArray[np.float32] | None


@dataclass(kw_only=True)
class TrainingSamples:
    """The endless numbered sequence of training samples of a run.

    read         image (H, W, C) and mask (H, W) of an index; what it raises reaches the training process
    names        the file of each image; as many as there are images
    preparation  crop, augmentation, normalisation
    seed         of the order, the crops and the augmentation
    own_step     a further augmentation of yours, after ours: (image_HWC, mask_HW, rng) -> (image_HWC, mask_HW),
                 of unchanged shape, with all its random numbers from `rng`
    weigh        what comes on top of the weight of each pixel in the loss: (H, W) of an index; None: nothing
    kept_bytes   decoded images stay in memory up to this many bytes; the others are read each time
    """

    read: Read
    names: Sequence[str]
    preparation: Preparation
    seed: int
    own_step: OwnStep | None = None
    weigh: Weigh | None = None
    kept_bytes: int = KEPT_BYTES
    _kept: Kept[int, Decoded] = field(init=False, repr=False)
    _order: tuple[int, NDArray[np.int64]] = field(default=(-1, np.zeros(0, np.int64)), init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise UsageError("there are no training images; give at least one")
        if self.weigh is not None and self.own_step is not None:
            raise UsageError(
                "your own augmentation may move pixels, and their weights would stay behind; train without weights of "
                "borders (training.border_weight=0), or without own_step"
            )
        self._kept = Kept(read=self._decode, size=operator.attrgetter("nbytes"), limit=self.kept_bytes)

    def index(self, number: int) -> int:
        """Which image sample `number` shows."""
        epoch, position = divmod(number, len(self.names))
        if self._order[0] != epoch:
            self._order = epoch, random_numbers(self.seed, ORDER, epoch).permutation(len(self.names))
        return int(self._order[1][position])

    def sample(self, number: int) -> Crop:
        """Sample `number`: image (H, W, C), mask (H, W) and weights (H, W) of the crop's size."""
        index, epoch = self.index(number), number // len(self.names)
        decoded, rng = self._kept(index), random_numbers(self.seed, SAMPLE, epoch, index)
        settings, crop = self.preparation.settings, self.preparation.crop
        change = draw_change(rng, settings)
        pixel = draw_pixel(decoded.pixels, rng) if rng.random() < settings.balance else None
        place = place_crop(decoded.mask_HW.shape, change.box(crop), rng=rng, pixel=pixel)
        image_HWC, mask_HW = augment(
            decoded.image_HWC, decoded.mask_HW, change=change, place=place, preparation=self.preparation
        )
        weight_HW = None
        if decoded.weight_HW is not None:
            weight_HW = warp_weight(decoded.weight_HW, change=change, place=place, preparation=self.preparation)
        if self.own_step is not None:
            rng = random_numbers(self.seed, OWN_STEP, epoch, index)
            image_HWC, mask_HW = _change_by_user(self.own_step, image_HWC, mask_HW, rng)
        return Crop(image_HWC, mask_HW, weight_HW)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Some samples as tensors."""
        height, width = self.preparation.crop
        images_BHWC = np.empty((len(numbers), height, width, self.preparation.normalisation.channels), np.float32)
        masks_BHW = np.empty((len(numbers), height, width), np.int64)
        weights_BHW = None if self.weigh is None else np.empty((len(numbers), height, width), np.float32)
        for place, number in enumerate(numbers):
            images_BHWC[place], masks_BHW[place], weight_HW = self.sample(number)
            if weights_BHW is not None:
                weights_BHW[place] = weight_HW
        return Batch(
            image_BCHW=torch.from_numpy(images_BHWC).permute(0, 3, 1, 2),
            mask_BHW=torch.from_numpy(masks_BHW),
            names=tuple(self.names[self.index(number)] for number in numbers),
            weight_BHW=None if weights_BHW is None else torch.from_numpy(weights_BHW),
        )

    def share_memory(self, workers: int) -> None:
        """Keep only this worker's share of the bytes; each of the `workers` has a memory of its own."""
        self._kept.limit = self.kept_bytes // workers

    def _decode(self, index: int) -> Decoded:
        image_HWC, mask_HW = self.read(index)
        if image_HWC.shape[:2] != mask_HW.shape:
            raise DataError(
                f"{printable(self.names[index])}: the image is {image_HWC.shape[:2]}, its mask {mask_HW.shape} "
                "(rows, columns); they must be equal: correct the mask"
            )
        weight_HW = None if self.weigh is None else self.weigh(index)
        assert weight_HW is None or weight_HW.shape == mask_HW.shape, "weights are of the pixels of the mask"
        rng = random_numbers(self.seed, PIXELS, index)
        pixels = find_class_pixels(mask_HW, void=self.preparation.void, rng=rng)
        return Decoded(image_HWC=image_HWC, mask_HW=mask_HW, pixels=pixels, weight_HW=weight_HW)


def training_batches(samples: TrainingSamples, steps: Steps, *, workers: int = 0) -> Iterator[Batch]:
    """The batches of these steps, one per step, prepared by `workers` processes (0: by this one).

    They are bit for bit the same for any number of workers. Where the system starts processes afresh (macOS), `read`,
    `weigh` and `own_step` must be importable functions or other values that pickle can send.
    Raises what `samples.read` raises (DataError naming the file), and TrainingError where a worker process dies.
    """
    loader: DataLoader[Batch | PixelwiseError] = DataLoader(
        _Stream(samples, steps),
        batch_size=None,
        sampler=range(steps.start, steps.stop),
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own: without one, it would draw from the global state
    )
    try:
        for batch in loader:
            if not isinstance(batch, Batch):
                raise batch
            yield batch
    except RuntimeError as error:
        raise TrainingError(
            f"a process that prepares batches stopped: {error}; try training.workers=0, "
            "or give the machine more shared memory (/dev/shm)"
        ) from error


def random_numbers(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for each key: equal keys give equal numbers, different keys independent ones.

    >>> random_numbers(7, 1, 2).random() == random_numbers(7, 1, 2).random() != random_numbers(7, 1).random()
    True
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


class _Stream(Dataset["Batch | PixelwiseError"]):
    """The batch of each step, as torch wants it; a refusal is a value, because torch would bury it in a traceback."""

    def __init__(self, samples: TrainingSamples, steps: Steps) -> None:
        self.samples, self.steps = samples, steps

    def __getitem__(self, step: int) -> Batch | PixelwiseError:
        try:
            return self.samples.batch(self.steps.samples(step))
        except PixelwiseError as error:
            return error


def _change_by_user(
    own_step: OwnStep, image_HWC: NDArray[np.float32], mask_HW: NDArray[np.int64], rng: np.random.Generator
) -> Pair:
    changed_HWC, changed_HW = own_step(image_HWC, mask_HW, rng)
    if changed_HWC.shape != image_HWC.shape or changed_HW.shape != mask_HW.shape:
        raise UsageError(
            f"your augmentation returned an image of {changed_HWC.shape} and a mask of {changed_HW.shape}; "
            f"it must keep {image_HWC.shape} and {mask_HW.shape}"
        )
    return changed_HWC, changed_HW


def _start_worker(_: int) -> None:
    """One thread, and a fair share of the memory for decoded images."""
    cv2.setNumThreads(0)
    worker: Any = get_worker_info()
    worker.dataset.samples.share_memory(worker.num_workers)


def _unchanged(batch: Any) -> Any:
    return batch
