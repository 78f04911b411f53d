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
"""Of a window, in bandwidths."""
_SLACK = 1e-9
_RAREST = 1e-9
_f2, _i1, _f8 = types.float64[:, ::1], types.int64[::1], types.float64


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
        lower: (n_own,) of the 90 % interval, counts taken as independent.
        upper: (n_own,) of the 90 % interval.
    """

    value: Array
    lower: Array
    upper: Array


@dataclass(frozen=True, slots=True)
class Windows:
    """Gaussian windows around a block's own spots.

    Attributes:
        points: (n_held, 2) in pitches.
        own: (n_own,) places of the own spots among the held ones.
        offsets: (n_own + 1,) where each window begins in `places`.
        places: held spots in reach of each own spot, in increasing id.
        bandwidth: in pitches.
    """

    points: Array
    own: IntArray
    offsets: IntArray
    places: IntArray
    bandwidth: float

    def sums(self, columns: Array, power: int = 1) -> Array:
        """Sums (n_own, n_columns) of the held spots' columns (n_held, n_columns) by weight ** power."""
        found = np.zeros((len(self.own), columns.shape[1]))
        _kernel_sums(
            self.offsets, self.places, self.points, self.own, np.ascontiguousarray(columns, dtype=np.float64),
            self.bandwidth, float(power), found,
        )
        return found


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
    mean = np.maximum(sums.counts / sums.n_spots, _RAREST)
    return np.asarray(np.clip(np.sqrt(EXPECTED_COUNTS / (2.0 * math.pi * mean)), NARROWEST, WIDEST))


@njit(types.void(_i1, _i1, _f2, _i1, _f2, _f8, _f8, _f2), cache=True, nogil=True, error_model="numpy")
def _kernel_sums(
    offsets: IntArray, places: IntArray, points: Array, own: IntArray, columns: Array, bandwidth: float, power: float,
    sums: Array,
) -> None:
    reach = REACH * bandwidth
    for i in range(len(own)):
        for e in range(offsets[i], offsets[i + 1]):
            j = places[e]
            dx, dy = points[j, 0] - points[own[i], 0], points[j, 1] - points[own[i], 1]
            square = dx * dx + dy * dy
            if square <= reach * reach:
                weight = math.exp(-power * square / (2.0 * bandwidth * bandwidth))
                for k in range(columns.shape[1]):
                    sums[i, k] += weight * columns[j, k]


def make_windows(ids: IntArray, points: Array, own: IntArray, bandwidth: float) -> Windows:
    """Windows of a block's own spots.

    Args:
        ids: (n_held,) increasing, of the block's own spots and its halo of `REACH` bandwidths.
        points: (n_held, 2) in pitches, of the section and not of the block.
        own: (n_own,) places of the own spots among the held ones.
        bandwidth: in pitches.
    Raises:
        ConfigurationError: ids do not increase, shapes do not fit, or the bandwidth is not positive.
    """
    if len(ids) != len(points) or (np.diff(ids) <= 0).any():
        raise ConfigurationError("ids and points of a block do not fit; give one row a spot, ids increasing")
    if not 0.0 < bandwidth < math.inf:
        raise ConfigurationError(f"a bandwidth of {bandwidth} pitches has no window; give a positive number")
    points = np.ascontiguousarray(points, dtype=np.float64)
    own = np.ascontiguousarray(own, dtype=np.int64)
    near = cKDTree(points).query_ball_point(points[own], REACH * bandwidth * (1.0 + _SLACK), return_sorted=True)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in near])]).astype(np.int64)
    places = np.concatenate([np.empty(0), *near]).astype(np.int64)
    return Windows(points, own, offsets, places, float(bandwidth))


def check_counts(ids: IntArray, part: IntArray, total: IntArray) -> None:
    """Refuse counts of a set that cannot be.

    Raises:
        ConfigurationError: not one a spot, or a spot has more counts of the set than of all genes.
    """
    if not len(ids) == len(part) == len(total):
        raise ConfigurationError("ids and counts of a block do not fit; give one row a spot")
    if (part < 0).any() or (part > total).any():
        worst = int(np.flatnonzero((part < 0) | (part > total))[0])
        raise ConfigurationError(f"spot {ids[worst]} has {part[worst]} counts of the set of {total[worst]} in all")


def smoothed_fractions(
    ids: IntArray, points: Array, own: IntArray, part: IntArray, total: IntArray, bandwidth: float
) -> Fractions:
    """Shares of a set in the windows of a block's own spots.

    Args:
        ids, points, own: as of `make_windows`.
        part: (n_held,) counts of the set.
        total: (n_held,) counts of all genes.
        bandwidth: in pitches, from `bandwidths`.
    Raises:
        ConfigurationError: see `make_windows` and `check_counts`.
    """
    check_counts(ids, part, total)
    windows = make_windows(ids, points, own, bandwidth)
    counts = windows.sums(np.column_stack([part, total]).astype(np.float64))
    squared = windows.sums(np.asarray(total, dtype=np.float64)[:, None], power=2)[:, 0]
    counted = counts[:, 1] > 0.0
    value, effective = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    value[counted] = counts[counted, 0] / counts[counted, 1]
    effective[counted] = counts[counted, 1] ** 2 / squared[counted]
    return Fractions(value, *_wilson(value, effective))


def _wilson(share: Array, n: Array) -> tuple[Array, Array]:
    """Wilson's 90 % interval of shares of n counts."""
    z = 1.6448536269514722
    middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z / (1.0 + z * z / n) * np.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
