"""Spatial graphs: against brute force and scipy, and the same whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import Delaunay, cKDTree

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial import graphs
from oncotwin.spatial.graphs import CellBlock, GraphRows, SpatialGraph, join_rows, whole_section
from oncotwin.spatial.nearest import hilbert_keys, hilbert_order

Array = NDArray[np.float64]


def scattered(n: int, seed: int = 3) -> Array:
    """Cells (n, 2) of very uneven density, um."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random((n - n // 3, 2)) * 1000.0, 300.0 + 40.0 * rng.standard_normal((n // 3, 2))])


def square_lattice(side: int, pitch_um: float = 100.0) -> Array:
    """Spots of a square lattice, whose distances tie everywhere."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    return pitch_um * np.column_stack([x.ravel(), y.ravel()]).astype(float)


def as_sets(graph: SpatialGraph) -> list[list[int]]:
    """Each row as a list."""
    return [graph.neighbours[a:b].tolist() for a, b in zip(graph.offsets[:-1], graph.offsets[1:], strict=True)]


def in_blocks(points: Array, build: str, argument: float, side_um: float, halo_um: float, seed: int) -> SpatialGraph:
    """Build a graph from square blocks in a shuffled order, widening the halo where a row is not certain."""
    rng = np.random.default_rng(seed)
    tiles = np.floor(points / side_um).astype(int)
    parts: list[GraphRows] = []
    for tile in rng.permutation(np.unique(tiles, axis=0)):
        own = rng.permutation(np.flatnonzero((tiles == tile).all(axis=1)))
        halo = halo_um
        while True:
            lower, upper = tile * side_um - halo, (tile + 1) * side_um + halo
            inside = ((points > lower) & (points < upper)).all(axis=1)
            inside[own] = False
            ids = np.concatenate([own, rng.permutation(np.flatnonzero(inside))])
            x0, y0 = (low if low > least else -np.inf for low, least in zip(lower, points.min(axis=0), strict=True))
            x1, y1 = (up if up < most else np.inf for up, most in zip(upper, points.max(axis=0), strict=True))
            block = CellBlock(points[ids], ids, len(own), (x0, y0, x1, y1))
            rows: GraphRows = getattr(graphs, build)(block, argument)
            if rows.certain.all():
                break
            halo *= 2.0
        parts.append(rows)
    return join_rows(parts, len(points))


@pytest.mark.parametrize("points", [scattered(400), square_lattice(15)], ids=["scattered", "lattice"])
def test_knn_is_brute_force_with_ties_by_id(points: Array) -> None:
    graph = join_rows([graphs.knn_rows(whole_section(points), 6)], len(points))
    step = points[:, None, :] - points[None, :, :]
    squares = step[..., 0] ** 2 + step[..., 1] ** 2
    np.fill_diagonal(squares, np.inf)
    nearest = np.argsort(squares, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(graph.neighbours.reshape(-1, 6), np.sort(nearest, axis=1))


def test_radius_is_scipys() -> None:
    points = scattered(500)
    graph = join_rows([graphs.radius_rows(whole_section(points), 35.0)], len(points))
    expected = cKDTree(points).query_ball_point(points, 35.0)
    assert as_sets(graph) == [sorted(set(row) - {i}) for i, row in enumerate(expected)]


@pytest.mark.parametrize("longest_um", [30.0, 90.0, 2000.0])
def test_delaunay_is_scipys_within_its_reach(longest_um: float) -> None:
    points = scattered(400)
    graph = join_rows([graphs.delaunay_rows(whole_section(points), longest_um)], len(points))
    assert edges_of(graph) == alpha_edges(points, 0.5 * longest_um)


def edges_of(graph: SpatialGraph) -> set[tuple[int, int]]:
    """All directed edges."""
    return {(i, j) for i, row in enumerate(as_sets(graph)) for j in row}


def alpha_edges(points: Array, radius: float) -> set[tuple[int, int]]:
    """Edges of scipy's Delaunay triangulation whose smallest empty circle is smaller than ``radius``."""
    triangles = Delaunay(points)
    corners = points[triangles.simplices]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    twice = 2.0 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    a2, b2 = (a**2).sum(axis=1), (b**2).sum(axis=1)
    centres = corners[:, 0] + np.column_stack(
        [b[:, 1] * a2 - a[:, 1] * b2, a[:, 0] * b2 - b[:, 0] * a2]
    ) / twice[:, None]
    radii = np.linalg.norm(centres - corners[:, 0], axis=1)
    found: set[tuple[int, int]] = set()
    beside: dict[tuple[int, int], list[int]] = {}
    for t, simplex in enumerate(triangles.simplices):
        for s in range(3):
            i, j = sorted((int(simplex[s]), int(simplex[(s + 1) % 3])))
            beside.setdefault((i, j), []).append(t)
    tree = cKDTree(points)
    for (i, j), sides in beside.items():
        middle, half = 0.5 * (points[i] + points[j]), 0.5 * float(np.linalg.norm(points[i] - points[j]))
        is_empty = len(tree.query_ball_point(middle, half * (1.0 - 1e-9))) == 0
        if (half if is_empty else min(radii[t] for t in sides)) < radius:
            found |= {(i, j), (j, i)}
    return found


