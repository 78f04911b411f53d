"""Features of a cell and its surroundings against sums written out, and exact under any cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.augmented import augment, find_neighbours, neighbour_means, reach


def test_features_are_the_sums_written_out() -> None:
    rng = np.random.default_rng(4)
    places, values = rng.uniform(0, 6, (80, 2)), rng.normal(size=(80, 5))
    places[79] = 100.0, 100.0
    got = augment(values, find_neighbours(places, np.arange(80), 80, 0.7), 0.3)
    for i in range(80):
        gaps = places - places[i]
        away = np.hypot(*gaps.T)
        weights = np.where((away <= reach(0.7)) & (away > 0), np.exp(-0.5 * (away / 0.7) ** 2), 0.0)
        if i == 79:
            mean, turn = np.zeros(5), np.zeros(5)
        else:
            mean = weights @ values / weights.sum()
            angle = np.exp(1j * np.arctan2(gaps[:, 1], gaps[:, 0]))
            turn = np.abs((weights * angle) @ (values - mean)) / weights.sum()
        expected = [math.sqrt(0.7) * values[i], math.sqrt(0.2) * mean, math.sqrt(0.1) * turn]
        np.testing.assert_allclose(got[i], np.concatenate(expected), atol=1e-12)


def test_a_plane_has_its_slope_and_an_edge_has_no_gradient() -> None:
    x, y = np.meshgrid(np.arange(9.0), np.arange(9.0))
    places = np.column_stack([x.ravel(), y.ravel()])
    near = find_neighbours(places, np.arange(81), 81, 0.8)
    flat = augment(np.full((81, 1), 3.0), near, 1.0)
    np.testing.assert_allclose(flat[:, 1], math.sqrt(2 / 3) * 3.0)
    np.testing.assert_allclose(flat[:, 2], 0.0, atol=1e-14)
    tilted = augment(places[:, :1].copy(), near, 1.0)
    assert tilted[40, 2] > 0.3
    assert tilted[40, 1] == pytest.approx(math.sqrt(2 / 3) * 4.0)


def test_a_block_with_its_halo_has_the_same_bits() -> None:
    rng = np.random.default_rng(9)
    places, values = rng.uniform(0, 10, (300, 2)), rng.normal(size=(300, 3))
    whole = find_neighbours(places, np.arange(300), 300, 0.5)
    own = np.nonzero(places[:, 0] < 4)[0]
    halo = np.nonzero((places[:, 0] >= 4) & (places[:, 0] <= 4 + reach(0.5)))[0]
    rows = np.concatenate([rng.permutation(own), rng.permutation(halo)])
    part = find_neighbours(places[rows], rows, len(own), 0.5)
    assert np.array_equal(augment(values[rows], part, 0.5), augment(values, whole, 0.5)[rows[: len(own)]])
    assert np.array_equal(neighbour_means(values[rows], part), neighbour_means(values, whole)[rows[: len(own)]])


def test_what_has_no_neighbourhood_is_refused() -> None:
    places = np.zeros((2, 2))
    with pytest.raises(ConfigurationError, match="bandwidth"):
        find_neighbours(places, np.arange(2), 2, 0.0)
    with pytest.raises(ConfigurationError, match="no place"):
        find_neighbours(places * np.nan, np.arange(2), 2, 1.0)
    with pytest.raises(ConfigurationError, match="mixing"):
        augment(np.zeros((2, 1)), find_neighbours(places, np.arange(2), 2, 1.0), 1.5)
