"""Spatial graphs of cells, built by block with its halo so that the rows of all blocks are the whole graph's rows.

A block hands in its own cells and those of its halo, and the window in which no cell is missing. Each row says whether
it is certain: whether any cell outside the window could still change it. A caller widens the window of a block whose
rows are not all certain; certain rows are those of the whole graph to the last neighbour, whatever the blocks, because
they depend on nothing but the coordinates and ids of the cells inside the window, compared by exact rules.

Edges run from a cell to its neighbours: those of kNN need not run back, those of radius and Delaunay do.

Source:
    Delaunay by each cell's own Voronoi polygon, which ends when no farther cell can reach it: Rycroft 2009,
    doi:10.1063/1.3215722. Edges limited in length: the alpha complex, Edelsbrunner & Muecke 1994,
    doi:10.1145/174462.156635.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.nearest import (
    Array,
    IndexArray,
    IntArray,
    boxes_of,
    hilbert_order,
    nearest,
    reach_of,
    sort_row,
    within,
)
from oncotwin.spatial.voronoi import voronoi_rows

BoolArray = NDArray[np.bool_]
Window = tuple[float, float, float, float]

EVERYWHERE: Window = (-math.inf, -math.inf, math.inf, math.inf)
"""The window (x0, y0, x1, y1) of a section that is held whole; a block on its edge is open there as well."""

_LARGEST_ID = 2**31 - 1
_f8, _i8, _b1 = types.float64, types.int64, types.boolean[::1]
_f1, _f2, _i1, _n1 = types.float64[::1], types.float64[:, ::1], types.int64[::1], types.int32[::1]


@dataclass(frozen=True, slots=True)
class GraphRows:
    """Rows of a graph: those of one block's own cells.

    Attributes:
        ids: (n_own,) int64, the cells, in the order in which the block named them.
        offsets: (n_own + 1,) int64; cell ``ids[i]`` owns ``neighbours[offsets[i]:offsets[i + 1]]``.
        neighbours: (n_edges,) int32 ids, increasing within a row, never the cell itself.
        certain: (n_own,) whether the row is that of the whole graph.
    """

    ids: IntArray
    offsets: IntArray
    neighbours: IndexArray
    certain: BoolArray


@dataclass(frozen=True, slots=True)
class SpatialGraph:
    """A whole graph as compressed rows, cell ``i`` being row ``i``.

    Attributes:
        offsets: (n_cells + 1,) int64.
        neighbours: (n_edges,) int32, increasing within a row, never the cell itself.
    """

    offsets: IntArray
    neighbours: IndexArray

    @property
    def n_cells(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return len(self.neighbours)

    def rows(self, first: int, end: int) -> GraphRows:
        """The rows of cells ``first`` to ``end - 1``."""
        part = slice(int(self.offsets[first]), int(self.offsets[end]))
        return GraphRows(
            np.arange(first, end, dtype=np.int64), self.offsets[first:end + 1] - self.offsets[first],
            self.neighbours[part], np.ones(end - first, dtype=np.bool_),
        )


@dataclass(frozen=True, slots=True)
class CellBlock:
    """The cells of a block, its own first, then those of its halo.

    Attributes:
        points_um: (n, 2) x and y in micrometres.
        ids: (n,) place of each cell in the section, distinct.
        n_own: how many of them are the block's own.
        window_um: (x0, y0, x1, y1): every cell of the section that lies inside, the border left out, is among them.
    """

    points_um: Array
    ids: IntArray
    n_own: int
    window_um: Window = EVERYWHERE

    def __post_init__(self) -> None:
        if self.points_um.ndim != 2 or self.points_um.shape != (len(self.ids), 2) or self.n_own > len(self.ids):
            raise ConfigurationError(
                f"block of {self.points_um.shape} points, {len(self.ids)} ids, {self.n_own} own cells: "
                "give (n, 2) points, n ids and at most n own cells"
            )
        bad = np.flatnonzero(~np.isfinite(self.points_um).all(axis=1))
        if len(bad):
            raise ConfigurationError(
                f"cell {self.ids[bad[0]]}: its place {self.points_um[bad[0]]} is not finite; leave such cells out"
            )
        if len(self.ids) and not 0 <= int(self.ids.min()) <= int(self.ids.max()) <= _LARGEST_ID:
            raise ConfigurationError(f"ids must lie between 0 and {_LARGEST_ID}; number the cells of a section anew")


def whole_section(points_um: Array) -> CellBlock:
    """The one block that is a whole section: cells (n, 2) with ids 0 to n - 1."""
    return CellBlock(np.asarray(points_um, dtype=np.float64), np.arange(len(points_um), dtype=np.int64), len(points_um))


@njit(types.void(_f2, _i1, _f2, _i1, _i8, _f1, _n1, _i1, _i1, _b1), cache=True, nogil=True, error_model="numpy")
def _knn(
    points: Array, ids: IntArray, boxes: Array, own: IntArray, k: int, window: Array, buffer: IndexArray,
    starts: IntArray, counts: IntArray, certain: BoolArray,
) -> None:
    squares, found, places = np.empty(k), np.empty(k, dtype=np.int64), np.empty(k, dtype=np.int64)
    for me in range(points.shape[0]):
        row = own[me]
        if row < 0:
            continue
        n_found = nearest(points, ids, boxes, me, k, np.inf, squares, found, places)
        starts[row], counts[row] = row * k, n_found
        for j in range(n_found):
            buffer[row * k + j] = found[j]
        sort_row(buffer, row * k, row * k + n_found)
        reach = reach_of(points[me, 0], points[me, 1], window)
        # A cell outside is at least as far as the border, also after rounding; on equality it could win by its id.
        certain[row] = reach == np.inf or (n_found == k and reach > 0.0 and squares[k - 1] < reach * reach)


@njit(types.void(_f2, _i1, _f2, _i1, _f8, _f1, _i1, _b1), cache=True, nogil=True, error_model="numpy")
def _count_within(
    points: Array, ids: IntArray, boxes: Array, own: IntArray, radius: float, window: Array, counts: IntArray,
    certain: BoolArray,
) -> None:
    nothing = np.empty(0, dtype=np.int64)
    for me in range(points.shape[0]):
        if own[me] >= 0:
            counts[own[me]] = within(points, ids, boxes, me, radius * radius, 0, nothing)
            certain[own[me]] = radius < reach_of(points[me, 0], points[me, 1], window)


@njit(types.void(_f2, _i1, _f2, _i1, _f8, _i1, _n1), cache=True, nogil=True, error_model="numpy")
def _fill_within(
    points: Array, ids: IntArray, boxes: Array, own: IntArray, radius: float, offsets: IntArray, neighbours: IndexArray
) -> None:
    for me in range(points.shape[0]):
        row = own[me]
        if row < 0:
            continue
        room = offsets[row + 1] - offsets[row]
        found = np.empty(room, dtype=np.int64)
        within(points, ids, boxes, me, radius * radius, room, found)
        neighbours[offsets[row]:offsets[row + 1]] = np.sort(found).astype(np.int32)


def knn_rows(block: CellBlock, k: int) -> GraphRows:
    """Rows of the graph of the k nearest cells, ties won by the smaller id.

    Args:
        block: own cells and halo.
        k: at least 1; a section of fewer cells gives shorter rows.
    Returns:
        Rows of the own cells; certain where the k-th neighbour is nearer than the window's border.
    Raises:
        ConfigurationError: k below 1.
    """
    if k < 1:
        raise ConfigurationError(f"{k} neighbours: ask for at least one")
    tree = _Tree(block)
    buffer = np.empty(block.n_own * k, dtype=np.int32)
    _knn(tree.points, tree.ids, tree.boxes, tree.own, k, tree.window, buffer, tree.starts, tree.counts, tree.certain)
    return tree.rows(buffer)


def radius_rows(block: CellBlock, radius_um: float) -> GraphRows:
    """Rows of the graph that joins cells at most ``radius_um`` apart (compared as squares).

    Returns:
        Rows of the own cells; certain where the window's border is farther than the radius.
    Raises:
        ConfigurationError: the radius is not positive and finite.
    """
    _check_length("radius", radius_um)
    tree = _Tree(block)
    _count_within(
        tree.points, tree.ids, tree.boxes, tree.own, radius_um, tree.window, tree.counts, tree.certain
    )
    offsets = _offsets_of(tree.counts)
    neighbours = np.empty(offsets[-1], dtype=np.int32)
    _fill_within(tree.points, tree.ids, tree.boxes, tree.own, radius_um, offsets, neighbours)
    return GraphRows(block.ids[:block.n_own], offsets, neighbours, tree.certain)


def delaunay_rows(block: CellBlock, longest_um: float) -> GraphRows:
    """Rows of the Delaunay graph with edges up to ``longest_um``: cells whose limited Voronoi polygons share a side.

    A polygon is limited to the disc of radius ``longest_um / 2`` around its cell, so that empty ground joins nobody
    across it and a row depends on a bounded surrounding; within that reach the graph is the Delaunay graph (that is,
    the alpha complex). Polygons that touch in a point share no side: a square lattice has no diagonals, so no tie has
    to be broken.

    Args:
        block: own cells and halo; a halo of ``longest_um`` makes all rows certain.
        longest_um: positive and finite.
    Returns:
        Rows of the own cells.
    Raises:
        ConfigurationError: the length is not positive and finite, or two cells lie at the same place.
    """
    _check_length("longest edge", longest_um)
    tree = _Tree(block)
    buffer, twin = voronoi_rows(
        tree.points, tree.ids, tree.boxes, tree.own, 0.5 * longest_um, tree.window, tree.starts, tree.counts,
        tree.certain,
    )
    if twin >= 0:
        raise ConfigurationError(
            f"cell {twin}: another cell lies at the same place, so neither has a polygon; merge them or move one"
        )
    return tree.rows(buffer)


def join_rows(parts: Sequence[GraphRows], n_cells: int) -> SpatialGraph:
    """The whole graph from the rows of all blocks, in any order.

    Args:
        parts: rows that together name each cell of the section once.
        n_cells: how many cells the section has.
    Raises:
        ConfigurationError: a row is not certain, missing, or there twice.
    """
    counts = np.full(n_cells, -1, dtype=np.int64)
    for part in parts:
        doubtful = np.flatnonzero(~part.certain)
        if len(doubtful):
            raise ConfigurationError(
                f"cell {part.ids[doubtful[0]]}: {len(doubtful)} rows of its block are not certain; widen its halo"
            )
        if len(part.ids) and (int(part.ids.max()) >= n_cells or (counts[part.ids] >= 0).any()):
            raise ConfigurationError(f"a block of {len(part.ids)} rows names a cell twice or beyond {n_cells} cells")
        counts[part.ids] = np.diff(part.offsets)
    if (counts < 0).any():
        raise ConfigurationError(f"cell {int(np.argmax(counts < 0))}: no block has its row")
    offsets = _offsets_of(counts)
    neighbours = np.empty(offsets[-1], dtype=np.int32)
    for part in parts:
        n_each = np.diff(part.offsets)
        shift = np.repeat(offsets[part.ids] - part.offsets[:-1], n_each)
        neighbours[np.arange(len(part.neighbours)) + shift] = part.neighbours
    return SpatialGraph(offsets, neighbours)


def held_places(rows: GraphRows, held: IntArray) -> IndexArray:
    """Where the neighbours of a block's rows stand among the cells that the block holds.

    Args:
        rows: of the block.
        held: (n_held,) increasing ids, all own cells and all their neighbours among them.
    Returns:
        (n_edges,) int32 places in ``held``, in the order of ``rows.neighbours``.
    Raises:
        ConfigurationError: a neighbour is not held.
    """
    places = np.searchsorted(held, rows.neighbours)
    found = held[np.minimum(places, len(held) - 1)] == rows.neighbours
    if not found.all():
        raise ConfigurationError(
            f"cell {rows.neighbours[np.argmin(found)]} is a neighbour, but not among the {len(held)} cells that the "
            "block holds; hand in the whole halo"
        )
    return places.astype(np.int32)


class _Tree:
    """A block's cells in Hilbert order, ready to be searched, and room for its rows."""

    def __init__(self, block: CellBlock) -> None:
        order = hilbert_order(block.points_um)
        self.points = np.ascontiguousarray(block.points_um[order], dtype=np.float64)
        self.ids = np.ascontiguousarray(block.ids[order], dtype=np.int64)
        self.boxes = boxes_of(self.points)
        self.own = np.where(order < block.n_own, order, -1)
        self.window = np.array(block.window_um, dtype=np.float64)
        self.own_ids = block.ids[:block.n_own]
        self.starts = np.zeros(block.n_own, dtype=np.int64)
        self.counts = np.zeros(block.n_own, dtype=np.int64)
        self.certain = np.zeros(block.n_own, dtype=np.bool_)

    def rows(self, buffer: IndexArray) -> GraphRows:
        """Gather rows that lie anywhere in a buffer."""
        offsets = _offsets_of(self.counts)
        places = np.arange(offsets[-1]) + np.repeat(self.starts - offsets[:-1], self.counts)
        return GraphRows(self.own_ids, offsets, buffer[places], self.certain)


def _offsets_of(counts: IntArray) -> IntArray:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _check_length(name: str, length_um: float) -> None:
    if not 0.0 < length_um < math.inf:
        raise ConfigurationError(f"{name} of {length_um} um: give a positive, finite length")
