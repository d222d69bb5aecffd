"""One training step (forward, loss, backward, optimiser): ours as it ships, the same network run plainly, and peers.

    pip install 'pixelwise[bench]' && python benchmarks/training_step.py

"plain" is eager float32, NCHW, the system's allocator settings: what a user of the peers gets. Each row is a fresh
process. `speed` compares with the plain row of the same block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measuring import Measured, flops_of, in_own_process, peak_mb, print_table, seconds_of
from networks import CLASSES, OURS, PEERS, Contestant
from torch import Tensor
from torch.nn import functional as F

from pixelwise.config import RuntimeConfig, TrainingConfig
from pixelwise.errors import MissingExtraError
from pixelwise.losses.registry import parse_loss
from pixelwise.runtime import prepare
from pixelwise.task import Task
from pixelwise.training.optim import make_optimizer

PLAIN = RuntimeConfig(precision="fp32", channels_last=False, allocator=False, deterministic=False)
BATCH, SIDE = 8, 256
SMALL_BATCH = 2
BLOCKS = {
    "small U-Net (width 16)": (BATCH, SIDE, ("smp Unet resnet18", "MONAI BasicUNet")),
    "U-Net of the paper": (SMALL_BATCH, SIDE + 184 - 4 * 4 + 4, ("MONAI BasicUNet, paper's width",)),
}


def measure_ours(key: str, batch: int, side: int, plain: bool) -> Measured:
    settings = PLAIN if plain else RuntimeConfig()
    return measure(OURS[key], settings, batch, side, "plain: fp32, NCHW" if plain else "as we ship it")


def measure_peer(name: str, batch: int, side: int) -> Measured:
    peer = next(peer for peer in PEERS if peer.name == name)
    return measure(peer, PLAIN, batch, side, "as it ships")


def measure(contestant: Contestant, settings: RuntimeConfig, batch: int, side: int, label: str) -> Measured:
    runtime = prepare(settings)
    torch.manual_seed(0)
    network = runtime.place(contestant.build(1)).train()
    optimizer = make_optimizer(network, TrainingConfig())
    image_BCHW = torch.randn(batch, 1, side, side)
    output = side - 2 * contestant.margin
    mask_BHW = torch.randint(CLASSES, (batch, output, output)).to(runtime.device)
    loss_of = our_loss() if contestant in OURS.values() else F.cross_entropy

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast():
            logits_BKHW = network(runtime.place_image(image_BCHW))
        loss_of(logits_BKHW, mask_BHW).backward()
        optimizer.step()

    flops = flops_of(step)
    seconds = seconds_of(step)
    return Measured(contestant.name, label, seconds, flops / seconds / 1e9, peak_mb())


def our_loss() -> Callable[[Tensor, Tensor], Tensor]:
    task, loss = Task.of([f"class {number}" for number in range(CLASSES)]), parse_loss("ce+dice")
    return lambda logits_BKHW, mask_BHW: loss(logits_BKHW, mask_BHW, task, None)


def main() -> None:
    for title, (batch, side, peers) in BLOCKS.items():
        plain = in_own_process(measure_ours, title, batch, side, True)
        rows = [plain, in_own_process(measure_ours, title, batch, side, False)]
        for peer in peers:
            try:
                rows.append(in_own_process(measure_peer, peer, batch, side))
            except MissingExtraError as error:
                print(f"{peer}: {error}")
        print_table(f"Training step, {title}, batch {batch}, {side} x {side} pixels", rows, plain)


if __name__ == "__main__":
    main()
