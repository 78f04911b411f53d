"""Calibration: recovers what made the patients, holds out of sample, and says what it needs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.unit.twin.simulated import population, too_small, treated, volume
from tests.unit.twin.trend_model import TrendModel

from oncotwin.domain.bundle import ModelBundle
from oncotwin.models.learning import replaced
from oncotwin.twin.backtest import backtest_bundle, floors_of, summary
from oncotwin.twin.boosting import Growth
from oncotwin.twin.population import (
    CalibrationError,
    Effort,
    calibrate,
    calibrate_bundle,
    fingerprint,
    learn_priors,
    search_free,
)
from oncotwin.twin.timeline import Item

MODEL = TrendModel()
QUICK = Effort(rounds=2, sweeps=1, growth=Growth(n_trees=30, rate=0.1, n_leaves=6, min_rows=30))


def test_priors_of_a_population_are_recovered() -> None:
    patients = population(80, n_visits=12)
    hyper = MODEL.default_hyperparameters()
    for _ in range(4):
        hyper = learn_priors(MODEL, hyper, list(patients.values()))
    assert hyper["mean"][0] == pytest.approx(0.02, abs=0.003)
    assert 0.003 < hyper["sd"][0] < 0.009


def test_each_regimen_gets_its_own_effect_and_the_unknown_one_that_of_all() -> None:
    patients = population(60, n_visits=12, agents=("A", "B"))
    hyper = MODEL.default_hyperparameters()
    for _ in range(3):
        hyper = learn_priors(MODEL, hyper, list(patients.values()))
    effect = {name: hyper["effects"][name]["mean"][0] for name in ("A", "B")}
    assert effect["B"] < effect["A"] - 0.01
    assert effect["B"] < hyper["mean"][1] < effect["A"]


def test_noise_and_drift_are_found_by_the_predictive_score() -> None:
    patients = list(population(50, n_visits=15).values())
    start = replaced(MODEL.default_hyperparameters(), [(("noise",), 0.5), (("drift",), 0.1)])
    hyper = search_free(MODEL, start, patients, sweeps=2)
    assert hyper["noise"] == pytest.approx(0.1, rel=0.4)
    assert hyper["drift"] < 0.05


def test_a_calibrated_bundle_beats_the_last_value_and_its_intervals_hold() -> None:
    bundle = ModelBundle.from_json(calibrate_bundle(population(60, agents=("A", "B")), [MODEL], effort=QUICK).to_json())
    table = backtest_bundle(population(80, seed=5, agents=("A", "B")), [MODEL], bundle, "v")
    for row in summary(table, floors_of([MODEL])):
        assert row["mae_ratio"] < 1.0
        assert 0.84 < row["coverage"] < 0.95


def test_calibration_repeats_to_the_bit() -> None:
    patients = population(20)
    first = calibrate(MODEL, patients, effort=QUICK)
    assert json.dumps(first.hyperparameters) == json.dumps(calibrate(MODEL, patients, effort=QUICK).hyperparameters)


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    calibrate(MODEL, population(6), effort=QUICK, progress=lambda what, part: told.append((what, part)))
    assert all(0.0 <= part <= 1.0 for _, part in told)
    assert {"learning priors", "folding"} <= {what for what, _ in told}


def test_one_patient_with_two_observations_is_enough() -> None:
    prior = calibrate(MODEL, {"inst/a": [volume("a", 0, 100), volume("a", 7, 110)]}, effort=QUICK)
    assert np.isfinite(prior.hyperparameters["mean"]).all()
    ModelBundle({MODEL.name: prior}).to_json()


def test_a_censored_patient_alone_is_enough() -> None:
    items = [volume("a", 0, 100), too_small("a", 7, 5.0), too_small("a", 14, 5.0)]
    ModelBundle({MODEL.name: calibrate(MODEL, {"inst/a": items}, effort=QUICK)}).to_json()


def test_an_unknown_drug_and_an_unseen_institution_are_forecast() -> None:
    bundle = calibrate_bundle(population(20, agents=("A",)), [MODEL], effort=QUICK)
    items: list[Item] = [treated("z", 0, "never seen"), volume("z", 0, 100), volume("z", 7, 110), volume("z", 14, 90)]
    table = backtest_bundle({"elsewhere/z": items}, [MODEL], bundle, "v")
    assert len(table) == 3
    assert np.isfinite(table.quantiles).all()


def test_too_little_says_what_is_needed() -> None:
    with pytest.raises(CalibrationError, match="at least 1 series with two observations of volume"):
        calibrate_bundle({"inst/a": [volume("a", 0, 100)]}, [MODEL])


def test_nothing_that_a_model_follows_is_said() -> None:
    with pytest.raises(CalibrationError, match="no observation that a model follows"):
        calibrate_bundle({"inst/a": [treated("a", 0, "A")]}, [MODEL])


def test_the_fingerprint_names_the_data() -> None:
    patients = population(3)
    assert fingerprint(patients) == fingerprint(dict(reversed(patients.items())))
    assert fingerprint(patients) != fingerprint(population(4))
