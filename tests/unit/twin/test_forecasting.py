"""A live twin's forecast is the back-test's, to the bit; the history that it reads ends at its origin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.twin.simulated import population, treated, volume
from tests.unit.twin.trend_model import TrendModel

from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ModelError
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.twin.backtest import backtest_bundle
from oncotwin.twin.boosting import Growth
from oncotwin.twin.discrepancy import Discrepancy
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import advance, bind
from oncotwin.twin.forecasting import feature_names, forecast, predict_raw, quantiles
from oncotwin.twin.history import describe, history
from oncotwin.twin.origins import rolling_origins
from oncotwin.twin.population import Effort, bind_hyper, calibrate_bundle
from oncotwin.twin.state import TwinState
from oncotwin.twin.timeline import Item, days

MODEL = TrendModel()


def test_a_live_forecast_is_the_back_tests_to_the_bit() -> None:
    patients = population(30, agents=("A", "B"))
    bundle = calibrate_bundle(
        patients, [MODEL], effort=Effort(rounds=1, sweeps=0, growth=Growth(n_trees=10, min_rows=20))
    )
    items = patients["inst/p003"]
    binding = bind("v", bundle, [MODEL], UnscentedFilter(), DriftSettings())
    [bound] = binding.models
    known = items[:5]
    [(state, _)] = advance(binding, [TwinState("inst/p003", "v")], [known])
    times = [days(i.header.time) for i in items[5:8]]
    live = forecast(
        bound, state.parts["trend"], known, "volume", "T", days(known[-1].header.time) + 1 / 86_400, times
    )
    table = backtest_bundle({"inst/p003": items}, [MODEL], bundle, "v")
    made_then = table.columns["n_prior"] == 4
    assert np.array_equal(live, table.quantiles[made_then])


@pytest.mark.parametrize("spoil", [
    lambda layer: layer.pop("features"), lambda layer: layer["features"].reverse(), lambda layer: layer.pop("members"),
    lambda layer: layer.update(members=[{}]),
])
def test_a_layer_of_another_release_is_refused_in_words(spoil: Callable[[dict[str, Any]], object]) -> None:
    patients = population(30, agents=("A", "B"))
    effort = Effort(rounds=1, sweeps=0, growth=Growth(n_trees=2, min_rows=20))
    bundle = calibrate_bundle(patients, [MODEL], effort=effort)
    calibration = json.loads(json.dumps(bundle.models["trend"].forecast_calibration))
    spoil(calibration["observables"]["volume"])
    spoilt = ModelBundle({"trend": replace(bundle.models["trend"], forecast_calibration=calibration)})
    with pytest.raises(ModelError, match=r"trend/volume cannot be used .* calibrate again"):
        backtest_bundle(patients, [MODEL], spoilt, "v")


def test_what_was_never_observed_is_refused() -> None:
    items = [volume("a", 0, 100)]
    bound = bind_hyper(MODEL, MODEL.default_hyperparameters())
    [origin] = rolling_origins(bound, {"inst/a": items}, with_targets_only=False)
    with pytest.raises(ModelError, match="never observed"):
        forecast(bound, origin.part, items, "volume", "other", origin.before, [origin.time + 5])
    with pytest.raises(ModelError, match="does not predict"):
        forecast(bound, origin.part, items, "psa", "T", origin.before, [origin.time + 5])


def test_features_have_their_names() -> None:
    items = population(3, agents=("A",))
    bound = bind_hyper(MODEL, MODEL.default_hyperparameters())
    origins = rolling_origins(bound, items)
    raw = predict_raw(bound, origins, [[o.series.time[j] for j in o.targets] for o in origins])
    assert raw.features.shape[1] == len(feature_names(MODEL, 0))
    horizon = raw.time - np.array([o.time for o in origins])[raw.origin]
    assert raw.features[:, 0] == pytest.approx(horizon)


def test_an_end_known_beforehand_becomes_a_switch_when_its_time_has_come() -> None:
    items: list[Item] = [treated("a", 0, "A", stop=10), volume("a", 5, 100), volume("a", 15, 90), treated("a", 20, "B")]
    past = history(MODEL, items)
    start = days(items[0].header.time)
    assert past.switches_before(start + 6) == [(start, True)]
    assert past.switches_before(start + 16) == [(start, True), (start + 10, False)]
    assert past.switches_before(start + 21)[-1] == (start + 20, True)


def test_the_past_ends_before_its_moment() -> None:
    items = [volume("a", day, 100.0 * (1 + day)) for day in (0.0, 7.0, 14.0)]
    past = history(MODEL, items)
    shorter = history(MODEL, items[:2])
    moment = days(items[1].header.time) + 1e-5
    assert describe(past, 0, "T", moment) == pytest.approx(describe(shorter, 0, "T", moment), nan_ok=True)


def test_an_empty_bundle_forecasts_with_the_literature_prior() -> None:
    assert len(backtest_bundle(population(1), [MODEL], ModelBundle({}), "none")) == 7 + 6 + 5


def test_the_grid_is_read_off_the_past_alone() -> None:
    items = [volume("a", day, size) for day, size in ((0.0, 20.0), (7.0, 23.0), (14.0, 23.5), (21.0, 40.0))]
    [series] = history(MODEL, items).series.values()
    assert series.decimals == (-1, 0, 1, 1)
    bound = bind_hyper(MODEL, MODEL.default_hyperparameters())
    origins = rolling_origins(bound, {"inst/a": items})
    raw = predict_raw(bound, origins, [[o.series.time[j] for j in o.targets] for o in origins])
    assert raw.decimals.tolist() == [-1, -1, -1, 0, 0, 1]


def test_quantiles_keep_to_the_grid_of_the_series() -> None:
    items = [volume("a", day, size) for day, size in ((0.0, 20.0), (7.0, 23.0), (14.0, 23.5), (21.0, 40.0))]
    bound = bind_hyper(MODEL, MODEL.default_hyperparameters())
    origins = rolling_origins(bound, {"inst/a": items})
    raw = predict_raw(bound, origins, [[o.series.time[j] for j in o.targets] for o in origins])
    free = quantiles(bound, {}, raw)
    whole = quantiles(bound, {"volume": replace(Discrepancy.identity(), decimals=0)}, raw)
    on = raw.decimals <= 0
    kept = free[on] > 1.0
    assert np.array_equal(whole[on][kept], np.round(free[on][kept]))
    assert np.array_equal(whole[~on], free[~on])
