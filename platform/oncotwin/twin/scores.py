"""How forecasts are judged: log error, CRPS, coverage, probability of censored targets, and their uncertainty."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.twin.quantiles import HIGH, LEVELS, LOW, WEIGHTS, Array, probability_below

N_RESAMPLES = 1_000


def fold_of(name: str, n_folds: int = 5) -> int:
    """Fold of a patient (or a tumour, or a trial): the first 32 bits of the SHA-256 of its name, modulo ``n_folds``."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % n_folds


def log_error(predicted: Array, observed: Array, floor: float) -> Array:
    """Absolute difference of logarithms (m,); values below ``floor`` (the same unit) count as the floor."""
    difference = np.log(np.maximum(predicted, floor)) - np.log(np.maximum(observed, floor))
    return np.asarray(np.abs(difference), dtype=np.float64)


def crps(quantiles: Array, observed: Array) -> Array:
    """Continuous ranked probability score from the quantile grid, in the unit of the arguments.

    ``CRPS = 2 * integral over tau of rho_tau(y - q_tau)`` with the pinball loss ``rho_tau(u) = u (tau - 1[u < 0])``,
    taken as ``2 * sum_j w_j rho_j(y - q_j)`` where ``w_j`` (`quantiles.WEIGHTS`) is the length of the cell around
    level j; the outermost cells reach to 0 and 1.

    Args:
        quantiles: (m, 21); observed: (m,).
    Returns:
        (m,) not negative, smaller is better.
    Source:
        Laio & Tamea 2007, doi:10.5194/hess-11-1267-2007; Gneiting & Raftery 2007,
        doi:10.1198/016214506000001437, equation 21.
    """
    miss = observed[:, None] - quantiles
    loss = np.where(miss >= 0.0, LEVELS * miss, (LEVELS - 1.0) * miss)
    return np.asarray(2.0 * (loss * WEIGHTS).sum(axis=1), dtype=np.float64)


def log_crps(quantiles: Array, observed: Array, floor: float) -> Array:
    """`crps` of logarithms; values and quantiles below ``floor`` count as the floor."""
    return crps(np.log(np.maximum(quantiles, floor)), np.log(np.maximum(observed, floor)))


def covered(quantiles: Array, observed: Array) -> NDArray[np.bool_]:
    """Whether each observation (m,) lies in the closed interval from q05 to q95."""
    slack = 1e-9 * np.abs(observed)
    return (observed >= quantiles[:, LOW] - slack) & (observed <= quantiles[:, HIGH] + slack)


def censored_probability(quantiles: Array, kind: Sequence[str], value: Array, limit: Array) -> Array:
    """Predictive probability (m,) of what a censored target says.

    Args:
        quantiles: (m, 21); kind: (m,) left, right or interval; value: (m,) lower end of an interval;
        limit: (m,) the bound, or the upper end of an interval.
    """
    upper = probability_below(quantiles, limit)
    lower = probability_below(quantiles, np.where(np.isnan(value), limit, value))
    names = np.asarray(kind)
    chance = np.where(names == "left", upper, np.where(names == "right", 1.0 - upper, upper - lower))
    return np.clip(chance, 0.5 * LEVELS[0], 1.0)


def pit_histogram(quantiles: Array, observed: Array, n_bins: int) -> Array:
    """Share (n_bins,) of the probability integral transform in equal bins of [0, 1]: flat where forecasts are honest.

    An observation that forecasts give a probability of its own (values written in whole numbers) is spread over the
    levels that it holds, between those of the values below and above it.

    Source:
        Czado, Gneiting & Held 2009, doi:10.1111/j.1541-0420.2009.01191.x, equation 2.
    """
    slack = 1e-9 * np.abs(observed)[:, None]
    below = (quantiles < observed[:, None] - slack).sum(axis=1)
    upto = (quantiles <= observed[:, None] + slack).sum(axis=1)
    middles = np.concatenate([[0.0], 0.5 * (LEVELS[1:] + LEVELS[:-1]), [1.0]])
    alone = probability_below(quantiles, observed)
    low = np.where(upto > below, middles[below], alone)[:, None]
    high = np.where(upto > below, middles[upto], alone)[:, None]
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    reached = np.clip((edges - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    return np.asarray(np.diff(reached, axis=1).sum(axis=0) / max(len(observed), 1))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % bootstrap interval over patients."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As tables print it."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_ratio(
    ours: Array, theirs: Array, patients: Sequence[str], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Interval:
    """Ratio of two mean scores on the same forecasts, resampling whole patients (percentile interval).

    Args:
        ours, theirs: (m,) scores; patients: (m,) whose forecast each is.
        seed: of the generator; equal seeds give equal intervals.
    Returns:
        nan throughout where there is nothing to compare or the reference is perfect.
    """
    if len(ours) == 0 or not theirs.sum() > 0.0:
        return Interval(np.nan, np.nan, np.nan)
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    n = int(owner.max()) + 1
    above, below = np.bincount(owner, ours, n), np.bincount(owner, theirs, n)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=n_resamples)
    bottom = draws @ below
    drawn = (draws @ above)[bottom > 0.0] / bottom[bottom > 0.0]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(above.sum() / below.sum()), float(low), float(high))


def bootstrap_mean(
    score: Array, patients: Sequence[str], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Interval:
    """Mean of a score (a coverage, say), resampling whole patients."""
    return bootstrap_ratio(np.asarray(score, dtype=np.float64), np.ones(len(score)), patients, seed=seed,
                           n_resamples=n_resamples)
