"""One training step: ours as it ships, the same network run plainly, and peers.

    pip install 'pixelwise[bench]' && python benchmarks/training_step.py

Our rows time what `training/loop.py` does in a step: forward, cross-entropy and Dice, backward, clipping, AdamW,
Our rows time what `training/loop.py` does in a step: forward, cross-entropy and Dice, backward, clip, AdamW, moving
NCHW, with the system's allocator settings. Each row is a fresh process; `speed` compares with the plain row of the
same block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measuring import Measured, flops_of, in_own_process, peak_mb, print_limits, print_table, seconds_of
from networks import CLASSES, OURS, PEERS, Contestant
from torch import Tensor
from torch.nn import functional as F

from pixelwise.config import RuntimeConfig, TrainingConfig
from pixelwise.data.loaders import Batch
from pixelwise.errors import MissingExtraError
from pixelwise.losses.registry import parse_loss
from pixelwise.runtime import prepare
from pixelwise.task import Task
from pixelwise.training.distributed import Ranks
from pixelwise.training.loop import Job, learning_network, update_weights
from pixelwise.training.optim import MovingAverage, make_optimizer
from pixelwise.training.resume import State

PLAIN = RuntimeConfig(precision="fp32", channels_last=False, allocator=False, deterministic=False)
BLOCKS = {
    "small U-Net (width 16)": (8, 256, ("smp Unet resnet18", "MONAI BasicUNet")),
    "U-Net of the paper": (1, 572, ("MONAI BasicUNet, paper's width",)),
}


def measure_ours(key: str, batch: int, side: int, plain: bool) -> Measured:
    """Our own step, as `fit` does it."""
    runtime = prepare(PLAIN if plain else RuntimeConfig())
    settings, contestant = TrainingConfig(batch=batch), OURS[key]
    torch.manual_seed(0)
    network = runtime.place(contestant.build(1)).train()
    state = State(
        network=network,
        optimizer=make_optimizer(network, settings),
        average=MovingAverage(network, settings.ema),
        scaler=torch.amp.GradScaler(runtime.device.type, enabled=False),
    )
    task, loss = Task.of([f"class {number}" for number in range(CLASSES)]), parse_loss("ce+dice")
    job = Job(task=task, settings=settings, runtime=runtime, ranks=Ranks(), loss=loss)
    image_BCHW, mask_BHW = example(contestant, batch, side)
    learning = learning_network(state, job)
    example_batch = Batch(image_BCHW, mask_BHW, ("example",) * batch)

    def step() -> None:
        update_weights(state, learning, example_batch, job)
        state.average.update(network, step=0)

    return measured(contestant, "plain: fp32, NCHW" if plain else "as we ship it", step)


def measure_peer(name: str, batch: int, side: int) -> Measured:
    """A peer's network in the loop that its documentation shows."""
    runtime = prepare(PLAIN)
    peer = next(peer for peer in PEERS if peer.name == name)
    network = peer.build(1).train().to(runtime.device)
    optimizer = torch.optim.AdamW(network.parameters())
    image_BCHW, mask_BHW = (part.to(runtime.device) for part in example(peer, batch, side))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(image_BCHW), mask_BHW).backward()
        optimizer.step()

    return measured(peer, "as it ships", step)


def example(contestant: Contestant, batch: int, side: int) -> tuple[Tensor, Tensor]:
    """Random images, and masks of the size of the network's logits."""
    output = side - 2 * contestant.margin
    return torch.randn(batch, 1, side, side), torch.randint(CLASSES, (batch, output, output))


def measured(contestant: Contestant, label: str, step: Callable[[], None]) -> Measured:
    flops = flops_of(step)
    seconds = seconds_of(step)
    return Measured(contestant.name, label, seconds, flops / seconds / 1e9, peak_mb())


def main() -> None:
    print_limits()
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
