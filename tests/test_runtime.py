from __future__ import annotations

import os
import platform

import pytest
import torch
from torch import nn

from pixelwise.config import RuntimeConfig
from pixelwise.errors import UsageError
from pixelwise.runtime import (
    Runtime,
    computes_bfloat16,
    find_device,
    find_precision,
    keep_freed_memory,
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
