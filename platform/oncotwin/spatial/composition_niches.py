"""Niches of cells that carry classes: places where the same mixture of classes lives.

The square roots of the shares of classes in a cell's surroundings, itself included, are clustered; roots, since a class
that goes from nil to a tenth says as much as one that goes from a half to two thirds (Hellinger's distance). Counts
are whole numbers of each cell's own surroundings, so no cut into blocks changes a label.

Source:
    Schürch et al. 2020, doi:10.1016/j.cell.2020.07.005 (cellular neighbourhoods: k-means of the composition of the
    nearest cells); Rao 1995, "A review of canonical coordinates", Qüestiió 19 (Hellinger's distance of profiles).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.spatial.enrichment import composition
from oncotwin.spatial.graphs import GraphRows
from oncotwin.spatial.kmeans import to_points
from oncotwin.spatial.niches import NicheSettings, cluster

IntArray = NDArray[np.int64]

REACH_PITCHES = 2.5
"""Radius of the surroundings: some twenty cells."""


@dataclass(frozen=True, slots=True)
class CompositionNiches:
    """Niches by composition.

    Attributes:
        labels: (n_cells,) niche of each cell; 0 is the largest.
        ratios: Calinski-Harabasz ratio of each number tried; empty where it was given.
    """

    labels: IntArray
    ratios: dict[int, float]


def composition_points(rows: GraphRows, labels: NDArray[np.uint8], n_classes: int) -> NDArray[np.int32]:
    """Points (n_own, n_classes) of a block's own cells, in steps of `kmeans`.

    Args:
        rows: of the graph that joins each cell to its surroundings.
        labels: (n_cells,) class of every cell of the section, below ``n_classes``.
        n_classes: at most 128.
    """
    around = composition(rows, labels, n_classes).astype(np.float64)
    around[np.arange(len(rows.ids)), labels[rows.ids]] += 1.0
    return to_points(np.sqrt(around / around.sum(axis=1, keepdims=True)))


def composition_niches(
    points: NDArray[np.int32], n_niches: int | None, seed: int, settings: NicheSettings | None = None
) -> CompositionNiches:
    """Niches from the points of all cells, in the order of their ids.

    Args:
        points: (n_cells, n_classes) by `composition_points`.
        n_niches: how many; None chooses the number with the largest Calinski-Harabasz ratio.
        seed: of the starts.
        settings: None for those that serve every section.
    Raises:
        ConfigurationError: fewer different mixtures than niches.
    """
    labels, _, ratios = cluster(points, n_niches, seed, settings or NicheSettings())
    return CompositionNiches(labels.astype(np.int64), ratios)
