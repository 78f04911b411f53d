"""Weights of a graph for spatial statistics: each unordered pair of cells once, with both directions' weights summed.

Quadratic forms of the weights need no more than ``w_ij + w_ji``, so a pass over the cells meets each pair once, at the
cell of the smaller number; the larger is in the block or its halo.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.graphs import SpatialGraph

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
IndexArray = NDArray[np.int32]

CHUNK = 1024
"""Rows that are summed in one fixed order; a block begins at a multiple of it."""

_f1, _i1, _n1, _b8 = types.float64[::1], types.int64[::1], types.int32[::1], types.boolean


class Weighting(StrEnum):
    """Weight of an edge from cell i."""

    BINARY = "binary"
    """1."""
    ROW = "row"
    """1 / number of neighbours of i: each cell's neighbours weigh one together."""


@dataclass(frozen=True, slots=True)
class PairBlock:
    """Pairs whose smaller cell is a block's own.

    Attributes:
        first: number of the first own cell, a multiple of `CHUNK`.
        halo: (n_halo,) int64 other cells that are needed, increasing.
        offsets: (n_own + 1,) int64; own cell i has the pairs ``offsets[i]:offsets[i + 1]``.
        neighbours: (n_pairs,) int32 row of the other cell in the block's matrix: own rows, then those of the halo.
        weights: (n_pairs,) both directions summed.
        ends: (n_own,) sum of all weights that a cell has a part in, both ways.
    """

    first: int
    halo: IntArray
    offsets: IntArray
    neighbours: IndexArray
    weights: Array
    ends: Array


@dataclass(frozen=True, slots=True)
class PairWeights:
    """All pairs of a graph.

    Attributes:
        offsets, neighbours, weights, ends: as in `PairBlock`, with cells of the section in place of rows.
        s0: sum of all weights; s1: half the sum of ``(w_ij + w_ji) ** 2``; s2: sum of ``ends ** 2``.
    """

    offsets: IntArray
    neighbours: IndexArray
    weights: Array
    ends: Array
    s0: float
    s1: float
    s2: float

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.ends)

    def block(self, first: int, end: int) -> PairBlock:
        """The pairs of cells ``first`` to ``end - 1``.

        Raises:
            ConfigurationError: not a range of cells that begins and ends at chunks (or at the section's end).
        """
        if not 0 <= first < end <= self.n_cells or first % CHUNK or (end % CHUNK and end != self.n_cells):
            raise ConfigurationError(
                f"block of cells {first} to {end} of {self.n_cells}: begin and end at multiples of {CHUNK}, "
                "or at the section's last cell"
            )
        part = slice(int(self.offsets[first]), int(self.offsets[end]))
        neighbours = self.neighbours[part]
        halo = np.unique(neighbours[neighbours >= end]).astype(np.int64)
        local = neighbours - np.int32(first)
        beyond = np.searchsorted(halo, neighbours) + (end - first)
        return PairBlock(
            first, halo, self.offsets[first:end + 1] - self.offsets[first],
            np.where(neighbours >= end, beyond, local).astype(np.int32), self.weights[part], self.ends[first:end],
        )


@njit(types.void(_i1, _n1, _b8, _i1, _n1, _f1, _i1, _f1), cache=True, nogil=True, error_model="numpy")
def _pair_up(
    offsets: IntArray, neighbours: IndexArray, by_row: bool, back_offsets: IntArray, back: IndexArray, weights: Array,
    counts: IntArray, ends: Array,
) -> None:
    """Write for each cell its later partners and their summed weights at ``offsets[i] + back_offsets[i]`` and on.

    ``back_offsets`` arrives as the number of edges that come to each cell from later ones, summed up.
    """
    n = len(offsets) - 1
    sources = np.empty(back_offsets[n], dtype=np.int32)
    filled = back_offsets[:n].copy()
    for i in range(n):
        share = 1.0 / (offsets[i + 1] - offsets[i]) if by_row and offsets[i + 1] > offsets[i] else 1.0
        for e in range(offsets[i], offsets[i + 1]):
            j = neighbours[e]
            ends[i] += share
            ends[j] += share
            if j < i:
                sources[filled[j]] = i
                filled[j] += 1
    for i in range(n):
        share = 1.0 / (offsets[i + 1] - offsets[i]) if by_row and offsets[i + 1] > offsets[i] else 1.0
        e, b = offsets[i], back_offsets[i]
        start = offsets[i] + back_offsets[i]
        at = start
        while e < offsets[i + 1] and neighbours[e] < i:
            e += 1
        while e < offsets[i + 1] or b < back_offsets[i + 1]:
            forth = b == back_offsets[i + 1] or (e < offsets[i + 1] and neighbours[e] <= sources[b])
            both = forth and b < back_offsets[i + 1] and neighbours[e] == sources[b]
            j = neighbours[e] if forth else sources[b]
            weight = share if forth else 0.0
            if both or not forth:
                weight += 1.0 / (offsets[j + 1] - offsets[j]) if by_row else 1.0
                b += 1
            if forth:
                e += 1
            back[at], weights[at] = j, weight
            at += 1
        counts[i] = at - start


def pair_weights(graph: SpatialGraph, weighting: Weighting = Weighting.BINARY) -> PairWeights:
    """Pairs of a graph, directed or not.

    Args:
        graph: rows increasing, no cell its own neighbour.
        weighting: of its edges.
    """
    sources = np.repeat(np.arange(graph.n_cells, dtype=np.int32), np.diff(graph.offsets))
    backward = graph.neighbours[graph.neighbours < sources]
    back_offsets = np.zeros(graph.n_cells + 1, dtype=np.int64)
    np.cumsum(np.bincount(backward, minlength=graph.n_cells), out=back_offsets[1:])
    room = graph.n_edges + len(backward)
    partners, weights = np.empty(room, dtype=np.int32), np.empty(room)
    counts, ends = np.zeros(graph.n_cells, dtype=np.int64), np.zeros(graph.n_cells)
    _pair_up(
        graph.offsets, graph.neighbours, weighting is Weighting.ROW, back_offsets, partners, weights, counts, ends
    )
    offsets = np.zeros(graph.n_cells + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    places = np.arange(offsets[-1]) + np.repeat(graph.offsets[:-1] + back_offsets[:-1] - offsets[:-1], counts)
    weights = weights[places]
    return PairWeights(
        offsets, partners[places], weights, ends,
        float(weights.sum()), float((weights * weights).sum()), float((ends * ends).sum()),
    )
