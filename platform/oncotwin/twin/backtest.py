"""Rolling-origin evaluation: what would have been forecast after every observation, and how it turned out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ModelError
from oncotwin.domain.ids import TwinId, split_twin_id
from oncotwin.domain.observation import Observation
from oncotwin.filters.choice import make_filter
from oncotwin.models.base import TumourModel
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import BoundModel, bind
from oncotwin.twin.forecasting import learned_layers, predict_raw, quantiles
from oncotwin.twin.origins import Origin, Progress, origins_by_batch, silent
from oncotwin.twin.quantiles import COLUMNS, MEDIAN, Array
from oncotwin.twin.scores import bootstrap_ratio, censored_probability, covered, log_crps, log_error
from oncotwin.twin.timeline import Item, moment

KEYS = (
    "institution", "patient", "observable", "unit", "origin_time", "target_time", "horizon_days", "visits_ahead",
    "n_prior", "observed", "censored", "last_observed", "model_version",
)
EXTRA = ("target", "censoring", "low", "limit")
"""Columns after the quantiles: the lesion, and what a censored observation says: kind, lower end and bound."""


@dataclass(frozen=True, slots=True)
class ForecastTable:
    """Forecasts with their outcomes, one row each.

    Attributes:
        columns: by name, in the order of `KEYS`, the quantiles, `EXTRA`; times as UTC ``datetime64[us]``.
    """

    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        """Number of forecasts."""
        return len(self.columns["patient"])

    @property
    def quantiles(self) -> Array:
        """(m, 21) predictive quantiles in each observable's unit."""
        return np.column_stack([self.columns[name] for name in COLUMNS])

    @property
    def twins(self) -> list[TwinId]:
        """(m,) whose forecast each is."""
        return [
            f"{institution}/{patient}"
            for institution, patient in zip(self.columns["institution"], self.columns["patient"], strict=True)
        ]

    def rows(self, chosen: NDArray[np.bool_]) -> ForecastTable:
        """The chosen rows."""
        return ForecastTable({name: column[chosen] for name, column in self.columns.items()})


def owned_items(
    models: Sequence[TumourModel], items_by_twin: Mapping[TwinId, Sequence[Item]]
) -> list[tuple[TumourModel, dict[TwinId, list[Item]]]]:
    """For each model the twins that it follows, with the observations that are its own: the first that knows wins."""
    owner: dict[str, str] = {}
    for model in models:
        for observable in model.observables:
            owner.setdefault(observable.name, model.name)
    shared = []
    for model in models:
        mine = {}
        for twin_id, items in items_by_twin.items():
            kept = [
                item for item in items if not isinstance(item, Observation) or owner.get(item.observable) == model.name
            ]
            if any(isinstance(item, Observation) and item.censoring != "not_evaluable" for item in kept):
                mine[twin_id] = kept
        shared.append((model, mine))
    return shared


def backtest_bundle(
    items_by_twin: Mapping[TwinId, Sequence[Item]], models: Sequence[TumourModel], bundle: ModelBundle, version: str,
    *, progress: Progress = silent,
) -> ForecastTable:
    """Forecast every later observation up to three visits ahead, from after each observation on, as was possible then.

    The origin lies one second after its observation; what was observed, given or planned strictly before it is used,
    and nothing else. Several values of one series at one time are one visit, its last value in fold order the
    outcome. Values that were not evaluable are neither origins nor outcomes.

    Args:
        items_by_twin: each twin's items in force, in fold order (`journal.in_force`).
        bundle, version: priors and the name under which they are registered.
    """
    parts: list[ForecastTable] = []
    for model, items in owned_items(models, items_by_twin):
        if items:
            [bound] = bind(version, bundle, [model], make_filter(bundle.filter), DriftSettings()).models
            parts.extend(_backtest(bound, items, version, progress))
    if not parts:
        return _table([], [], np.zeros((0, len(COLUMNS))), np.zeros(0, dtype=np.int64), version)
    return ForecastTable(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    )


def _backtest(
    bound: BoundModel, items: Mapping[TwinId, Sequence[Item]], version: str, progress: Progress
) -> Iterator[ForecastTable]:
    layers = learned_layers(bound)
    for origins in origins_by_batch(bound, items, progress=progress):
        raw = predict_raw(bound, origins, target_times(origins))
        levels = quantiles(bound, layers, raw)
        yield _table(origins, [bound.model.observables[i] for i in raw.operator], levels, raw.origin, version)
    progress("forecasting", 1.0)


def target_times(origins: Sequence[Origin]) -> list[list[float]]:
    """Days of each origin's targets."""
    return [[origin.series.time[j] for j in origin.targets] for origin in origins]


