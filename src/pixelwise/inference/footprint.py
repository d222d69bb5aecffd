"""How much memory a network takes for a window, so that the largest window that fits can be chosen.

Two small windows go through the network while the bytes of all tensors that are alive are counted, operation by
operation. What grows with the pixels and what does not (weights in another precision, say) come from the two peaks.

B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pixelwise.runtime import Runtime

SIDES = (128, 256)
MARGIN = 2.0
"""for what libraries take during an operation, and freed memory that is not used again at once: 1.2 to 2.1 measured"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that a network takes beyond its weights: `fixed`, and `per_pixel` of the window.

    >>> Footprint(fixed=1000, per_pixel=2.0).largest_side(1000 + 2 * 32**2), Footprint(fixed=9, per_pixel=1).memory(1)
    (32, 10)
    """

    fixed: int
    per_pixel: float

    def memory(self, pixels: int) -> int:
        """What a window of so many pixels takes, bytes."""
        return self.fixed + math.ceil(self.per_pixel * pixels)

    def largest_side(self, memory: int) -> int:
        """The side of the largest square window that takes no more than `memory` bytes; 0 where none does."""
        return math.isqrt(max(0, int((memory - self.fixed) / self.per_pixel)))


def footprint_of(network: nn.Module, in_channels: int, runtime: Runtime) -> Footprint:
    """What a network takes when it predicts on this runtime; the same network is measured once."""
    found = _measured.get(network)
    if found is None:
        small, large = (_peak(network, in_channels, side, runtime) for side in SIDES)
        per_pixel = max(1.0, (large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2))
        fixed = max(0, round(small - per_pixel * SIDES[0] ** 2))
        found = _measured[network] = Footprint(fixed=round(MARGIN * fixed), per_pixel=MARGIN * per_pixel)
    return found


@torch.inference_mode()
def _peak(network: nn.Module, in_channels: int, side: int, runtime: Runtime) -> int:
    """The most bytes of tensors alive at once while a square window goes through the network, the logits included."""
    counter = _LiveBytes()
    with counter, runtime.autocast():
        logits_BKHW = network(runtime.place_image(torch.zeros(1, in_channels, side, side))).float()
    del logits_BKHW
    return counter.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor):
                self._count(made.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not address or address in self._known:
            return
        self._known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


_measured: WeakKeyDictionary[nn.Module, Footprint] = WeakKeyDictionary()
