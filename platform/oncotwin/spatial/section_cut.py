"""How a section is measured and cut: the scale of its cells, runs of cells along a Hilbert curve, each run's halo.

Scale is read off the coordinates of the whole section, so nothing that follows depends on how it was cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from oncotwin.domain.errors import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

STRIDE = 1024
"""Cells of one box of `Runs`; runs begin at multiples of it, as the blocks of `oncotwin.spatial.autocorrelation` do."""
NEIGHBOUR_REACH = 1.5
"""Pitches up to which spots or cells count as neighbours: 8 on a square lattice, 6 on a hexagonal one."""
_SAMPLE = 20_000
_SQUARES_ACROSS = 10.0
_LEAST_SQUARE = 5.0
_HEXAGONAL = 1.2
_CELLS_TO_SIXTH = 5.670161188712071
"""Median of a gamma distribution of shape six: cells in the disc up to the sixth nearest of a Poisson process."""
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class SectionScale:
    """Lengths of a section that everything else is measured in.

    Attributes:
        pitch_um: distance of neighbouring spots of an array; of scattered cells the side of the square that a cell
            stands for.
        cell_um2: area that a spot or cell stands for.
        square_um: side of the squares that are drawn anew for an interval: at least five pitches, and about ten of
            them across the section, so that cells which are alike mostly share a square.
    """

    pitch_um: float
    cell_um2: float
    square_um: float

    @property
    def radius_um(self) -> float:
        """How far neighbours are looked for."""
        return NEIGHBOUR_REACH * self.pitch_um


def measure_scale(points_um: FloatArray) -> SectionScale:
    """Scale of a section from the places of its cells.

    Args:
        points_um: (n, 2) of the whole section, in any order that does not depend on blocks; distances are taken from
            at most 20,000 of them, evenly spread over the rows.
    Raises:
        ConfigurationError: fewer than seven cells, a place that is not finite, or half of the cells share a place.
    """
    if len(points_um) < 7 or not np.isfinite(points_um).all():
        raise ConfigurationError(
            f"{len(points_um)} cells: at least 7 with finite places are needed to tell how far they are apart"
        )
    asked = points_um[:: -(-len(points_um) // _SAMPLE)]
    away = cKDTree(points_um).query(asked, k=7)[0]
    nearest, sixth = float(np.median(away[:, 1])), float(np.median(away[:, 6]))
    if nearest <= 0.0:
        raise ConfigurationError("half of the cells share a place with another; give each its own coordinates")
    longest = float(np.ptp(points_um, axis=0).max())
    if nearest < sixth / NEIGHBOUR_REACH:
        # Scattered: the disc up to the sixth nearest holds that many cells' area, by the median over random places.
        cell = math.pi * sixth**2 / _CELLS_TO_SIXTH
        pitch = math.sqrt(cell)
    else:
        # On a hexagonal lattice all six are equally near, and a spot's cell is a hexagon.
        pitch, cell = nearest, nearest**2 * (math.sqrt(3) / 2 if sixth < _HEXAGONAL * nearest else 1.0)
    return SectionScale(pitch, cell, max(_LEAST_SQUARE * pitch, longest / _SQUARES_ACROSS))


@dataclass(frozen=True, slots=True)
class Runs:
    """Cells in Hilbert order with a box around every `STRIDE` of them: finds a run's halo without looking at all.

    Attributes:
        points_um: (n, 2) in Hilbert order.
        lows, highs: (n_boxes, 2) corners.
    """

    points_um: FloatArray
    lows: FloatArray
    highs: FloatArray

    def held(self, first: int, end: int, reach_um: float) -> IntArray:
        """Cells of a run and those of its halo: all that lie within a reach of one of its cells.

        Args:
            first, end: the run's own cells are ``first`` to ``end - 1``.
            reach_um: of the halo.
        Returns:
            (n_held,) increasing places in Hilbert order, own ones included.
        """
        own = self.points_um[first:end]
        low, high = own.min(axis=0) - reach_um, own.max(axis=0) + reach_um
        boxes = np.flatnonzero(((self.highs >= low) & (self.lows <= high)).all(axis=1))
        near = (boxes[:, None] * STRIDE + np.arange(STRIDE)).ravel()
        near = near[(near < len(self.points_um)) & ((near < first) | (near >= end))]
        places = self.points_um[near]
        within = ((places >= low) & (places <= high)).all(axis=1)
        near, places = near[within], places[within]
        if len(near):
            away = cKDTree(own).query(places, distance_upper_bound=reach_um * (1.0 + _SLACK))[0]
            near = near[np.isfinite(away)]
        return np.sort(np.concatenate([np.arange(first, end), near]))


def make_runs(points_um: FloatArray) -> Runs:
    """Boxes around cells (n, 2) that stand in Hilbert order."""
    starts = np.arange(0, len(points_um), STRIDE)
    return Runs(points_um, np.minimum.reduceat(points_um, starts), np.maximum.reduceat(points_um, starts))
