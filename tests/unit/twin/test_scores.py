"""Scores against closed forms and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from oncotwin.twin import scores
from oncotwin.twin.quantiles import COLUMNS, LEVELS, MEDIAN, WEIGHTS, probability_below


def test_the_grid_has_the_columns_of_the_forecast_table() -> None:
    assert COLUMNS[:3] == ("q01", "q05", "q10")
    assert COLUMNS[-2:] == ("q95", "q99")
    assert len(COLUMNS) == 21
    assert LEVELS[MEDIAN] == 0.5
    assert WEIGHTS.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("observed", [-2.5, -0.7, 0.0, 0.3, 1.9])
def test_crps_of_a_normal_is_near_its_closed_form(observed: float) -> None:
    """Gneiting & Raftery 2007, equation 21: sd * (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))."""
    quantiles = stats.norm.ppf(LEVELS)[None, :]
    exact = observed * (2 * stats.norm.cdf(observed) - 1) + 2 * stats.norm.pdf(observed) - 1 / np.sqrt(np.pi)
    assert scores.crps(quantiles, np.array([observed]))[0] == pytest.approx(exact, abs=0.012)


def test_crps_of_a_certain_forecast_is_the_absolute_error() -> None:
    quantiles = np.full((1, 21), 3.0)
    assert scores.crps(quantiles, np.array([5.0]))[0] == pytest.approx(2 * 2.0 * (LEVELS * WEIGHTS).sum())
    assert 2 * (LEVELS * WEIGHTS).sum() == pytest.approx(1.0)


def test_crps_is_smallest_for_the_true_spread() -> None:
    drawn = np.random.default_rng(1).normal(size=4000)
    mean = {
        spread: scores.crps(np.tile(spread * stats.norm.ppf(LEVELS), (4000, 1)), drawn).mean()
        for spread in (0.5, 1.0, 2.0)
    }
    assert min(mean, key=mean.__getitem__) == 1.0


def test_log_error_counts_values_below_the_floor_as_the_floor() -> None:
    error = scores.log_error(np.array([0.001, 2.0]), np.array([0.05, 1.0]), floor=0.05)
    assert error == pytest.approx([0.0, np.log(2.0)])


def test_probability_below_follows_the_grid_and_stays_inside_zero_and_one() -> None:
    quantiles = np.tile(stats.norm.ppf(LEVELS), (5, 1))
    value = np.array([-9.0, stats.norm.ppf(0.05), 0.0, stats.norm.ppf(0.99), 9.0])
    assert probability_below(quantiles, value) == pytest.approx([0.005, 0.05, 0.5, 0.995, 0.995])


def test_ties_in_the_grid_count_as_not_above() -> None:
    quantiles = np.zeros((1, 21))
    assert probability_below(quantiles, np.array([0.0]))[0] == pytest.approx(0.995)


def test_coverage_counts_the_ends_of_the_interval() -> None:
    quantiles = np.tile(np.arange(21.0), (3, 1))
    assert scores.covered(quantiles, np.array([1.0, 19.0, 19.5])).tolist() == [True, True, False]


def test_a_censored_target_is_scored_by_its_probability() -> None:
    quantiles = np.tile(stats.norm.ppf(LEVELS), (3, 1))
    chance = scores.censored_probability(
        quantiles, ["left", "right", "interval"], np.array([np.nan, np.nan, -1.0]),
        np.array([stats.norm.ppf(0.25), stats.norm.ppf(0.25), 1.0]),
    )
    assert chance == pytest.approx([0.25, 0.75, stats.norm.cdf(1) - stats.norm.cdf(-1)], abs=0.004)


def test_pit_of_calibrated_forecasts_is_uniform() -> None:
    drawn = np.random.default_rng(2).normal(size=3000)
    shares = scores.pit_histogram(np.tile(stats.norm.ppf(LEVELS), (3000, 1)), drawn, 10)
    assert shares.sum() == pytest.approx(1.0)
    assert stats.chisquare(3000 * shares).pvalue > 0.01


def test_pit_of_whole_numbers_is_flat_where_their_forecasts_are_calibrated() -> None:
    drawn = np.random.default_rng(4).poisson(6.0, size=20_000).astype(np.float64)
    shares = scores.pit_histogram(np.tile(stats.poisson.ppf(LEVELS, 6.0), (20_000, 1)), drawn, 10)
    # The grid's levels lie 0.05 apart, so that the ends of an atom are known to half of that.
    assert shares == pytest.approx(np.full(10, 0.1), abs=0.04)
    plain = probability_below(np.tile(stats.poisson.ppf(LEVELS, 6.0), (20_000, 1)), drawn)
    assert np.histogram(plain, bins=10, range=(0, 1))[0].max() > 0.15 * len(drawn)


def test_bootstrap_covers_the_ratio_and_repeats_by_seed() -> None:
    random = np.random.default_rng(3)
    patients = [f"p{i // 5}" for i in range(500)]
    theirs = random.gamma(2.0, size=500)
    ours = 0.8 * theirs + random.normal(0, 0.05, 500)
    first = scores.bootstrap_ratio(ours, theirs, patients, seed=4)
    assert first == scores.bootstrap_ratio(ours, theirs, patients, seed=4)
    assert first.low < first.value < first.high
    assert first.low < 0.8 < first.high


def test_bootstrap_of_nothing_says_so() -> None:
    assert np.isnan(scores.bootstrap_ratio(np.zeros(0), np.zeros(0), []).value)


def test_bootstrap_of_one_patient_is_a_point() -> None:
    interval = scores.bootstrap_mean(np.array([True, False]), ["a", "a"])
    assert interval.low == interval.value == interval.high == 0.5


def test_folds_are_stable_and_all_used() -> None:
    folds = [scores.fold_of(str(i)) for i in range(200)]
    assert set(folds) == {0, 1, 2, 3, 4}
    assert scores.fold_of("FIR/1") == scores.fold_of("FIR/1")
