"""Dense factors of small symmetric matrices by plain loops: the same bits for a twin however twins are grouped."""

from __future__ import annotations

import math

from numba import njit, types

from oncotwin.filters.base import Array

_f1, _f2 = types.float64[::1], types.float64[:, ::1]


@njit(types.boolean(_f2, types.int64, _f2), cache=True, nogil=True, error_model="numpy")
def cholesky(matrix: Array, n: int, out: Array) -> bool:
    """Lower factor of the leading (n, n) block; pivots below round-off are set to zero.

    A zero pivot means that the component is fixed: its column of the factor is zero, so sigma points and draws do not
    move along it. Returns False where a pivot was negative beyond round-off.
    """
    good = True
    for j in range(n):
        s = matrix[j, j]
        for k in range(j):
            s -= out[j, k] * out[j, k]
        if s > 1e-14 * abs(matrix[j, j]):
            d = math.sqrt(s)
            out[j, j] = d
            for i in range(j + 1, n):
                t = matrix[i, j]
                for k in range(j):
                    t -= out[i, k] * out[j, k]
                out[i, j] = t / d
        else:
            if s < -1e-8 * abs(matrix[j, j]) or matrix[j, j] < 0.0:
                good = False
            for i in range(j, n):
                out[i, j] = 0.0
        for i in range(j):
            out[i, j] = 0.0
    return good


@njit(types.boolean(_f2, types.int64, _f2), cache=True, nogil=True, error_model="numpy")
def factorise(covariance: Array, n: int, out: Array) -> bool:
    """`cholesky`, or, where that fails, of the nearest matrix with a slightly larger diagonal, written back.

    Returns whether the covariance had to be repaired. A repair only ever widens: a filter may become less sure by
    round-off, never more.
    """
    if cholesky(covariance, n, out):
        return False
    largest = 0.0
    for i in range(n):
        largest = max(largest, abs(covariance[i, i]))
    added = 1e-12 * largest
    while True:
        for i in range(n):
            covariance[i, i] += added
        if cholesky(covariance, n, out):
            return True
        added *= 10.0


@njit(types.boolean(_f1, types.int64), cache=True, nogil=True, error_model="numpy")
def all_finite(values: Array, n: int) -> bool:
    """Whether the first ``n`` values are numbers; their sum is not used, since it may overflow."""
    finite = True
    for i in range(n):
        finite = finite and math.isfinite(values[i])
    return finite
