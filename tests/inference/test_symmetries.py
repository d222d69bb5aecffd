from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.inference.symmetries import Symmetry, symmetries
from pixelwise.tiles import Window

sides = st.integers(1, 30)


def test_all_eight_differ_and_are_undone() -> None:
    values = torch.arange(6.0).reshape(1, 1, 2, 3)
    seen = set()
    for view in symmetries():
        assert torch.equal(view.back(view.turn(values)), values)
        assert view.turned_shape((2, 3)) == tuple(view.turn(values).shape[-2:])
        seen.add((tuple(view.turn(values).shape), tuple(view.turn(values).flatten().tolist())))
    assert len(seen) == 8
    assert next(symmetries()) == Symmetry()


@given(sides, sides, st.data())
@settings(max_examples=100, deadline=None)
def test_windows_turn_with_the_image(height, width, data):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))
    image = torch.from_numpy(np.arange(height * width).reshape(height, width))
    for view in symmetries():
        turned = view.turn_window(window, (height, width))
        assert torch.equal(view.turn(image)[turned.slices], view.turn(image[window.slices]))
        assert view.window_back(turned, (height, width)) == window
