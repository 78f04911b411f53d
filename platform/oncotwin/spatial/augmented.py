"""Features of a cell and its surroundings: own expression, the neighbours' mean, and how expression turns around it.

Neighbours are summed in the order of their rows in the whole section, so a cell has the same features to the bit in
whichever block it is computed, as long as the halo reaches `Neighbourhood.radius`.

Source:
    Singhal et al. 2024, doi:10.1038/s41588-024-01664-3 (BANKSY: neighbourhood mean, azimuthal Gabor filter of order
    one, mixing parameter lambda). Two choices differ, on purpose: the azimuthal filter sees the neighbours' difference
    from their mean, so that a one-sided neighbourhood at the edge of the tissue is not taken for a gradient; and all
    three parts keep the scale of the cell's own expression, so that averaging lowers noise instead of being undone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from oncotwin.domain.errors import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_REACH = 3.0
"""A Gaussian kernel ends at so many bandwidths."""

_i8, _f8 = types.int64, types.float64
_i1, _f1, _f2 = types.int64[::1], types.float64[::1], types.float64[:, ::1]


@dataclass(frozen=True)
class Neighbourhood:
    """The neighbours of a block's own cells, in the order of their rows; a cell is no neighbour of itself.

    Args:
        offsets: (n_owned + 1,) where each cell's neighbours begin.
        neighbours: (n,) places in the block with its halo.
        weights: (n,) Gaussian in the distance, one at distance nil.
        cosines, sines: (n,) of the direction to the neighbour.
    """

    offsets: IntArray
    neighbours: IntArray
    weights: FloatArray
    cosines: FloatArray
    sines: FloatArray


def reach(bandwidth: float) -> float:
    """How far the halo of a block must reach, in the bandwidth's unit."""
    return _REACH * bandwidth


def find_neighbours(places: FloatArray, rows: IntArray, n_owned: int, bandwidth: float) -> Neighbourhood:
    """Find and weigh the neighbours of the first ``n_owned`` cells of a block with its halo.

    Args:
        places: (n, 2) coordinates: the block's own cells first, then its halo.
        rows: (n,) number of each cell in the whole section.
        n_owned: how many cells are the block's own.
        bandwidth: standard deviation of the Gaussian kernel, in the coordinates' unit.
    Raises:
        ConfigurationError: a place is not finite, or the bandwidth is not positive.
    """
    if not 0.0 < bandwidth < math.inf:
        raise ConfigurationError(f"bandwidth {bandwidth} must be positive; give it in the coordinates' unit")
    if not np.isfinite(places).all():
        raise ConfigurationError("a cell has no place (NaN or infinite); leave it out before the neighbours are found")
    # Pairs at the very rim are left to the exact comparison below: the tree's own rounding differs by block.
    pairs = cKDTree(places).query_pairs(reach(bandwidth) * (1 + 1e-9), output_type="ndarray").astype(np.int64)
    cells = np.concatenate([pairs[:, 0], pairs[:, 1]])
    others = np.concatenate([pairs[:, 1], pairs[:, 0]])
    gaps = places[others] - places[cells]
    squared = gaps[:, 0] ** 2 + gaps[:, 1] ** 2
    wanted = (cells < n_owned) & (squared <= reach(bandwidth) ** 2)
    order = np.nonzero(wanted)[0]
    order = order[np.lexsort((rows[others[order]], cells[order]))]
    squared, gaps = squared[order], gaps[order]
    away = np.maximum(np.sqrt(squared), np.finfo(float).tiny)
    return Neighbourhood(
        np.concatenate([[0], np.cumsum(np.bincount(cells[order], minlength=n_owned)[:n_owned])]), others[order],
        np.exp(-squared / (2 * bandwidth**2)), gaps[:, 0] / away, gaps[:, 1] / away,
    )


@njit(types.UniTuple(_f2, 2)(_f2, _i1, _i1, _f1, _f1, _f1), cache=True, nogil=True)
def _surroundings(
    values: FloatArray, offsets: IntArray, neighbours: IntArray, weights: FloatArray, cosines: FloatArray,
    sines: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Weighted mean of the neighbours' values, and the length of their first azimuthal moment about that mean."""
    n, n_values = offsets.size - 1, values.shape[1]
    means, turns = np.zeros((n, n_values)), np.zeros((n, n_values))
    east, north = np.empty(n_values), np.empty(n_values)
    for i in range(n):
        total = 0.0
        for k in range(offsets[i], offsets[i + 1]):
            total += weights[k]
            for g in range(n_values):
                means[i, g] += weights[k] * values[neighbours[k], g]
        if total == 0.0:
            continue
        for g in range(n_values):
            means[i, g] /= total
            east[g] = 0.0
            north[g] = 0.0
        for k in range(offsets[i], offsets[i + 1]):
            c, s = weights[k] * cosines[k], weights[k] * sines[k]
            for g in range(n_values):
                gap = values[neighbours[k], g] - means[i, g]
                east[g] += c * gap
                north[g] += s * gap
        for g in range(n_values):
            turns[i, g] = math.sqrt(east[g] * east[g] + north[g] * north[g]) / total
    return means, turns


def neighbour_means(values: FloatArray, near: Neighbourhood) -> FloatArray:
    """Weighted mean (n_owned, n_values) of the neighbours' values; nil for a cell without neighbours."""
    means: FloatArray = _surroundings(
        np.ascontiguousarray(values), near.offsets, near.neighbours, near.weights, near.cosines, near.sines
    )[0]
    return means


def augment(values: FloatArray, near: Neighbourhood, mixing: float) -> FloatArray:
    """Own values, neighbours' mean and azimuthal gradient side by side.

    Args:
        values: (n, n_values) of the block with its halo, centred, so that nil is the section's mean.
        near: neighbours of the block's own cells, which come first in ``values``.
        mixing: lambda, from 0 (the cell alone) to 1 (its surroundings alone).
    Returns:
        (n_owned, 3 n_values), parts weighted by the roots of 1 - lambda, 2 lambda / 3 and lambda / 3. A cell without
        neighbours has nil for its surroundings.
    """
    if not 0.0 <= mixing <= 1.0:
        raise ConfigurationError(f"mixing {mixing} is not within 0 (the cell alone) and 1 (its surroundings alone)")
    means, turns = _surroundings(
        np.ascontiguousarray(values), near.offsets, near.neighbours, near.weights, near.cosines, near.sines
    )
    own = values[: near.offsets.size - 1]
    return np.hstack([
        math.sqrt(1 - mixing) * own, math.sqrt(2 * mixing / 3) * means, math.sqrt(mixing / 3) * turns
    ])
