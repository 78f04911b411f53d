"""What forecasts are held against: the last value carried forward, with the spread that its errors had in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.twin.quantiles import LEVELS

Array = NDArray[np.float64]

INTERVAL_EDGES: Array = np.array([40.0, 50.0, 70.0])
"""Days that part intervals into under 40, 40 to 50, 50 to 70 and over 70 (70 itself belongs to the third)."""
INTERVAL_EDGES.flags.writeable = False


@dataclass(frozen=True, slots=True)
class LastValue:
    """Last observation carried forward.

    Attributes:
        errors: (4, 21) quantiles of ``outcome - last`` in training, by length of the interval.
    """

    errors: Array

    @classmethod
    def learn(cls, horizon: Array, last: Array, outcome: Array) -> LastValue:
        """From forecasts with outcome in training, all (m,): days, and two levels in observation scale.

        A class of intervals without any takes the errors of all.
        """
        group = interval_class(horizon)
        change = outcome - last
        rows = [change[group == c] if (group == c).any() else change for c in range(len(INTERVAL_EDGES) + 1)]
        if len(change) == 0:
            return cls(np.zeros((len(INTERVAL_EDGES) + 1, len(LEVELS))))
        return cls(np.array([np.quantile(part, LEVELS) for part in rows]))

    def quantiles(self, horizon: Array, last: Array) -> Array:
        """Predictive quantiles (m, 21) in observation scale; the point forecast is ``last`` itself."""
        return np.asarray(last[:, None] + self.errors[interval_class(horizon)])


def interval_class(horizon: Array) -> NDArray[np.int64]:
    """0 under 40 days, 1 from 40 to under 50, 2 from 50 to 70, 3 over 70."""
    inner = np.searchsorted(INTERVAL_EDGES[:2], horizon, side="right")
    return np.asarray(np.where(horizon > INTERVAL_EDGES[2], 3, inner), dtype=np.int64)
