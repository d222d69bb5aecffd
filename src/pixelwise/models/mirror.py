"""Images continued beyond their border by mirroring, as far as wanted, however small they are.

B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirror_padded(image_BCHW: Tensor, *, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """The image with `rows` (above, below) and `columns` (left, right) added, mirrored; edge pixels are not repeated.

    The mirror images go on for as long as is asked, where F.pad(mode="reflect") stops after the first.

    >>> mirror_padded(torch.tensor([[[[1, 2, 3]]]]), rows=(0, 0), columns=(3, 2)).tolist()
    [[[[2, 3, 2, 1, 2, 3, 2, 1]]]]
    """
    height, width = image_BCHW.shape[-2:]
    row_indices = mirrored_positions(height, *rows, device=image_BCHW.device)
    column_indices = mirrored_positions(width, *columns, device=image_BCHW.device)
    return image_BCHW.index_select(-2, row_indices).index_select(-1, column_indices)


def mirrored_positions(length: int, before: int, after: int, *, device: torch.device | None = None) -> Tensor:
    """Which of `length` pixels stands at each of the positions -before, ..., length + after - 1 of a mirrored line.

    >>> mirrored_positions(3, 3, 2).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0]
    """
    period = max(2 * (length - 1), 1)  # a single pixel is its own mirror image
    folded = torch.arange(-before, length + after, device=device).remainder(period)
    return torch.minimum(folded, period - folded)
