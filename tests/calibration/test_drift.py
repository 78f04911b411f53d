"""What drift detection promises, on simulated patients that its limits were not set on."""

from __future__ import annotations

import numpy as np
import pytest

from oncotwin.testing.drift_scenarios import (
    TEST_SEED,
    Scenario,
    false_alarms,
    follow,
    scenarios,
    visits_to_detection,
)
from oncotwin.twin import drift_thresholds
from oncotwin.twin.drift import DriftSettings

SCENARIOS = scenarios()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.observable)
def test_false_alarms_keep_to_the_nominal_rate(scenario: Scenario) -> None:
    counts, years = false_alarms(follow(scenario, 500, TEST_SEED), scenario.observable, DriftSettings())
    del counts["uncertain"]
    nominal = drift_thresholds.PROVENANCE["false_alarms_per_patient_year"]
    assert isinstance(nominal, float)
    assert counts.total() >= 400
    assert counts.total() / years == pytest.approx(nominal, rel=0.2)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.observable)
def test_onsets_of_resistance_are_found_within_three_visits(scenario: Scenario) -> None:
    patients = follow(scenario, 300, TEST_SEED, relapsing=True)
    visits = [visits_to_detection(patient, scenario.observable, DriftSettings()) for patient in patients]
    assert np.mean(np.array(visits) <= 3) >= 0.8


def test_one_outlier_is_never_drift() -> None:
    settings = DriftSettings()
    for limits in (*settings.limits.values(), settings.fallback):
        assert settings.clip - settings.slack < limits.cusum


def test_limits_belong_to_the_seed_that_is_never_tested() -> None:
    assert drift_thresholds.PROVENANCE["seed"] != TEST_SEED
    simulated = {name for scenario in SCENARIOS for name in (scenario.observable, *scenario.same)}
    assert set(drift_thresholds.LIMITS) == simulated
