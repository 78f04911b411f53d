"""The grid of levels on which every predictive distribution is written down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS: Array = np.array([0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99])
LEVELS.flags.writeable = False
"""(21,) 0.01, 0.05, 0.10 ... 0.95, 0.99."""

COLUMNS: tuple[str, ...] = tuple(f"q{round(level * 100):02d}" for level in LEVELS)
"""Column of each level: q01, q05, q10 ... q95, q99."""

WEIGHTS: Array = np.diff(np.concatenate(([0.0], 0.5 * (LEVELS[1:] + LEVELS[:-1]), [1.0])))
WEIGHTS.flags.writeable = False
"""(21,) length of the cell around each level; the cells part (0, 1) at the midpoints, so they sum to one."""

MEDIAN = COLUMNS.index("q50")
LOW, HIGH = COLUMNS.index("q05"), COLUMNS.index("q95")
"""Ends of the central 90 % interval."""


def probability_below(quantiles: Array, value: Array) -> Array:
    """Predictive probability of a value not above ``value``, by straight lines between the grid's levels.

    Beyond the outermost quantiles half of the outer level is taken (0.005 and 0.995): the grid says no more.

    Args:
        quantiles: (m, 21), not decreasing along the second axis; value: (m,).
    """
    n = len(LEVELS)
    # The first index whose quantile lies above the value: ties count as "not above".
    above = (quantiles <= value[:, None]).sum(axis=1)
    left, right = np.clip(above - 1, 0, n - 1), np.clip(above, 0, n - 1)
    rows = np.arange(len(value))
    gap = quantiles[rows, right] - quantiles[rows, left]
    part = np.divide(value - quantiles[rows, left], gap, out=np.zeros(len(value)), where=gap > 0)
    inside = LEVELS[left] + np.clip(part, 0.0, 1.0) * (LEVELS[right] - LEVELS[left])
    outer = 0.5 * LEVELS[0]
    chance = np.where(above == 0, outer, np.where(above == n, 1.0 - outer, inside))
    return np.asarray(chance, dtype=np.float64)
