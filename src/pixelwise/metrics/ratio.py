"""Division of counts and means of scores, where 0 / 0 is undefined (NaN) and what is undefined is left out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Values = NDArray[np.float64]


def ratio(part: Array | float, whole: Array | int) -> Values:
    """part / whole, broadcast, and NaN where whole is 0.

    >>> ratio(np.array([1, 0]), np.array([4, 0])).tolist()
    [0.25, nan]
    """
    part, whole = np.broadcast_arrays(part, whole)
    quotient: Values = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return quotient


def mean_of_defined(values: Values) -> float:
    """Mean of the values that are not NaN, to the last bit the same in whatever order they come; NaN without any.

    >>> mean_of_defined(np.array([1.0, np.nan, 0.0]))
    0.5
    """
    defined = values[~np.isnan(values)]
    return math.fsum(defined) / defined.size if defined.size else math.nan
