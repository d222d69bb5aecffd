"""How gradients flow: their norms layer by layer, why they vanish in deep chains, and where numbers end.

Skip connections let the gradient through: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
CVPR 2016, arXiv 1512.03385. B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

from pixelwise.inspection.summary import Norm

BLUR = ((0.05, 0.1, 0.05), (0.1, 0.2, 0.1), (0.05, 0.1, 0.05))  # sums to 0.8
BLURRED_SIDE, MOST_BLURS = 8, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradient:
    """The gradient of one layer after a batch: its norm, and the norm of the weights it belongs to.

    is_norm  whether the layer is a norm, whose few weights are of another kind than those of convolutions
    """

    name: str
    gradient: float
    weight: float
    is_norm: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def gradient_norms(network: nn.Module, loss: Callable[[Tensor], Tensor], image_BCHW: Tensor) -> list[LayerGradient]:
    """The norm of the gradient of every layer with weights of its own, in the order of the network's definition.

    `loss` takes the logits of the batch. The network trains while this is measured (batch norm by the batch, dropout
    with a fixed seed) and is left as it was. Layers that the loss does not depend on have the norm 0.

    >>> image = torch.full((1, 1, 2, 2), 3.0)
    >>> [row.gradient for row in gradient_norms(nn.Conv2d(1, 1, 1, bias=False), torch.sum, image)]
    [12.0]
    """
    owners = {name: module for name, module in network.named_modules() if list(module.parameters(recurse=False))}
    learned = {
        name: [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        for name, module in owners.items()
    }
    flat = [parameter for parameters in learned.values() for parameter in parameters]
    with _training(network), torch.enable_grad():
        gradients = torch.autograd.grad(loss(network(image_BCHW)), flat, materialize_grads=True)
    gradient_of = {id(parameter): gradient for parameter, gradient in zip(flat, gradients, strict=True)}
    return [
        LayerGradient(
            name=name or "(network)",
            gradient=_norm([gradient_of[id(parameter)] for parameter in parameters]),
            weight=_norm(parameters),
            is_norm=isinstance(owners[name], Norm),
        )
        for name, parameters in learned.items()
        if parameters
    ]


def chain_gradients(layers: int = 20, *, gain: float = 0.01, residual: bool = False) -> list[float]:
    """Gradients of the output of a chain of layers y = gain x, in float32, at each layer's input, first layer first.

    With skip connections each layer is y = x + gain x. Twenty layers with a gain of 0.01 leave the first one a
    gradient of 1e-40, which float32 holds only just; with skip connections it is 1.01 to the power of 20.

    >>> [f"{chain_gradients(residual=residual)[0]:.4g}" for residual in (False, True)]
    ['1e-40', '1.22']
    """
    values = [torch.ones((), requires_grad=True)]
    for _ in range(layers):
        change = gain * values[-1]
        values.append(values[-1] + change if residual else change)
    return [float(gradient) for gradient in torch.autograd.grad(values[-1], values[:-1])]


def blurs_until_zero(dtype: DTypeLike = np.float32) -> int | None:
    """How many times an 8x8 image of ones is blurred, losing a fifth of its sum each time, until every pixel is 0.

    A real number would never get there; a stored one does, when it falls below half of the smallest that its type
    holds: in float32 after about 363 times, in float16 after about 66. None where it takes more than 1,000 times.

    >>> blurs_until_zero(np.float16) < 100 < blurs_until_zero(np.float32) < 400, blurs_until_zero(np.float64)
    (True, None)
    """
    kernel = np.array(BLUR, dtype)
    image_HW = np.ones((BLURRED_SIDE, BLURRED_SIDE), dtype)
    for count in range(1, MOST_BLURS + 1):
        image_HW = _blurred(image_HW, kernel)
        if not image_HW.any():
            return count
    return None


def stored(value: float, dtype: DTypeLike, *, scale: float = 1.0) -> float:
    """A value as a number type holds it; with a `scale`, multiplied before it is stored and divided afterwards.

    float16 holds nothing below 6e-8: small gradients become 0. Multiplying the loss, and so all gradients, keeps them:
    Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv 1710.03740.

    >>> stored(1e-8, np.float16), f"{stored(1e-8, np.float16, scale=65536):.2g}"
    (0.0, '1e-08')
    """
    return float(np.asarray(value * scale, dtype)) / scale


def _blurred(image_HW: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
    """Zeros around the image; the sum in float32 at least, as processors do it, the result in the type of the image."""
    wide = np.pad(image_HW, 1).astype(np.promote_types(image_HW.dtype, np.float32))
    windows = np.lib.stride_tricks.sliding_window_view(wide, kernel.shape)
    return np.asarray((windows * kernel).sum((2, 3)), image_HW.dtype)


@contextmanager
def _training(network: nn.Module) -> Iterator[None]:
    """Within it the network trains; afterwards its mode and its running statistics are as before."""
    was_training = {module: module.training for module in network.modules()}
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network.train()
            yield
    finally:
        for module, training in was_training.items():
            module.training = training
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(statistics[name])


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([tensor.detach().double().norm() for tensor in tensors]).norm())
