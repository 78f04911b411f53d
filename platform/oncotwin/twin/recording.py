"""How finely values are written down: whole millimetres, tenths of a nanogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COARSEST, FINEST = -3, 3
UNROUNDED = FINEST + 1
"""Stands for values that are on none of the grids, and for a past that says nothing of its grid."""

FEWEST_ROWS = 100
_LEAST_SHARE = 0.95


def decimals(value: float) -> int:
    """Fewest decimals (negative: tens, hundreds) with which a value is written; `UNROUNDED` above three."""
    for n in range(COARSEST, FINEST + 1):
        if abs(round(value, n) - value) <= 1e-9 * max(1.0, abs(value)):
            return n
    return UNROUNDED


def learn_decimals(past: NDArray[np.int64], outcome: NDArray[np.int64]) -> int:
    """The coarsest grid that holds: of series that lay on it so far, nearly all next values do.

    A first value of 20 mm does not say that the next is a multiple of ten; in training it is seen that it is not.

    Args:
        past: (m,) most decimals of the values before each forecast; outcome: (m,) decimals of what came.
    Returns:
        Decimals, or `UNROUNDED` where no grid holds or too few forecasts say so.
    """
    for n in range(COARSEST, FINEST + 1):
        on = past <= n
        if on.sum() >= FEWEST_ROWS and (outcome[on] <= n).mean() >= _LEAST_SHARE:
            return n
    return UNROUNDED
