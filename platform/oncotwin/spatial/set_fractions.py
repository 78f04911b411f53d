"""Share of a neighbourhood's counts that a gene set holds: a local pseudo-bulk, in a window as wide as the set is rare.

Around each spot the counts of the set and of all genes are summed under a Gaussian kernel and divided. A spot of a
low-resolution platform is a mixture of cells, and so is its window: a fraction is of counts, not of cells.

The width is chosen for each section from the set's own counts, never from labels: the window of a Gaussian of
bandwidth h over spots of pitch p weighs 2 pi (h / p)^2 spots, so h is the least that lets the window expect
`EXPECTED_COUNTS` counts (a Poisson error of a tenth), between `NARROWEST` and `WIDEST` pitches.

Blocks: the section's counts are added as integers; a spot's sums run over the spots of its window in increasing id,
whatever else the block holds. No block size or order changes a bit.

Source:
    Ratio of kernel sums: Nadaraya 1964, doi:10.1137/1109020; Watson 1964, Sankhya A 26, 359-372. Interval of a
    share: Wilson 1927, doi:10.1080/01621459.1927.10502953, with the window's effective counts (Kish 1965).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from oncotwin.domain.errors import ConfigurationError

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

EXPECTED_COUNTS = 100.0
NARROWEST = 0.8
WIDEST = 3.0
REACH = 3.0
_SLACK = 1e-9
_f1, _f2, _i1 = types.float64[::1], types.float64[:, ::1], types.int64[::1]


@dataclass(frozen=True, slots=True)
class SetCounts:
    """Sums of some blocks.

    Attributes:
        n_spots: that went in.
        counts: (n_sets,) int64, counts of each set.
    """

    n_spots: int
    counts: IntArray


@dataclass(frozen=True, slots=True)
class Fractions:
    """Smoothed shares of a block's own spots.

    Attributes:
        value: (n_own,) share of counts; NaN where the window holds none.
        lower: (n_own,) of the 90 % interval.
        upper: (n_own,) of the 90 % interval.
    """

    value: Array
    lower: Array
    upper: Array


def set_counts(counts: IntArray) -> SetCounts:
    """Sums of one block's own spots, ``counts`` (n_own, n_sets) being the counts of each set in each spot."""
    return SetCounts(len(counts), np.asarray(counts, dtype=np.int64).sum(axis=0))


def merge_set_counts(parts: Sequence[SetCounts]) -> SetCounts:
    """Sums of some blocks from those of each, in any order.

    Raises:
        ConfigurationError: none given.
    """
    if not parts:
        raise ConfigurationError("no block of the section was summed; hand in at least one")
    return SetCounts(sum(part.n_spots for part in parts), np.sum([part.counts for part in parts], axis=0))


def bandwidths(sums: SetCounts) -> Array:
    """Bandwidth (n_sets,) in pitches of each set's window, from the sums of the whole section.

    Raises:
        ConfigurationError: the section holds no spot.
    """
    if sums.n_spots == 0:
        raise ConfigurationError("the section holds no spot that passed quality; nothing can be smoothed")
    mean = np.maximum(sums.counts / sums.n_spots, np.finfo(np.float64).tiny)
    return np.asarray(np.clip(np.sqrt(EXPECTED_COUNTS / (2.0 * math.pi * mean)), NARROWEST, WIDEST))


@njit(types.void(_i1, _i1, _f2, _i1, _f1, _f1, types.float64, _f2), nogil=True, error_model="numpy")
def _window_sums(
    offsets: IntArray, places: IntArray, points: Array, own: IntArray, part: Array, total: Array, bandwidth: float,
    sums: Array,
) -> None:
    """Kernel sums (part, total, total under the squared kernel); places of each row are in increasing id."""
    reach = REACH * bandwidth
    for i in range(len(own)):
        for e in range(offsets[i], offsets[i + 1]):
            j = places[e]
            dx, dy = points[j, 0] - points[own[i], 0], points[j, 1] - points[own[i], 1]
            square = dx * dx + dy * dy
            if square <= reach * reach:
                weight = math.exp(-square / (2.0 * bandwidth * bandwidth))
                sums[i, 0] += weight * part[j]
                sums[i, 1] += weight * total[j]
                sums[i, 2] += weight * weight * total[j]


def smoothed_fractions(
    ids: IntArray, points: Array, own: IntArray, part: IntArray, total: IntArray, bandwidth: float
) -> Fractions:
    """Shares of a set in the windows of a block's own spots.

    Args:
        ids: (n_held,) increasing, of the block's own spots and its halo of `REACH` bandwidths.
        points: (n_held, 2) in pitches.
        own: (n_own,) places of the own spots among the held ones.
        part: (n_held,) counts of the set.
        total: (n_held,) counts of all genes.
        bandwidth: in pitches, from `bandwidths`.
    Raises:
        ConfigurationError: ids do not increase, shapes do not fit, or a spot has more counts of the set than of all.
    """
    if not (len(ids) == len(points) == len(part) == len(total)) or (np.diff(ids) <= 0).any():
        raise ConfigurationError("ids, points and counts of a block do not fit; give one row a spot, ids increasing")
    if (part < 0).any() or (part > total).any():
        worst = int(np.flatnonzero((part < 0) | (part > total))[0])
        raise ConfigurationError(f"spot {ids[worst]} has {part[worst]} counts of the set of {total[worst]} in all")
    points = np.ascontiguousarray(points, dtype=np.float64)
    near = cKDTree(points).query_ball_point(points[own], REACH * bandwidth * (1.0 + _SLACK), return_sorted=True)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in near])]).astype(np.int64)
    places = np.concatenate([np.empty(0), *near]).astype(np.int64)
    sums = np.zeros((len(own), 3))
    _window_sums(
        offsets, places, points, np.asarray(own, dtype=np.int64), part.astype(np.float64), total.astype(np.float64),
        float(bandwidth), sums,
    )
    value = np.full(len(own), np.nan)
    counted = sums[:, 1] > 0.0
    value[counted] = sums[counted, 0] / sums[counted, 1]
    effective = np.full(len(own), np.nan)
    effective[counted] = sums[counted, 1] ** 2 / sums[counted, 2]
    return Fractions(value, *_wilson(value, effective))


def _wilson(share: Array, n: Array) -> tuple[Array, Array]:
    """Wilson's 90 % interval of shares of n counts."""
    z = 1.6448536269514722
    middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z / (1.0 + z * z / n) * np.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
