"""Enrichment of neighbouring types: against all permutations, drawn permutations, and the same whatever the blocks."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial import enrichment as en
from oncotwin.spatial.graphs import CellBlock, GraphRows, SpatialGraph, join_rows, knn_rows, radius_rows, whole_section

Labels = NDArray[np.uint8]


def a_graph(n: int, kind: str, seed: int = 0) -> SpatialGraph:
    """A directed kNN graph, an undirected radius graph, or any directed graph at all."""
    rng = np.random.default_rng(seed)
    if kind == "any":
        dense = rng.random((n, n)) < 0.4
        np.fill_diagonal(dense, False)
        offsets = np.concatenate([[0], np.cumsum(dense.sum(axis=1))]).astype(np.int64)
        return SpatialGraph(offsets, np.nonzero(dense)[1].astype(np.int32))
    block = whole_section(rng.random((n, 2)) * 100.0)
    rows = knn_rows(block, 3) if kind == "knn" else radius_rows(block, 250.0 / np.sqrt(n))
    return join_rows([rows], n)


def counted(graph: SpatialGraph, labels: Labels, n_types: int) -> NDArray[np.int64]:
    """Edge counts of a whole graph."""
    return en.edge_counts(graph.rows(0, graph.n_cells), labels, n_types)


def enriched(graph: SpatialGraph, labels: Labels, n_types: int) -> en.Enrichment:
    """Enrichment of a whole graph in one block."""
    moments = en.graph_moments([en.tally_edges(graph.rows(0, graph.n_cells))], graph.n_cells)
    return en.enrichment(
        counted(graph, labels, n_types), np.bincount(labels, minlength=n_types), moments
    )


@pytest.mark.parametrize("kind", ["knn", "radius", "any"])
@pytest.mark.parametrize(
    "labels", [[0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0, 1], [0, 1, 2, 3, 3, 3, 3], [0, 0, 1, 1]],
    ids=["three", "one_against_six", "singles", "four_cells"],
)
def test_moments_are_those_of_all_permutations(kind: str, labels: list[int]) -> None:
    n, n_types = len(labels), 4
    graph = a_graph(n, kind, seed=n)
    everyone = np.stack([
        counted(graph, np.array(order, dtype=np.uint8), n_types) for order in permutations(labels)
    ])
    found = enriched(graph, np.array(labels, dtype=np.uint8), n_types)
    np.testing.assert_allclose(found.expected, everyone.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.variance, everyone.var(axis=0), rtol=1e-11, atol=1e-11)
    apart = found.counts - everyone.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected_z = np.where(found.variance > 0.0, apart / everyone.std(axis=0), np.nan)
    np.testing.assert_allclose(found.z, expected_z, rtol=1e-10, atol=1e-10)


def test_z_lies_within_what_permutations_say() -> None:
    rng = np.random.default_rng(8)
    graph = a_graph(3_000, "knn")
    labels = rng.choice(4, 3_000, p=[0.5, 0.3, 0.15, 0.05]).astype(np.uint8)
    drawn = np.stack([counted(graph, rng.permutation(labels), 4) for _ in range(2_000)])
    found = enriched(graph, labels, 4)
    assert (np.abs(drawn.mean(axis=0) - found.expected) < 5.0 * np.sqrt(found.variance / 2_000)).all()
    np.testing.assert_allclose(drawn.var(axis=0), found.variance, rtol=5.0 * np.sqrt(2.0 / 2_000))


@pytest.mark.parametrize("kind", ["knn", "radius", "any"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_blocks_change_nothing(kind: str, contiguous: bool) -> None:
    rng = np.random.default_rng(1)
    n = 60 if kind == "any" else 700
    graph = a_graph(n, kind)
    labels = rng.integers(0, 5, n).astype(np.uint8)
    whole = enriched(graph, labels, 5)
    for n_blocks in (1, 2, 7, n):
        order = np.arange(n) if contiguous else rng.permutation(n)
        parts = [rows_of(graph, ids) for ids in np.array_split(order, n_blocks)]
        parts = [parts[i] for i in rng.permutation(n_blocks)]
        moments = en.graph_moments([en.tally_edges(part) for part in parts], n)
        counts = sum((en.edge_counts(part, labels, 5) for part in parts), np.zeros((5, 5), dtype=np.int64))
        found = en.enrichment(counts, np.bincount(labels, minlength=5), moments)
        np.testing.assert_array_equal(found.counts, whole.counts)
        np.testing.assert_array_equal(found.z, whole.z)


def rows_of(graph: SpatialGraph, ids: NDArray[np.int64]) -> GraphRows:
    """Rows of any cells of a graph."""
    rows = [graph.neighbours[graph.offsets[i]:graph.offsets[i + 1]] for i in ids]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return GraphRows(ids.astype(np.int64), offsets, np.concatenate(rows), np.ones(len(ids), dtype=np.bool_))


def tiles_of(points: NDArray[np.float64], side_um: float, halo_um: float) -> list[CellBlock]:
    """Square tiles with what lies around them, ids scattered over the tiles."""
    blocks = []
    tiles = np.floor(points / side_um).astype(int)
    for tile in np.unique(tiles, axis=0):
        own = np.flatnonzero((tiles == tile).all(axis=1))
        lower, upper = tile * side_um - halo_um, (tile + 1) * side_um + halo_um
        inside = ((points > lower) & (points < upper)).all(axis=1)
        inside[own] = False
        ids = np.concatenate([own, np.flatnonzero(inside)[::-1]])
        x0, y0 = (low if low > least else -np.inf for low, least in zip(lower, points.min(axis=0), strict=True))
        x1, y1 = (up if up < most else np.inf for up, most in zip(upper, points.max(axis=0), strict=True))
        blocks.append(CellBlock(points[ids], ids, len(own), (x0, y0, x1, y1)))
    return blocks


@pytest.mark.parametrize("side_um", [60.0, 130.0, 1_000.0])
@pytest.mark.parametrize("lattice", [False, True], ids=["scattered", "lattice"])
def test_blocks_that_know_only_their_halo_are_the_whole(side_um: float, lattice: bool) -> None:
    rng = np.random.default_rng(6)
    points = rng.random((900, 2)) * 300.0
    if lattice:
        # Distances tie everywhere; the order of the ids has nothing to do with the places.
        points = rng.permutation(np.argwhere(np.ones((30, 30)))) * 10.0
    labels = rng.integers(0, 4, 900).astype(np.uint8)
    whole = enriched(join_rows([knn_rows(whole_section(points), 5)], 900), labels, 4)
    parts = []
    for block in tiles_of(points, side_um, 80.0):
        part = en.edges_of_block(block, labels[block.ids], 4, partial(knn_rows, k=5))
        assert part is not None
        parts.append(part)
    found = en.enrichment_of_blocks((parts[i] for i in rng.permutation(len(parts))), 900, 4)
    np.testing.assert_array_equal(found.counts, whole.counts)
    np.testing.assert_array_equal(found.z, whole.z)


def test_a_block_with_too_narrow_a_halo_says_so() -> None:
    points = np.random.default_rng(6).random((900, 2)) * 300.0
    labels = np.zeros(900, dtype=np.uint8)
    narrow = [
        en.edges_of_block(block, labels[block.ids], 1, partial(knn_rows, k=5)) for block in tiles_of(points, 60.0, 1.0)
    ]
    assert None in narrow


def test_composition_counts_neighbours() -> None:
    graph = a_graph(50, "radius")
    labels = np.random.default_rng(2).integers(0, 3, 50).astype(np.uint8)
    found = en.composition(graph.rows(10, 50), labels, 3)
    for i, row in zip(range(10, 50), found, strict=True):
        near = labels[graph.neighbours[graph.offsets[i]:graph.offsets[i + 1]]]
        assert row.tolist() == [int((near == t).sum()) for t in range(3)]


def test_bad_input_is_named() -> None:
    graph = a_graph(20, "knn")
    labels = np.zeros(20, dtype=np.uint8)
    tally = en.tally_edges(graph.rows(0, 20))
    labels[3] = 7
    with pytest.raises(ConfigurationError, match="cell 3: label 7"):
        counted(graph, labels, 4)
    with pytest.raises(ConfigurationError, match="types"):
        counted(graph, labels, 0)
    with pytest.raises(ConfigurationError, match="each of 20 cells once"):
        en.graph_moments([tally, tally], 20)
    moments = en.graph_moments([tally], 20)
    with pytest.raises(ConfigurationError, match="every block once"):
        en.enrichment(np.zeros((1, 1), dtype=np.int64), np.array([20]), moments)
    with pytest.raises(ConfigurationError, match="2 labels of 3 cells"):
        en.edges_of_block(whole_section(np.eye(3, 2)), labels[:2], 4, partial(knn_rows, k=1))
    with pytest.raises(ConfigurationError, match="at least four"):
        en.enrichment(np.zeros((1, 1), dtype=np.int64), np.array([3]), en.GraphMoments(3, 0, 0, 0, 0, 0))
