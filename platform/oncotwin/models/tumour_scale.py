"""The scales of a population's tumours, read off its series before any model is fitted to them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Plan, Treatment

LOG_SPHERE = math.log(math.pi / 6.0)
"""Logarithm of a ball's volume over its diameter cubed."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a standard normal variable."""
_FEWEST_SERIES = 5
_FROM_FAST = 0.7
"""Typical growth rate over the upper quartile of slopes, as it was found on lesions (0.5) and xenografts (0.9)."""
_HEADROOM = 2.0
"""The carrying capacity is sought this far (log volume) above the largest tumours seen."""


def log_volumes(
    series: Sequence[Sequence[Observation | Treatment | Plan]], floors: Mapping[str, float]
) -> list[list[tuple[float, float]]]:
    """(day, log mm3) of every measured diameter or volume, one list for each lesion with at least two days.

    Args:
        floors: by observable, size (mm or mm3) below which none is told apart.
    """
    found: list[list[tuple[float, float]]] = []
    for items in series:
        lesions: dict[str, dict[float, float]] = defaultdict(dict)
        for item in items:
            if not isinstance(item, Observation) or item.censoring != "none" or item.value is None:
                continue
            if item.observable not in floors:
                continue
            size = math.log(max(item.value, floors[item.observable]))
            volume = size if item.observable == "volume" else 3.0 * size + LOG_SPHERE
            lesions[item.target][(item.header.time - _EPOCH) / _DAY] = volume
        found.extend(sorted(lesion.items()) for lesion in lesions.values() if len(lesion) > 1)
    return found


def on_scale_of(
    series: Sequence[Sequence[Observation | Treatment | Plan]], floors: Mapping[str, float], hyper: Mapping[str, Any]
) -> dict[str, Any]:
    """Hyperparameters of the tumour-burden model on the scale of these series; few series leave them as they are."""
    lesions = log_volumes(series, floors)
    adapted = dict(hyper)
    if len(lesions) < _FEWEST_SERIES:
        return adapted
    first = np.array([lesion[0][1] for lesion in lesions])
    every = np.array([volume for lesion in lesions for _, volume in lesion])
    slopes = np.array([(b[1] - a[1]) / (b[0] - a[0]) for a, b in ((le[0], le[-1]) for le in lesions)])
    days = np.concatenate([np.diff([day for day, _ in lesion]) for lesion in lesions])
    steps = np.abs(np.concatenate([np.diff([volume for _, volume in lesion]) for lesion in lesions]))
    gap = float(np.median(days))
    middle, fast = (float(q) for q in np.quantile(slopes, [0.5, 0.75]))
    # Over a whole series even the fast quarter is held back by saturation or by a drug, or sped up by chance.
    growth = float(np.clip(_FROM_FAST * fast, 0.02 / gap, 0.3))
    jitter = float(np.median(steps)) / _NORMAL_MEDIAN / math.sqrt(gap)
    quartiles = np.quantile(first, [0.25, 0.75])
    adapted["log_reference"] = round(float(np.median(every)), 2)
    adapted["log_capacity"] = round(float(np.quantile(every, 0.975)) + _HEADROOM, 2)
    adapted["log_volume"] = {
        "mean": round(float(np.median(first)), 2), "sd": round(max(1.0, float(quartiles[1] - quartiles[0])), 2)
    }
    adapted["growth_rate"] = {"median": round(growth, 6), "spread": hyper["growth_rate"]["spread"]}
    adapted["log_kill"] = {
        "mean": round(math.log(max(fast - middle, 0.25 * growth)), 2), "sd": hyper["log_kill"]["sd"]
    }
    adapted["drift"] = {
        "log_growth": round(0.2 / math.sqrt(gap), 4), "log_kill": round(0.1 / math.sqrt(gap), 4),
        "log_volume": round(float(np.clip(jitter, 0.005, 0.2)), 4),
    }
    return adapted