def _table(
    origins: Sequence[Origin], observables: Sequence[Any], levels: Array, owner: NDArray[np.int64], version: str
) -> ForecastTable:
    """Columns of the forecasts, in the order of origins and their targets."""
    place = [(origin, visit, j) for origin in origins for visit, j in enumerate(origin.targets, start=1)]
    names = [split_twin_id(origin.twin_id) for origin in origins]
    before = [_stamp(origin.before) for origin in origins]
    n = len(place)
    columns: dict[str, NDArray[Any]] = {
        "institution": _text([names[i][0] for i in owner]),
        "patient": _text([names[i][1] for i in owner]),
        "observable": _text([observable.name for observable in observables]),
        "unit": _text([observable.unit for observable in observables]),
        "origin_time": np.array([before[i] for i in owner], dtype="datetime64[us]"),
        "target_time": np.array([_stamp(o.series.time[j]) for o, _, j in place], dtype="datetime64[us]"),
        "horizon_days": np.array([o.series.time[j] - o.time for o, _, j in place], dtype=np.float64),
        "visits_ahead": np.array([visit for _, visit, _ in place], dtype=np.int64),
        "n_prior": np.array([o.n_prior for o, _, _ in place], dtype=np.int64),
        "observed": np.array([o.series.value[j] for o, _, j in place], dtype=np.float64),
        "censored": np.array([o.series.kind[j] != "none" for o, _, j in place], dtype=np.bool_),
        "last_observed": np.array([o.series.value[o.n_prior - 1] for o, _, _ in place], dtype=np.float64),
        "model_version": _text([version] * n),
    }
    columns.update({name: levels[:, j] for j, name in enumerate(COLUMNS)})
    columns["target"] = _text([o.target for o, _, _ in place])
    columns["censoring"] = _text([o.series.kind[j] for o, _, j in place])
    columns["low"] = np.array([o.series.low[j] for o, _, j in place], dtype=np.float64)
    columns["limit"] = np.array([o.series.limit[j] for o, _, j in place], dtype=np.float64)
    return ForecastTable(columns)


def _text(values: Sequence[str]) -> NDArray[Any]:
    return np.array(values, dtype=object)


def _stamp(time_days: float) -> np.datetime64:
    return np.datetime64(moment(time_days).replace(tzinfo=None), "us")


def summary(table: ForecastTable, floors: Mapping[str, float], *, seed: int = 0) -> list[dict[str, Any]]:
    """Scores by observable and visits ahead, beside the last value carried forward.

    Args:
        floors: smallest value told apart on the log scale, by observable, in its unit.
    Returns:
        One mapping a group: n, patients, ``mae`` and ``crps`` (log scale), ``mae_ratio`` against the last value carried
        forward with its 95 % interval, ``coverage`` of the 90 % interval, and the mean probability of censored targets.
    Raises:
        ModelError: an observable of the table has no floor.
    """
    found = []
    twins = np.array(table.twins)
    for observable in sorted(set(table.columns["observable"])):
        if observable not in floors:
            raise ModelError(f"no floor is known for {observable!r}; give one of the model's observables")
        floor = floors[observable]
        for visits in (1, 2, 3):
            group = (table.columns["observable"] == observable) & (table.columns["visits_ahead"] == visits)
            seen = group & ~table.columns["censored"]
            hidden = group & table.columns["censored"]
            if not group.any():
                continue
            part, levels = table.rows(seen), table.quantiles[seen]
            observed = part.columns["observed"]
            error = log_error(levels[:, MEDIAN], observed, floor)
            reference = log_error(part.columns["last_observed"], observed, floor)
            ratio = bootstrap_ratio(error, reference, list(twins[seen]), seed=seed)
            row: dict[str, Any] = {
                "observable": str(observable), "visits_ahead": visits, "n": int(seen.sum()),
                "n_patients": len(set(twins[seen])), "n_censored": int(hidden.sum()),
            }
            if seen.any():
                row |= {
                    "mae": float(error.mean()), "mae_last_value": float(reference.mean()), "mae_ratio": ratio.value,
                    "mae_ratio_low": ratio.low, "mae_ratio_high": ratio.high,
                    "crps": float(log_crps(levels, observed, floor).mean()),
                    "coverage": float(covered(levels, observed).mean()),
                }
            if hidden.any():
                part = table.rows(hidden)
                kind = part.columns["censoring"]
                low = np.where(kind == "interval", part.columns["low"], np.nan)
                row["censored_probability"] = float(
                    censored_probability(part.quantiles, list(kind), low, part.columns["limit"]).mean()
                )
            found.append({key: None if value != value else value for key, value in row.items()})
    return found


def floors_of(models: Sequence[TumourModel]) -> dict[str, float]:
    """Floor of each observable, by the first model that knows it."""
    found: dict[str, float] = {}
    for model in models:
        for observable in model.observables:
            found.setdefault(observable.name, observable.floor)
    return found

