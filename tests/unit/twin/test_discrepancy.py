"""The learned layer: holds out of sample, shrinks where it should, and is plain JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from oncotwin.twin.boosting import Growth
from oncotwin.twin.discrepancy import FEWEST_ROWS, Discrepancy, Training, _smoothest, learn, regimen_rates
from oncotwin.twin.quantiles import HIGH, LEVELS, LOW, MEDIAN

SMALL = Growth(n_trees=40, rate=0.1, n_leaves=6, min_rows=30)


def training(n: int, *, seed: int = 0, n_patients: int = 40, gain: float = 1.0, spread: float = 0.3) -> Training:
    """Outcomes that follow a share of what the model predicts; its stated variance is wrong on purpose."""
    random = np.random.default_rng(seed)
    features = np.column_stack([random.uniform(5, 30, n), random.normal(size=(n, 2))])
    last = random.normal(3.0, 1.0, n)
    step = features[:, 1]
    return Training(
        features=features, mean=last + step, variance=np.full(n, 0.01), last=last, regimen=np.full(n, "A"),
        outcome=last + gain * step + spread * random.normal(size=n), censored=np.zeros(n, dtype=bool),
        patient=np.array([f"p{i % n_patients}" for i in range(n)]),
    )


def applied(layer: Discrepancy, rows: Training) -> np.ndarray:
    """Quantiles of the rows."""
    return layer.quantiles(rows.features, rows.mean, rows.variance, rows.last, rows.regimen)


def test_identity_is_the_model_itself() -> None:
    rows = training(5)
    levels = applied(Discrepancy.identity(), rows)
    assert levels == pytest.approx(rows.mean[:, None] + 0.1 * stats.norm.ppf(LEVELS))


def test_intervals_hold_on_patients_not_seen() -> None:
    layer = learn(training(1500), growth=SMALL)
    fresh = training(3000, seed=9)
    levels = applied(layer, fresh)
    inside = ((fresh.outcome >= levels[:, LOW]) & (fresh.outcome <= levels[:, HIGH])).mean()
    assert 0.87 < inside < 0.93
    assert np.abs(levels[:, MEDIAN] - fresh.outcome).mean() < 1.25 * np.abs(fresh.mean - fresh.outcome).mean()


def test_a_model_that_says_nothing_is_shrunk_to_the_last_value() -> None:
    layer = learn(training(1500, gain=0.0), growth=SMALL)
    fresh = training(500, seed=3, gain=0.0)
    assert np.abs(applied(layer, fresh)[:, MEDIAN] - fresh.last).mean() < 0.05


def test_few_forecasts_grow_no_trees_but_learn_the_spread() -> None:
    rows = training(FEWEST_ROWS - 1)
    layer = learn(rows)
    assert layer.members == ()
    fresh = training(2000, seed=4)
    levels = applied(layer, fresh)
    inside = ((fresh.outcome >= levels[:, LOW]) & (fresh.outcome <= levels[:, HIGH])).mean()
    assert 0.82 < inside < 0.97


def test_one_forecast_changes_almost_nothing() -> None:
    rows = training(1)
    layer = learn(rows)
    assert applied(layer, rows) == pytest.approx(applied(Discrepancy.identity(), rows), abs=0.05)


def test_json_keeps_every_bit() -> None:
    rows = training(400)
    layer = learn(rows, lowest=2.0, growth=SMALL)
    again = Discrepancy.from_dict(json.loads(json.dumps(layer.to_dict())))
    assert np.array_equal(applied(layer, rows), applied(again, rows))
    assert applied(layer, rows).min() >= 2.0


def test_quantiles_never_cross() -> None:
    layer = learn(training(600), growth=SMALL)
    assert (np.diff(applied(layer, training(800, seed=5)), axis=1) >= 0).all()


def test_regimen_rates_count_patients_and_shrink_the_rare() -> None:
    rows = training(200, n_patients=20)
    regimen = np.where(np.array([int(p[1:]) for p in rows.patient]) == 0, "rare", "common")
    outcome = rows.last + np.where(regimen == "rare", 0.5, -0.1) * rows.features[:, 0]
    rates, overall = regimen_rates(
        Training(rows.features, rows.mean, rows.variance, rows.last, regimen, outcome, rows.censored, rows.patient)
    )
    assert rates["common"] == pytest.approx(-0.1, abs=0.02)
    assert overall < rates["rare"] < 0.2


def test_values_that_often_repeat_are_forecast_to_repeat() -> None:
    def repeating(n: int, seed: int) -> Training:
        rows = training(n, seed=seed, gain=0.0)
        still = np.random.default_rng(seed + 100).random(n) < 0.5
        return replace(rows, outcome=np.where(still, rows.last, rows.outcome))

    fresh = repeating(300, seed=8)
    levels = applied(learn(repeating(1500, seed=7)), fresh)
    unmoved = (np.abs(levels - fresh.last[:, None]) < 0.01).mean(axis=1)
    # Half of the outcomes repeat, so that about half of the levels lie on the last value.
    assert 0.25 < unmoved.mean() < 0.7


def test_bagged_trees_carry_weight_where_the_spread_varies_smoothly() -> None:
    random = np.random.default_rng(11)
    rows = training(2000, gain=0.0)
    outcome = rows.last + np.exp(0.8 * rows.features[:, 2] - 1.5) * random.standard_t(3, 2000)
    layer = learn(replace(rows, outcome=outcome))
    assert layer.part.mean() > 0.3


def test_of_kinds_that_cannot_be_told_apart_the_smoothest_is_taken() -> None:
    random = np.random.default_rng(0)
    patients = np.repeat([f"p{i}" for i in range(50)], 4)
    best = random.random(200)
    noise = np.repeat(random.normal(size=50), 4)
    # In all worse by two, where fifty patients' differences have a standard error of about seven.
    equal, worse = best + 0.01 + 0.25 * noise - 0.25 * noise.mean(), best + 1.0
    assert _smoothest(np.array([best, equal, worse]), patients) == 1
    assert _smoothest(np.array([worse, best, best + 0.5]), patients) == 1
    assert _smoothest(np.array([best, worse, equal]), patients) == 2
