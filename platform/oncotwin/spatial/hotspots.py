"""Hotspots: Getis-Ord G* of every cell and score, the cells that stay after false discovery, and what they join to.

G* of a cell compares the sum over the cell and its neighbours with what the section's mean and spread let expect. Its
moments under randomisation are exact for each cell's own number of neighbours, so cells at the edge of the tissue are
neither favoured nor punished; with fewer neighbours (graphs of a radius, Delaunay) they have less power, and what lies
beyond the edge is unknown. `HotspotSummary.edge_share` states how much of the hotspots lies there. Rows of kNN graphs
have no fewer neighbours at the edge, but reach farther inwards.

Blocks: sums of all values are exact, and so are G*'s mean and spread; a cell's G* is a sum over its row in a fixed
order; components are named by their smallest cell; areas are added exactly. No block size or order changes a bit.

Source:
    Ord & Getis 1995, doi:10.1111/j.1538-4632.1995.tb00912.x, equation 14 with the self-neighbour and binary weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray
from scipy.special import ndtr

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.exact_sums import exact_sums, rounded
from oncotwin.spatial.graphs import GraphRows, held_places
from oncotwin.spatial.significance import Dependence, adjusted

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
IndexArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]

_f1, _f2, _i1, _n1 = types.float64[::1], types.float64[:, ::1], types.int64[::1], types.int32[::1]
_b1 = types.boolean[::1]


@dataclass(frozen=True, slots=True)
class ValueSums:
    """Sums of some blocks' values.

    Attributes:
        n_cells: rows that went in.
        shift: (n_scores,) that was subtracted, near the mean, so that nothing cancels.
        digits: (2 * n_scores, n_digits) exact sums of the values and of their squares.
    """

    n_cells: int
    shift: Array
    digits: IntArray


@dataclass(frozen=True, slots=True)
class HotspotSummary:
    """The hotspots of one score.

    Attributes:
        first_cells: (n_hotspots,) int64, the smallest id of each connected set of hot cells, increasing.
        n_cells: (n_hotspots,) int64, cells of each.
        areas_um2: (n_hotspots,) of each.
        connectivity: of the edges that begin at hot cells, the share that ends at hot cells; NaN without edges.
        edge_share: share of hot cells that lie at the edge of the tissue; NaN without hot cells.
    """

    first_cells: IntArray
    n_cells: IntArray
    areas_um2: Array
    connectivity: float
    edge_share: float

    @property
    def n_hotspots(self) -> int:
        """How many connected sets."""
        return len(self.n_cells)

    @property
    def area_um2(self) -> float:
        """Area of all of them."""
        return math.fsum(self.areas_um2)

    @property
    def largest_share(self) -> float:
        """Share of the hot cells that lie in the largest set; NaN without hot cells."""
        return float(self.n_cells.max() / self.n_cells.sum()) if len(self.n_cells) else math.nan


def value_sums(values: Array, shift: Array) -> ValueSums:
    """Sums of one block's own values (n_own, n_scores), ``shift`` (n_scores,) being the same for all blocks.

    Raises:
        ConfigurationError: a value is not finite.
    """
    shifted = np.asarray(values, dtype=np.float64) - shift
    if not np.isfinite(shifted).all():
        row, score = (int(at[0]) for at in np.nonzero(~np.isfinite(shifted)))
        raise ConfigurationError(f"score {score} in row {row} of a block is not finite; leave such cells out")
    return ValueSums(len(shifted), np.array(shift), exact_sums(np.column_stack([shifted, shifted * shifted])))


def merge_value_sums(parts: Sequence[ValueSums]) -> ValueSums:
    """Sums of some blocks from those of each, in any order.

    Raises:
        ConfigurationError: none given, or their shifts differ.
    """
    if not parts or any(not np.array_equal(part.shift, parts[0].shift) for part in parts[1:]):
        raise ConfigurationError("blocks were summed with different shifts; use one for all of a section")
    digits = parts[0].digits.copy()
    for part in parts[1:]:
        digits += part.digits
    return ValueSums(sum(part.n_cells for part in parts), parts[0].shift, digits)


@njit(types.void(_i1, _n1, _i1, _f2, _f1, _f1, _f1, types.int64, _f2), cache=True, nogil=True, error_model="numpy")
def _g_star(
    offsets: IntArray, places: IndexArray, own: IntArray, values: Array, shift: Array, mean: Array, spread: Array,
    n_cells: int, z: Array,
) -> None:
    for i in range(len(offsets) - 1):
        n_near = offsets[i + 1] - offsets[i] + 1
        for s in range(values.shape[1]):
            z[i, s] = values[own[i], s] - shift[s] - mean[s]
        for e in range(offsets[i], offsets[i + 1]):
            for s in range(values.shape[1]):
                z[i, s] += values[places[e], s] - shift[s] - mean[s]
        scale = math.sqrt(float(n_near) * float(n_cells - n_near) / float(n_cells - 1))
        for s in range(values.shape[1]):
            z[i, s] = z[i, s] / (spread[s] * scale) if spread[s] > 0.0 and scale > 0.0 else np.nan


def g_star(rows: GraphRows, held: IntArray, values: Array, sums: ValueSums) -> Array:
    """Standardised G* of a block's own cells.

    Args:
        rows: of the block.
        held: (n_held,) increasing ids of the cells that the block holds: its own and their neighbours.
        values: (n_held, n_scores) theirs.
        sums: of the whole section.
    Returns:
        z (n_own, n_scores): high in hotspots, low in cold ones; NaN for a score that is constant, and for a cell
        whose neighbours are the whole section.
    Raises:
        ConfigurationError: a neighbour is not held, or shapes do not fit.
    """
    if values.shape != (len(held), len(sums.shift)):
        raise ConfigurationError(f"values {values.shape} of {len(held)} cells and {len(sums.shift)} scores do not fit")
    n = sums.n_cells
    total, square = rounded(sums.digits).reshape(2, -1)
    mean = total / n
    spread = np.sqrt(np.maximum(square / n - mean * mean, 0.0))
    z = np.empty((len(rows.ids), values.shape[1]))
    _g_star(
        rows.offsets, held_places(rows, held), np.searchsorted(held, rows.ids),
        np.ascontiguousarray(values, dtype=np.float64), sums.shift, mean, spread, n, z,
    )
    return z


def hotspot_mask(z: Array, alpha: float, dependence: Dependence = Dependence.POSITIVE) -> BoolArray:
    """Which cells and scores are hot at a false discovery rate; all that is handed in is one family.

    Args:
        z: any shape, from `g_star`; NaN is never hot.
        alpha: false discovery rate.
        dependence: of the tests; G* of neighbours are positively dependent.
    """
    return np.asarray(adjusted(hot_p(z), dependence) <= alpha)


def hot_p(z: Array) -> Array:
    """One-sided p-values against more than chance, by the normal distribution."""
    return np.asarray(ndtr(-z))


@njit(types.int64(_n1, types.int64), cache=True, nogil=True, error_model="numpy", inline="always")
def _root(parents: IndexArray, at: int) -> int:
    while parents[at] != at:
        parents[at] = parents[parents[at]]
        at = parents[at]
    return at


@njit(types.void(_n1, _n1, _n1), cache=True, nogil=True, error_model="numpy")
def _unite(sources: IndexArray, targets: IndexArray, parents: IndexArray) -> None:
    """Join the sets of each pair, the smaller root above the larger; then let every cell point at its root."""
    for e in range(len(sources)):
        a, b = _root(parents, sources[e]), _root(parents, targets[e])
        if a < b:
            parents[b] = a
        elif b < a:
            parents[a] = b
    for i in range(len(parents)):
        parents[i] = _root(parents, i)


def hot_links(rows: GraphRows, hot: BoolArray) -> IndexArray:
    """Which hot cells a block joins: at most one link a cell within it, and all that leave it.

    Args:
        rows: of the block.
        hot: (n_cells,) of the whole section.
    Returns:
        (n_links, 2) int32 ids; links of all blocks, in any order, go to `hotspot_labels`.
    """
    sources = np.repeat(rows.ids.astype(np.int32), np.diff(rows.offsets))
    both = hot[sources] & hot[rows.neighbours]
    sources, targets = sources[both], rows.neighbours[both]
    cells, compact = np.unique(np.concatenate([sources, targets]), return_inverse=True)
    parents = np.arange(len(cells), dtype=np.int32)
    _unite(compact[:len(sources)].astype(np.int32), compact[len(sources):].astype(np.int32), parents)
    joined = np.flatnonzero(parents != np.arange(len(cells)))
    return np.column_stack([cells[joined], cells[parents[joined]]]).astype(np.int32)


def hotspot_labels(links: Sequence[IndexArray], hot: BoolArray) -> IndexArray:
    """The hotspot (n_cells,) int32 of every cell: the smallest id in its connected set, -1 where it is not hot."""
    parents = np.arange(len(hot), dtype=np.int32)
    everyone = np.concatenate([np.empty((0, 2), dtype=np.int32), *links])
    _unite(np.ascontiguousarray(everyone[:, 0]), np.ascontiguousarray(everyone[:, 1]), parents)
    return np.where(hot, parents, np.int32(-1))


def hot_edges(rows: GraphRows, hot: BoolArray) -> tuple[int, int]:
    """Edges of a block that run from hot cells to hot cells, and from hot cells to any; blocks add up."""
    from_hot = np.repeat(hot[rows.ids], np.diff(rows.offsets))
    return int(np.count_nonzero(from_hot & hot[rows.neighbours])), int(np.count_nonzero(from_hot))


def at_edge(rows: GraphRows, n_full: int) -> BoolArray:
    """Which own cells (n_own,) have fewer neighbours than a cell inside the tissue has."""
    return np.asarray(np.diff(rows.offsets) < n_full)


def summary(labels: IndexArray, areas_um2: Array, edges: tuple[int, int], edge: BoolArray) -> HotspotSummary:
    """Number, size and connectivity of hotspots.

    Args:
        labels: (n_cells,) from `hotspot_labels`.
        areas_um2: (n_cells,) area that each cell or spot stands for, such as the square of the pitch.
        edges: sum of `hot_edges` over the blocks.
        edge: (n_cells,) which cells lie at the edge of the tissue.
    """
    hot = np.flatnonzero(labels >= 0)
    order = hot[np.argsort(labels[hot], kind="stable")]
    first_cells, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    areas = [math.fsum(areas_um2[order[a:a + n]]) for a, n in zip(starts, counts, strict=True)]
    return HotspotSummary(
        first_cells.astype(np.int64), counts.astype(np.int64), np.array(areas, dtype=np.float64),
        edges[0] / edges[1] if edges[1] else math.nan,
        float(np.count_nonzero(edge[hot]) / len(hot)) if len(hot) else math.nan,
    )
