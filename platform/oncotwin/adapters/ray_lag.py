"""The lag as a metric of Ray's, without a label: it concerns no patient."""

from __future__ import annotations

from collections.abc import Callable

from ray.util.metrics import Gauge


def lag_gauge() -> Callable[[int], None]:
    """Sets the metric ``oncotwin_lag``."""
    gauge = Gauge("oncotwin_lag", "Events in the log that are not committed")
    return lambda lag: gauge.set(lag)
