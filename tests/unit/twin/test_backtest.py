"""Rolling origins: which forecasts there are, what they rest on, and how they are summed up."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from tests.unit.twin.simulated import START, population, too_small, treated, volume
from tests.unit.twin.trend_model import TrendModel

from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ModelError
from oncotwin.twin.backtest import EXTRA, KEYS, backtest_bundle, floors_of, summary
from oncotwin.twin.quantiles import COLUMNS, MEDIAN
from oncotwin.twin.timeline import Item

MODEL = TrendModel()
NONE = ModelBundle({})


def series(*items: Item) -> dict[str, list[Item]]:
    """One twin."""
    return {"inst/a": list(items)}


def test_the_columns_are_those_of_the_forecast_table() -> None:
    table = backtest_bundle(population(2), [MODEL], NONE, "7")
    assert tuple(table.columns) == (*KEYS, *COLUMNS, *EXTRA)
    assert set(table.columns["model_version"]) == {"7"}


def test_every_later_visit_up_to_three_ahead_is_a_target() -> None:
    items = series(*(volume("a", day, 100.0 + day) for day in (0.0, 7.0, 14.0, 21.0, 28.0)))
    columns = backtest_bundle(items, [MODEL], NONE, "v").columns
    assert columns["visits_ahead"].tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 1]
    assert columns["n_prior"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 4]
    assert columns["horizon_days"].tolist() == [7, 14, 21, 7, 14, 21, 7, 14, 7]
    assert columns["last_observed"].tolist() == [100.0] * 3 + [107.0] * 3 + [114.0] * 2 + [121.0]
    origin = np.datetime64((START + timedelta(seconds=1)).replace(tzinfo=None), "us")
    assert columns["origin_time"][0] == origin


def test_values_of_one_time_are_one_visit() -> None:
    items = series(volume("a", 0, 100), volume("a", 7, 110, name="x"), volume("a", 7, 120, name="y"))
    columns = backtest_bundle(items, [MODEL], NONE, "v").columns
    assert columns["visits_ahead"].tolist() == [1]
    assert columns["observed"].tolist() == [120.0]


def test_each_lesion_has_forecasts_of_its_own() -> None:
    items = series(
        volume("a", 0, 100, target="L1"), volume("a", 7, 50, target="L2"), volume("a", 14, 120, target="L1"),
        volume("a", 14, 60, target="L2"),
    )
    columns = backtest_bundle(items, [MODEL], NONE, "v").columns
    assert list(zip(columns["target"], columns["observed"], strict=True)) == [("L1", 120.0), ("L2", 60.0)]


def test_a_censored_target_is_marked_and_bounded() -> None:
    items = series(volume("a", 0, 100), too_small("a", 7, 5.0), volume("a", 14, 20))
    table = backtest_bundle(items, [MODEL], NONE, "v")
    assert table.columns["censored"].tolist() == [True, False, False]
    assert table.columns["limit"][0] == 5.0
    first, second = summary(table, floors_of([MODEL]))
    assert first["n_censored"] == 1
    assert 0.0 < first["censored_probability"] < 0.5
    assert (first["n"], second["n"]) == (1, 1)


def test_quantiles_rise_and_are_finite() -> None:
    levels = backtest_bundle(population(5), [MODEL], NONE, "v").quantiles
    assert np.isfinite(levels).all()
    assert (np.diff(levels, axis=1) >= 0).all()


def test_a_single_observation_gives_no_forecast() -> None:
    table = backtest_bundle(series(volume("a", 0, 100)), [MODEL], NONE, "v")
    assert len(table) == 0
    assert summary(table, floors_of([MODEL])) == []


def test_twins_that_no_model_follows_give_an_empty_table() -> None:
    table = backtest_bundle(series(treated("a", 0, "A")), [MODEL], NONE, "v")
    assert len(table) == 0
    assert tuple(table.columns) == (*KEYS, *COLUMNS, *EXTRA)


def test_the_summary_compares_with_the_last_value() -> None:
    table = backtest_bundle(population(20), [MODEL], NONE, "v")
    rows = summary(table, floors_of([MODEL]))
    assert [row["visits_ahead"] for row in rows] == [1, 2, 3]
    # Patients grow by 0.16 a visit: three visits on, carrying the last value is far off.
    assert rows[2]["mae_ratio"] < 0.8
    assert rows[2]["mae_ratio_low"] <= rows[2]["mae_ratio"] <= rows[2]["mae_ratio_high"]
    error = np.abs(np.log(table.quantiles[:, MEDIAN] / table.columns["observed"]))
    assert error[table.columns["visits_ahead"] == 1].mean() == pytest.approx(rows[0]["mae"])


def test_an_observable_without_floor_is_refused() -> None:
    with pytest.raises(ModelError, match="no floor"):
        summary(backtest_bundle(population(2), [MODEL], NONE, "v"), {})
