"""Whatever filter follows a twin, one state serves them all: the stream, the origins of a back-test and forecasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numba import njit
from tests.unit.twin.simulated import population
from tests.unit.twin.trend_model import TrendModel

from oncotwin.domain.bundle import FILTERS, FilterChoice, ModelBundle
from oncotwin.domain.errors import ModelError
from oncotwin.filters.base import PROPAGATE_MANY_SIGNATURE, Array
from oncotwin.filters.choice import make_filter
from oncotwin.models.tumour_burden import TumourBurden, propagate
from oncotwin.testing.patients import accepted, diameter, treatment
from oncotwin.twin import fold
from oncotwin.twin.backtest import backtest_bundle
from oncotwin.twin.boosting import Growth
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind
from oncotwin.twin.forecasting import forecast
from oncotwin.twin.journal import in_force
from oncotwin.twin.machine import Task, perform
from oncotwin.twin.origins import rolling_origins
from oncotwin.twin.population import Effort, calibrate_bundle
from oncotwin.twin.state import TwinState, digest, to_bytes
from oncotwin.twin.timeline import Item

FEW = {"unscented": {}, "ensemble": {"n_members": 16}, "square-root-ensemble": {"n_members": 12},
       "particle": {"n_particles": 40}}


def chosen(name: str) -> FilterChoice:
    """A filter with few members."""
    return FilterChoice(name, FEW[name])


def patients() -> dict[str, list[Item]]:
    """Three, of one or two lesions, treated on the way."""
    found = {}
    for p in range(3):
        name = f"H1/p{p}"
        lines = [
            diameter(f"{p}-{v}-{lesion}", 40 * v, 20 + 3 * v + p, patient=name, lesion=lesion)
            for v in range(5)
            for lesion in ("L1", "L2")[: 1 + p % 2]
        ]
        lines.append(treatment(f"{p}-on", 50, "drugA", "on", patient=name))
        found[name] = in_force(accepted(lines), name)
    return found


@pytest.mark.parametrize("name", FILTERS)
def test_an_origin_is_the_live_twin_of_its_day(name: str) -> None:
    """To the bit: the state, and the forecast that is made of it."""
    binding = bind("1", ModelBundle({}), [TumourBurden()], make_filter(chosen(name)), DriftSettings())
    [bound] = binding.models
    items = patients()
    for origin in rolling_origins(bound, items):
        known = tuple(item for item in items[origin.twin_id] if (item.header.time.timestamp() / 86_400) < origin.before)
        [outcome] = perform(binding, [Task(TwinState(origin.twin_id, "1"), known)])
        live = outcome.states[-1].parts["tumour_burden"]
        assert live.time == origin.time and live.posterior.key == origin.part.posterior.key
        for array, other in zip(live.posterior.arrays.values(), origin.part.posterior.arrays.values(), strict=True):
            np.testing.assert_array_equal(array, other)
        times = [origin.series.time[j] for j in origin.targets]
        of = "longest_diameter", origin.target, origin.before, times
        np.testing.assert_array_equal(forecast(bound, live, known, *of), forecast(bound, origin.part, known, *of))


@pytest.mark.parametrize("name", FILTERS)
def test_a_back_test_follows_the_version_in_batches_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    items, bundle = patients(), ModelBundle({}, chosen(name))
    together = backtest_bundle(items, [TumourBurden()], bundle, "v")
    monkeypatch.setattr(fold, "_MEMBERS_BATCH", 1)
    monkeypatch.setattr(fold, "_GAUSSIAN_BATCH", 1)
    alone = backtest_bundle(items, [TumourBurden()], bundle, "v")
    np.testing.assert_array_equal(together.quantiles, alone.quantiles)
    default = backtest_bundle(items, [TumourBurden()], ModelBundle({}), "v")
    assert np.array_equal(default.quantiles, alone.quantiles) == (name == "unscented")
    np.testing.assert_allclose(alone.quantiles[:, 10], default.quantiles[:, 10], rtol=0.5)


@pytest.mark.parametrize("name", FILTERS)
def test_a_calibration_learns_its_layer_from_the_filter_that_it_names(name: str) -> None:
    effort = Effort(rounds=1, sweeps=0, growth=Growth(n_trees=3, min_rows=20))
    bundle = calibrate_bundle(population(20), [TrendModel()], effort=effort, choice=chosen(name))
    default = calibrate_bundle(population(20), [TrendModel()], effort=effort)
    assert bundle.filter == chosen(name)
    [prior], [other] = bundle.models.values(), default.models.values()
    assert prior.hyperparameters == other.hyperparameters
    assert (prior.forecast_calibration == other.forecast_calibration) == (name == "unscented")


@njit(PROPAGATE_MANY_SIGNATURE)
def row_by_row(members: Array, n: int, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """The model's own equations for each member."""
    for m in range(members.shape[0]):
        propagate(members[m, :n], t0, t1, inputs, constants, out[m, :n])


@njit(PROPAGATE_MANY_SIGNATURE)
def at_rest(members: Array, n: int, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """Nothing moves."""
    for m in range(members.shape[0]):
        for i in range(n):
            out[m, i] = members[m, i]


@dataclass(frozen=True)
class SideBySide(TumourBurden):
    """The tumour model with a second way to move its members."""

    propagate_many: Callable[..., Any] = row_by_row


@pytest.mark.parametrize("name", FILTERS)
def test_a_model_may_move_its_members_side_by_side(name: str) -> None:
    """Its `propagate_many` is used where it has one, and gives the bits of `propagate`."""
    items = tuple(patients()["H1/p1"])
    found = []
    for model in (TumourBurden(), SideBySide(), SideBySide(propagate_many=at_rest)):
        binding = bind("1", ModelBundle({}), [model], make_filter(chosen(name)), DriftSettings())
        [outcome] = perform(binding, [Task(TwinState("H1/p1", "1"), items)])
        found.append(digest(to_bytes(outcome.states[-1])))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (FilterChoice(), chosen("particle")), (chosen("particle"), FilterChoice("ensemble", {"n_members": 40})),
        (FilterChoice("ensemble", {"n_members": 40}), chosen("particle")), (chosen("ensemble"), FilterChoice()),
        (chosen("particle"), FilterChoice("particle", {"n_particles": 41})),
    ],
)
def test_a_state_of_another_filter_is_refused(name: FilterChoice, other: FilterChoice) -> None:
    """A version means one filter; a state that another made is folded anew, never read as this one's."""
    items = tuple(patients()["H1/p0"])
    first = bind("1", ModelBundle({}), [TumourBurden()], make_filter(other), DriftSettings())
    [outcome] = perform(first, [Task(TwinState("H1/p0", "1"), items[:3])])
    second = bind("1", ModelBundle({}), [TumourBurden()], make_filter(name), DriftSettings())
    with pytest.raises(ModelError, match="anew"):
        perform(second, [Task(outcome.states[-1], items[3:])])
