"""The learned layers of forecasts, from every forecast that could have been made of a population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.ids import TwinId
from oncotwin.twin.backtest import target_times
from oncotwin.twin.boosting import Growth
from oncotwin.twin.discrepancy import Training, learn
from oncotwin.twin.fold import BoundModel
from oncotwin.twin.forecasting import feature_names, predict_raw
from oncotwin.twin.origins import Origin, Progress, origins_by_batch, silent
from oncotwin.twin.recording import decimals, learn_decimals
from oncotwin.twin.timeline import Item


def learn_layers(
    bound: BoundModel, items_by_twin: Mapping[TwinId, Sequence[Item]], growth: Growth | None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The learned layer of each observable (`ModelPrior.forecast_calibration`), from rolling origins of all twins."""
    model = bound.model
    # Some twins at a time: of their states only the predictions are kept.
    batches = [
        _training(bound, origins) for origins in origins_by_batch(bound, items_by_twin, progress=progress) if origins
    ]
    layers = {}
    for operator, observable in enumerate(model.observables):
        rows = [of == operator for _, of, _ in batches]
        if not any(row.any() for row in rows):
            continue
        training = Training(
            *(
                np.concatenate([getattr(of, known.name)[row] for (of, _, _), row in zip(batches, rows, strict=True)])
                for known in fields(Training)
            )
        )
        lowest = model.transform(observable.name, observable.floor)
        past, outcome = np.concatenate([of[row] for (_, _, of), row in zip(batches, rows, strict=True)])[
            ~training.censored
        ].T
        layer = learn(training, lowest=lowest, growth=growth, progress=progress)
        layers[observable.name] = {
            **replace(layer, decimals=learn_decimals(past, outcome)).to_dict(),
            "features": list(feature_names(model, operator)),
        }
    return {"observables": layers}


def _training(
    bound: BoundModel, origins: Sequence[Origin]
) -> tuple[Training, NDArray[np.int64], NDArray[np.int64]]:
    """What was predicted at some origins and what came of it; by row the operator, and decimals before and then."""
    raw = predict_raw(bound, origins, target_times(origins))
    outcome = np.array([o.series.level[j] for o in origins for j in o.targets], dtype=np.float64)
    censored = np.array([o.series.kind[j] != "none" for o in origins for j in o.targets], dtype=np.bool_)
    patient = np.array([o.twin_id for o in origins], dtype=np.str_)[raw.origin]
    training = Training(raw.features, raw.mean, raw.variance, raw.last, raw.regimen, outcome, censored, patient)
    written = np.array([decimals(o.series.value[j]) for o in origins for j in o.targets], dtype=np.int64)
    return training, raw.operator, np.column_stack([raw.decimals, written])
