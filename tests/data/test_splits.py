"""Who trains and who validates."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.data.folder_words import Split
from pixelwise.data.layouts import Sample, Source
from pixelwise.data.splits import split_samples
from pixelwise.errors import DataError, UsageError


def make(count: int, split: Split | None = None, prefix: str = "") -> list[Sample]:
    return [Sample(name=f"{prefix}{n}", image=Source(Path(f"{n}.png")), split=split) for n in range(count)]


def stack(name: str, pages: int) -> list[Sample]:
    return [Sample(name=f"{name}_{n:03d}", image=Source(Path(f"{name}.tif"), n)) for n in range(pages)]


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 2**40), st.randoms())
@settings(max_examples=60, deadline=None)
def test_a_share_is_kept_out_whatever_the_order(count: int, share: float, seed: int, chance: object) -> None:
    samples = make(count)
    train, validation = split_samples(samples, validation=share, seed=seed)
    assert sorted(s.name for s in (*train, *validation)) == sorted(s.name for s in samples)
    assert len(validation) == min(max(1, round(count * share)), count - 1)
    shuffled = samples.copy()
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_samples(shuffled, validation=share, seed=seed) == (train, validation)


def test_the_seed_chooses_and_all_are_chosen_sometimes() -> None:
    chosen = [split_samples(make(10), validation=0.2, seed=seed)[1] for seed in range(40)]
    assert {sample.name for part in chosen for sample in part} == {str(n) for n in range(10)}
    assert len({tuple(sample.name for sample in part) for part in chosen}) > 10


@pytest.mark.parametrize("seed", range(5))
def test_slices_of_a_stack_are_spread(seed: int) -> None:
    _, validation = split_samples(stack("s", 30), validation=0.2, seed=seed)
    pages = [sample.image.page or 0 for sample in validation]
    assert [later - earlier for earlier, later in pairwise(pages)] == [5] * 5
    _, both = split_samples([*stack("a", 10), *stack("b", 10)], validation=0.2, seed=seed)
    assert [sample.image.path.stem for sample in both] == ["a", "a", "b", "b"]


def test_the_folder_s_own_parts_are_kept() -> None:
    parts = [*make(3, "train", "t"), *make(2, "val", "v"), *make(4, "test", "x")]
    train, validation = split_samples(parts, validation=0.5, seed=0)
    assert [s.name for s in train] == ["t0", "t1", "t2"]
    assert [s.name for s in validation] == ["v0", "v1"]


def test_test_images_never_choose() -> None:
    train, validation = split_samples([*make(4, "train", "t"), *make(9, "test", "x")], validation=0.25, seed=3)
    assert {sample.split for sample in (*train, *validation)} == {"train"}
    assert (len(train), len(validation)) == (3, 1)


def test_one_sample_is_in_both() -> None:
    (sample,) = make(1)
    assert split_samples([sample], validation=0.2, seed=0) == ([sample], [sample])


def test_nothing_to_train_on_and_no_share() -> None:
    with pytest.raises(DataError, match="none of 2 samples is for training"):
        split_samples(make(2, "test"), validation=0.2, seed=0)
    with pytest.raises(UsageError, match="validation 1"):
        split_samples(make(2), validation=1.0, seed=0)
