"""Boosted or bagged trees whose leaves hold quantiles: how the learned layer of a forecast finds its structure.

One thread, seeded sampling and sums in a fixed order, so that equal data give equal trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

KNOTS: Array = np.array([0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95])
"""Levels that the leaves of boosted trees hold; the grid of forecasts is interpolated from them."""
KNOTS.flags.writeable = False

_N_BINS = 64
_LOWEST = -1e300
"""Stands in for a missing feature: below every threshold."""

# Splits look at three sums of pinball gradients: of the lower, the middle and the upper levels.
_N_GROUPS = 3
_LOWER, _UPPER = 0.2, 0.8


@dataclass(frozen=True, slots=True)
class Growth:
    """How trees are grown.

    Attributes:
        n_trees, rate: number of trees and shrinkage of each.
        n_leaves, min_rows: bounds of one tree.
        row_part, feature_part: parts drawn for each tree (Friedman 2002, doi:10.1016/S0167-9473(01)00065-2).
        most_rows: bound of the rows drawn, so that the time of a tree hardly grows with the table.
        bagged: the mean of trees that each stand for the whole, instead of trees that each mend those before; ``rate``
            is then of no account (Meinshausen 2006, https://jmlr.org/papers/v7/meinshausen06a.html).
        seed: of the draws.
    """

    n_trees: int = 200
    rate: float = 0.05
    n_leaves: int = 15
    min_rows: int = 20
    row_part: float = 0.5
    most_rows: int = 16_000
    feature_part: float = 0.5
    bagged: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class QuantileTrees:
    """An ensemble, boosted or bagged.

    Attributes:
        start: (n_levels,) quantiles before the first tree.
        roots: (n_trees,) node index of each tree's root.
        feature: (n_nodes,) -1 at leaves; threshold: (n_nodes,) rows not above it go left.
        left, right: (n_nodes,) children; at a leaf ``left`` is the row of ``values``.
        values: (n_leaves, n_levels), to be added up over the trees.
    """

    start: Array
    roots: IntArray
    feature: IntArray
    threshold: Array
    left: IntArray
    right: IntArray
    values: Array

    def predict(self, features: Array) -> Array:
        """Quantiles (m, n_levels) at the levels of `fit`, not decreasing; ``features`` (m, n_features)."""
        out = np.tile(self.start, (len(features), 1))
        _predict(_filled(features), self.roots, self.feature, self.threshold, self.left, self.right, self.values, out)
        return np.sort(out, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for JSON."""
        return {
            "start": self.start.tolist(), "roots": self.roots.tolist(), "feature": self.feature.tolist(),
            "threshold": self.threshold.tolist(), "left": self.left.tolist(), "right": self.right.tolist(),
            "values": self.values.tolist(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> QuantileTrees:
        """Read what `to_dict` wrote."""
        start = np.array(content["start"], dtype=np.float64)
        return cls(
            start, np.array(content["roots"], dtype=np.int64),
            np.array(content["feature"], dtype=np.int64), np.array(content["threshold"], dtype=np.float64),
            np.array(content["left"], dtype=np.int64), np.array(content["right"], dtype=np.int64),
            np.array(content["values"], dtype=np.float64).reshape(-1, len(start)),
        )


def _filled(features: Array) -> Array:
    return np.ascontiguousarray(np.nan_to_num(features, nan=_LOWEST, posinf=1e300, neginf=_LOWEST))


def fit(features: Array, target: Array, growth: Growth, levels: Array = KNOTS) -> QuantileTrees:
    """Grow trees that lower the pinball loss at all levels at once.

    A tree's structure follows from the gradients summed over lower, middle and upper levels, so that it splits where
    place or spread differ; its leaves take the residual quantiles of their rows, level by level.

    Args:
        features: (m, n_features), NaN where unknown; target: (m,); levels: (n_levels,) of the quantiles.
    Source:
        Friedman 2001, doi:10.1214/aos/1013203451, algorithm 3 (with quantile loss).
    """
    table = _filled(features)
    n, n_features = table.shape
    edges = _edges(table)
    codes = np.empty((n_features, n), dtype=np.uint8)
    for f in range(n_features):
        codes[f] = np.searchsorted(edges[f], table[:, f], side="left")
    usable = np.array([f for f in range(n_features) if len(edges[f])], dtype=np.int64)
    start = np.round(np.quantile(target, levels), 6)
    current = np.tile(start, (n, 1))
    random = np.random.default_rng(growth.seed)
    n_rows = max(min(n, 2 * growth.min_rows), min(growth.most_rows, round(n * growth.row_part)))
    n_columns = max(1, round(len(usable) * growth.feature_part)) if len(usable) else 0
    rate = 1.0 / growth.n_trees if growth.bagged else growth.rate
    roots, feature, threshold, left, right, values = [], [], [], [], [], []
    n_nodes = n_leaves = 0
    for _ in range(growth.n_trees if n_columns and n >= 2 * growth.min_rows else 0):
        rows = np.sort(random.permutation(n)[:n_rows])
        columns = np.sort(random.permutation(usable)[:n_columns])
        f, b, lo, hi, leaf = _grow(
            codes, rows, columns, target, current, levels, growth.n_leaves, growth.min_rows, rate, growth.bagged
        )
        if len(f) < 3:
            continue
        leaf = np.round(leaf, 6)
        inner = f >= 0
        roots.append(n_nodes)
        feature.append(f)
        threshold.append(np.array([edges[f[i]][b[i]] if inner[i] else 0.0 for i in range(len(f))]))
        left.append(np.where(inner, lo + n_nodes, lo + n_leaves))
        right.append(np.where(inner, hi + n_nodes, 0))
        values.append(leaf)
        if not growth.bagged:
            _step(codes, f, b, lo, hi, leaf, current)
        n_nodes += len(f)
        n_leaves += len(leaf)
    if not roots:
        none = np.zeros(0, dtype=np.int64)
        return QuantileTrees(start, none, none, np.zeros(0), none, none, np.zeros((0, len(levels))))
    return QuantileTrees(
        start, np.array(roots, dtype=np.int64), np.concatenate(feature), np.concatenate(threshold),
        np.concatenate(left), np.concatenate(right), np.concatenate(values),
    )


def _edges(table: Array) -> list[Array]:
    """Thresholds of each feature: between neighbouring values, or at quantiles where there are many."""
    found = []
    for column in table.T:
        distinct = np.unique(column)
        if len(distinct) > _N_BINS:
            distinct = np.unique(np.quantile(column, np.linspace(0.0, 1.0, _N_BINS), method="nearest"))
        found.append(distinct[:-1])
    return found


_f1, _f2 = types.float64[::1], types.float64[:, ::1]
_i1, _u2 = types.int64[::1], types.uint8[:, ::1]


@njit(types.void(_f2, _i1, _i1, _f1, _i1, _i1, _f2, _f2), cache=True, nogil=True)
def _predict(
    table: Array, roots: IntArray, feature: IntArray, threshold: Array, left: IntArray, right: IntArray,
    values: Array, out: Array,
) -> None:
    for i in range(table.shape[0]):
        for tree in range(roots.shape[0]):
            node = roots[tree]
            while feature[node] >= 0:
                node = left[node] if table[i, feature[node]] <= threshold[node] else right[node]
            for j in range(out.shape[1]):
                out[i, j] += values[left[node], j]


@njit(types.void(_u2, _i1, _i1, _i1, _i1, _f2, _f2), cache=True, nogil=True)
def _step(
    codes: NDArray[np.uint8], feature: IntArray, bins: IntArray, left: IntArray, right: IntArray, values: Array,
    current: Array,
) -> None:
    for i in range(current.shape[0]):
        node = 0
        while feature[node] >= 0:
            node = left[node] if codes[feature[node], i] <= bins[node] else right[node]
        for j in range(current.shape[1]):
            current[i, j] += values[left[node], j]


@njit(cache=True, nogil=True)
def _histogram(codes: Any, rows: Any, columns: Any, gradient: Any, out: Any) -> None:
    """Counts and summed gradients of rows by feature and bin; ``out`` (n_columns, n_bins, 4)."""
    out[:] = 0.0
    for c in range(columns.shape[0]):
        column = codes[columns[c]]
        for r in range(rows.shape[0]):
            i = rows[r]
            cell = out[c, column[i]]
            cell[0] += 1.0
            for g in range(_N_GROUPS):
                cell[1 + g] += gradient[i, g]


@njit(cache=True, nogil=True)
def _best_split(histogram: Any, min_rows: int) -> Any:
    """(gain, column, bin) of the best split of one node; gain 0 where there is none."""
    best, best_c, best_b = 0.0, -1, -1
    total = histogram[0].sum(axis=0)
    whole = 0.0
    for g in range(_N_GROUPS):
        whole += total[1 + g] * total[1 + g] / total[0]
    for c in range(histogram.shape[0]):
        count = 0.0
        sums = np.zeros(_N_GROUPS)
        for b in range(_N_BINS):
            count += histogram[c, b, 0]
            for g in range(_N_GROUPS):
                sums[g] += histogram[c, b, 1 + g]
            rest = total[0] - count
            if count < min_rows or histogram[c, b, 0] == 0.0:
                continue
            if rest < min_rows:
                break
            gain = -whole
            for g in range(_N_GROUPS):
                other = total[1 + g] - sums[g]
                gain += sums[g] * sums[g] / count + other * other / rest
            if gain > best:
                best, best_c, best_b = gain, c, b
    return best, best_c, best_b


@njit(cache=True, nogil=True)
def _grow(
    codes: Any, rows: Any, columns: Any, target: Any, current: Any, levels: Any, n_leaves: int, min_rows: int,
    rate: float, bagged: bool,
) -> Any:
    """One tree, best split first: (feature, bin, left, right, leaf values)."""
    n = rows.shape[0]
    rows = rows.copy()
    gradient = np.zeros((target.shape[0], _N_GROUPS))
    for r in range(n):
        i = rows[r]
        for j in range(levels.shape[0]):
            group = 0 if levels[j] < _LOWER else (1 if levels[j] <= _UPPER else 2)
            gradient[i, group] += levels[j] - (1.0 if target[i] < current[i, j] else 0.0)
    size = 2 * n_leaves - 1
    feature, bins = np.full(size, -1), np.zeros(size, dtype=np.int64)
    left, right = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    begin, end = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    gain, column, at = np.zeros(size), np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    histograms = np.zeros((size, columns.shape[0], _N_BINS, 1 + _N_GROUPS))
    end[0] = n
    _histogram(codes, rows, columns, gradient, histograms[0])
    gain[0], column[0], at[0] = _best_split(histograms[0], min_rows)
    n_nodes = 1
    spare = np.empty(n, dtype=np.int64)
    for _ in range(n_leaves - 1):
        node = -1
        for candidate in range(n_nodes):
            if feature[candidate] < 0 and gain[candidate] > 1e-9 and (node < 0 or gain[candidate] > gain[node]):
                node = candidate
        if node < 0:
            break
        # A stable partition keeps the order of rows, and with it the order of every later sum.
        codes_here = codes[columns[column[node]]]
        middle, n_spare = begin[node], 0
        for r in range(begin[node], end[node]):
            if codes_here[rows[r]] <= at[node]:
                rows[middle] = rows[r]
                middle += 1
            else:
                spare[n_spare] = rows[r]
                n_spare += 1
        for r in range(n_spare):
            rows[middle + r] = spare[r]
        feature[node], bins[node] = columns[column[node]], at[node]
        left[node], right[node] = n_nodes, n_nodes + 1
        begin[n_nodes], end[n_nodes] = begin[node], middle
        begin[n_nodes + 1], end[n_nodes + 1] = middle, end[node]
        small, large = n_nodes, n_nodes + 1
        if end[small] - begin[small] > end[large] - begin[large]:
            small, large = large, small
        _histogram(codes, rows[begin[small] : end[small]], columns, gradient, histograms[small])
        histograms[large] = histograms[node] - histograms[small]
        for child in (small, large):
            gain[child], column[child], at[child] = _best_split(histograms[child], min_rows)
        n_nodes += 2
    n_found = (n_nodes + 1) // 2
    values = np.zeros((n_found, levels.shape[0]))
    leaf = 0
    for node in range(n_nodes):
        if feature[node] < 0:
            inside = rows[begin[node] : end[node]]
            m = inside.shape[0]
            residual = np.empty(m)
            for j in range(levels.shape[0]):
                # Of a bagged tree every row stands at the same start: one order serves all levels.
                moved = 0.0
                if bagged and j > 0:
                    moved = current[inside[0], 0] - current[inside[0], j]
                else:
                    for r in range(m):
                        residual[r] = target[inside[r]] - current[inside[r], j]
                    residual.sort()
                place = levels[j] * (m - 1)
                low = int(place)
                high = min(low + 1, m - 1)
                values[leaf, j] = rate * (residual[low] + (place - low) * (residual[high] - residual[low]) + moved)
            left[node] = leaf
            leaf += 1
    return feature[:n_nodes], bins[:n_nodes], left[:n_nodes], right[:n_nodes], values
