"""Forecasts: the mechanistic model's prediction from a posterior, then what calibration learned about its errors.

Live twins, the back-test and the report all come through `forecast`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ModelError
from oncotwin.filters.steps import Operation
from oncotwin.models.base import TumourModel
from oncotwin.twin.discrepancy import Discrepancy
from oncotwin.twin.fold import BoundModel, batch_size, run_parts
from oncotwin.twin.history import (
    OTHER_FEATURES,
    PHASE_FEATURES,
    SERIES_FEATURES,
    describe,
    describe_others,
    history,
)
from oncotwin.twin.origins import Origin
from oncotwin.twin.quantiles import LEVELS
from oncotwin.twin.recording import UNROUNDED
from oncotwin.twin.state import PartState
from oncotwin.twin.timeline import Item, forecast_steps

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RawForecast:
    """Predictions of the mechanistic model, and what the learned layer may know at their origins; one row a forecast.

    Attributes:
        origin: (m,) index of the origin; time: (m,) days of the target.
        operator: (m,) index of the observable.
        mean, variance: (m,) in observation scale, observation noise included.
        last: (m,) last observed level of the series.
        features: (m, n_features) by `feature_names`; NaN where there is none.
        regimen: (m,) names of the agents in force at the origin.
        decimals: (m,) most decimals with which the series was written down so far.
    """

    origin: IntArray
    time: Array
    operator: IntArray
    mean: Array
    variance: Array
    last: Array
    features: Array
    regimen: NDArray[np.str_]
    decimals: IntArray


def feature_names(model: TumourModel, operator: int) -> tuple[str, ...]:
    """Names of the columns of `RawForecast.features` for one observable."""
    others = [o.name for i, o in enumerate(model.observables) if i != operator]
    return (
        "horizon", "raw_step", "raw_sd", "trend_1", "trend_4", *SERIES_FEATURES, *PHASE_FEATURES,
        *(f"{name}:{what}" for name in others for what in OTHER_FEATURES), "n_agents", "line",
    )


def learned_layers(bound: BoundModel) -> dict[str, Discrepancy]:
    """The learned layers of a model version by observable; none where it was not calibrated.

    Raises:
        ModelError: a layer of another release, which read other features, or of other observables of the model.
    """
    layers = {}
    for name, content in bound.calibration.get("observables", {}).items():
        known = [one.name for one in bound.model.observables]
        try:
            if name not in known or content["features"] != list(feature_names(bound.model, known.index(name))):
                raise ValueError("it reads other features than this release gives it")
            layers[name] = Discrepancy.from_dict(content)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelError(
                f"the forecast layer of {bound.model.name}/{name} cannot be used ({error}): this version was "
                "calibrated by another release or for another model; calibrate again (`oncotwin calibrate`) and "
                "promote the new version"
            ) from error
    return layers


def predict_raw(bound: BoundModel, origins: Sequence[Origin], times: Sequence[Sequence[float]]) -> RawForecast:
    """Run the model from each origin's posterior to its target times (days, in order), under therapy and plan as known.

    Args:
        times: of each origin, none before its own time.
    """
    means, variances = [], []
    size = batch_size(bound)
    for begin in range(0, len(origins), size):
        chosen = origins[begin : begin + size]
        plans = []
        for origin, wanted in zip(chosen, times[begin : begin + size], strict=True):
            cursor = origin.part.cursor
            slot = cursor.targets.index(origin.target) if bound.model.observables[origin.operator].per_target else 0
            plans.append(forecast_steps(bound.model, bound.hyper, cursor, [(t, origin.operator, slot) for t in wanted]))
        _, info = run_parts(bound, [origin.part for origin in chosen], plans, record=False)
        asked = np.array([step.operation == Operation.PREDICT for plan in plans for step in plan], dtype=np.bool_)
        means.append(info.predicted_mean[asked])
        variances.append(info.predicted_variance[asked])
    counts = np.array([len(wanted) for wanted in times], dtype=np.int64)
    index = np.repeat(np.arange(len(origins), dtype=np.int64), counts)
    time = np.array([t for wanted in times for t in wanted], dtype=np.float64)
    mean, variance = np.concatenate(means or [np.zeros(0)]), np.concatenate(variances or [np.zeros(0)])
    operator = np.array([origin.operator for origin in origins], dtype=np.int64)[index]
    described = _described(bound.model, origins)
    last = np.array([row[1] for row in described], dtype=np.float64)
    # The model gave no finite prediction: the last value and a wide spread stand in, so that a forecast is always made.
    lost = ~(np.isfinite(mean) & np.isfinite(variance))
    mean, variance = np.where(lost, last[index], mean), np.where(lost, 1.0, variance)
    origin_time = np.array([origin.time for origin in origins])[index]
    horizon = time - origin_time
    width = max((len(row) for row in described), default=0)
    table = np.full((len(origins), width), math.nan)
    for row, values in enumerate(described):
        table[row, : len(values)] = values
    static = table[index]
    names = SERIES_FEATURES
    features = np.column_stack([
        horizon, mean - last[index], np.sqrt(variance), static[:, names.index("slope_1")] * horizon,
        static[:, names.index("slope_4")] * horizon, static,
    ]) if len(index) else np.zeros((0, width + 5))
    regimen = np.array([origin.part.cursor.therapy.regimen for origin in origins], dtype=np.str_)
    written = np.array([origin.series.decimals[origin.n_prior - 1] for origin in origins], dtype=np.int64)
    return RawForecast(
        index, time, operator, mean, variance, last[index], features, regimen[index] if len(index) else regimen[:0],
        written[index],
    )


def _described(model: TumourModel, origins: Sequence[Origin]) -> list[list[float]]:
    """What is the same for all targets of an origin: `feature_names` without the first five."""
    rows = []
    for origin in origins:
        therapy = origin.part.cursor.therapy
        row = describe(origin.past, origin.operator, origin.target, origin.before)
        row += describe_others(origin.past, origin.operator, len(model.observables), origin.before)
        row += [float(len(therapy.agents)), float(therapy.line)]
        rows.append(row)
    return rows


def quantiles(bound: BoundModel, layers: dict[str, Discrepancy], raw: RawForecast) -> Array:
    """Predictive quantiles (m, 21) in each observable's unit: the learned layer applied to raw predictions."""
    out = np.zeros((len(raw.time), len(LEVELS)))
    for operator, observable in enumerate(bound.model.observables):
        rows = raw.operator == operator
        if not rows.any():
            continue
        layer = layers.get(observable.name) or Discrepancy.identity()
        level = layer.quantiles(
            raw.features[rows], raw.mean[rows], raw.variance[rows], raw.last[rows], raw.regimen[rows]
        )
        values = bound.model.inverse(observable.name, level)
        on_grid = raw.decimals[rows] <= layer.decimals
        if layer.decimals != UNROUNDED:
            values[on_grid] = np.round(values[on_grid], layer.decimals)
        # A quantile at the floor says "not told apart from nothing": the lower half then begins at zero, so that a
        # lesion that vanished lies inside.
        at_floor = values <= observable.floor * (1.0 + 1e-9)
        out[rows] = np.maximum.accumulate(np.where(at_floor & (LEVELS < 0.5), 0.0, values), axis=1)
    return out


def forecast(
    bound: BoundModel, part: PartState, items: Sequence[Item], observable: str, target: str, origin: float,
    times: Sequence[float],
) -> Array:
    """Predictive quantiles (n_times, 21) of one observable of one twin, in its unit.

    Args:
        part: the model's state after all ``items``.
        items: the twin's items in force, in fold order, all strictly before the origin.
        target: lesion id, "" for an observable of the patient.
        origin: days; nothing at or after it may be among the items.
        times: days, in order, none before the last item.
    Raises:
        ModelError: the model does not know the observable, or it was never observed on this target.
    """
    names = [o.name for o in bound.model.observables]
    if observable not in names:
        raise ModelError(f"{bound.model.name} does not predict {observable!r}; it predicts {', '.join(names)}")
    operator = names.index(observable)
    past = history(bound.model, items)
    series = past.series.get((operator, target))
    if series is None:
        raise ModelError(
            f"{observable} of target {target!r} was never observed; forecasts begin with its first observation"
        )
    last = Origin("", operator, target, series.time[-1], origin, len(series.time), part, past, ())
    raw = predict_raw(bound, [last], [list(times)])
    return quantiles(bound, learned_layers(bound), raw)


