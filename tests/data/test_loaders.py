"""The stream of training batches: the same however it is cut, and nothing lost on the way."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from pixelwise.config import AugmentConfig
from pixelwise.data.augment import Preparation
from pixelwise.data.loaders import Batch, Steps, TrainingSamples, random_numbers, training_batches
from pixelwise.data.normalise import Normalisation
from pixelwise.errors import DataError, Finding, ImageFileError, TrainingError, UsageError

COUNT = 5
RAW = Normalisation((0.0,) * 3, (1.0,) * 3)


def read(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image `index` of 40 x 30 pixels; one pixel of class 2 among 1200."""
    rng = np.random.default_rng(index)
    mask_HW = np.zeros((40, 30), np.uint8)
    mask_HW[tuple(rng.integers((40, 30)))] = 2
    return rng.integers(0, 256, (40, 30, 3), np.uint8), mask_HW


def samples(settings: AugmentConfig | None = None, **values: Any) -> TrainingSamples:
    preparation = Preparation(settings=settings or AugmentConfig(turn=True), crop=(16, 12), normalisation=RAW)
    defaults = {"read": read, "names": [f"{i}.png" for i in range(COUNT)], "preparation": preparation, "seed": 1}
    return TrainingSamples(**(defaults | values))


def stream(start: int, stop: int, *, workers: int = 0, batch: int = 4, **values: Any) -> list[Batch]:
    return list(training_batches(samples(**values), Steps(start=start, stop=stop, batch=batch), workers=workers))


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.image_BCHW, other.image_BCHW)
        assert torch.equal(one.mask_BHW, other.mask_BHW)
        assert one.names == other.names
        assert (one.weight_BHW is None) is (other.weight_BHW is None)
        assert one.weight_BHW is None or torch.equal(one.weight_BHW, other.weight_BHW)


def test_a_batch_is_what_a_network_takes() -> None:
    (batch,) = stream(0, 1)
    assert (batch.image_BCHW.shape, batch.image_BCHW.dtype) == ((4, 3, 16, 12), torch.float32)
    assert (batch.mask_BHW.shape, batch.mask_BHW.dtype) == ((4, 16, 12), torch.int64)
    assert batch.image_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert len(set(batch.names)) == 4


def test_any_start_goes_on_as_if_never_interrupted() -> None:
    whole = stream(0, 6)
    for start in (1, 4):
        assert_equal(stream(start, 6), whole[start:])
    assert stream(6, 6) == []


def test_workers_change_nothing() -> None:
    assert_equal(stream(3, 8, workers=2), stream(3, 8))


def test_ranks_share_each_batch() -> None:
    whole = stream(0, 4)
    parts = [
        list(training_batches(samples(), Steps(start=0, stop=4, batch=4, rank=rank, ranks=2))) for rank in range(2)
    ]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert torch.equal(batch.image_BCHW, torch.cat([left.image_BCHW, right.image_BCHW]))
        assert torch.equal(batch.mask_BHW, torch.cat([left.mask_BHW, right.mask_BHW]))
        assert batch.names == left.names + right.names


