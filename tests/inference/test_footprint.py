from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pixelwise.inference import footprint
from pixelwise.inference.footprint import MARGIN, Footprint, footprint_of
from pixelwise.models.registry import build_model
from pixelwise.runtime import Runtime


class Copies(nn.Module):
    """Makes copies of the image, of which so many are alive at once, and a table of a fixed size."""

    def __init__(self, *, alive: int, fixed: int) -> None:
        super().__init__()
        self.alive, self.fixed = alive, fixed

    def forward(self, image_BCHW: Tensor) -> Tensor:
        for _ in range(3):  # what an earlier round held is free again
            held = [image_BCHW + number for number in range(self.alive - 1)]
            del held
        table = torch.zeros(self.fixed)
        held = [image_BCHW + number for number in range(self.alive)]
        return held[0] + table[0]


@pytest.mark.parametrize(("alive", "fixed"), [(1, 1), (3, 1), (5, 250_000)])
def test_tensors_that_are_alive_at_once_are_counted(alive: int, fixed: int, runtime: Runtime) -> None:
    found = footprint_of(Copies(alive=alive, fixed=fixed), 2, runtime)
    per_pixel = 4 * 2 * (alive + 2)  # float32, 2 channels; the image and the result are there with them
    assert found.per_pixel == pytest.approx(MARGIN * per_pixel, rel=0.01)
    assert found.fixed == pytest.approx(MARGIN * 4 * fixed, abs=20)


def test_a_wider_network_takes_more(runtime: Runtime) -> None:
    narrow, wide = (build_model("unet", in_channels=1, classes=2, options={"width": w, "depth": 2}) for w in (4, 8))
    small, large = footprint_of(narrow.eval(), 1, runtime), footprint_of(wide.eval(), 1, runtime)
    assert 1.7 < large.per_pixel / small.per_pixel < 2.1
    assert footprint_of(wide, 1, runtime) is large


def test_sides_and_memory_are_inverse() -> None:
    found = Footprint(fixed=10_000, per_pixel=12.5)
    for side in (1, 31, 1024, 5000):
        assert found.largest_side(found.memory(side**2)) == side
    assert found.largest_side(9_999) == 0


def test_nothing_is_counted_twice_and_nothing_below_zero(runtime: Runtime) -> None:
    counter = footprint._LiveBytes()
    with counter:
        one = torch.ones(100)
        view = one[:50]
        other = one + 1
    assert counter.now == counter.peak == 800
    del one, view, other
    assert (counter.now, counter.peak) == (0, 800)
