"""Who lives beside whom: composition of neighbourhoods, and enrichment of pairs of types with exact moments.

Null hypothesis: the graph and the number of cells of each type are fixed, all assignments of labels to cells equally
likely. O_ab, the number of directed edges from type a to type b, then has a mean and a variance in closed form. With
n cells, m directed edges (no cell its own neighbour, no edge twice), n_a cells of type a, falling factorials
``n^(r) = n (n - 1) ... (n - r + 1)``, and degrees ``out_i``, ``in_i``:

    E[O_ab] = m P2,   P2 = n_a n_b / n^(2)  or  n_a^(2) / n^(2)  where b = a.

E[O_ab^2] sums, over ordered pairs of edges (i -> j, k -> l), the probability that both run from a to b. It depends only
on how the edges meet:

    meeting                     ordered pairs of edges               b != a                     b = a
    the same edge               m                                    n_a n_b / n^(2)            n_a^(2) / n^(2)
    reverse of each other       r, edges whose reverse is there      0                          n_a^(2) / n^(2)
    common source only          s = sum out_i (out_i - 1)            n_a n_b^(2) / n^(3)        n_a^(3) / n^(3)
    common target only          t = sum in_i (in_i - 1)              n_a^(2) n_b / n^(3)        n_a^(3) / n^(3)
    one ends where one begins   c = 2 (sum in_i out_i - r)           0                          n_a^(3) / n^(3)
    no common cell              m^2 - m - r - s - t - c              n_a^(2) n_b^(2) / n^(4)    n_a^(4) / n^(4)

(an end of type a cannot be of type b, hence the zeros). An undirected graph is one whose edges run both ways: r = m.
Everything up to the last division is integer, so no digits cancel and no block changes a bit.

Source:
    Counts of joins under permutation: Moran 1948, "The interpretation of statistical maps", J. R. Stat. Soc. B 10:
    243-251; Cliff & Ord 1981, section 2.2. The same question answered by permutations: Palla et al. 2022 (squidpy),
    doi:10.1038/s41592-021-01358-2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.graphs import CellBlock, GraphRows

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
IndexArray = NDArray[np.int32]
LabelArray = NDArray[np.uint8]

_i1, _i2, _n1, _u1 = types.int64[::1], types.int64[:, ::1], types.int32[::1], types.uint8[::1]
_MOST_TYPES = 255
_SLICE = 1 << 20


@dataclass(frozen=True, slots=True)
class EdgeTally:
    """The edges of one block, counted without labels.

    Attributes:
        ids: (n_own,) int64, its cells.
        out_degree, in_degree: (n_own,) int32, edges from each cell, and edges to it from the block's own cells.
        n_mutual: edges between own cells whose reverse is there.
        leaving: (n_leaving, 2) int32, the edges (source, target) to cells of other blocks.
    """

    ids: IntArray
    out_degree: IndexArray
    in_degree: IndexArray
    n_mutual: int
    leaving: IndexArray


@dataclass(frozen=True, slots=True)
class BlockEdges:
    """The edges of one block and what they join.

    Attributes:
        tally: of the edges.
        counts: (n_types, n_types) int64, as of `edge_counts`.
        sizes: (n_types,) int64, own cells of each type.
    """

    tally: EdgeTally
    counts: IntArray
    sizes: IntArray


@dataclass(frozen=True, slots=True)
class GraphMoments:
    """What the moments of all edge counts need to know of a graph: n, m, r, s, t, c of the formula above."""

    n_cells: int
    n_edges: int
    n_mutual: int
    n_same_source: int
    n_same_target: int
    n_chained: int

    @property
    def n_apart(self) -> int:
        """Ordered pairs of edges without a common cell."""
        met = self.n_edges + self.n_mutual + self.n_same_source + self.n_same_target + self.n_chained
        return self.n_edges**2 - met


@dataclass(frozen=True, slots=True)
class Enrichment:
    """Edges between types against their moments under permutation of the labels.

    Attributes:
        counts: (n_types, n_types) int64, directed edges from the row's type to the column's.
        expected, variance: (n_types, n_types), exact up to one rounding.
        z: (n_types, n_types); NaN where the variance is zero (a type without cells, or only one type).
    """

    counts: IntArray
    expected: Array
    variance: Array
    z: Array


@njit(
    types.int64(_i1, _i1, _n1, _n1, types.int64, _n1, _n1, types.boolean[::1]), cache=True, nogil=True,
    error_model="numpy",
)
def _tally(
    ids: IntArray, offsets: IntArray, neighbours: IndexArray, places: IndexArray, lowest: int, out_degree: IndexArray,
    in_degree: IndexArray, leaves: NDArray[np.bool_],
) -> int:
    n_mutual = 0
    for i in range(len(ids)):
        out_degree[i] = offsets[i + 1] - offsets[i]
        for e in range(offsets[i], offsets[i + 1]):
            at = neighbours[e] - lowest
            row = places[at] if 0 <= at < len(places) else np.int32(-1)
            leaves[e] = row < 0
            if row < 0:
                continue
            in_degree[row] += 1
            for back in range(offsets[row], offsets[row + 1]):
                if neighbours[back] == ids[i]:
                    n_mutual += 1
    return n_mutual


@njit(types.void(_i1, _i1, _n1, _u1, _i2), cache=True, nogil=True, error_model="numpy")
def _count_edges(
    ids: IntArray, offsets: IntArray, neighbours: IndexArray, labels: LabelArray, counts: IntArray
) -> None:
    for i in range(len(ids)):
        label = labels[ids[i]]
        for e in range(offsets[i], offsets[i + 1]):
            counts[label, labels[neighbours[e]]] += 1


@njit(types.void(_i1, _n1, _u1, types.int32[:, ::1]), cache=True, nogil=True, error_model="numpy")
def _compose(offsets: IntArray, neighbours: IndexArray, labels: LabelArray, counts: IndexArray) -> None:
    for i in range(len(offsets) - 1):
        for e in range(offsets[i], offsets[i + 1]):
            counts[i, labels[neighbours[e]]] += 1


def tally_edges(rows: GraphRows) -> EdgeTally:
    """Count the edges of a block: once for a graph, whatever the labels.

    Ids that lie near each other (cells numbered by tile or in Hilbert order) keep the look-up table short.
    """
    n_own = len(rows.ids)
    lowest = int(rows.ids.min()) if n_own else 0
    places = np.full(int(rows.ids.max()) - lowest + 1 if n_own else 0, -1, dtype=np.int32)
    places[rows.ids - lowest] = np.arange(n_own, dtype=np.int32)
    out_degree, in_degree = np.zeros(n_own, dtype=np.int32), np.zeros(n_own, dtype=np.int32)
    leaves = np.zeros(len(rows.neighbours), dtype=np.bool_)
    n_mutual = _tally(rows.ids, rows.offsets, rows.neighbours, places, lowest, out_degree, in_degree, leaves)
    sources = np.repeat(rows.ids.astype(np.int32), out_degree)[leaves]
    return EdgeTally(
        rows.ids, out_degree, in_degree, int(n_mutual), np.column_stack([sources, rows.neighbours[leaves]])
    )


def graph_moments(tallies: Iterable[EdgeTally], n_cells: int) -> GraphMoments:
    """Put the tallies of all blocks together, in any order, each when it comes: eight bytes a cell are held.

    Args:
        tallies: together they hold each cell of the section once.
        n_cells: of the section.
    Raises:
        ConfigurationError: cells are missing or there twice.
    """
    out_degree, in_degree = np.full(n_cells, -1, dtype=np.int32), np.zeros(n_cells, dtype=np.int32)
    n_held, n_mutual, leaving = 0, 0, [np.empty((0, 2), dtype=np.int32)]
    for tally in tallies:
        out_degree[tally.ids] = tally.out_degree
        in_degree[tally.ids] += tally.in_degree
        n_held += len(tally.ids)
        n_mutual += tally.n_mutual
        leaving.append(tally.leaving)
    if n_held != n_cells or (out_degree < 0).any():
        raise ConfigurationError(f"blocks do not hold each of {n_cells} cells once: tally every block of the section")
    across = np.concatenate(leaving)
    np.add.at(in_degree, across[:, 1], 1)
    forth = across[:, 0] * np.int64(n_cells) + across[:, 1]
    back = across[:, 1] * np.int64(n_cells) + across[:, 0]
    n_mutual += int(np.isin(forth, back).sum())
    n_edges = n_same_source = n_same_target = n_met = 0
    for first in range(0, n_cells, _SLICE):
        out, into = (degree[first:first + _SLICE].astype(np.int64) for degree in (out_degree, in_degree))
        n_edges += int(out.sum())
        n_same_source += int((out * (out - 1)).sum())
        n_same_target += int((into * (into - 1)).sum())
        n_met += int((into * out).sum())
    return GraphMoments(n_cells, n_edges, n_mutual, n_same_source, n_same_target, 2 * (n_met - n_mutual))


def edges_of_block(
    cells: CellBlock, labels: LabelArray, n_types: int, rows_of: Callable[[CellBlock], GraphRows]
) -> BlockEdges | None:
    """All that enrichment needs to know of a block, from the block and its halo alone.

    Args:
        cells: own cells and halo, with their ids in the section.
        labels: (n,) uint8 of those cells, below ``n_types``.
        n_types: at most 255.
        rows_of: builds the rows of the own cells, such as `functools.partial(knn_rows, k=6)`.
    Returns:
        Edges of the own cells; None where a row is not certain: call again with a wider halo.
    Raises:
        ConfigurationError: a label that is no type, or labels that are not of these cells.
    """
    if len(labels) != len(cells.ids):
        raise ConfigurationError(f"{len(labels)} labels of {len(cells.ids)} cells: give one to each, halo included")
    # Numbered anew within the block, in the same order: ties are won by the same cells, and tables stay short.
    held = np.sort(cells.ids)
    local = np.searchsorted(held, cells.ids)
    rows = rows_of(CellBlock(cells.points_um, local, cells.n_own, cells.window_um))
    if not rows.certain.all():
        return None
    types = np.empty(len(held), dtype=np.uint8)
    types[local] = labels
    tally = tally_edges(rows)
    here = EdgeTally(
        cells.ids[:cells.n_own].astype(np.int64), tally.out_degree, tally.in_degree, tally.n_mutual,
        held[tally.leaving].astype(np.int32),
    )
    sizes = np.bincount(labels[:cells.n_own], minlength=n_types)
    return BlockEdges(here, edge_counts(rows, types, n_types), sizes)


def enrichment_of_blocks(blocks: Iterable[BlockEdges], n_cells: int, n_types: int) -> Enrichment:
    """Enrichment of a section from its blocks, in any order, each let go when it is counted.

    Args:
        blocks: together they hold each cell of the section once.
        n_cells, n_types: of the section.
    Raises:
        ConfigurationError: cells are missing or there twice, or there are fewer than four.
    """
    counts, sizes = np.zeros((n_types, n_types), dtype=np.int64), np.zeros(n_types, dtype=np.int64)

    def counted() -> Iterable[EdgeTally]:
        for block in blocks:
            counts[:] += block.counts
            sizes[:] += block.sizes
            yield block.tally

    moments = graph_moments(counted(), n_cells)
    return enrichment(counts, sizes, moments)


def edge_counts(rows: GraphRows, labels: LabelArray, n_types: int) -> IntArray:
    """Directed edges (n_types, n_types) of a block from each type to each; blocks add up.

    Args:
        rows: of the block.
        labels: (n_cells,) uint8 of the whole section, below ``n_types``.
        n_types: at most 255.
    Raises:
        ConfigurationError: a label that is no type.
    """
    checked = _checked(labels, n_types)
    counts = np.zeros((n_types, n_types), dtype=np.int64)
    _count_edges(rows.ids, rows.offsets, rows.neighbours, checked, counts)
    return counts


def composition(rows: GraphRows, labels: LabelArray, n_types: int) -> IndexArray:
    """Neighbours of each type (n_own, n_types) int32 of a block's cells, the cell itself left out.

    A row's sum is the number of its neighbours: fewer at the tissue's edge for graphs of a radius, never for kNN.
    Arguments and errors as of `edge_counts`.
    """
    checked = _checked(labels, n_types)
    counts = np.zeros((len(rows.ids), n_types), dtype=np.int32)
    _compose(rows.offsets, rows.neighbours, checked, counts)
    return counts


def enrichment(counts: IntArray, sizes: IntArray, graph: GraphMoments) -> Enrichment:
    """Compare edges between types with their exact mean and variance under permutation of the labels.

    Args:
        counts: (n_types, n_types) edges of the whole section, the sum of `edge_counts`.
        sizes: (n_types,) cells of each type.
        graph: of the same section, at least four cells.
    Raises:
        ConfigurationError: counts, sizes and graph are not of one section, or it has fewer than four cells.
    """
    if graph.n_cells < 4:
        raise ConfigurationError(f"{graph.n_cells} cells: moments under permutation need at least four")
    if int(sizes.sum()) != graph.n_cells or int(counts.sum()) != graph.n_edges:
        raise ConfigurationError(
            f"{int(sizes.sum())} labelled cells and {int(counts.sum())} counted edges in a graph of {graph.n_cells} "
            f"cells and {graph.n_edges} edges: sum the counts of every block once"
        )
    n = graph.n_cells
    two, four = n * (n - 1), n * (n - 1) * (n - 2) * (n - 3)
    shape = counts.shape
    expected, variance, difference = np.empty(shape), np.empty(shape), np.empty(shape)
    for a, n_a in enumerate(sizes.tolist()):
        for b, n_b in enumerate(sizes.tolist()):
            first, second = _moments(n_a, n_b, a == b, graph)
            expected[a, b] = first / two
            variance[a, b] = (second * two**2 - first**2 * four) / (four * two**2)
            difference[a, b] = (int(counts[a, b]) * two - first) / two
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(variance > 0.0, difference / np.sqrt(variance), np.nan)
    return Enrichment(counts, expected, variance, z)


def _moments(n_a: int, n_b: int, same: bool, graph: GraphMoments) -> tuple[int, int]:
    """Numerators of E[O] over n^(2) and of E[O^2] over n^(4)."""
    n = graph.n_cells
    if same:
        pair, triple = n_a * (n_a - 1), n_a * (n_a - 1) * (n_a - 2)
        equal = (graph.n_edges + graph.n_mutual) * pair
        meeting = (graph.n_same_source + graph.n_same_target + graph.n_chained) * triple
        apart = graph.n_apart * triple * (n_a - 3)
    else:
        pair = n_a * n_b
        equal = graph.n_edges * pair
        meeting = graph.n_same_source * pair * (n_b - 1) + graph.n_same_target * pair * (n_a - 1)
        apart = graph.n_apart * pair * (n_a - 1) * (n_b - 1)
    return graph.n_edges * pair, equal * (n - 2) * (n - 3) + meeting * (n - 3) + apart


def _checked(labels: LabelArray, n_types: int) -> LabelArray:
    if not 0 < n_types <= _MOST_TYPES:
        raise ConfigurationError(f"{n_types} types: give between 1 and {_MOST_TYPES}")
    bad = np.flatnonzero((labels < 0) | (labels >= n_types))
    if len(bad):
        raise ConfigurationError(f"cell {bad[0]}: label {labels[bad[0]]} is none of the {n_types} types from 0 on")
    return np.ascontiguousarray(labels, dtype=np.uint8)