def test_each_epoch_shows_each_image_once_in_its_own_order() -> None:
    sequence = samples()
    epochs = [[sequence.index(epoch * COUNT + i) for i in range(COUNT)] for epoch in range(20)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10
    assert sequence.index(0) == epochs[0][0]


def test_crops_differ_between_epochs_images_and_seeds() -> None:
    one = samples(read=lambda _: read(0), names=["a", "b"])
    shown = {one.sample(number)[0].tobytes() for number in range(6)}
    assert len(shown) == 6
    assert samples(seed=2).sample(0)[0].tobytes() != samples(seed=1).sample(0)[0].tobytes()
    assert samples(seed=2**63 - 1).sample(0)[1].shape == (16, 12)


def test_no_global_random_state_is_touched() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    stream(0, 3)
    stream(0, 2, workers=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_random_numbers_are_apart_for_keys_that_look_alike() -> None:
    keys = [(1,), (1, 0), (0, 1), (1, 0, 0), ()]
    assert len({random_numbers(3, *key).random() for key in keys} | {random_numbers(3 + 2**32).random()}) == 6


def test_balance_shows_a_rare_class() -> None:
    """A class of one pixel is in half of the balanced crops, and in the others by chance."""

    def share(balance: float) -> float:
        sequence = samples(AugmentConfig(turn=True, balance=balance))
        return float(np.mean([(sequence.sample(number)[1] == 2).any() for number in range(500)]))

    chance = share(0.0)
    assert chance < 0.2
    assert share(0.5) == pytest.approx(0.25 + 0.75 * chance, abs=0.07)
    assert share(1.0) == pytest.approx(0.5 + 0.5 * chance, abs=0.07)


def test_void_is_no_class_to_balance() -> None:
    mask_HW = np.full((40, 30), 255)
    mask_HW[39, 29] = 1
    sequence = samples(AugmentConfig(balance=1), read=lambda i: (read(i)[0], mask_HW))
    assert all((sequence.sample(number)[1] == 1).any() for number in range(30))
    void = samples(AugmentConfig(balance=1), read=lambda i: (read(i)[0], np.full((40, 30), 255)))
    assert (void.sample(0)[1] == 255).all()


@pytest.mark.parametrize(("kept_bytes", "readings"), [(2**20, 1), (0, 3), (2 * (1200 * 4 + 1001 * 8), None)])
def test_images_are_kept_while_there_is_room(kept_bytes: int, readings: int | None) -> None:
    counts: Counter[int] = Counter()

    def counted(index: int) -> tuple[np.ndarray, np.ndarray]:
        counts[index] += 1
        return read(index)

    sequence = samples(read=counted, kept_bytes=kept_bytes)
    kept = [sequence.sample(number) for number in range(3 * COUNT)]
    for (image, mask, weight), number in zip(kept, range(3 * COUNT), strict=True):
        expected = samples(kept_bytes=0).sample(number)
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(mask, expected[1])
        assert weight is expected[2] is None
    expected_counts = [readings] * COUNT if readings else [1, 1, 3, 3, 3]
    assert sorted(counts.values()) == expected_counts


def unreadable(index: int) -> tuple[np.ndarray, np.ndarray]:
    if index == 3:
        raise ImageFileError(Finding(file=Path("3.png"), found="cut short", rule="whole files", fix="copy it again"))
    return read(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_in_this_process(workers: int) -> None:
    with pytest.raises(ImageFileError) as caught:
        stream(0, 3, workers=workers, read=unreadable)
    assert str(caught.value) == "3.png: cut short; rule: whole files; fix: copy it again"
    assert caught.value.findings[0].file == Path("3.png")


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"\d.png: the image is \(40, 30\), its mask \(40, 31\)"):
        stream(0, 1, read=lambda i: (read(i)[0], np.zeros((40, 31))))


def test_a_dead_worker_is_an_error_not_a_wait() -> None:
    def die(index: int) -> tuple[np.ndarray, np.ndarray]:
        if get_worker_info() is not None:
            os._exit(9)
        return read(index)

    with pytest.raises(TrainingError, match=r"training\.workers=0"):
        stream(0, 3, workers=1, read=die)


def darken(image_HWC: np.ndarray, mask_HW: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return image_HWC - rng.uniform(1, 2), mask_HW + 1


def test_your_own_step_comes_last_and_is_repeatable() -> None:
    plain, own = stream(0, 2), stream(0, 2, own_step=darken)
    assert_equal(own, stream(0, 2, own_step=darken, workers=1))
    for before, after in zip(plain, own, strict=True):
        change = (before.image_BCHW - after.image_BCHW).flatten(1)
        assert ((change > 0.99) & (change < 2.01)).all()
        assert torch.allclose(change, change[:, :1], atol=1e-3)
        assert len(change[:, 0].round(decimals=2).unique()) > 1
        assert torch.equal(before.mask_BHW + 1, after.mask_BHW)


@pytest.mark.parametrize(
    "step", [lambda image, mask, rng: (image[1:], mask), lambda image, mask, rng: (image, mask[:, :1])]
)
def test_your_own_step_must_keep_the_shape(step: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=r"must keep \(16, 12, 3\) and \(16, 12\)"):
        stream(0, 1, own_step=step)


def weigh(index: int) -> np.ndarray:
    """The first channel of image `index`, as a weight."""
    return read(index)[0][..., 0].astype(np.float32)


def test_weights_are_those_of_the_image_for_any_number_of_workers() -> None:
    plain = AugmentConfig(
        flip=True, turn=False, rotate=20, scale=0.2, elastic=3, brightness=0, contrast=0, noise=0, blur=0, balance=0
    )
    batches = stream(0, 4, settings=plain, weigh=weigh)
    for workers in (1, 2):
        assert_equal(batches, stream(0, 4, settings=plain, weigh=weigh, workers=workers))
    for batch, without in zip(batches, stream(0, 4, settings=plain), strict=True):
        assert without.weight_BHW is None
        assert batch.weight_BHW is not None
        assert torch.equal(batch.image_BCHW, without.image_BCHW)
        inside = torch.nn.functional.max_pool2d((batch.mask_BHW == 255).float(), 3, 1) == 0  # without the outer pixels
        weight, grey = batch.weight_BHW[:, 1:-1, 1:-1], batch.image_BCHW[:, 0, 1:-1, 1:-1]
        torch.testing.assert_close(weight[inside], grey[inside], rtol=1e-5, atol=1e-3)


def test_weights_are_computed_once_and_counted_with_the_image() -> None:
    counts: Counter[int] = Counter()

    def counted(index: int) -> np.ndarray:
        counts[index] += 1
        return weigh(index)

    sequence = samples(weigh=counted)
    for number in range(3 * COUNT):
        sequence.sample(number)
    assert set(counts.values()) == {1}
    assert sequence._kept.bytes == COUNT * (1200 * (4 + 4) + 1001 * 8)


def test_your_own_step_and_weights_do_not_go_together() -> None:
    with pytest.raises(UsageError, match=r"training\.border_weight=0"):
        samples(own_step=darken, weigh=weigh)


@pytest.mark.parametrize(
    "values", [{"batch": 5, "ranks": 2}, {"batch": 0}, {"rank": 2, "ranks": 2}, {"rank": -1}, {"start": -1}]
)
def test_shares_that_do_not_work_out(values: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"multiple of|count from 0"):
        Steps(**({"start": 0, "stop": 1, "batch": 4} | values))


def test_no_images_are_refused() -> None:
    with pytest.raises(UsageError, match="no training images"):
        samples(names=[])
