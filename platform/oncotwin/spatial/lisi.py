"""LISI: how many labels there are, effectively, among the neighbours of a cell in an embedding.

With batches as labels it measures mixing (iLISI: the number of batches where they are mixed, one where they lie apart);
with cell types as labels it measures whether biology was kept (cLISI: one where each cell lies among its own).

Each cell weighs its nearest neighbours by a Gaussian of their distance whose width gives the weights a stated
perplexity; LISI is the inverse of the probability that two neighbours drawn by these weights have the same label. A
cell's value depends on the points alone, so blocks of cells may be done in any order and cut.

Source:
    Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0, online methods (local inverse Simpson's index); Simpson 1949,
    doi:10.1038/163688a0; widths by perplexity: Hinton & Roweis 2002, Advances in Neural Information Processing
    Systems 15.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from oncotwin.domain.errors import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PERPLEXITY = 30.0
NEIGHBOURS_PER_PERPLEXITY = 3
"""Beyond three times as many neighbours as the perplexity the weights are next to nothing."""

_HALVINGS = 100
_PRECISION = 1e-7
_ROUNDING = 1e-12
_f1, _f2, _l2 = types.float64[::1], types.float64[:, ::1], types.int64[:, ::1]


class Neighbourhood:
    """Points of an embedding, ready to be asked for neighbours.

    Args:
        points: (n, n_coordinates) finite.
        perplexity: effective number of neighbours.
    Raises:
        ConfigurationError: points are not finite, the perplexity is not above one, or there are too few points for it.
    """

    def __init__(self, points: FloatArray, perplexity: float = PERPLEXITY) -> None:
        if points.ndim != 2 or not np.isfinite(points).all():
            raise ConfigurationError("points must be a table of finite numbers; leave out cells without coordinates")
        if not 1.0 < perplexity < math.inf:
            raise ConfigurationError(f"perplexity {perplexity} is not above one; 30 is usual")
        n_neighbours = math.ceil(NEIGHBOURS_PER_PERPLEXITY * perplexity)
        if len(points) <= n_neighbours:
            raise ConfigurationError(
                f"{len(points)} points are too few for a perplexity of {perplexity:g}: it asks for {n_neighbours} "
                "neighbours of each; send more points, or a smaller perplexity"
            )
        self.points, self.perplexity, self.n_neighbours = points, perplexity, n_neighbours
        self._tree = cKDTree(points)

    def weights(self, first: int, end: int) -> tuple[IntArray, FloatArray]:
        """Neighbours of the points first to end, without themselves, and their weights: (end - first, n_neighbours).

        Where more points than that lie at one place, the neighbours are some of them.
        """
        distance, index = self._tree.query(self.points[first:end], self.n_neighbours + 1)
        index = np.asarray(index, dtype=np.int64)
        own = index == np.arange(first, end)[:, None]
        # A point among its doubles may not be found first, or at all: then the farthest is left out.
        own[~own.any(axis=1), -1] = True
        kept = ~own
        shape = (end - first, self.n_neighbours)
        squares = np.ascontiguousarray(np.square(distance[kept]).reshape(shape))
        weights = np.empty(shape)
        _weigh(squares, math.log(self.perplexity), weights)
        return np.ascontiguousarray(index[kept].reshape(shape)), weights


def lisi(near: Neighbourhood, labels: IntArray, first: int = 0, end: int | None = None) -> FloatArray:
    """Effective number of labels around each point of a block: (end - first,), from one to the number of labels.

    Args:
        near: all points.
        labels: (n,) of all points, from nil on.
        first, end: the block; all points by default.
    Raises:
        ConfigurationError: labels do not fit the points.
    """
    if labels.shape != (len(near.points),) or (len(labels) and labels.min() < 0):
        raise ConfigurationError(
            f"{len(near.points)} points need as many labels from nil on, not {labels.shape}; leave out unlabelled ones"
        )
    end = len(labels) if end is None else end
    index, weights = near.weights(first, end)
    out = np.empty(end - first)
    _inverse_simpson(np.ascontiguousarray(labels[index]), weights, int(labels.max()) + 1, out)
    return out


@njit(types.void(_f2, types.float64, _f2), cache=True, nogil=True)
def _weigh(squares: FloatArray, entropy: float, out: FloatArray) -> None:
    """Gaussian weights of each row with the given entropy, by halving the interval of the width."""
    n = squares.shape[1]
    for row in range(len(squares)):
        nearest, farthest = squares[row, 0], squares[row, 0]
        for j in range(n):
            nearest, farthest = min(nearest, squares[row, j]), max(farthest, squares[row, j])
        spread = farthest - nearest
        # Neighbours all at one distance weigh the same; no width could change that, and what rounding makes of equal
        # distances is no order.
        if spread <= _ROUNDING * farthest:
            spread = 0.0
        low, high, beta = 0.0, np.inf, 0.0 if spread <= 0.0 else 1.0 / spread
        for _ in range(_HALVINGS):
            total, mean = 0.0, 0.0
            for j in range(n):
                weight = math.exp(-beta * (squares[row, j] - nearest))
                out[row, j] = weight
                total += weight
                mean += weight * (squares[row, j] - nearest)
            found = math.log(total) + beta * mean / total
            for j in range(n):
                out[row, j] /= total
            if spread <= 0.0 or abs(found - entropy) < _PRECISION:
                break
            if found > entropy:
                low = beta
                beta = 2.0 * beta if high == np.inf else 0.5 * (low + high)
            else:
                high = beta
                beta = 0.5 * (low + high)


@njit(types.void(_l2, _f2, types.int64, _f1), cache=True, nogil=True)
def _inverse_simpson(labels: IntArray, weights: FloatArray, n_labels: int, out: FloatArray) -> None:
    share = np.zeros(n_labels)
    for row in range(len(labels)):
        for j in range(labels.shape[1]):
            share[labels[row, j]] += weights[row, j]
        total = 0.0
        for label in range(n_labels):
            total += share[label] * share[label]
            share[label] = 0.0
        out[row] = 1.0 / total
