"""Timing, counting floating-point operations, and one table: what the benchmarks share."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from pixelwise.config import RuntimeConfig
from pixelwise.runtime import DTYPES, prepare

MeasuredT = TypeVar("MeasuredT")


@dataclass(frozen=True)
class Measured:
    name: str
    setting: str
    seconds: float
    gigaflops: float
    peak_mb: float


def in_own_process(measure: Callable[..., MeasuredT], *arguments: object) -> MeasuredT:
    """Measure in a fresh process, so that memory settings and caches of one do not help or hurt the next."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def seconds_of(step: Callable[[], object], *, warm_up: int = 2, times: int = 5) -> float:
    """The median time of one step, after a warm-up."""
    for _ in range(warm_up):
        step()
    taken = []
    for _ in range(times):
        synchronise()
        began = time.perf_counter()
        step()
        synchronise()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def flops_of(step: Callable[[], object]) -> float:
    """Floating-point operations of a step, a multiply-add as two."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def peak_mb() -> float:
    """Peak memory: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_limit(dtype: str) -> Measured:
    """What this machine reaches at best: one 3x3 convolution of 128 channels, channels last."""
    device = prepare(RuntimeConfig()).device
    convolution = torch.nn.Conv2d(128, 128, 3, padding=1).to(DTYPES[dtype]).to(memory_format=torch.channels_last)
    image_BCHW = torch.randn(4, 128, 128, 128, dtype=DTYPES[dtype]).to(memory_format=torch.channels_last)
    convolution, image_BCHW = convolution.to(device), image_BCHW.to(device)
    with torch.inference_mode():
        flops = flops_of(lambda: convolution(image_BCHW))
        seconds = seconds_of(lambda: convolution(image_BCHW), times=15)
    return Measured(
        "one 3x3 convolution, 128 channels", f"the limit here in {dtype}", seconds, flops / seconds / 1e9, 0.0
    )


def print_limits() -> None:
    """The limits of this machine at this moment, to hold the other rows against."""
    for dtype in ("fp32", "bf16"):
        limit = in_own_process(measure_limit, dtype)
        print(f"{limit.setting}, {limit.name}: {limit.gigaflops:.0f} GFLOP/s")


def print_table(title: str, rows: Sequence[Measured], reference: Measured) -> None:
    """One table, with the speed of each row as a ratio to the reference of the same network."""
    print(f"\n{title}")
    print(f"{'network':<34}{'setting':<38}{'ms':>9}{'GFLOP/s':>10}{'peak MB':>10}{'speed':>9}")
    for row in rows:
        speed = reference.seconds / row.seconds
        print(
            f"{row.name:<34}{row.setting:<38}{row.seconds * 1e3:>9.1f}"
            f"{row.gigaflops:>10.0f}{row.peak_mb:>10.0f}{speed:>8.2f}x"
        )
