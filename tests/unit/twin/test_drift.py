"""Drift detection: each statistic finds what it is for, says so, and forgets nothing through JSON."""

from __future__ import annotations

import json
import math

import pytest
from scipy.special import log_ndtr, ndtr

from oncotwin.twin.drift import Alert, DriftSettings, DriftState, Innovation, Limits, superseded, watch

LIMITS = Limits(outlier=3.5, cusum=4.0, nis_low=0.2, nis_high=20.0)
SETTINGS = DriftSettings(slack=0.5, clip=3.0, limits={}, fallback=LIMITS)
TWIN = "POPLAR/p1"


def innovation(z: float, day: float = 15_000.0, observable: str = "psa", **fields: object) -> Innovation:
    """An observation ``z`` predicted standard deviations (2 units each) from its forecast of 1."""
    values: dict[str, object] = {
        "observable": observable, "target": "", "time": day, "event": ("urn:lab", f"e{day:.0f}"),
        "value": 1.0 + 2.0 * z, "predicted_mean": 1.0, "predicted_variance": 4.0, "censoring": "none",
        "log_likelihood": 0.0,
    }
    return Innovation(**{**values, **fields})  # type: ignore[arg-type]


def run(scores: list[float], sd: list[float] | None = None) -> tuple[DriftState, list[Alert]]:
    """Watch a series of scores, four weeks apart, through JSON at every step."""
    state = DriftState()
    alerts: list[Alert] = []
    for i, z in enumerate(scores):
        state, raised = watch(state, TWIN, innovation(z, 15_000.0 + 28 * i), [sd[i] if sd else 0.5], SETTINGS)
        again = DriftState.from_dict(json.loads(json.dumps(state.to_dict())))
        assert again == state
        alerts.extend(raised)
    return state, alerts


def test_quiet_on_ordinary_scores() -> None:
    _, alerts = run([0.3, -1.1, 0.8, -0.2, 1.4, -0.9, 0.1, -1.6, 0.7])
    assert alerts == []


def test_outlier_names_its_probability_and_asks_to_check_the_value() -> None:
    _, alerts = run([0.1, 5.0, 0.0, -0.3])
    [alert] = alerts
    assert (alert.kind, alert.event) == ("outlier", ("urn:lab", "e15028"))
    assert "2011-02-23" in alert.message and "5.0 standard deviations" in alert.message and "6e-07" in alert.message
    assert "Check the value" in alert.recommended and "PSA" in alert.recommended


def test_small_lasting_shift_is_drift_with_its_beginning() -> None:
    _, alerts = run([0.0, -0.2, 1.9, 1.8, 2.2, 1.7])
    [alert] = [a for a in alerts if a.kind == "drift"]
    assert alert.since == 15_000.0 + 28 * 2
    assert alert.time == 15_000.0 + 28 * 4
    assert "above its forecasts since 2011-03-23, over 3 observations" in alert.message


def test_downward_shift_is_told_apart() -> None:
    _, alerts = run([-1.9, -1.8, -2.2])
    [alert] = [a for a in alerts if a.kind == "drift"]
    assert alert.statistic < 0 and "below its forecasts" in alert.message


def test_cumulative_sum_starts_anew_after_its_alert() -> None:
    state, alerts = run([1.9, 1.8, 2.2])
    assert len(alerts) == 1
    assert state.series["psa", ""].above == 0.0


def test_one_outlier_alone_is_not_drift() -> None:
    _, alerts = run([0.0, 9.0, 0.0, 0.0])
    assert {a.kind for a in alerts} == {"outlier"}


def test_scatter_wider_than_predicted_is_inconsistent() -> None:
    _, alerts = run([2.0, -2.1, 1.9, -2.0, 2.2, -1.9])
    [alert] = alerts
    assert alert.kind == "inconsistent" and alert.severity == "warning" and "wider" in alert.message


def test_scatter_closer_than_predicted_is_said_too() -> None:
    _, alerts = run([0.01] * 6)
    [alert] = alerts
    assert alert.kind == "inconsistent" and alert.severity == "info" and "closer" in alert.message


def test_censored_values_say_nothing_of_the_spread() -> None:
    state = DriftState()
    alerts: list[Alert] = []
    for i in range(20):
        below = innovation(0.1, 15_000.0 + 28 * i, censoring="left", log_likelihood=float(log_ndtr(0.1)))
        state, raised = watch(state, TWIN, below, [0.5], SETTINGS)
        alerts.extend(raised)
    assert not [a for a in alerts if a.kind == "inconsistent"]


def test_growing_posterior_asks_for_a_measurement() -> None:
    _, alerts = run([0.0] * 4, sd=[0.5, 0.2, 0.25, 0.4])
    [alert] = alerts
    assert alert.kind == "uncertain" and alert.since == 15_028.0
    assert "2.0 times" in alert.message and "Measure sooner" in alert.recommended


@pytest.mark.parametrize("z", [-4.0, -0.5, 0.0, 1.3, 6.0])
def test_censored_score_is_the_middle_of_its_mass(z: float) -> None:
    below = innovation(z, censoring="left", log_likelihood=float(log_ndtr(z)))
    assert ndtr(below.whitened) == pytest.approx(0.5 * ndtr(z), rel=1e-9)
    above = innovation(z, censoring="right", log_likelihood=float(log_ndtr(-z)))
    assert ndtr(-above.whitened) == pytest.approx(0.5 * ndtr(-z), rel=1e-6)


def test_without_prediction_nothing_changes() -> None:
    before, _ = run([1.0])
    after, alerts = watch(before, TWIN, innovation(1.0, predicted_mean=math.nan), [0.1], SETTINGS)
    assert after is before and alerts == ()


def test_series_do_not_mix() -> None:
    state = DriftState()
    for i in range(2):
        state, _ = watch(state, TWIN, innovation(1.9, 15_000 + i), [0.1], SETTINGS)
    state, alerts = watch(state, TWIN, innovation(1.9, 15_002, observable="testosterone"), [0.1], SETTINGS)
    assert alerts == () and set(state.series) == {("psa", ""), ("testosterone", "")}


def test_alert_ids_depend_on_what_they_name_and_on_nothing_else() -> None:
    _, first = run([0.1, 5.0])
    _, later = run([0.4, 5.1])
    assert first[0].alert_id == later[0].alert_id
    other, alerts = watch(DriftState(), "POPLAR/p2", innovation(5.0, 15_028.0), [0.1], SETTINGS)
    assert other.series and alerts[0].alert_id != first[0].alert_id


def test_a_correction_supersedes_the_alert_that_it_explains() -> None:
    _, before = run([0.1, 5.0, 0.2, 6.0])
    _, after = run([0.1, 0.5, 0.2, 6.0])
    assert [(a.kind, a.time) for a in superseded(before, after)] == [("outlier", 15_028.0), ("drift", 15_084.0)]
    assert [(a.kind, a.time) for a in after] == [("outlier", 15_084.0)]
    assert superseded(after, after) == ()


def test_default_limits_are_complete() -> None:
    settings = DriftSettings()
    for limits in (*settings.limits.values(), settings.fallback):
        assert 2.0 < limits.outlier < 10.0 and 1.0 < limits.cusum < 20.0
        assert 0.0 <= limits.nis_low < settings.window < limits.nis_high
