"""How far a series is likely to move: a smooth model of the size of a change, by which changes are made comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]

RIDGE = 300.0
"""Weight of the ridge: an effect must be seen in hundreds of forecasts, because those of one patient go together."""
_N_KNOTS = 17
_LEAST_CHANGE = 1e-6
_MOST_ROWS = 16_000


@dataclass(frozen=True, slots=True)
class ChangeScale:
    """Expected absolute change, log-linear in the rank of each feature.

    Attributes:
        knots: of each feature its quantiles in training, from which ranks are read; none where it did not vary. A scale
            without any is a constant.
        weights: intercept; then for each feature with knots its rank, the rank's distance from the middle, and whether
            the feature is missing.
    """

    knots: tuple[Array, ...]
    weights: Array

    def predict(self, features: Array) -> Array:
        """Expected absolute change (m,) for ``features`` (m, n_features), NaN where unknown.

        Each row is summed by itself in the order of the columns: one row gives the same bits as a thousand.
        """
        total = np.full(len(features), self.weights[0])
        for column, weight in zip(_columns(features, self.knots), self.weights[1:], strict=True):
            total += weight * column
        return np.asarray(np.exp(total))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"knots": [knots.tolist() for knots in self.knots], "weights": self.weights.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ChangeScale:
        """Read what `to_dict` wrote."""
        return cls(
            tuple(np.array(knots, dtype=np.float64) for knots in content["knots"]),
            np.array(content["weights"], dtype=np.float64),
        )


def learn_scale(features: Array, change: Array, *, ridge: float = RIDGE) -> ChangeScale:
    """Fit by the likelihood of exponentially distributed absolute changes, with a ridge on all but the intercept.

    The exponential likelihood asks only that the mean is right (a quasi-likelihood with the variance as the squared
    mean): changes of exactly zero and heavy tails do no harm.

    Args:
        features: (m, n_features), NaN where unknown; change: (m,). Of very many rows every n-th is taken.
    Source:
        Wedderburn 1974, doi:10.1093/biomet/61.3.439 (quasi-likelihood).
    """
    every = 1 + len(features) // _MOST_ROWS
    features, change = features[::every], change[::every]
    knots = tuple(_knots(column) for column in features.T)
    table = np.column_stack([np.ones(len(features)), *_columns(features, knots)])
    size = np.abs(change)
    penalty = np.full(table.shape[1], ridge)
    penalty[0] = 0.0

    def loss(weights: Array) -> tuple[float, Array]:
        # einsum, not a matrix product: the sums must not depend on the number of threads.
        total = np.clip(np.einsum("ij,j->i", table, weights), -30.0, 30.0)
        ratio = size * np.exp(-total)
        value = float((total + ratio).sum() + 0.5 * (penalty * weights**2).sum())
        return value, np.einsum("ij,i->j", table, 1.0 - ratio) + penalty * weights

    start = np.zeros(table.shape[1])
    start[0] = np.log(max(float(size.mean()), _LEAST_CHANGE))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    return ChangeScale(knots, np.round(found.x, 6))


def _knots(column: Array) -> Array:
    """Quantiles of the values that are known; empty where fewer than two differ."""
    known = column[np.isfinite(column)]
    if len(known) == 0:
        return np.zeros(0)
    distinct = np.unique(np.quantile(known, np.linspace(0.0, 1.0, _N_KNOTS)))
    return distinct if len(distinct) > 1 else np.zeros(0)


def _columns(features: Array, knots: tuple[Array, ...]) -> list[Array]:
    """Three columns (m,) of each feature that has knots."""
    found: list[Array] = []
    for index, marks in enumerate(knots):
        if len(marks) == 0:
            continue
        column = features[:, index]
        missing = ~np.isfinite(column)
        rank = np.interp(np.where(missing, marks[0], column), marks, np.linspace(-1.0, 1.0, len(marks)))
        rank[missing] = 0.0
        found += [rank, np.where(missing, 0.0, np.abs(rank) - 0.5), missing.astype(np.float64)]
    return found
