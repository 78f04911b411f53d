"""Immune class: posteriors against scipy, generated tumours of known kind, calibration, and no effect of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import beta

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.immune import (
    Share,
    classify,
    immune_signatures,
    margin_above_inside,
    region_shares,
    region_sums,
    spot_shares,
)
from oncotwin.spatial.profiles import ProfileSums

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PITCH_UM = 100.0
SQUARE_UM = 500.0
THRESHOLD = 0.02
KINDS = {"hot": (0.05, 0.05), "excluded": (0.004, 0.06), "cold": (0.004, 0.005)}


def a_tumour(
    inside: float, margin: float, spread: float = 0.3, n: int = 40, seed: int = 6
) -> tuple[FloatArray, FloatArray, IntArray, IntArray]:
    """Places, signed distances, immune and all counts; shares vary between spots and between patches of tissue."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(n) * PITCH_UM, np.arange(n) * PITCH_UM)
    places = np.column_stack([x.ravel(), y.ravel()]) + 20.0
    distance = np.hypot(*(places - places.mean(axis=0)).T) - n * PITCH_UM * 0.3
    patch = (places // 200.0).astype(int) @ [1, 1000]
    _, patch = np.unique(patch, return_inverse=True)
    local = rng.lognormal(-(spread**2) / 2, spread, patch.max() + 1)[patch]
    totals = rng.poisson(3000, len(places)).astype(np.int64)
    share = np.minimum(np.where(distance < 0, inside, margin) * local, 0.5)
    return places, distance, rng.binomial(totals, share).astype(np.int64), totals


def a_share(value: float, n: float) -> Share:
    return Share(np.array(value), np.array(n))


def test_probabilities_are_those_of_the_beta_distributions() -> None:
    inside, margin = a_share(0.015, 400.0), a_share(0.03, 150.0)
    found = classify(inside, margin, THRESHOLD)
    low, out = beta(0.5 + 6.0, 0.5 + 394.0), beta(0.5 + 4.5, 0.5 + 145.5)
    assert float(found.hot) == pytest.approx(low.sf(THRESHOLD), rel=1e-10)
    assert float(found.excluded) == pytest.approx(low.cdf(THRESHOLD) * out.sf(THRESHOLD), rel=1e-10)
    assert float(found.hot + found.excluded + found.cold) == pytest.approx(1.0, abs=1e-14)
    assert float(inside.quantile(0.95)) == pytest.approx(low.ppf(0.95), rel=1e-8)
    expected = quad(lambda p: low.cdf(p) * out.pdf(p), 0.0, 1.0, points=[0.01, 0.03, 0.1], epsabs=1e-10)[0]
    assert margin_above_inside(inside, margin) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tumour_of_known_kind_is_told(kind: str) -> None:
    places, distance, immune, totals = a_tumour(*KINDS[kind])
    made = immune_signatures(region_sums(places, distance, immune, totals, SQUARE_UM), THRESHOLD)
    found = {one.name: one for one in made}
    assert found[f"immune.{kind}"].value > 0.9
    assert sum(found[f"immune.{name}"].value for name in KINDS) == pytest.approx(1.0)
    for name, truth in zip(("inside", "margin"), KINDS[kind], strict=True):
        one = found[f"immune.share_{name}"]
        assert one.low < one.value < one.high and one.value == pytest.approx(truth, rel=0.2)


def test_a_share_at_the_threshold_is_left_open() -> None:
    places, distance, immune, totals = a_tumour(THRESHOLD, 0.005)
    inside, margin = region_shares(region_sums(places, distance, immune, totals, SQUARE_UM))
    assert 0.02 < float(classify(inside, margin, THRESHOLD).hot) < 0.98


def test_intervals_cover_although_counts_of_one_place_are_alike() -> None:
    covered = []
    for seed in range(100):
        places, distance, immune, totals = a_tumour(0.02, 0.03, spread=0.6, seed=seed)
        inside, margin = region_shares(region_sums(places, distance, immune, totals, SQUARE_UM))
        for share, truth in ((inside, 0.02), (margin, 0.03)):
            covered.append(float(share.quantile(0.05)) <= truth <= float(share.quantile(0.95)))
            assert float(share.n_effective) < 0.05 * totals.sum()
    assert 0.82 <= np.mean(covered) <= 0.97, np.mean(covered)


@pytest.mark.parametrize("size", [1, 37, 400])
def test_sums_of_blocks_add_up_in_any_order(size: int) -> None:
    places, distance, immune, totals = a_tumour(0.02, 0.03)
    whole = region_sums(places, distance, immune, totals, SQUARE_UM)
    order = np.random.default_rng(0).permutation(len(places))
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    added: ProfileSums | None = None
    for part in parts:
        made = region_sums(places[part], distance[part], immune[part], totals[part], SQUARE_UM)
        added = made if added is None else added + made
    assert added is not None
    assert immune_signatures(added, THRESHOLD) == immune_signatures(whole, THRESHOLD)


def test_spots_follow_their_own_window() -> None:
    places, distance, immune, totals = a_tumour(0.005, 0.03)
    rich = places[:, 0] < places[:, 0].mean()
    immune = np.where(rich & (distance < 0), np.random.default_rng(1).binomial(totals, 0.06), immune)
    ids, points = np.arange(len(places)), places / PITCH_UM
    share = spot_shares(ids, points, ids, immune, totals, distance < 0, 2.5)
    _, margin = region_shares(region_sums(places, distance, immune, totals, SQUARE_UM))
    found = classify(share, margin, THRESHOLD)
    assert np.isnan(found.hot[distance > 0]).all() and np.isfinite(found.hot[distance < 0]).all()
    deep = np.abs(places[:, 0] - places[:, 0].mean()) > 700.0
    assert (found.hot[(distance < 0) & rich & deep] > 0.9).all()
    assert (found.excluded[(distance < 0) & ~rich & deep] > 0.9).all()
    together = (found.hot + found.excluded + found.cold)[distance < 0]
    np.testing.assert_allclose(together, 1.0, atol=1e-12)


def test_no_block_changes_a_spot() -> None:
    places, distance, immune, totals = a_tumour(0.01, 0.03, n=25)
    ids, points = np.arange(len(places)), places / PITCH_UM
    whole = spot_shares(ids, points, ids, immune, totals, distance < 0, 1.5)
    for own in np.array_split(np.random.default_rng(2).permutation(ids), 9):
        own = np.sort(own)
        near = np.hypot(*(points[:, None] - points[own][None]).transpose(2, 0, 1)).min(axis=1) <= 4.5 + 1e-9
        held = ids[near]
        found = spot_shares(
            held, points[held], np.searchsorted(held, own), immune[held], totals[held], distance[held] < 0, 1.5
        )
        assert np.array_equal(found.value, whole.value[own], equal_nan=True)
        assert np.array_equal(found.n_effective, whole.n_effective[own], equal_nan=True)


def test_labelled_cells_are_counts_of_one() -> None:
    places, distance, _, _ = a_tumour(0.02, 0.03)
    one = np.ones(len(places), dtype=np.int64)
    immune = (np.arange(len(places)) % 4 == 0).astype(np.int64)
    inside, _ = region_shares(region_sums(places, distance, immune, one, SQUARE_UM))
    assert float(inside.value) == pytest.approx(0.25, abs=0.02)
    assert float(inside.n_effective) <= (distance < 0).sum()


def test_no_immune_count_at_all_is_cold() -> None:
    places, distance, immune, totals = a_tumour(0.02, 0.03)
    inside, margin = region_shares(region_sums(places, distance, immune * 0, totals, SQUARE_UM))
    assert float(classify(inside, margin, THRESHOLD).cold) > 0.999


def test_what_cannot_be_told_is_refused() -> None:
    places, distance, immune, totals = a_tumour(0.02, 0.03)
    sums = region_sums(places, np.where(distance > 0, np.nan, distance), immune, totals, SQUARE_UM)
    with pytest.raises(ConfigurationError, match="0 squares of tissue hold counts within 500 um outside the tumour"):
        region_shares(sums)
    with pytest.raises(ConfigurationError, match="counts of the set of"):
        region_sums(places, distance, totals + 1, totals, SQUARE_UM)
    with pytest.raises(ConfigurationError, match=r"threshold of 1\.5 is no share"):
        classify(a_share(0.1, 10.0), a_share(0.1, 10.0), 1.5)
