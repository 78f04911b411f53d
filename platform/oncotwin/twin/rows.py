"""States, estimates and alerts as rows of the store."""

from __future__ import annotations

import math

import orjson

from oncotwin.domain.ids import TwinId
from oncotwin.ports.twin_rows import AlertRow, EstimateRow, SnapshotRow
from oncotwin.twin.drift import Alert
from oncotwin.twin.fold import Estimate
from oncotwin.twin.state import TwinState, digest, to_bytes
from oncotwin.twin.timeline import moment

Z90 = 1.6448536269514722
"""Half-width of the central 90 % interval of a Gaussian, in standard deviations."""


def snapshot_row(state: TwinState) -> SnapshotRow:
    """A state as a snapshot; an empty state stands at the beginning of time."""
    data = to_bytes(state)
    time = state.last[0] if state.last is not None else moment(-719_162.0)
    return SnapshotRow(state.twin_id, time, state.n_folded, state.model_version, data, digest(data))


def estimate_body(estimate: Estimate) -> dict[str, object]:
    """Posterior marginals as JSON: for each component mean, sd and the 5, 50 and 95 % quantiles.

    What was not predicted (the model gave no finite observation) is NaN here and null in the row.
    """
    body: dict[str, object] = {
        "model": estimate.model,
        "components": {
            name: {"mean": mean, "sd": sd, "q05": mean - Z90 * sd, "q50": mean, "q95": mean + Z90 * sd}
            for name, mean, sd in zip(estimate.components, estimate.mean, estimate.sd, strict=True)
        },
    }
    if (seen := estimate.innovation) is not None:
        body["innovation"] = {
            "observable": seen.observable, "target": seen.target, "value": seen.value,
            "predicted_mean": seen.predicted_mean, "predicted_sd": math.sqrt(seen.predicted_variance),
            "censored": seen.censored, "censoring": seen.censoring, "log_likelihood": seen.log_likelihood,
        }
    return body


def estimate_row(twin_id: TwinId, version: str, estimate: Estimate) -> EstimateRow:
    """An estimate as a row."""
    seen = estimate.innovation
    nis = None
    if seen is not None and not seen.censored and math.isfinite(seen.predicted_mean):
        nis = (seen.value - seen.predicted_mean) ** 2 / seen.predicted_variance
    body = orjson.dumps(estimate_body(estimate))
    return EstimateRow(twin_id, moment(estimate.time), *estimate.event, version, body, nis)


def alert_row(twin_id: TwinId, alert: Alert) -> AlertRow:
    """An alert as a row."""
    body = {
        "alert_id": alert.alert_id, "kind": alert.kind, "severity": alert.severity, "observable": alert.observable,
        "target": alert.target, "time": moment(alert.time).isoformat(), "since": moment(alert.since).isoformat(),
        "message": alert.message, "recommended": alert.recommended, "statistic": alert.statistic,
        "threshold": alert.threshold,
    }
    return AlertRow(
        twin_id, alert.alert_id, moment(alert.time), alert.observable, alert.kind, alert.severity, alert.message,
        alert.recommended, moment(alert.since), orjson.dumps(body),
    )
