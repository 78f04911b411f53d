"""Scale of lattices and of scattered cells, and halos that hold all they must."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.nearest import hilbert_order
from oncotwin.spatial.section_cut import FloatArray, make_runs, measure_scale


def square_lattice(n: int, pitch: float) -> FloatArray:
    x, y = np.meshgrid(np.arange(n) * pitch, np.arange(n) * pitch)
    return np.column_stack([x.ravel(), y.ravel()])


def test_a_square_lattice_has_its_pitch() -> None:
    scale = measure_scale(square_lattice(20, 200.0))
    assert scale.pitch_um == pytest.approx(200.0) and scale.cell_um2 == pytest.approx(40_000.0)
    assert scale.square_um == pytest.approx(1000.0) and scale.radius_um == pytest.approx(300.0)


def test_a_hexagonal_lattice_has_its_pitch_and_hexagons() -> None:
    places = square_lattice(40, 100.0) * [1.0, math.sqrt(3) / 2]
    places[:, 0] += 50.0 * (np.round(places[:, 1] / (50 * math.sqrt(3))) % 2)
    scale = measure_scale(places)
    assert scale.pitch_um == pytest.approx(100.0)
    assert scale.cell_um2 == pytest.approx(100.0**2 * math.sqrt(3) / 2)


def test_scattered_cells_stand_for_about_their_share_of_the_area() -> None:
    places = np.random.default_rng(0).uniform(0, 1000, (10_000, 2))
    assert measure_scale(places).pitch_um == pytest.approx(10.0, rel=0.12)


def test_the_scale_does_not_know_the_unit_but_by_its_size() -> None:
    places = np.random.default_rng(1).uniform(0, 1000, (500, 2))
    one, other = measure_scale(places), measure_scale(places * 4.0)
    assert other.pitch_um == pytest.approx(4 * one.pitch_um) and other.cell_um2 == pytest.approx(16 * one.cell_um2)


@pytest.mark.parametrize("size", [1024, 2048])
@pytest.mark.parametrize("reach", [3.0, 40.0])
def test_a_halo_holds_all_within_reach_and_nothing_else(size: int, reach: float) -> None:
    places = np.random.default_rng(2).uniform(0, 1000, (5000, 2))
    places = places[hilbert_order(places)]
    runs = make_runs(places)
    for first in range(0, 5000, size):
        end = min(first + size, 5000)
        held = runs.held(first, end, reach)
        wanted = np.flatnonzero((cdist(places, places[first:end]) <= reach).any(axis=1))
        np.testing.assert_array_equal(held, wanted)


def test_what_has_no_scale_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 7"):
        measure_scale(np.zeros((6, 2)))
    with pytest.raises(ConfigurationError, match="share a place"):
        measure_scale(np.zeros((60, 2)))
    with pytest.raises(ConfigurationError, match="finite"):
        measure_scale(np.full((60, 2), np.nan))
