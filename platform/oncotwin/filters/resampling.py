"""Resampling of weighted particles."""

from __future__ import annotations

from numba import njit, types

from oncotwin.filters.base import Array, IntArray

_f1, _i1 = types.float64[::1], types.int64[::1]


@njit(types.float64(_f1), cache=True, nogil=True, error_model="numpy")
def effective_size(weights: Array) -> float:
    """1 / sum of squares of weights that sum to one: how many equal particles they are worth (Kong et al. 1994)."""
    acc = 0.0
    for i in range(weights.shape[0]):
        acc += weights[i] * weights[i]
    return 1.0 / acc


@njit(types.void(_f1, types.float64, _i1), cache=True, nogil=True, error_model="numpy")
def systematic(weights: Array, u: float, ancestors: IntArray) -> None:
    """Ancestors of an equally weighted set: one uniform ``u`` laid as a comb over the cumulative weights.

    Never worse in variance than multinomial in practice, and the ancestors come out sorted.

    Source:
        Carpenter, Clifford & Fearnhead 1999, doi:10.1049/ip-rsn:19990255.
    """
    n = weights.shape[0]
    i = 0
    last = 0
    for j in range(n):
        if weights[j] > 0.0:
            last = j
    cumulative = weights[0]
    for m in range(n):
        at = (m + u) / n
        while cumulative < at and i < last:
            i += 1
            cumulative += weights[i]
        ancestors[m] = i
