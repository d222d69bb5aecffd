"""The networks that the benchmarks compare: ours, and those of peers as they ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pixelwise.errors import require
from pixelwise.models.unet import UNet, UNetValid

CLASSES = 2


@dataclass(frozen=True)
class Contestant:
    name: str
    build: Callable[[int], nn.Module]
    margin: int = 0


OURS = {
    "small U-Net (width 16)": Contestant("ours, width 16", lambda channels: UNet(channels, CLASSES, width=16)),
    "U-Net of the paper": Contestant("ours, the paper's", lambda channels: UNetValid(channels, CLASSES), margin=92),
}


def smp_unet(channels: int) -> nn.Module:
    smp = require("segmentation_models_pytorch", extra="bench")
    network: nn.Module = smp.Unet("resnet18", encoder_weights=None, in_channels=channels, classes=CLASSES)
    return network


def monai_basic_unet(channels: int) -> nn.Module:
    nets = require("monai.networks.nets", extra="bench")
    network: nn.Module = nets.BasicUNet(spatial_dims=2, in_channels=channels, out_channels=CLASSES)
    return network


def monai_paper_unet(channels: int) -> nn.Module:
    nets = require("monai.networks.nets", extra="bench")
    features = (64, 128, 256, 512, 1024, 64)
    network: nn.Module = nets.BasicUNet(spatial_dims=2, in_channels=channels, out_channels=CLASSES, features=features)
    return network


PEERS = (
    Contestant("smp Unet resnet18", smp_unet),
    Contestant("MONAI BasicUNet", monai_basic_unet),
    Contestant("MONAI BasicUNet, paper's width", monai_paper_unet),
)
