"""Is a filter's uncertainty honest? Numbers that should look uniform, chi-square or equal if it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, ndtr, ndtri

from oncotwin.filters.base import Array, FoldInfo
from oncotwin.filters.particle import ParticleState
from oncotwin.filters.steps import Operation, StepTable


def normalised_innovations_squared(info: FoldInfo, steps: StepTable) -> Array:
    """(n_steps,) squared innovation over its predicted variance; chi-square with one degree each, NaN elsewhere."""
    observed = steps.operation == int(Operation.OBSERVE)
    squared = (steps.value - info.predicted_mean) ** 2 / info.predicted_variance
    return np.where(observed, squared, np.nan)


def probability_transform(info: FoldInfo, steps: StepTable) -> Array:
    """(n_steps,) predictive distribution function at what was observed; uniform if calibrated, NaN elsewhere."""
    observed = steps.operation == int(Operation.OBSERVE)
    z = (steps.value - info.predicted_mean) / np.sqrt(info.predicted_variance)
    return np.where(observed, ndtr(z), np.nan)


def effective_sizes(state: ParticleState) -> Array:
    """(k,) how many equal particles each twin's weighted ones are worth."""
    largest = state.log_weights.max(axis=1, keepdims=True)
    weights = np.exp(state.log_weights - largest)
    return np.asarray(weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1))


def weighted_ranks(values: Array, weights: Array, truth: Array) -> Array:
    """(k,) weight below the truth, half of ties included; values and weights (k, n_members), weights sum to one."""
    below = (weights * (values < truth[:, None])).sum(axis=1)
    return np.asarray(below + 0.5 * (weights * (values == truth[:, None])).sum(axis=1))


def uniformity(ranks: Array, n_bins: int = 20) -> float:
    """P-value of Pearson's chi-square test that ranks in [0, 1] are uniform, over equal bins."""
    counts = np.bincount(np.minimum((ranks * n_bins).astype(np.int64), n_bins - 1), minlength=n_bins)
    expected = len(ranks) / n_bins
    return float(gammaincc(0.5 * (n_bins - 1), 0.5 * float(((counts - expected) ** 2).sum()) / expected))


def holm_rejects(p_values: Array, level: float = 0.01) -> NDArray[np.bool_]:
    """Which hypotheses Holm's step-down procedure rejects at a family-wise level.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    order = np.argsort(p_values)
    bars = level / (len(p_values) - np.arange(len(p_values)))
    still = np.logical_and.accumulate(p_values[order] <= bars)
    rejected = np.zeros(len(p_values), dtype=np.bool_)
    rejected[order] = still
    return rejected


def predictive_quantiles(info: FoldInfo, levels: Array) -> Array:
    """(n_predict, n_levels) quantiles of the predicted observations from the kept members, noise included.

    The predictive distribution is the members' mixture of Gaussians; its distribution function is inverted by
    bisection to 1e-10 of the span in which it lies.
    """
    mean, sd, weight = info.member_mean, np.sqrt(info.member_variance), info.member_weight
    reach = float(ndtri(1.0 - 1e-12))
    low = np.repeat((mean - reach * sd).min(axis=1)[:, None], len(levels), axis=1)
    high = np.repeat((mean + reach * sd).max(axis=1)[:, None], len(levels), axis=1)
    for _ in range(40):
        middle = 0.5 * (low + high)
        reached = np.empty_like(middle)
        for column in range(len(levels)):
            reached[:, column] = (weight * ndtr((middle[:, column, None] - mean) / sd)).sum(axis=1)
        low, high = np.where(reached < levels, middle, low), np.where(reached < levels, high, middle)
    return np.asarray(0.5 * (low + high))
