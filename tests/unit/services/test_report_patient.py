"""A patient's page content from a twin's belief."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from oncotwin.domain.bundle import ModelBundle
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.machine import Task, perform
from oncotwin.twin.replay import Belief
from oncotwin.twin.simulate import Course, simulate
from oncotwin.twin.state import TwinState
from oncotwin_services.report.content import CohortReport, PatientReport
from oncotwin_services.report.pages import write_report
from oncotwin_services.report.patient import patient_report, predictive_check

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COURSE = Course(
    ("longest_diameter",), tuple(42.0 * i for i in range(8)), ((1.0, "on", "drug A"), (150.0, "off", "drug A")),
    ("L1", "L2"),
)


@pytest.fixture(scope="module")
def binding() -> Binding:
    """The tumour-burden model with the priors of the literature."""
    return bind("literature", ModelBundle({}), [TumourBurden()], UnscentedFilter(), DriftSettings())


@pytest.fixture(scope="module")
def belief(binding: Binding) -> Belief:
    """A simulated patient's twin."""
    model = TumourBurden()
    patient = simulate(model, model.default_hyperparameters(), COURSE, np.random.default_rng(5))
    [outcome] = perform(binding, [Task(TwinState("FIR/p1", "literature"), patient.items)])
    return Belief(outcome.states[-1], patient.items, outcome.effects)


@pytest.fixture(scope="module")
def report(binding: Binding, belief: Belief) -> PatientReport:
    """Its page's content."""
    return patient_report(binding, belief, NOW)


def test_every_series_has_its_points_band_forecast_and_prior(report: PatientReport) -> None:
    assert (report.institution, report.patient, report.model_version) == ("FIR", "p1", "literature")
    assert [(s.observable, s.target) for s in report.series] == [("longest_diameter", "L1"), ("longest_diameter", "L2")]
    for series in report.series:
        assert len(series.points) == 8
        assert series.band is not None and series.forecast is not None and series.prior is not None
        for fan in (series.band, series.forecast, series.prior):
            values = np.array(fan.values)
            assert np.isfinite(values).all() and (np.diff(values, axis=1) > 0.0).all()
            assert list(fan.times) == sorted(fan.times)
        assert series.forecast.times[0] > report.data_through
        assert series.band.times[0] == series.points[0].time and series.band.times[-1] == report.data_through


def test_band_narrows_at_a_measurement_and_never_looks_ahead(report: PatientReport) -> None:
    band = report.series[0].band
    assert band is not None
    visit = report.series[0].points[4].time
    at = [i for i, time in enumerate(band.times) if time == visit]
    spread = [band.values[i][-1] / band.values[i][0] for i in range(len(band.times))]
    assert spread[at[-1]] < spread[at[0] - 1]


def test_treatment_spans_follow_the_events(report: PatientReport) -> None:
    [span] = report.treatments
    assert span.agent == "drug A" and span.stop is not None and not span.planned
    assert span.stop - span.start == timedelta(days=149)


def test_parameters_stand_beside_the_population(report: PatientReport) -> None:
    assert [line.name for line in report.parameters] == ["log growth", "log kill", "log waning", "resistance"]
    growth = report.parameters[0]
    assert growth.posterior[2] - growth.posterior[0] < growth.prior[2] - growth.prior[0]


def test_predictive_check_pools_the_patients(binding: Binding, belief: Belief) -> None:
    check = predictive_check(binding, [belief, belief], "longest_diameter")
    assert check is not None
    assert len(check.observed) == 32 and len(check.prior) == len(check.posterior) == 32 * 20
    assert np.std(np.log(check.prior)) > np.std(np.log(check.posterior))
    assert predictive_check(binding, [], "longest_diameter") is None


def test_the_page_can_be_written(report: PatientReport, tmp_path: Path) -> None:
    cohort = CohortReport("Cohort", "", "literature", NOW, ())
    write_report(tmp_path, cohort, [report])
    assert "lesion L2" in (tmp_path / "patients/FIR/p1.html").read_text(encoding="utf-8")
