"""States of a section: order and hotspots against sums written out, and planted patches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from oncotwin.spatial.graphs import SpatialGraph, join_rows, radius_rows, whole_section
from oncotwin.spatial.pairs import pair_weights
from oncotwin.spatial.section_cut import FloatArray, SectionScale, measure_scale
from oncotwin.spatial.section_states import hotspot_signatures, order_signatures, set_levels


def lattice(n: int) -> FloatArray:
    x, y = np.meshgrid(np.arange(n) * 100.0, np.arange(n) * 100.0)
    return np.column_stack([x.ravel(), y.ravel()])


def neighbours(places: FloatArray) -> tuple[SpatialGraph, SectionScale]:
    scale = measure_scale(places)
    return join_rows([radius_rows(whole_section(places), scale.radius_um)], len(places)), scale


def levels_of(places: FloatArray, seed: int) -> FloatArray:
    """A patch, noise, and a constant."""
    rng = np.random.default_rng(seed)
    patch = (np.hypot(*(places - 1000).T) < 400).astype(np.float64)
    return np.column_stack([patch + rng.normal(0, 0.3, len(places)), rng.normal(size=len(places)), patch * 0])


def test_order_is_that_of_the_textbook() -> None:
    places = lattice(20)
    graph, scale = neighbours(places)
    levels = levels_of(places, 1)
    made = order_signatures(("patch", "noise", "flat"), levels, graph, pair_weights(graph), places, scale, 0)
    found = {one.name: one for one in made}
    weights = ((cdist(places, places) <= scale.radius_um) & ~np.eye(400, dtype=bool)).astype(float)
    for at, name in enumerate(("patch", "noise")):
        own = levels[:, at] - levels[:, at].mean()
        moran = 400 / weights.sum() * (own @ weights @ own) / (own @ own)
        gaps = (own[:, None] - own) ** 2
        geary = 399 / (2 * weights.sum()) * (weights * gaps).sum() / (own @ own)
        assert found[f"{name}.moran_i"].value == pytest.approx(moran, rel=1e-9)
        assert found[f"{name}.geary_c"].value == pytest.approx(geary, rel=1e-9)
        for one in (found[f"{name}.moran_i"], found[f"{name}.geary_c"]):
            assert one.low < one.value < one.high
    assert found["patch.moran_i"].low > 0.2 and found["noise.moran_i"].low < 0.05
    assert np.isnan(found["flat.moran_i"].value)
    assert "q" in found["noise.moran_i"].note


def test_hotspots_are_where_the_patch_is() -> None:
    places = lattice(20)
    graph, scale = neighbours(places)
    made, hot = hotspot_signatures(("patch", "noise", "flat"), levels_of(places, 2), graph, places, scale, 0.05, 0)
    found = {one.name: one for one in made}
    inside = np.hypot(*(places - 1000).T) < 300
    assert hot[inside, 0].all() and not hot[np.hypot(*(places - 1000).T) > 600, 0].any()
    assert not hot[:, 2].any() and hot[:, 1].mean() < 0.02
    area = found["patch.hotspot_area"]
    assert area.value == pytest.approx(hot[:, 0].sum() * 1e4) and area.low < area.value < area.high
    assert found["patch.hotspot_number"].value == 1 and found["patch.hotspot_largest_share"].value == 1
    assert found["patch.hotspot_connectivity"].value > 0.7 and found["patch.hotspot_edge_share"].value == 0
    assert np.isnan(found["flat.hotspot_connectivity"].value)
    assert found["flat.hotspot_connectivity"].note.startswith("no cell is hot")


def test_a_patch_at_the_edge_is_said_to_lie_there() -> None:
    places = lattice(20)
    graph, scale = neighbours(places)
    corner = (np.hypot(*places.T) < 500).astype(np.float64) + np.random.default_rng(0).normal(0, 0.2, 400)
    made, hot = hotspot_signatures(("corner",), corner[:, None], graph, places, scale, 0.05, 0)
    rim = (places == 0).any(axis=1) | (places == 1900).any(axis=1)
    share = next(one for one in made if one.name == "corner.hotspot_edge_share")
    assert share.value == pytest.approx(rim[hot[:, 0]].mean()) and share.value > 0.2


def test_levels_are_scaled_to_the_median_depth() -> None:
    counts, totals = np.array([[2], [4], [0]]), np.array([100, 200, 400])
    np.testing.assert_allclose(set_levels(counts, totals)[:, 0], np.log1p([4.0, 4.0, 0.0]))