def test_a_square_lattice_has_no_diagonals() -> None:
    graph = join_rows([graphs.delaunay_rows(whole_section(square_lattice(6)), 1000.0)], 36)
    assert edges_of(graph) == edges_of(join_rows([graphs.radius_rows(whole_section(square_lattice(6)), 101.0)], 36))


@pytest.mark.parametrize(
    ("build", "argument"), [("knn_rows", 6), ("radius_rows", 40.0), ("delaunay_rows", 120.0)]
)
@pytest.mark.parametrize(("side_um", "halo_um"), [(90.0, 10.0), (250.0, 60.0), (700.0, 1.0)])
@pytest.mark.parametrize("lattice", [False, True], ids=["scattered", "lattice"])
def test_blocks_join_to_the_whole_graph(
    build: str, argument: float, side_um: float, halo_um: float, lattice: bool
) -> None:
    points = square_lattice(25, 40.0 / 3.0) if lattice else scattered(900)
    whole = join_rows([getattr(graphs, build)(whole_section(points), argument)], len(points))
    parts = in_blocks(points, build, argument, side_um, halo_um, seed=int(side_um))
    np.testing.assert_array_equal(parts.offsets, whole.offsets)
    np.testing.assert_array_equal(parts.neighbours, whole.neighbours)


@pytest.mark.parametrize("points", [scattered(700), square_lattice(20, 0.3)], ids=["scattered", "lattice"])
def test_radius_and_delaunay_edges_run_both_ways(points: Array) -> None:
    for graph in (
        join_rows([graphs.radius_rows(whole_section(points), 30.0)], len(points)),
        join_rows([graphs.delaunay_rows(whole_section(points), 80.0)], len(points)),
    ):
        edges = edges_of(graph)
        assert edges == {(j, i) for i, j in edges}


def test_a_row_is_certain_only_if_nothing_outside_can_change_it() -> None:
    points = np.array([[5.0, 5.0], [6.0, 5.0], [9.0, 5.0]])
    block = CellBlock(points, np.arange(3), 3, (0.0, 0.0, 10.0, 10.0))
    assert graphs.knn_rows(block, 1).certain.tolist() == [True, True, False]
    assert graphs.radius_rows(block, 4.5).certain.tolist() == [True, False, False]


def test_hilbert_order_is_a_curve_without_jumps() -> None:
    keys = hilbert_keys(square_lattice(8, 1.0) + 0.5, (0.0, 0.0), 8.0)
    path = square_lattice(8, 1.0)[np.argsort(keys)]
    assert (np.abs(np.diff(path, axis=0)).sum(axis=1) == 1.0).all()
    assert hilbert_order(np.zeros((4, 2))).tolist() == [0, 1, 2, 3]


def test_bad_input_is_named() -> None:
    points = np.array([[0.0, 0.0], [np.nan, 1.0]])
    with pytest.raises(ConfigurationError, match="cell 1"):
        whole_section(points)
    with pytest.raises(ConfigurationError, match="same place"):
        graphs.delaunay_rows(whole_section(np.zeros((2, 2))), 10.0)
    with pytest.raises(ConfigurationError, match="at least one"):
        graphs.knn_rows(whole_section(np.zeros((2, 2))), 0)
    with pytest.raises(ConfigurationError, match="radius"):
        graphs.radius_rows(whole_section(np.zeros((2, 2))), np.inf)
    rows = graphs.knn_rows(whole_section(np.zeros((2, 2))), 1)
    with pytest.raises(ConfigurationError, match="names a cell twice"):
        join_rows([rows, rows], 2)
    with pytest.raises(ConfigurationError, match="no block"):
        join_rows([rows], 3)


def test_an_empty_section_is_an_empty_graph() -> None:
    empty = whole_section(np.empty((0, 2)))
    for rows in (graphs.knn_rows(empty, 3), graphs.radius_rows(empty, 1.0), graphs.delaunay_rows(empty, 1.0)):
        assert join_rows([rows], 0).n_edges == 0
