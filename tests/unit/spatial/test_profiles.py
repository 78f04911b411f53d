"""Profiles over distance: planted slopes, widths and depths come back, with intervals that hold, whatever the cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.profiles import (
    LAYER_NAMES,
    LAYERS_UM,
    FloatArray,
    ProfileSums,
    bootstrap,
    centres_of,
    half_depth_over,
    layer_means,
    profile_sums,
    slope_over,
    width_over,
)

EDGES = np.arange(-1000.0, 1001.0, 100.0)


def section(seed: int, n: int = 4000) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Cells on a plane whose interface is the line x = 2000; scores with noise that neighbours share."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 4000, (n, 2))
    distance = places[:, 0] - 2000
    patch = np.floor(places / 250).astype(int)
    shared = rng.normal(0, 0.3, (16, 16))[patch[:, 0], patch[:, 1]]
    noise = rng.normal(0, 0.5, n)
    return places, distance, np.column_stack([0.001 * distance + shared + noise, (distance < 0).astype(float)])


def sums_of(seed: int, edges: FloatArray = EDGES) -> ProfileSums:
    return profile_sums(*section(seed), edges, 500.0)


def test_means_are_those_of_the_layers() -> None:
    _, distance, scores = section(1)
    found = bootstrap(sums_of(1), layer_means, 0, 50)
    for k in range(20):
        cells = (distance >= EDGES[k]) & (distance < EDGES[k + 1])
        np.testing.assert_allclose(found.value[k], scores[cells].mean(axis=0), atol=1e-6)
    assert found.value.shape == found.se.shape == (20, 2) and (found.se[:, 0] > 0).all()


def test_a_slope_comes_back_and_its_interval_holds() -> None:
    slopes = slope_over(centres_of(EDGES))
    found = [bootstrap(sums_of(seed), slopes, seed, 200) for seed in range(60)]
    hits = [one.low[0] <= 0.001 <= one.high[0] for one in found]
    # Ninety of a hundred; three standard deviations of a binomial below and above, and squares are not many.
    assert 0.75 <= np.mean(hits) <= 1.0
    assert np.mean([one.value[0] for one in found]) == pytest.approx(0.001, rel=0.05)
    spread = np.std([one.value[0] for one in found])
    assert np.mean([one.se[0] for one in found]) == pytest.approx(spread, rel=0.35)


def test_the_slope_of_one_side_and_over_cells_at_centres() -> None:
    inside = np.where(centres_of(EDGES) < 0, centres_of(EDGES), math.nan)
    sums = sums_of(2)
    value = bootstrap(sums, slope_over(inside), 0, 20).value
    counts, totals = sums.counts.sum(axis=0)[:10], sums.sums.sum(axis=0)[:10, 0] * 2.0**-20
    line = np.polyfit(inside[:10], totals / counts, 1, w=np.sqrt(counts))
    assert value[0] == pytest.approx(line[0], rel=1e-9) and value[1] == pytest.approx(0.0, abs=1e-15)


def test_a_width_comes_back() -> None:
    edges = np.arange(-1000.0, 1001.0, 50.0)
    centres = centres_of(edges)
    for deviation in (100.0, 250.0):
        means = 0.2 + 0.6 * norm.cdf(-centres / deviation)
        found = width_over(centres)(np.full(40, 10.0), 10 * means[:, None])
        assert found[0] == pytest.approx(2 * norm.ppf(0.9) * deviation, rel=1e-3)
    assert math.isnan(width_over(centres)(np.full(40, 10.0), np.ones((40, 1)))[0])
    assert math.isnan(width_over(centres)(np.eye(40)[3], np.ones((40, 1)))[0])


def test_a_penetration_depth_comes_back() -> None:
    centres = centres_of(np.arange(0.0, 1001.0, 20.0))
    depths = half_depth_over(centres)
    falling = np.column_stack([np.exp(-centres / 150), 1 + 0 * centres, -centres])
    found = depths(np.ones(50), falling)
    assert found[0] == pytest.approx(150 * math.log(2), rel=0.01) and math.isinf(found[1]) and math.isnan(found[2])


def test_a_depth_that_may_be_endless_says_so() -> None:
    """A score that falls off in half of the squares only: the interval's upper end is infinite."""
    depth = np.tile(np.arange(10.0, 1000.0, 20.0), 40)
    places = np.column_stack([np.repeat(np.arange(40.0), 50) * 100, np.zeros(2000)])
    falls = np.where(places[:, 0] < 2000, np.exp(-depth / 150), 1.0)
    edges = np.arange(0.0, 1001.0, 20.0)
    sums = profile_sums(places, depth, falls[:, None], edges, 100.0)
    found = bootstrap(sums, half_depth_over(centres_of(edges)), 0, 100)
    assert found.high[0] == math.inf == found.se[0] and 100 < found.low[0] < math.inf


def test_five_layers() -> None:
    found = bootstrap(sums_of(3, LAYERS_UM), layer_means, 0, 50)
    assert found.value.shape == (len(LAYER_NAMES), 2)
    assert found.value[:, 1].tolist()[:2] == [1.0, 1.0] and found.value[:, 1].tolist()[3:] == [0.0, 0.0]
    assert (np.diff(found.value[:, 0]) > 0).all()


@pytest.mark.parametrize("size", [1, 37, 900])
def test_no_cut_and_no_order_changes_a_bit(size: int) -> None:
    places, distance, scores = (part[:1500] for part in section(4))
    whole = profile_sums(places, distance, scores, EDGES, 500.0)
    order = np.random.default_rng(size).permutation(1500)
    parts = [
        profile_sums(places[own], distance[own], scores[own], EDGES, 500.0)
        for own in (order[i : i + size] for i in range(0, 1500, size))
    ]
    total = sum(parts[1:], parts[0])
    for name in ("squares", "counts", "sums"):
        assert np.array_equal(getattr(total, name), getattr(whole, name))
    assert np.array_equal(bootstrap(total, layer_means, 1, 20).se, bootstrap(whole, layer_means, 1, 20).se)


def test_cells_without_a_distance_are_left_out() -> None:
    places, scores = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), np.array([[1.0], [5.0], [7.0]])
    sums = profile_sums(places, np.array([-3.0, math.nan, math.inf]), scores, LAYERS_UM, 10.0)
    found = bootstrap(sums, layer_means, 0)
    assert found.value[2, 0] == 1.0 and np.isnan(found.value[[0, 1, 3, 4], 0]).all()
    assert found.n_squares == 1 and np.isnan(found.se).all()


def test_what_has_no_profile_is_refused() -> None:
    places, distance, scores = section(1, 10)
    with pytest.raises(ConfigurationError, match="must increase"):
        profile_sums(places, distance, scores, EDGES[::-1], 500.0)
    with pytest.raises(ConfigurationError, match="not finite"):
        profile_sums(places, distance, scores * math.nan, EDGES, 500.0)
    with pytest.raises(ConfigurationError, match="no cell has a finite distance"):
        bootstrap(profile_sums(places, distance * math.nan, scores, EDGES, 500.0), layer_means, 0)
