"""PSA of men on intermittent androgen suppression: back-tested in five folds by patient."""

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
)
from tests.benchmarks.record import record

from oncotwin.domain.treatment import Treatment
from oncotwin.models.androgen import AndrogenSuppression

COMMAND = "python -m tests.benchmarks.bench_forecasts_androgen"


def evaluation() -> tuple[Evaluation, Items]:
    """The back-test, and the patients it was made on."""
    items = read_items("intermittent-androgen", data_folder() / "intermittent_androgen" / "psa.csv")
    return evaluate(items, folds_of({twin: twin for twin in items}), AndrogenSuppression(), "psa"), items


def main() -> None:
    """Print and record."""
    result, items = evaluation()
    features = np.array([series_features(past) for past in pasts(items, result.table, result.floor)])
    features = np.column_stack([features, _treatment(result, items)])
    # What is on and what is off behave differently: a linear peer needs the products to say so.
    crossed = np.column_stack([features, features * features[:, [-2]]])
    peers = {
        "robust_regression": cross_predict(result, crossed, robust_regression),
        "gradient_boosting": cross_predict(result, features, gradient_boosting),
    }
    report(result, "psa", COMMAND, {1: "<= 0.70"}, peers)
    record(
        "calibration.psa.seconds", max(result.seconds), "s", bar="< 60", command=COMMAND, note="longest of the folds"
    )


def _treatment(result: Evaluation, items: Items) -> Array:
    """(m, 2): whether suppressed at the origin, and days since that last changed (0 before any treatment)."""
    found = []
    for twin, origin in zip(result.table.twins, result.table.columns["origin_time"], strict=True):
        on, changed = 0.0, origin
        for item in items[twin]:
            stamp = np.datetime64(item.header.time.replace(tzinfo=None), "us")
            if isinstance(item, Treatment) and item.action != "given" and stamp < origin:
                on, changed = float(item.action == "on"), stamp
        found.append([on, float((origin - changed) / np.timedelta64(1, "D"))])
    return np.array(found)


if __name__ == "__main__":
    main()
