"""Smoothed shares: against sums written out and scipy's interval, planted patches, and the same in any block."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import binomtest

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.set_fractions import (
    EXPECTED_COUNTS,
    NARROWEST,
    REACH,
    WIDEST,
    SetCounts,
    bandwidths,
    make_windows,
    merge_set_counts,
    set_counts,
    smoothed_fractions,
)

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


def a_section(n: int = 23, seed: int = 2) -> tuple[Array, IntArray, IntArray]:
    """A lattice of pitch one, counts of a set that is common in one corner, and of all genes."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(n, dtype=float), np.arange(n, dtype=float))
    points = np.column_stack([x.ravel(), y.ravel()])
    total = rng.poisson(rng.lognormal(7.0, 0.5, n * n)).astype(np.int64)
    share = np.where(points.sum(axis=1) < n * 0.6, 0.08, 0.01)
    return points, rng.binomial(total, share).astype(np.int64), total


def written_out(points: Array, part: IntArray, total: IntArray, bandwidth: float) -> tuple[Array, Array]:
    """Share and effective counts by whole matrices."""
    away = cdist(points, points)
    weights = np.where(away <= REACH * bandwidth, np.exp(-(away**2) / (2 * bandwidth**2)), 0.0)
    return weights @ part / (weights @ total), (weights @ total) ** 2 / (weights**2 @ total)


@pytest.mark.parametrize("bandwidth", [0.8, 1.37, 3.0])
def test_shares_are_kernel_sums_with_wilsons_interval(bandwidth: float) -> None:
    points, part, total = a_section()
    ids = np.arange(len(points))
    found = smoothed_fractions(ids, points, ids, part, total, bandwidth)
    share, n = written_out(points, part, total, bandwidth)
    np.testing.assert_allclose(found.value, share, rtol=1e-12)
    # Wilson's interval holds the shares p with |share - p| <= z sqrt(p (1 - p) / n): its ends solve that.
    for end in (found.lower, found.upper):
        z = (share - end) / np.sqrt(end * (1 - end) / n)
        np.testing.assert_allclose(np.abs(z), 1.6448536269514722, rtol=1e-8)
    assert (found.lower < share).all() and (share < found.upper).all()


def test_interval_of_one_spot_is_scipys() -> None:
    found = smoothed_fractions(np.arange(1), np.zeros((1, 2)), np.arange(1), np.array([15]), np.array([148]), 1.0)
    expected = binomtest(15, 148).proportion_ci(confidence_level=0.9, method="wilson")
    assert found.lower[0] == pytest.approx(expected.low, rel=1e-12)
    assert found.upper[0] == pytest.approx(expected.high, rel=1e-12)


@pytest.mark.parametrize("size", [1, 50, 173, 600])
def test_no_block_changes_a_bit(size: int) -> None:
    points, part, total = a_section()
    ids = np.arange(len(points))
    rng = np.random.default_rng(1)
    for bandwidth in (0.8, 1.37):
        whole = smoothed_fractions(ids, points, ids, part, total, bandwidth)
        owners = np.array_split(rng.permutation(ids), math.ceil(len(ids) / size))
        for own in owners:
            own = np.sort(own)
            near = cdist(points, points[own]).min(axis=1) <= REACH * bandwidth + 1e-9
            held = ids[near | (rng.random(len(ids)) < 0.1)]
            places = np.searchsorted(held, own)
            found = smoothed_fractions(held, points[held], places, part[held], total[held], bandwidth)
            for made, expected in zip(
                (found.value, found.lower, found.upper), (whole.value, whole.lower, whole.upper), strict=True
            ):
                assert np.array_equal(made, expected[own])


def test_bandwidth_follows_from_the_sets_own_counts() -> None:
    # A window of bandwidth h weighs 2 pi h^2 spots: with four counts a spot, h^2 = 100 / (8 pi).
    sums = SetCounts(10, np.array([40, 0, 10_000]))
    expected = [math.sqrt(EXPECTED_COUNTS / (8 * math.pi)), WIDEST, NARROWEST]
    np.testing.assert_allclose(bandwidths(sums), expected, rtol=1e-12)
    weight = make_windows(np.arange(10_000), lattice(100), np.array([5050]), expected[0]).sums(np.ones((10_000, 1)))
    # The window is cut at three bandwidths, which leaves 1 - exp(-9/2) of it.
    assert weight[0, 0] == pytest.approx(EXPECTED_COUNTS / 4 * (1 - math.exp(-4.5)), rel=0.03)


def lattice(n: int) -> Array:
    x, y = np.meshgrid(np.arange(n, dtype=float), np.arange(n, dtype=float))
    return np.column_stack([x.ravel(), y.ravel()])


def test_sums_of_blocks_add_up_in_any_order() -> None:
    rng = np.random.default_rng(4)
    counts = rng.poisson(3.0, (50, 3))
    parts = [set_counts(counts[at : at + 7]) for at in range(0, 50, 7)]
    for order in (parts, parts[::-1]):
        merged = merge_set_counts(order)
        assert merged.n_spots == 50 and np.array_equal(merged.counts, counts.sum(axis=0))


def test_a_window_without_counts_has_no_share() -> None:
    points = np.array([[0.0, 0.0], [50.0, 0.0]])
    found = smoothed_fractions(np.arange(2), points, np.arange(2), np.array([0, 1]), np.array([0, 10]), 1.0)
    assert np.isnan(found.value[0]) and np.isnan(found.lower[0]) and found.value[1] == 0.1


def test_what_does_not_fit_is_refused() -> None:
    points, part, total = a_section(3)
    ids = np.arange(9)
    with pytest.raises(ConfigurationError, match="ids increasing"):
        smoothed_fractions(ids[::-1], points, ids, part, total, 1.0)
    with pytest.raises(ConfigurationError, match="one row a spot"):
        smoothed_fractions(ids, points, ids, part[:5], total, 1.0)
    with pytest.raises(ConfigurationError, match="has 11 counts of the set of 10 in all"):
        smoothed_fractions(ids, points, ids, np.full(9, 11), np.full(9, 10), 1.0)
    with pytest.raises(ConfigurationError, match="give a positive number"):
        smoothed_fractions(ids, points, ids, part, total, 0.0)
    with pytest.raises(ConfigurationError, match="no spot that passed quality"):
        bandwidths(SetCounts(0, np.array([0])))
    with pytest.raises(ConfigurationError, match="at least one"):
        merge_set_counts([])
