"""The cohort page's tables from a back-test's forecasts."""

from __future__ import annotations

import numpy as np
import pytest

from oncotwin.twin.backtest import ForecastTable
from oncotwin.twin.quantiles import COLUMNS, LEVELS
from oncotwin.twin.references import LastValue
from oncotwin_services.report.cohort import evaluate


def forecasts(n: int = 900) -> ForecastTable:
    """Calibrated forecasts of log-normal outcomes whose median is known, the last value being a poor guess."""
    rng = np.random.default_rng(3)
    centre = rng.normal(3.0, 0.3, n)
    observed = np.exp(centre + 0.2 * rng.standard_normal(n))
    z = np.quantile(rng.standard_normal(200_000), LEVELS)
    quantiles = np.exp(centre[:, None] + 0.2 * z[None, :])
    columns = {
        "institution": np.array(["FIR"] * n), "patient": np.array([f"p{i // 9}" for i in range(n)]),
        "observable": np.array(["longest_diameter"] * n), "unit": np.array(["mm"] * n),
        "horizon_days": np.full(n, 45.0), "visits_ahead": 1 + np.arange(n) % 3, "observed": observed,
        "censored": np.arange(n) % 10 == 0, "last_observed": np.exp(rng.normal(3.0, 0.3, n)),
        **{name: quantiles[:, i] for i, name in enumerate(COLUMNS)},
    }
    return ForecastTable(columns)


def test_better_forecasts_have_ratios_below_one_and_the_coverage_that_they_claim() -> None:
    reference = LastValue(np.tile(np.linspace(-0.8, 0.8, len(LEVELS)), (4, 1)))
    result = evaluate(forecasts(), {"longest_diameter": 2.0}, {"longest_diameter": reference})
    assert [(row.score, row.visits_ahead) for row in result.skill] == [
        ("MAE (log mm)", 1), ("MAE (log mm)", 2), ("MAE (log mm)", 3),
        ("CRPS (log mm)", 1), ("CRPS (log mm)", 2), ("CRPS (log mm)", 3),
    ]
    for row in result.skill:
        assert row.n == 270
        assert row.ratio_low < row.ratio < row.ratio_high < 1.0
    for cover in result.coverage:
        assert cover.covered == pytest.approx(0.9, abs=0.06)
    [histogram] = result.pit
    assert histogram.n == 810 and sum(histogram.shares) == pytest.approx(1.0) and min(histogram.shares) > 0.055


def test_without_reference_distributions_only_errors_are_compared() -> None:
    result = evaluate(forecasts(), {"longest_diameter": 2.0})
    assert {row.score for row in result.skill} == {"MAE (log mm)"}
