"""Volumes of patient-derived xenografts: back-tested in five folds by tumour, the drugs' effects from other tumours."""

from __future__ import annotations

import numpy as np
from tests.benchmarks.accuracy import (
    Array,
    Evaluation,
    Items,
    cross_predict,
    data_folder,
    evaluate,
    folds_of,
    gradient_boosting,
    pasts,
    read_items,
    report,
    robust_regression,
    series_features,
    tumours,
)
from tests.benchmarks.record import record

from oncotwin.domain.treatment import Treatment
from oncotwin.models.tumour_burden import TumourBurden

COMMAND = "python -m tests.benchmarks.bench_forecasts_xenografts"


def main() -> None:
    """Print and record."""
    items = read_items("pdx", data_folder() / "pdx_encyclopedia")
    result = evaluate(items, folds_of(tumours(items)), TumourBurden(), "volume")
    features = np.array([series_features(past) for past in pasts(items, result.table, result.floor)])
    rate = drug_rates(result, items)
    features = np.column_stack([features, rate, rate * features[:, 0]])
    peers = {
        "robust_regression": cross_predict(result, features, robust_regression),
        "gradient_boosting": cross_predict(result, features, gradient_boosting),
    }
    report(result, "xenografts", COMMAND, {1: "<= 0.88", 3: "<= 0.78"}, peers)
    record(
        "calibration.xenografts.seconds", max(result.seconds), "s", bar="< 90", command=COMMAND,
        note="longest of the folds",
    )


def drug_rates(result: Evaluation, items: Items) -> Array:
    """(m,) mean daily change of log volume under the mouse's drug, learned from the other folds' tumours."""
    drug_of = {
        twin: next((i.agent for i in mine if isinstance(i, Treatment)), "") for twin, mine in items.items()
    }
    columns = result.table.columns
    drug = np.array([drug_of[twin] for twin in result.table.twins])
    change = np.log(np.maximum(columns["observed"], 10.0)) - np.log(np.maximum(columns["last_observed"], 10.0))
    daily = np.asarray(change / np.maximum(columns["horizon_days"], 1.0), dtype=np.float64)
    names, place = np.unique(drug, return_inverse=True)
    found = np.zeros(len(drug))
    for fold in sorted(set(result.folds)):
        seen = result.folds != fold
        total = np.bincount(place[seen], daily[seen], len(names)) + 20.0 * daily[seen].mean()
        found[~seen] = (total / (np.bincount(place[seen], minlength=len(names)) + 20.0))[place[~seen]]
    return found


if __name__ == "__main__":
    main()
