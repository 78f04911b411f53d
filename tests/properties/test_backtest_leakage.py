"""Nothing at or after an origin changes a forecast made there: to the bit, whatever the future is turned into."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.twin.simulated import population, treated, volume
from tests.unit.twin.trend_model import TrendModel

from oncotwin.domain.bundle import FilterChoice
from oncotwin.domain.observation import Observation
from oncotwin.twin.backtest import ForecastTable, backtest_bundle
from oncotwin.twin.boosting import Growth
from oncotwin.twin.journal import fold_key
from oncotwin.twin.population import Effort, calibrate_bundle
from oncotwin.twin.timeline import Item

MODEL = TrendModel()
EFFORT = Effort(rounds=1, sweeps=0, growth=Growth(n_trees=5, min_rows=20))
PATIENTS = population(40, agents=("A", "B"))
CHOICES = (FilterChoice(), FilterChoice("ensemble", {"n_members": 12}), FilterChoice("particle", {"n_particles": 20}))
BUNDLES = {choice.name: calibrate_bundle(PATIENTS, [MODEL], effort=EFFORT, choice=choice) for choice in CHOICES}


def made_before(table: ForecastTable, moment: np.datetime64) -> dict[tuple[str, ...], list[float]]:
    """Quantiles of the forecasts whose origin is not after a moment."""
    columns = table.columns
    return {
        (twin, str(columns["origin_time"][i]), str(columns["target_time"][i])): table.quantiles[i].tolist()
        for i, twin in enumerate(table.twins)
        if columns["origin_time"][i] <= moment
    }


@pytest.mark.parametrize("chosen", list(BUNDLES))
@settings(max_examples=25)
@given(
    patient=st.integers(0, 39), cut=st.integers(0, 6), scale=st.floats(0.01, 100.0), agent=st.sampled_from(["A", "C"]),
    turn=st.sampled_from(["on", "off"]),
)
def test_the_future_changes_no_forecast(
    chosen: str, patient: int, cut: int, scale: float, agent: str, turn: str
) -> None:
    twin = f"inst/p{patient:03d}"
    items = PATIENTS[twin]
    visits = [i for i in items if isinstance(i, Observation)]
    last = visits[cut]
    moment = np.datetime64(last.header.time.replace(tzinfo=None), "us") + np.timedelta64(1, "s")
    later: list[Item] = [
        replace(i, value=(i.value or 1.0) * scale) for i in visits if i.header.time > last.header.time
    ]
    past = [i for i in items if i.header.time <= last.header.time]
    name = twin.partition("/")[2]
    after = (last.header.time - past[0].header.time).total_seconds() / 86_400 + 0.5
    changed: list[Item] = [treated(name, after, agent, turn), volume(name, after, 7.0, target="new"), *later]
    altered = {twin: sorted([*past, *changed], key=fold_key)}
    first = made_before(backtest_bundle({twin: items}, [MODEL], BUNDLES[chosen], "v"), moment)
    second = made_before(backtest_bundle(altered, [MODEL], BUNDLES[chosen], "v"), moment)
    assert first
    assert all(second[key] == levels for key, levels in first.items())
