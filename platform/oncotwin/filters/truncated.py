"""Moments of a Gaussian that is known only to lie on one side of a limit, or between two."""

from __future__ import annotations

import math

from numba import njit, types

from oncotwin.filters.base import Array
from oncotwin.filters.steps import Operation

_BELOW = int(Operation.BELOW)
_ABOVE = int(Operation.ABOVE)
_ROOT2 = math.sqrt(2.0)
_ROOT2PI = math.sqrt(2.0 * math.pi)


@njit(types.float64(types.float64), cache=True, nogil=True, error_model="numpy")
def log_cdf(z: float) -> float:
    """Logarithm of the standard normal distribution function, by its asymptotic series where it nears underflow."""
    if z > -35.0:
        return math.log(0.5 * math.erfc(-z / _ROOT2))
    z2 = z * z
    return -0.5 * z2 - math.log(-z * _ROOT2PI) + math.log1p(
        (-1.0 + (3.0 + (-15.0 + 105.0 / z2) / z2) / z2) / z2
    )


@njit(types.void(types.int64, types.float64, types.float64, types.float64, types.float64, types.float64[::1]),
      cache=True, nogil=True, error_model="numpy")
def truncated_moments(operation: int, low: float, high: float, mean: float, variance: float, out: Array) -> None:
    """Log-probability, mean and variance of N(mean, variance) given the censoring event; written to ``out`` (3,).

    BELOW: y < low. ABOVE: y > low. BETWEEN: low < y < high.

    Source:
        Johnson, Kotz & Balakrishnan 1994, Continuous Univariate Distributions 1, section 10.1.
    """
    sd = math.sqrt(variance)
    if operation == _BELOW or operation == _ABOVE:
        sign = 1.0 if operation == _BELOW else -1.0
        z = sign * (low - mean) / sd
        log_probability = log_cdf(z)
        ratio = math.exp(-0.5 * z * z - log_probability) / _ROOT2PI
        out[0] = log_probability
        out[1] = mean - sign * sd * ratio
        shrunk = 1.0 - z * ratio - ratio * ratio
        out[2] = variance * min(max(shrunk, 1e-9), 1.0)
        return
    a = (low - mean) / sd
    b = (high - mean) / sd
    # Work on the side of the nearer tail, where differences of the distribution function keep their digits.
    flip = a > 0.0
    if flip:
        a, b = -b, -a
    log_b = log_cdf(b)
    log_a = log_cdf(a)
    log_probability = log_b + math.log1p(-math.exp(min(log_a - log_b, -1e-15)))
    fa = math.exp(-0.5 * a * a - log_probability) / _ROOT2PI
    fb = math.exp(-0.5 * b * b - log_probability) / _ROOT2PI
    shift = fa - fb
    out[0] = log_probability
    shrunk = 1.0 + a * fa - b * fb - shift * shift
    out[2] = variance * min(max(shrunk, 1e-9), 1.0)
    if flip:
        shift = -shift
    out[1] = mean + sd * shift
