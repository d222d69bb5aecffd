"""What a network runs on and how fast: device, precision, memory layout, threads, the allocator, and how much memory.

All of it is on by default, said in one line (`Runtime.describe`), and each can be switched off in RuntimeConfig. What
each is worth is measured by `benchmarks/training_step.py` and `benchmarks/inference.py`.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import re
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelwise.config import RuntimeConfig
from pixelwise.errors import PixelwiseError, UsageError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc, malloc.h
LARGEST_HEAP_BLOCK = 2**30
HEAP_GROWTH = 2**26
CLEAR_PEAK, PROCESS_MEMORY = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux, proc(5)
SYSTEM_MEMORY = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Where and how a network runs; made by `prepare`."""

    device: torch.device
    precision: str
    channels_last: bool
    allocator: bool
    threads: int

    def place(self, network: nn.Module) -> nn.Module:
        """The network, moved to the device and into the memory layout."""
        return network.to(self.device, memory_format=self._memory_format)  # type: ignore[call-overload, no-any-return]

    def place_image(self, image_BCHW: Tensor) -> Tensor:
        """A batch of images, moved to the device and into the memory layout."""
        return image_BCHW.to(self.device, memory_format=self._memory_format, non_blocking=True)

    def autocast(self) -> AbstractContextManager[None]:
        """A context in which convolutions run in the chosen precision; weights stay in float32."""
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    def describe(self) -> str:
        """One line for the user."""
        layout = "channels last" if self.channels_last else "channels first"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        allocator = "memory kept in the process" if self.allocator else "memory given back to the system"
        return f"{self.device} · {self.precision} · {layout} · {threads} · {allocator}"

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def prepare(settings: RuntimeConfig) -> Runtime:
    """Set up this process as `settings` say and return what was chosen.

    Raises UsageError for a device that is not there or a precision that the device does not compute in.
    """
    device = find_device(settings.device)
    threads = settings.threads or threads_per_process()
    torch.set_num_threads(threads)
    set_deterministic(settings.deterministic and device.type != "mps")  # there, pooling has no such form
    return Runtime(
        device=device,
        precision=find_precision(settings.precision, device),
        channels_last=settings.channels_last,
        allocator=settings.allocator and keep_freed_memory(),
        threads=threads,
    )


class LackOfMemoryError(PixelwiseError):
    """The processor or the GPU has too little memory for what was asked."""


ADVICE = "lower training.batch, training.crop, model.width or predict.tile"


@contextmanager
def memory_refusals(advice: str = ADVICE) -> Iterator[None]:
    """Turn a lack of memory, of the processor or the GPU, into a sentence that says what to do.

    Raises LackOfMemoryError; one that has its sentence already passes as it is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not lacking:
            raise
        raise LackOfMemoryError(
            f"not enough memory ({(str(error).splitlines() or ['MemoryError'])[0][:200]}); {advice}"
        ) from error


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of the memory anew; where the system cannot, it stays that of the process.

    What is freed but kept (`keep_freed_memory`) goes back first, or it would count again.
    """
    gc.collect(1)  # what the last measurement left is young; a whole collection takes a third of a second
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        CLEAR_PEAK.write_text("5", "ascii")


def peak_memory(device: torch.device) -> int:
    """The most memory since `reset_peak`, bytes: of the GPU by torch's own counter, else resident in the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    found = _kilobytes(PROCESS_MEMORY, "VmHWM")
    if found is not None:
        return found * 1024
    scale = 1 if platform.system() == "Darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def resident_memory(device: torch.device) -> int:
    """What this process has taken already, bytes; 0 where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return 1024 * (_kilobytes(PROCESS_MEMORY, "VmRSS") or 0)


def memory_limit(device: torch.device) -> int | None:
    """What this process may have in all, in bytes: what it has, and what is free; None where the system does not say.

    On a processor that is what the system counts as available, and no more than the limit of the container leaves.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device))
    available, resident = _kilobytes(SYSTEM_MEMORY, "MemAvailable"), _kilobytes(PROCESS_MEMORY, "VmRSS")
    if available is None or resident is None:
        return None
    free = [available * 1024]
    with suppress(OSError, ValueError):  # "max" where the container has no limit
        free.append(_free_in_container(CONTAINER))
    return min(free) + resident * 1024


def _free_in_container(folder: Path) -> int:
    """What a control group leaves, bytes; files that it only keeps a copy of count as free, for they can go at once."""
    limit, used = (int((folder / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
    kept = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text("ascii"), re.MULTILINE)
    return max(0, limit - used + (int(kept[1]) if kept else 0))


def parse_bytes(text: str) -> int:
    """An amount of memory, such as 4GB, 512MB or 2GiB, in bytes; raises UsageError on anything else and on nothing.

    >>> parse_bytes("4GB"), parse_bytes("0.5 GiB")
    (4000000000, 536870912)
    """
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kMGT]i?)?B?\s*", text)
    size = int(float(found[1]) * UNITS[found[2] or ""]) if found else 0
    if size < 1:
        raise UsageError(f"{text!r} is no amount of memory; write for example 4GB or 800MB")
    return size


def byte_text(size: float) -> str:
    """An amount of memory for a person.

    >>> byte_text(4_096_000_000), byte_text(31_149_968), byte_text(1200), byte_text(0)
    ('4.1 GB', '32 MB', '2 kB', '0 kB')
    """
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{math.ceil(size / 1e6)} MB" if size >= 1e6 else f"{math.ceil(size / 1e3)} kB"


def duration(seconds: float) -> str:
    """A time for a person.

    >>> duration(12.4), duration(600), duration(5400)
    ('12 seconds', '10 minutes', '1.5 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def _kilobytes(path: Path, name: str) -> int | None:
    """A line such as `VmHWM:  8676 kB` of a file of the Linux kernel."""
    with suppress(OSError, ValueError, IndexError):
        lines = (line.partition(":") for line in path.read_text("ascii", "replace").splitlines())
        return next((int(value.split()[0]) for key, _, value in lines if key == name), None)
    return None


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first of cuda, mps and cpu that is there.

    `cuda` without a number is the GPU of this process among those that torchrun started.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} does not exist; choose auto, cpu, cuda, cuda:1 or mps") from error
    if not there.get(device.type, False) or (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise UsageError(f"device {name!r} is not on this machine; it has {', '.join(k for k in there if there[k])}")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def find_precision(name: str, device: torch.device) -> str:
    """The precision of that name; `auto` is bfloat16 where the device computes in it, else float32."""
    if name == "auto":
        return "bf16" if computes_bfloat16(device) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 is for GPUs; on a CPU choose bf16 or fp32")
    return name


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return any(bool(able.get(unit)) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def threads_per_process() -> int:
    """Cores this process may use, shared out over the processes that torchrun started on this machine.

    OMP_NUM_THREADS is obeyed, but for torchrun, which sets it to 1 unasked.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    cores = len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of returning it after every step; False where there is no glibc.

    Large tensors then reuse pages that are already mapped; the price is a higher resident memory.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, HEAP_GROWTH))
    return all(mallopt(key, value) == 1 for key, value in settings)


def set_deterministic(wanted: bool) -> None:
    """Refuse operations whose result changes when repeated, or allow them."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not wanted
