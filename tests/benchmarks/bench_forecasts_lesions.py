"""Lesion diameters under atezolizumab: trained on two trials, tested on the third, all three ways."""

from __future__ import annotations

import numpy as np
from tests.benchmarks.accuracy import (
    cross_predict,
    data_folder,
    evaluate,
    gradient_boosting,
    pasts,
    read_items,
    report,
    robust_regression,
    series_features,
)
from tests.benchmarks.record import record

from oncotwin.models.tumour_burden import TumourBurden

COMMAND = "python -m tests.benchmarks.bench_forecasts_lesions"


def main() -> None:
    """Print and record."""
    items = read_items("atezolizumab", data_folder() / "atezolizumab" / "lesions.csv")
    fold = {twin: twin.partition("/")[0] for twin in items}
    result = evaluate(items, fold, TumourBurden(), "longest_diameter")
    features = np.array([series_features(past) for past in pasts(items, result.table, result.floor)])
    peers = {
        "robust_regression": cross_predict(result, features, robust_regression),
        "gradient_boosting": cross_predict(result, features, gradient_boosting),
    }
    bars = {1: "<= 1.01", 2: "<= 1.01", 3: "<= 1.01"}
    report(result, "lesions", COMMAND, bars, peers, crps_bar="<= 0.97")
    record(
        "calibration.lesions.seconds", max(result.seconds), "s", bar="< 20", command=COMMAND,
        note="longest of the folds",
    )


if __name__ == "__main__":
    main()
