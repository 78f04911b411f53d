"""Forecasts of real patients, back-tested fold by fold: shared by the accuracy benchmarks."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks.record import record

from oncotwin.adapters.tables import convert
from oncotwin.domain.amendment import Accepted, Rejection
from oncotwin.domain.observation import Observation
from oncotwin.domain.validation import Policy, validate
from oncotwin.models.base import TumourModel
from oncotwin.twin.backtest import ForecastTable, backtest_bundle, floors_of
from oncotwin.twin.journal import in_force
from oncotwin.twin.population import Effort, calibrate_bundle
from oncotwin.twin.quantiles import LEVELS, MEDIAN
from oncotwin.twin.references import LastValue
from oncotwin.twin.scores import bootstrap_ratio, covered, fold_of, log_crps, log_error
from oncotwin.twin.timeline import Item

Array = NDArray[np.float64]
Items = dict[str, list[Item]]


def data_folder() -> Path:
    """Folder of the real data sets."""
    if "ONCOTWIN_DATA" not in os.environ:
        sys.exit("set ONCOTWIN_DATA to the folder of the data sets (see docs/data.md)")
    return Path(os.environ["ONCOTWIN_DATA"])


def read_items(kind: str, path: Path) -> Items:
    """Items in force of every patient of a converted table, in fold order."""
    policy = Policy(datetime.now(UTC))
    accepted: dict[str, list[Accepted]] = defaultdict(list)
    for event in convert(kind, path, lambda problem: None):
        item = validate(event, policy)
        if not isinstance(item, Rejection):
            accepted[item.header.twin_id].append(item)
    return {twin_id: in_force(events, twin_id) for twin_id, events in sorted(accepted.items())}


def tumours(items: Items) -> dict[str, str]:
    """The lesion that each patient (mouse) is observed on first: folds by tumour are folds by its name."""
    return {
        twin_id: next((i.target for i in mine if isinstance(i, Observation) and i.target), twin_id)
        for twin_id, mine in items.items()
    }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Forecasts of all folds together.

    Attributes:
        table: of one observable; folds: (m,) the fold in which each forecast's patient was left out.
        carried: (m, 21) the last value carried forward with the spread of its errors in the same training folds.
        seconds: calibration time of each fold.
    """

    table: ForecastTable
    folds: NDArray[np.str_]
    carried: Array
    floor: float
    seconds: tuple[float, ...]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Forecasts whose outcome is a value, not a bound."""
        return np.asarray(~self.table.columns["censored"], dtype=np.bool_)

    def ahead(self, visits: int) -> NDArray[np.bool_]:
        """Forecasts of the n-th visit ahead with a known outcome."""
        return np.asarray(self.known & (self.table.columns["visits_ahead"] == visits), dtype=np.bool_)


def evaluate(
    items: Items, fold: Mapping[str, str], model: TumourModel, observable: str, *, effort: Effort | None = None
) -> Evaluation:
    """Calibrate on all folds but one, back-test that one, in turn; progress on standard error."""
    floor = floors_of([model])[observable]
    tables: list[ForecastTable] = []
    folds: list[str] = []
    seconds: list[float] = []
    names = sorted(set(fold.values()))
    for name in names:
        begun = time.monotonic()
        training = {twin: mine for twin, mine in items.items() if fold[twin] != name}
        bundle = calibrate_bundle(training, [model], effort=effort)
        seconds.append(time.monotonic() - begun)
        held_out = {twin: mine for twin, mine in items.items() if fold[twin] == name}
        table = only(backtest_bundle(held_out, [model], bundle, f"without {name}"), observable)
        tables.append(table)
        folds += [name] * len(table)
        print(f"  fold {name}: calibrated in {seconds[-1]:.0f} s, {len(table)} forecasts", file=sys.stderr, flush=True)
    table = joined(tables)
    held = np.array(folds, dtype=np.str_)
    # The other folds' rows are what the training patients' own forecasts would be: same series, origins and targets.
    carried = np.zeros((len(table), len(LEVELS)))
    for name in names:
        carried[held == name] = carry_forward(table.rows(held != name), table.rows(held == name), floor)
    return Evaluation(table, held, carried, floor, tuple(seconds))


def joined(tables: Sequence[ForecastTable]) -> ForecastTable:
    """Tables one below the other."""
    return ForecastTable({key: np.concatenate([t.columns[key] for t in tables]) for key in tables[0].columns})


def only(table: ForecastTable, observable: str) -> ForecastTable:
    """The forecasts of one observable."""
    return table.rows(np.asarray(table.columns["observable"] == observable, dtype=np.bool_))


def logs(values: Any, floor: float) -> Array:
    """Logarithm of values, those below the floor counting as it."""
    return np.asarray(np.log(np.maximum(np.asarray(values, dtype=np.float64), floor)), dtype=np.float64)


def carry_forward(training: ForecastTable, table: ForecastTable, floor: float) -> Array:
    """Quantiles (m, 21) of the last value carried forward, its errors learned from the training patients."""
    known = ~training.columns["censored"]
    reference = LastValue.learn(
        training.columns["horizon_days"][known], logs(training.columns["last_observed"][known], floor),
        logs(training.columns["observed"][known], floor),
    )
    return np.exp(reference.quantiles(table.columns["horizon_days"], logs(table.columns["last_observed"], floor)))


def errors(result: Evaluation, predicted: Array, chosen: NDArray[np.bool_]) -> Array:
    """Absolute log error of a point forecast on the chosen rows."""
    return log_error(predicted[chosen], result.table.columns["observed"][chosen], result.floor)


def report(
    result: Evaluation, name: str, command: str, bars: Mapping[int, str], peers: Mapping[str, Array],
    *, crps_bar: str | None = None,
) -> None:
    """Print and record errors against the last value carried forward, CRPS, and coverage by visits ahead and fold.

    Args:
        bars: of the MAE ratio, by visits ahead.
        peers: other point forecasts of the same rows, in the observable's unit.
    """
    columns, twins = result.table.columns, np.array(result.table.twins)
    print(f"\n{name}: {len(set(twins))} patients, {len(result.table)} forecasts, "
          f"calibration {max(result.seconds):.0f} s a fold at most")
    print(f"{'visits ahead':14s} {'n':>7s} {'MAE':>7s} {'carried':>8s}  ratio [95 % interval]      "
          + "  ".join(f"{peer:>18s}" for peer in peers) + "   CRPS ratio              coverage (folds)")
    for visits in (1, 2, 3):
        rows = result.ahead(visits)
        own = errors(result, result.table.quantiles[:, MEDIAN], rows)
        last = errors(result, columns["last_observed"], rows)
        ratio = bootstrap_ratio(own, last, list(twins[rows]))
        others = {}
        for peer, predicted in peers.items():
            others[peer] = bootstrap_ratio(errors(result, predicted, rows), last, list(twins[rows]))
        sharp = _crps_ratio(result, rows)
        inside = covered(result.table.quantiles[rows], columns["observed"][rows])
        by_fold = {f: float(inside[result.folds[rows] == f].mean()) for f in sorted(set(result.folds))}
        print(f"{visits:<14d} {rows.sum():7d} {own.mean():7.4f} {last.mean():8.4f}  {ratio}    "
              + "  ".join(f"{o!s:>18s}" for o in others.values())
              + f"   {sharp}   {inside.mean():.3f} ({', '.join(f'{v:.3f}' for v in by_fold.values())})")
        record(
            f"forecasts.{name}.mae.{visits}_ahead", float(own.mean()), "|log error|", ratio=ratio.value,
            reference=f"last value carried forward: {last.mean():.4f}", bar=bars.get(visits), command=command,
            note=f"ratio's 95 % interval over patients {ratio.low:.3f} to {ratio.high:.3f}; n = {int(rows.sum())}",
        )
        for peer, found in others.items():
            record(
                f"forecasts.{name}.mae.{visits}_ahead.{peer}", found.value, "ratio", command=command,
                reference="last value carried forward, same rows",
                note=f"95 % interval over patients {found.low:.3f} to {found.high:.3f}",
            )
        record(
            f"forecasts.{name}.crps.{visits}_ahead", sharp.value, "ratio", command=command,
            reference="last value with its empirical errors by interval length",
            note=f"95 % interval over patients {sharp.low:.3f} to {sharp.high:.3f}",
        )
        record(
            f"forecasts.{name}.coverage.{visits}_ahead", float(inside.mean()), "share", bar="0.87 to 0.93",
            command=command, note="by fold: " + ", ".join(f"{f}: {v:.3f}" for f, v in by_fold.items()),
        )
    pooled = result.known
    sharp = _crps_ratio(result, pooled)
    own = errors(result, result.table.quantiles[:, MEDIAN], pooled)
    last = errors(result, columns["last_observed"], pooled)
    ratio = bootstrap_ratio(own, last, list(twins[pooled]))
    print(f"{'all':14s} {pooled.sum():7d} {own.mean():7.4f} {last.mean():8.4f}  {ratio}   CRPS ratio {sharp}")
    record(
        f"forecasts.{name}.crps.pooled", sharp.value, "ratio", bar=crps_bar, command=command,
        reference="last value with its empirical errors by interval length",
        note=f"95 % interval over patients {sharp.low:.3f} to {sharp.high:.3f}; log scale",
    )


def _crps_ratio(result: Evaluation, rows: NDArray[np.bool_]) -> Any:
    observed = result.table.columns["observed"][rows]
    return bootstrap_ratio(
        log_crps(result.table.quantiles[rows], observed, result.floor),
        log_crps(result.carried[rows], observed, result.floor), list(np.array(result.table.twins)[rows]),
    )


@dataclass(frozen=True, slots=True)
class Past:
    """What a peer may read of one forecast: the series up to its origin, and how far ahead it is."""

    time: tuple[float, ...]
    level: tuple[float, ...]
    horizon: float


def pasts(items: Items, table: ForecastTable, floor: float) -> Iterator[Past]:
    """The past of each forecast of a table, in its order."""
    series: dict[tuple[str, str, str], list[tuple[np.datetime64, float]]] = defaultdict(list)
    for twin_id, mine in items.items():
        for item in mine:
            if isinstance(item, Observation) and item.censoring != "not_evaluable":
                value = item.limit if item.value is None else item.value
                stamp = np.datetime64(item.header.time.replace(tzinfo=None), "us")
                series[twin_id, item.observable, item.target].append((stamp, float(value or 0.0)))
    columns = table.columns
    day = np.timedelta64(1, "D")
    for row, twin_id in enumerate(table.twins):
        mine_ = series[twin_id, columns["observable"][row], columns["target"][row]]
        known = [(t, v) for t, v in mine_ if t < columns["origin_time"][row]]
        start = known[0][0]
        yield Past(
            tuple(float((t - start) / day) for t, _ in known), tuple(float(logs(v, floor)) for _, v in known),
            float(columns["horizon_days"][row]),
        )


def series_features(past: Past) -> list[float]:
    """Plain features of a series for the regression peers: levels, differences, gaps, slopes, extremes."""
    t, y = past.time, past.level
    n = len(y)
    d = [y[-k] - y[-k - 1] if n > k else 0.0 for k in (1, 2, 3)]
    g = [t[-k] - t[-k - 1] if n > k else 0.0 for k in (1, 2, 3)]
    slope = d[0] / max(g[0], 1.0)
    return [
        past.horizon, y[-1], *d, *g, slope, slope * past.horizon, y[-1] - y[0], t[-1], y[-1] - min(y), max(y) - y[-1],
        float(n),
    ]


Learner = Callable[[Array, Array, Array], Array]


def cross_predict(
    result: Evaluation, features: Array, learner: Learner, *, extra: Sequence[int] | None = None
) -> Array:
    """Out-of-fold point forecasts (in the unit) of a peer that learns the change from the last value.

    A separate fit for each number of visits ahead, as the peers of the issue were made.
    """
    columns = result.table.columns
    last, outcome = logs(columns["last_observed"], result.floor), logs(columns["observed"], result.floor)
    predicted = np.zeros(len(last))
    for visits in (1, 2, 3):
        ahead = columns["visits_ahead"] == visits
        for name in sorted(set(result.folds)):
            training = ahead & (result.folds != name) & result.known
            test = ahead & (result.folds == name)
            predicted[test] = last[test] + learner(features[training], (outcome - last)[training], features[test])
    return np.exp(predicted)


def robust_regression(x: Array, y: Array, new: Array) -> Array:
    """Least absolute deviations by iterated reweighting on standardised, clipped features."""
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    a = np.column_stack([np.ones(len(x)), np.clip((x - centre) / scale, -4, 4)])
    b = np.column_stack([np.ones(len(new)), np.clip((new - centre) / scale, -4, 4)])
    weight, beta = np.ones(len(a)), np.zeros(a.shape[1])
    for _ in range(50):
        beta = np.linalg.solve((a * weight[:, None]).T @ a + 1e-3 * np.eye(a.shape[1]), (a * weight[:, None]).T @ y)
        weight = 1.0 / np.maximum(np.abs(y - a @ beta), 0.02)
    return np.asarray(b @ beta)


def gradient_boosting(x: Array, y: Array, new: Array) -> Array:
    """LightGBM with absolute loss."""
    import lightgbm

    model = lightgbm.LGBMRegressor(
        objective="mae", n_estimators=300, learning_rate=0.03, num_leaves=15, min_child_samples=20, verbose=-1,
        n_jobs=1, random_state=0,
    )
    return np.asarray(model.fit(x, y).predict(new))


def folds_of(names: Mapping[str, str]) -> dict[str, str]:
    """Five folds by the hash of a patient's (tumour's) name."""
    return {twin_id: str(fold_of(name)) for twin_id, name in names.items()}
