"""The field's classical growth curves, each fitted to one patient's past: exponential, logistic, Gompertz, Bertalanffy.

A saturating curve is ``u(t) = p + q exp(-r t)`` for a transform u of the size: its logarithm (Gompertz), its cube
root (Bertalanffy, for a volume), its reciprocal (logistic). For a given r this is linear in p and q, so that one
weighted least-squares fit a rate and a search over rates fit all origins at once (variable projection, Golub &
Pereyra 1973, doi:10.1137/0710036); the weights make errors relative ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks.accuracy import Past

Array = NDArray[np.float64]

CURVES = ("exponential", "logistic", "gompertz", "bertalanffy")
_RATES = np.geomspace(1e-4, 0.5, 60)
_FURTHEST = 3.0
"""A fit may not move further from the last value than this, in log units."""


def fit_and_predict(pasts: Sequence[Past], curve: str, *, dimension: int) -> Array:
    """Predicted log sizes (m,): saturating curves need three observations, the exponential two; else the last value.

    Args:
        dimension: 3 for volumes and concentrations, 1 for diameters (a volume's cube root).
    """
    longest = max(len(past.time) for past in pasts)
    time = np.full((len(pasts), longest), np.nan)
    level = np.full((len(pasts), longest), np.nan)
    for row, past in enumerate(pasts):
        time[row, : len(past.time)], level[row, : len(past.level)] = past.time, past.level
    n = np.array([len(set(past.time)) for past in pasts])
    last = np.array([past.level[-1] for past in pasts])
    until = np.array([past.time[-1] + past.horizon for past in pasts])
    if curve == "exponential":
        return _bounded(_line(time, level, np.ones_like(level), until)[0], last, n >= 2)
    ahead, back, weight = _transform(curve, dimension)
    u = ahead(level)
    best, chosen = np.full(len(pasts), np.inf), last.copy()
    for rate in _RATES:
        predicted, misfit = _line(np.exp(-rate * time), u, weight(u), np.exp(-rate * until))
        with np.errstate(invalid="ignore", divide="ignore"):
            candidate = back(predicted)
        better = np.isfinite(candidate) & (misfit < best)
        best, chosen = np.where(better, misfit, best), np.where(better, candidate, chosen)
    return _bounded(chosen, last, n >= 3)


Function = Callable[[Array], Array]


def _transform(curve: str, dimension: int) -> tuple[Function, Function, Function]:
    """From log size, back to it, and the weight of u that makes errors those of the logarithm."""
    if curve == "gompertz":
        return lambda y: y, lambda u: u, np.ones_like
    if curve == "logistic":
        return lambda y: np.exp(-y), lambda u: -np.log(u), lambda u: 1.0 / u**2
    return (
        lambda y: np.exp(y / dimension), lambda u: dimension * np.log(u), lambda u: (dimension / u) ** 2,
    )


def _line(x: Array, u: Array, weight: Array, new: Array) -> tuple[Array, Array]:
    """Weighted straight line of each row through its points, its value at ``new`` (m,), and its squared misfit."""
    w = np.where(np.isnan(u), 0.0, weight)
    x, u = np.nan_to_num(x), np.nan_to_num(u)
    total = w.sum(axis=1)
    mean_x, mean_u = (w * x).sum(axis=1) / total, (w * u).sum(axis=1) / total
    dx, du = x - mean_x[:, None], u - mean_u[:, None]
    spread = (w * dx * dx).sum(axis=1)
    slope = np.divide((w * dx * du).sum(axis=1), spread, out=np.zeros(len(x)), where=spread > 1e-14)
    misfit = (w * (du - slope[:, None] * dx) ** 2).sum(axis=1)
    return mean_u + slope * (new - mean_x), misfit


def _bounded(predicted: Array, last: Array, enough: NDArray[np.bool_]) -> Array:
    held = np.clip(predicted, last - _FURTHEST, last + _FURTHEST)
    return np.where(enough & np.isfinite(predicted), held, last)
