"""False discovery rate over a family of tests, such as all genes at all places.

A family is what is handed in: one call over a (n_places, n_genes) array is one family, one call a column is one family
a gene. NaN marks a test that could not be done (a constant gene); it is no member of the family.

Source:
    Benjamini & Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x (independent or positively dependent tests, as
    neighbouring places mostly are); Benjamini & Yekutieli 2001, doi:10.1214/aos/1013699998, theorem 1.3 (any
    dependence, at the price of a factor of about log n).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError

Array = NDArray[np.float64]


class Dependence(StrEnum):
    """What is assumed of the tests of a family."""

    POSITIVE = "positive"
    """Independent or positively dependent: Benjamini-Hochberg."""
    ANY = "any"
    """Anything: Benjamini-Yekutieli."""


def penalty(n_tests: int, dependence: Dependence) -> float:
    """Factor on every p-value: 1, or the harmonic number of ``n_tests``."""
    if dependence is Dependence.POSITIVE:
        return 1.0
    return math.fsum(1.0 / i for i in range(1, n_tests + 1))


def adjusted(p: Array, dependence: Dependence = Dependence.POSITIVE) -> Array:
    """Adjusted p-values: reject at rate alpha where they are at most alpha.

    Args:
        p: any shape, one family; NaN where there is no test.
        dependence: of the tests.
    Returns:
        The same shape, at most 1, NaN where ``p`` is.
    Raises:
        ConfigurationError: a value outside 0 to 1.
    """
    flat = np.asarray(p, dtype=np.float64).ravel()
    _check(flat)
    tested = np.flatnonzero(~np.isnan(flat))
    order = tested[np.argsort(flat[tested], kind="stable")]
    n = len(order)
    steps = flat[order] * (n * penalty(n, dependence)) / np.arange(1, n + 1)
    out = np.full(flat.shape, np.nan)
    out[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return out.reshape(np.shape(p))


def rejection_threshold(
    count_at_most: Callable[[float], int], n_tests: int, alpha: float, dependence: Dependence = Dependence.POSITIVE
) -> float:
    """The p-value up to which to reject, for a family that lies in blocks and is never held whole.

    The step-up rule rejects the k smallest, k being the largest with ``p_(k) <= alpha k / (n c)``. Begin with k = n and
    replace k by the number of p-values at most ``alpha k / (n c)``: as that number does not increase when k falls, the
    sequence falls to the largest k that is its own successor, which is the rule's. Counts of blocks add up, so blocks
    and their order change nothing.

    Args:
        count_at_most: number of p-values of the family at most a threshold: the sum of `counted_at_most` over blocks.
        n_tests: size of the family, NaN left out.
        alpha: false discovery rate, above 0 and below 1.
        dependence: of the tests.
    Returns:
        Threshold t: reject where ``p <= t``; 0.0 may still reject p-values of zero.
    Raises:
        ConfigurationError: alpha outside its range.
    """
    if not 0.0 < alpha < 1.0:
        raise ConfigurationError(f"false discovery rate of {alpha}: choose one above 0 and below 1, such as 0.05")
    if n_tests == 0:
        return 0.0
    per_rank = alpha / (n_tests * penalty(n_tests, dependence))
    rank = n_tests
    while (fewer := count_at_most(per_rank * rank)) < rank:
        rank = fewer
    return per_rank * rank


def counted_at_most(p: Array, threshold: float) -> int:
    """How many p-values of a block are at most a threshold; NaN is not."""
    return int(np.count_nonzero(p <= threshold))


def _check(p: Array) -> None:
    bad = np.flatnonzero((p < 0.0) | (p > 1.0))
    if len(bad):
        raise ConfigurationError(f"p-value {p[bad[0]]} at place {bad[0]} of its family is not between 0 and 1")
