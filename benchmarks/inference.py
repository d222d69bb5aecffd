"""One forward pass: ours as it ships against the same network run plainly, and peers.

    pip install 'pixelwise[bench]' && python benchmarks/inference.py

"plain" is eager float32, NCHW, the system's allocator settings: what a user of the peers gets. Each row is a fresh
process. `speed` compares with the plain row of the same block.
"""

from __future__ import annotations

import torch
from measuring import Measured, flops_of, in_own_process, peak_mb, print_limits, print_table, seconds_of
from networks import OURS, PEERS, Contestant

from pixelwise.config import RuntimeConfig
from pixelwise.errors import MissingExtraError
from pixelwise.runtime import prepare

PLAIN = RuntimeConfig(precision="fp32", channels_last=False, allocator=False, deterministic=False)
BLOCKS = {
    "small U-Net (width 16)": (512, ("smp Unet resnet18", "MONAI BasicUNet")),
    "U-Net of the paper": (572, ("MONAI BasicUNet, paper's width",)),
}


def measure_ours(key: str, side: int, plain: bool) -> Measured:
    settings = PLAIN if plain else RuntimeConfig()
    return measure(OURS[key], settings, side, "plain: fp32, NCHW" if plain else "as we ship it")


def measure_peer(name: str, side: int) -> Measured:
    return measure(next(peer for peer in PEERS if peer.name == name), PLAIN, side, "as it ships")


@torch.inference_mode()
def measure(contestant: Contestant, settings: RuntimeConfig, side: int, label: str) -> Measured:
    runtime = prepare(settings)
    network = runtime.place(contestant.build(3)).eval()
    image_BCHW = runtime.place_image(torch.randn(1, 3, side, side))

    def step() -> None:
        with runtime.autocast():
            network(image_BCHW)

    flops = flops_of(step)
    seconds = seconds_of(step, times=9)
    return Measured(contestant.name, label, seconds, flops / seconds / 1e9, peak_mb())


def main() -> None:
    print_limits()
    for title, (side, peers) in BLOCKS.items():
        plain = in_own_process(measure_ours, title, side, True)
        rows = [plain, in_own_process(measure_ours, title, side, False)]
        for peer in peers:
            try:
                rows.append(in_own_process(measure_peer, peer, side))
            except MissingExtraError as error:
                print(f"{peer}: {error}")
        print_table(f"Forward pass, {title}, one image of {side} x {side} pixels, 3 channels", rows, plain)


if __name__ == "__main__":
    main()
