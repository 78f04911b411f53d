"""The forecast layer on shipped patients: learned from one trial, it holds on another."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.accuracy import read_items

from oncotwin.adapters import tables
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.twin.backtest import backtest_bundle, floors_of, summary
from oncotwin.twin.population import Effort, calibrate_bundle

LESIONS = Path(tables.__file__).parent / "shipped"


def test_forecasts_of_another_trial_hold() -> None:
    items = read_items("atezolizumab", LESIONS)
    training = {twin: mine for twin, mine in items.items() if twin.startswith("POPLAR/")}
    others = {twin: mine for twin, mine in items.items() if twin.startswith("FIR/")}
    model = TumourBurden()
    bundle = calibrate_bundle(training, [model], effort=Effort(rounds=0))
    rows = summary(backtest_bundle(others, [model], bundle, "v"), floors_of([model]))
    assert [row["visits_ahead"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["mae_ratio"] < 1.05
        assert 0.80 < row["coverage"] < 0.97
