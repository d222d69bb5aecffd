"""Augmentation side by side: images per second on one core, pixelwise against torchvision, albumentations and kornia.

    pip install 'pixelwise[bench]' && python benchmarks/augmentation.py

One 512x512 image and its mask, all operations that `AugmentConfig` has by default, with quarter turns: mirror image,
quarter turn, rotation up to 15 degrees, scale up to 1.2, shear up to 5 degrees, elastic deformation, brightness,
contrast and normalisation for every image, noise and blur for one in four. The peers run as they ship, their
operations chained as their documentation does. Their elastic deformation is another one, a random field smoothed by
a Gaussian, here with each library's own default for the smoothing (standard deviation 5 pixels for torchvision, 50 for
albumentations, 32 for kornia; the wide one that would be like ours takes torchvision over 10 seconds), so a second
table leaves it out. torchvision has no random quarter turn: an upside-down mirror image stands for it.

Times are processor time of one thread, the median of rounds in which the libraries take turns. Images per second on one
core of a 2-core AMD EPYC (torch 2.15, torchvision 0.29.2, albumentations 2.0.8, kornia 0.9.0, OpenCV 5.0):

                    all, grey   all, RGB   no elastic, grey   no elastic, RGB
    pixelwise             474        225                468               246
    torchvision           3.8        3.6                 87                40
    albumentations         17         16                567               177
    kornia                 12         10                 47                29
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from pixelwise.config import AugmentConfig
from pixelwise.data.augment import Preparation
from pixelwise.data.loaders import TrainingSamples
from pixelwise.data.normalise import Normalisation

SIDE, ROUNDS, SECONDS = 512, 3, 0.4
MEAN, STD = 128.0, 50.0
SIZES, TURN = (1 / 1.2, 1.2), (-15.0, 15.0)
Step = Callable[[], object]


def ours(image_HWC: np.ndarray, mask_HW: np.ndarray, elastic: bool) -> Step:
    settings = AugmentConfig(turn=True, elastic=10 if elastic else 0)
    channels = image_HWC.shape[2]
    normalisation = Normalisation((MEAN,) * channels, (STD,) * channels)
    preparation = Preparation(settings=settings, crop=(SIDE, SIDE), normalisation=normalisation)
    samples = TrainingSamples(read=lambda _: (image_HWC, mask_HW), names=["image"], preparation=preparation, seed=0)
    numbers = iter(range(10**9))
    return lambda: samples.sample(next(numbers))


def torchvision(image_HWC: np.ndarray, mask_HW: np.ndarray, elastic: bool) -> Step:
    v2, tensors = (
        importlib.import_module("torchvision.transforms.v2"),
        importlib.import_module("torchvision.tv_tensors"),
    )
    channels = image_HWC.shape[2]
    chain = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomAffine(
                TURN,
                scale=SIZES,
                shear=5.0,
                interpolation=v2.InterpolationMode.BILINEAR,
                fill={tensors.Mask: 255, "others": 0},
            ),
            *([v2.ElasticTransform()] if elastic else []),
            v2.ColorJitter(brightness=0.2, contrast=0.2),
            v2.ToDtype({tensors.Image: torch.float32, "others": None}, scale=True),
            v2.RandomApply([v2.GaussianNoise(sigma=0.02)], p=0.25),
            v2.RandomApply([v2.GaussianBlur(7, sigma=(0.1, 1.0))], p=0.25),
            v2.Normalize([MEAN / 255] * channels, [STD / 255] * channels),
        ]
    )
    image = tensors.Image(torch.from_numpy(image_HWC).permute(2, 0, 1).contiguous())
    mask = tensors.Mask(torch.from_numpy(mask_HW))
    return lambda: chain(image, mask)


def albumentations(image_HWC: np.ndarray, mask_HW: np.ndarray, elastic: bool) -> Step:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    A = importlib.import_module("albumentations")
    channels = image_HWC.shape[2]
    chain = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomRotate90(p=0.75),
            A.Affine(rotate=TURN, scale=SIZES, shear=(-5, 5), border_mode=cv2.BORDER_REFLECT_101, p=1),
            *([A.ElasticTransform(alpha=500, border_mode=cv2.BORDER_REFLECT_101, p=1)] if elastic else []),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=1),
            A.GaussNoise(std_range=(0.0, 0.02), p=0.25),
            A.GaussianBlur(blur_limit=(7, 7), sigma_limit=(0.1, 1.0), p=0.25),
            A.Normalize([MEAN / 255] * channels, [STD / 255] * channels),
        ]
    )
    return lambda: chain(image=image_HWC, mask=mask_HW)


def kornia(image_HWC: np.ndarray, mask_HW: np.ndarray, elastic: bool) -> Step:
    K = importlib.import_module("kornia.augmentation")
    channels = image_HWC.shape[2]
    chain = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomRotation90(times=(0, 3), p=1.0),
        K.RandomAffine(TURN, scale=SIZES, shear=5.0, padding_mode="reflection", p=1.0),
        *([K.RandomElasticTransform(alpha=(10.0, 10.0), p=1.0)] if elastic else []),
        K.RandomBrightness((0.8, 1.2), p=1.0),
        K.RandomContrast((0.8, 1.2), p=1.0),
        K.RandomGaussianNoise(std=0.02, p=0.25),
        K.RandomGaussianBlur((7, 7), (0.1, 1.0), p=0.25),
        K.Normalize([MEAN / 255] * channels, [STD / 255] * channels),
        data_keys=["input", "mask"],
    )
    image = torch.from_numpy(image_HWC).permute(2, 0, 1)[None].float() / 255
    mask = torch.from_numpy(mask_HW)[None, None].float()
    return lambda: chain(image, mask)


LIBRARIES: dict[str, Callable[[np.ndarray, np.ndarray, bool], Step]] = {
    "pixelwise": ours,
    "torchvision": torchvision,
    "albumentations": albumentations,
    "kornia": kornia,
}


def rate(step: Step) -> float:
    """Calls per second of processor time."""
    calls, start = 0, time.process_time()
    while time.process_time() - start < SECONDS or calls < 1:
        step()
        calls += 1
    return calls / (time.process_time() - start)


def compare(channels: int, elastic: bool) -> dict[str, float]:
    """Images per second of each library that is installed."""
    rng = np.random.default_rng(0)
    image_HWC = cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE, channels), np.uint8), (9, 9), 3).reshape(
        SIDE, SIDE, channels
    )
    mask_HW = (image_HWC[..., 0] > 127).astype(np.uint8)
    steps = {}
    for name, build in LIBRARIES.items():
        try:
            steps[name] = build(image_HWC, mask_HW, elastic)
        except ImportError as error:
            print(f"{name} is left out: {error}; pip install 'pixelwise[bench]'")
    for step in steps.values():
        step()
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            rates[name].append(rate(step))
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for elastic in (True, False):
        print(f"\n{'all operations' if elastic else 'without elastic deformation'}: images per second, one core")
        print(f"{'':16}{'grey':>8}{'ours is':>10}{'RGB':>8}{'ours is':>10}")
        grey, colour = compare(1, elastic), compare(3, elastic)
        for name in grey:
            ratios = [table["pixelwise"] / table[name] for table in (grey, colour)]
            print(f"{name:16}{grey[name]:8.1f}{ratios[0]:9.1f}x{colour[name]:8.1f}{ratios[1]:9.1f}x")


if __name__ == "__main__":
    main()
