"""Hotspots: G* against esda and all permutations, components against scipy, and the same whatever the blocks."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial import hotspots as hs
from oncotwin.spatial.autocorrelation import shift_of
from oncotwin.spatial.graphs import SpatialGraph, join_rows, knn_rows, radius_rows, whole_section

Array = NDArray[np.float64]
ESDA: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "reference" / "spatial_statistics.json").read_text()
)


def a_section(n: int = 600, n_scores: int = 3, kind: str = "radius") -> tuple[SpatialGraph, Array]:
    """Cells with two hot places, and their graph."""
    rng = np.random.default_rng(6)
    points = rng.random((n, 2)) * 1000.0
    rows = radius_rows(whole_section(points), 70.0) if kind == "radius" else knn_rows(whole_section(points), 6)
    hot = sum(np.exp(-((points - place) ** 2).sum(axis=1) / 8e3) for place in ([200.0, 300.0], [800.0, 700.0]))
    return join_rows([rows], n), 3.0 * np.asarray(hot)[:, None] + rng.standard_normal((n, n_scores))


def whole_z(graph: SpatialGraph, values: Array) -> Array:
    """G* of a section in one block."""
    sums = hs.value_sums(values, shift_of(values))
    return hs.g_star(graph.rows(0, graph.n_cells), np.arange(graph.n_cells), values, sums)


@pytest.mark.parametrize("name", ["knn", "radius"])
def test_g_star_is_esdas(name: str) -> None:
    block = whole_section(np.array(ESDA["points_um"]))
    rows = knn_rows(block, ESDA["k"]) if name == "knn" else radius_rows(block, ESDA["radius_um"])
    z = whole_z(join_rows([rows], len(block.ids)), np.array(ESDA["values"]))
    np.testing.assert_allclose(z.T, ESDA["g_star"][name], rtol=1e-6, atol=1e-9)


def test_moments_are_those_of_all_permutations() -> None:
    """Over all assignments of values to cells, every cell's G* has mean zero and variance one."""
    graph = join_rows([radius_rows(whole_section(np.random.default_rng(0).random((6, 2))), 0.6)], 6)
    values = np.array([0.0, 1.0, 1.5, 4.0, 9.0, 2.0])
    everyone = values[np.array(list(permutations(range(6))))].T.copy()
    z = whole_z(graph, everyone)
    n_near = np.diff(graph.offsets) + 1
    assert len(set(n_near.tolist())) > 1
    np.testing.assert_allclose(z[n_near < 6].mean(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(z[n_near < 6].var(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("kind", ["radius", "knn"])
@pytest.mark.parametrize("n_blocks", [2, 5, 50])
def test_blocks_change_no_bit(kind: str, n_blocks: int) -> None:
    rng = np.random.default_rng(n_blocks)
    graph, values = a_section(kind=kind)
    n = graph.n_cells
    cuts = np.unique([0, *rng.choice(n, n_blocks - 1), n])
    parts = [graph.rows(int(cuts[i]), int(cuts[i + 1])) for i in rng.permutation(len(cuts) - 1)]
    shift = shift_of(values)
    sums = hs.merge_value_sums([hs.value_sums(values[part.ids], shift) for part in parts])
    z = np.empty_like(values)
    for part in parts:
        held = np.unique(np.concatenate([part.ids, part.neighbours]))
        z[part.ids] = hs.g_star(part, held, values[held], sums)
    np.testing.assert_array_equal(z, whole_z(graph, values))
    hot = hs.hotspot_mask(z, 0.1)[:, 0]
    labels = hs.hotspot_labels([hs.hot_links(part, hot) for part in parts], hot)
    whole = graph.rows(0, n)
    np.testing.assert_array_equal(labels, hs.hotspot_labels([hs.hot_links(whole, hot)], hot))
    edges = np.array([hs.hot_edges(part, hot) for part in parts]).sum(axis=0)
    assert tuple(edges) == hs.hot_edges(whole, hot)


def test_components_are_scipys() -> None:
    graph, _ = a_section(kind="knn")
    hot = np.random.default_rng(3).random(graph.n_cells) < 0.3
    labels = hs.hotspot_labels([hs.hot_links(graph.rows(0, graph.n_cells), hot)], hot)
    dense = csr_matrix((np.ones(graph.n_edges), graph.neighbours, graph.offsets), shape=(graph.n_cells,) * 2)
    hot_cells = np.flatnonzero(hot)
    n_sets, sets = connected_components(dense[hot_cells][:, hot_cells], directed=False)
    expected = np.array([hot_cells[sets == s].min() for s in range(n_sets)])[sets]
    np.testing.assert_array_equal(labels[hot_cells], expected)
    assert (labels[~hot] == -1).all()


def test_two_hot_places_are_found_and_measured() -> None:
    graph, values = a_section(n=1_500, n_scores=1)
    z = whole_z(graph, values)[:, 0]
    hot = hs.hotspot_mask(z, 0.01)
    rows = graph.rows(0, graph.n_cells)
    areas = np.full(graph.n_cells, 1e6 / 1_500)
    found = hs.summary(
        hs.hotspot_labels([hs.hot_links(rows, hot)], hot), areas, hs.hot_edges(rows, hot), hs.at_edge(rows, 15)
    )
    assert int((found.n_cells >= 20).sum()) == 2
    assert found.area_um2 == pytest.approx(hot.sum() * 1e6 / 1_500)
    assert 0.3 < found.largest_share <= 0.7
    assert 0.6 < found.connectivity < 1.0
    assert 0.0 < found.edge_share < 1.0
    assert found.n_hotspots == len(found.first_cells)


def test_noise_has_no_hotspots() -> None:
    graph, _ = a_section(n=2_000)
    noise = np.random.default_rng(11).standard_normal((2_000, 5))
    assert hs.hotspot_mask(whole_z(graph, noise), 0.05).mean() < 1e-3


def test_nothing_hot_is_a_summary_too() -> None:
    graph, _ = a_section()
    rows, cold = graph.rows(0, graph.n_cells), np.zeros(graph.n_cells, dtype=np.bool_)
    labels = hs.hotspot_labels([hs.hot_links(rows, cold)], cold)
    found = hs.summary(labels, np.ones(graph.n_cells), hs.hot_edges(rows, cold), hs.at_edge(rows, 6))
    assert (found.n_hotspots, found.area_um2) == (0, 0.0)
    assert np.isnan([found.largest_share, found.connectivity, found.edge_share]).all()


def test_a_constant_score_is_never_hot() -> None:
    graph, values = a_section()
    values[:, 1] = 0.3
    z = whole_z(graph, values)
    assert np.isnan(z[:, 1]).all()
    assert not hs.hotspot_mask(z, 0.05)[:, 1].any()


def test_bad_input_is_named() -> None:
    graph, values = a_section()
    sums = hs.value_sums(values, shift_of(values))
    with pytest.raises(ConfigurationError, match="hand in the whole halo"):
        hs.g_star(graph.rows(0, 50), np.arange(50), values[:50], sums)
    with pytest.raises(ConfigurationError, match="do not fit"):
        hs.g_star(graph.rows(0, 50), np.arange(600), values[:50], sums)
    with pytest.raises(ConfigurationError, match="different shifts"):
        hs.merge_value_sums([sums, hs.value_sums(values, shift_of(values) + 1.0)])
    values[7, 1] = np.inf
    with pytest.raises(ConfigurationError, match="score 1 in row 7"):
        hs.value_sums(values, sums.shift)
