"""The classical per-patient growth curves on the same forecasts as the twin's, beside the last value carried on."""

from __future__ import annotations

import numpy as np
from tests.benchmarks.accuracy import Items, Past, data_folder, logs, read_items
from tests.benchmarks.classical import CURVES, fit_and_predict
from tests.benchmarks.record import record

from oncotwin.domain.observation import Observation
from oncotwin.models.androgen import AndrogenSuppression
from oncotwin.models.base import TumourModel
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.twin.backtest import floors_of
from oncotwin.twin.history import history
from oncotwin.twin.scores import bootstrap_ratio

COMMAND = "python -m tests.benchmarks.bench_classical"
SETS: dict[str, tuple[str, str, type[TumourModel], str, int]] = {
    "lesions": ("atezolizumab", "atezolizumab/lesions.csv", TumourBurden, "longest_diameter", 1),
    "psa": ("intermittent-androgen", "intermittent_androgen/psa.csv", AndrogenSuppression, "psa", 3),
    "xenografts": ("pdx", "pdx_encyclopedia", TumourBurden, "volume", 3),
}


def main() -> None:
    """Print and record MAE ratios by curve and visits ahead."""
    for name, (kind, path, model, observable, dimension) in SETS.items():
        items = read_items(kind, data_folder() / path)
        pasts, outcome, visits, twins = outcomes(items, model(), observable)
        last = np.array([past.level[-1] for past in pasts])
        for curve in CURVES:
            predicted = fit_and_predict(pasts, curve, dimension=dimension)
            row = []
            for ahead in (1, 2, 3):
                here = visits == ahead
                ratio = bootstrap_ratio(
                    np.abs(predicted - outcome)[here], np.abs(last - outcome)[here], list(twins[here])
                )
                row.append(str(ratio))
                record(
                    f"forecasts.{name}.mae.{ahead}_ahead.{curve}", ratio.value, "ratio", command=COMMAND,
                    reference="last value carried forward, same rows",
                    note=f"per-patient fit to the past; 95 % interval {ratio.low:.3f} to {ratio.high:.3f}",
                )
            print(f"{name:12s} {curve:12s} " + "   ".join(row))


def outcomes(
    items: Items, model: TumourModel, observable: str
) -> tuple[list[Past], np.ndarray, np.ndarray, np.ndarray]:
    """Every forecast of the back-test with a known outcome: past, outcome (log), visits ahead, patient."""
    operator = [o.name for o in model.observables].index(observable)
    floor = floors_of([model])[observable]
    pasts: list[Past] = []
    found: list[tuple[float, int, str]] = []
    for twin, mine in items.items():
        own = [i for i in mine if not isinstance(i, Observation) or i.observable == observable]
        for (which, _), series in sorted(history(model, own).series.items()):
            if which != operator:
                continue
            level = logs(series.value, floor)
            visits = sorted(set(series.time))
            last_of = {time: index for index, time in enumerate(series.time)}
            for k, time in enumerate(visits):
                n = last_of[time] + 1
                t = tuple(x - series.time[0] for x in series.time[:n])
                for ahead, later in enumerate(visits[k + 1 : k + 4], start=1):
                    j = last_of[later]
                    if series.kind[j] == "none":
                        pasts.append(Past(t, tuple(level[:n].tolist()), later - time))
                        found.append((float(level[j]), ahead, twin))
    return (
        pasts, np.array([f[0] for f in found]), np.array([f[1] for f in found]), np.array([f[2] for f in found])
    )


if __name__ == "__main__":
    main()
