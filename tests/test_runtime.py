from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from pixelwise import runtime as runtime_module
from pixelwise.config import RuntimeConfig
from pixelwise.errors import UsageError
from pixelwise.runtime import (
    LackOfMemoryError,
    Runtime,
    byte_text,
    computes_bfloat16,
    duration,
    find_device,
    find_precision,
    keep_freed_memory,
    memory_limit,
    memory_refusals,
    parse_bytes,
    prepare,
    set_deterministic,
    threads_per_process,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.set_num_threads(1)
    set_deterministic(False)


def runtime(precision: str = "fp32", *, channels_last: bool = True) -> Runtime:
    return Runtime(device=CPU, precision=precision, channels_last=channels_last, allocator=False, threads=1)


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_network_and_its_images_are_placed_in_the_memory_layout(channels_last):
    chosen = runtime(channels_last=channels_last)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    network = chosen.place(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    image = chosen.place_image(torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5))
    assert network[0].weight.is_contiguous(memory_format=wanted)  # type: ignore[index]
    assert image.is_contiguous(memory_format=wanted)
    assert image.flatten().tolist() == list(range(120))


@pytest.mark.parametrize(("precision", "computed"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_convolutions_run_in_the_precision_and_weights_stay_in_float32(precision, computed):
    layer = nn.Conv2d(1, 1, 1)
    with runtime(precision).autocast():
        assert layer(torch.ones(1, 1, 2, 2)).dtype == computed
    assert layer.weight.dtype == torch.float32


def test_the_description_is_one_line_with_every_choice():
    assert runtime().describe() == "cpu · fp32 · channels last · 1 thread · memory given back to the system"
    assert "channels first" in runtime(channels_last=False).describe()


def test_prepare_does_what_the_settings_say():
    chosen = prepare(RuntimeConfig(device="cpu", precision="bf16", channels_last=False, allocator=False, threads=2))
    assert (chosen.device, chosen.precision, chosen.channels_last, chosen.allocator) == (CPU, "bf16", False, False)
    assert chosen.threads == torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    prepare(RuntimeConfig(device="cpu", deterministic=False, allocator=False, threads=1))
    assert not torch.are_deterministic_algorithms_enabled()


def test_auto_finds_a_device_and_a_precision_that_work():
    device = find_device("auto")
    assert torch.zeros(1, device=device).device.type == device.type
    assert find_precision("auto", CPU) == ("bf16" if computes_bfloat16(CPU) else "fp32")
    assert not computes_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("name", ["gpu", "", "cuda:999", "cuda:x", "cpu:1", "meta", "xpu"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(
        UsageError, match=f"device {name!r} (does not exist; choose auto|is not on this machine; it has)"
    ):
        find_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_gpu_says_what_it_has():
    with pytest.raises(UsageError, match=r"'cuda' is not on this machine; it has .*cpu"):
        find_device("cuda")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_of_torchrun_gets_its_own_gpu(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert find_device(name) == torch.device("cuda", 2)
    assert find_device("cuda:1") == torch.device("cuda", 1)


def test_half_precision_is_for_gpus():
    with pytest.raises(UsageError, match="fp16 is for GPUs; on a CPU choose bf16 or fp32"):
        find_precision("fp16", CPU)
    assert find_precision("fp16", torch.device("cuda", 0)) == "fp16"


def test_the_cores_are_shared_out(monkeypatch):
    alone = threads_per_process()
    assert 1 <= alone <= (os.cpu_count() or 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 * alone))
    assert threads_per_process() == 1


def test_freed_memory_is_kept_where_there_is_glibc(monkeypatch):
    if platform.libc_ver()[0] == "glibc":
        assert keep_freed_memory()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


# Memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines"),
    ],
)
def test_a_lack_of_memory_becomes_a_sentence(error):
    with (
        pytest.raises(LackOfMemoryError, match=r"^not enough memory \(.*\); buy more$") as caught,
        memory_refusals("buy more"),
    ):
        raise error
    assert "more lines" not in str(caught.value)
    assert caught.value.exit_code == 2
    with pytest.raises(LackOfMemoryError, match=r"lower training\.batch"), memory_refusals():
        raise error


def test_what_is_no_lack_of_memory_passes():
    with pytest.raises(RuntimeError, match="shapes"), memory_refusals():
        raise RuntimeError("shapes do not fit")
    with pytest.raises(LackOfMemoryError, match=r"^said already$"), memory_refusals("again"):
        raise LackOfMemoryError("said already")


@pytest.mark.skipif(platform.system() != "Linux", reason="the peak can be reset on Linux alone")
def test_the_peak_is_of_what_was_held_since_the_reset():
    program = (
        "import torch; from pixelwise.runtime import peak_memory, reset_peak; cpu = torch.device('cpu'); "
        "reset_peak(cpu); print(peak_memory(cpu)); block = torch.ones(60_000_000, dtype=torch.uint8); "
        "print(peak_memory(cpu)); del block; print(peak_memory(cpu))"
    )
    # In a process of its own: here, memory that earlier tests gave back would be taken again unseen.
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    before, with_block, afterwards = map(int, said.split())
    assert 50e6 < with_block - before < 90e6
    assert abs(afterwards - with_block) < 2e6, "the kernel counts in batches"
    assert 1e6 < before < 1e11


def test_what_a_process_may_have_is_more_than_it_has():
    limit = memory_limit(CPU)
    if platform.system() == "Linux":
        assert limit is not None
        assert limit > 50e6


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4_000_000_000),
        ("512MiB", 512 * 2**20),
        (" 1.5 G ", 1_500_000_000),
        ("100", 100),
        ("2kB", 2000),
        ("1T", 10**12),
    ],
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "4 gigabytes", "0", "0.1", "1e9", "nan", "4GB4", "1" * 99])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(UsageError, match="no amount of memory"):
        parse_bytes(text)


def test_amounts_and_times_for_a_person():
    assert [byte_text(size) for size in (1, 999_000, 1_000_000, 2_040_000_000)] == ["1 kB", "999 kB", "1 MB", "2.0 GB"]
    assert [duration(seconds) for seconds in (0.2, 89, 90, 5399, 5400)] == [
        "0 seconds",
        "89 seconds",
        "2 minutes",
        "90 minutes",
        "1.5 hours",
    ]


@pytest.mark.parametrize(("kept", "free"), [("inactive_file 300\n", 700), ("", 400)])
def test_files_that_a_container_keeps_a_copy_of_count_as_free(tmp_path, kept, free):
    for name, text in {"memory.max": "1000\n", "memory.current": "600\n", "memory.stat": f"anon 5\n{kept}"}.items():
        (tmp_path / name).write_text(text)
    assert runtime_module._free_in_container(tmp_path) == free
    (tmp_path / "memory.current").write_text("5000\n")
    assert runtime_module._free_in_container(tmp_path) == 0
