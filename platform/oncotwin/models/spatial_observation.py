"""Observation operators for what is read off sections and slides: scale, error, and how a model takes it.

Fractions are observed as log-odds, densities as logarithms. The error of one observation has three parts, added as
variances:

- its own: half the width of its 90 % interval on that scale, in standard deviations; an end at nil or one says nothing,
  so the other half counts twice;
- that of the stand-in (`STAND_IN_SD`): a hotspot of a gene set is not the fraction of cells that a drug spares;
- what the model adds (one section is of one lesion, say).

Where the section is out of distribution the whole variance is multiplied by ``(2 distance / limit)^2``: just beyond the
limit of its cohort an observation counts as if its error were twice as large, and further off in proportion.

A model that has a component for one of these names it in its optional attribute ``spatial`` and gives its operator in
`SpatialModel.spatial_operator`. Models without it ignore the observation; it stays in the journal and is shown. Of the
shipped models `tumour_burden` follows the resistant fraction; neither has a component for hypoxia, immune effect or
cell density.

The error of one observation and its days under therapy reach the compiled `observe` inside the operator's number, since
filters hand that number through and know nothing of sections.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from numba import njit, types

from oncotwin.domain.errors import ModelError
from oncotwin.domain.observation import Observation
from oncotwin.domain.units import CELL_DENSITY, HYPOXIC_FRACTION, IMMUNE_EFFECT, RESISTANT_FRACTION
from oncotwin.models.base import Hyperparameters
from oncotwin.models.therapy import Therapy

STAND_IN_SD = {RESISTANT_FRACTION: 1.0, HYPOXIC_FRACTION: 0.7, IMMUNE_EFFECT: 1.0, CELL_DENSITY: 0.3}
"""Standard deviation of the stand-in, log-odds or log: a chosen factor of 2.7, 2, 2.7 in the odds and 1.35 in density.

No data set here has both a section and what it stands for, so none could be fitted."""

EDGE = 1e-3
"""Fractions nearer to nil or one are taken as so near; a section has some thousand cells or spots."""
LEAST_DENSITY = 1.0
"""Per mm2."""

FIRST_OPERATOR = 16
"""Operators from here on are of sections; no model has as many observables of its own."""

_Z90 = 1.6448536269514722
_MOST_INFLATION = 1e6
_LEAST_SD, _SD_STEP, _N_GRADES = 0.01, 1.02, 1024
_LOG_STEP = math.log(_SD_STEP)
_MOST_DAYS = 1 << 15


@runtime_checkable
class SpatialModel(Protocol):
    """A model that follows observables of sections."""

    @property
    def spatial(self) -> tuple[str, ...]:
        """Names of those observables."""
        ...

    def spatial_operator(
        self, item: Observation, therapy: Therapy, time: float, hyper: Hyperparameters
    ) -> int | None:
        """Operator (`operator_code`) for an observation at a time (days) under a therapy; None if it says nothing."""
        ...


def follows(model: object, observable: str) -> bool:
    """Whether a model has a component for an observable of sections."""
    return isinstance(model, SpatialModel) and observable in model.spatial


def on_scale(observable: str, value: float) -> float:
    """Log-odds of a fraction, logarithm of a density; finite for nil and one."""
    if observable == CELL_DENSITY:
        return math.log(max(value, LEAST_DENSITY))
    if observable not in STAND_IN_SD:
        raise ModelError(f"{observable} is not read off sections; {', '.join(STAND_IN_SD)} are")
    kept = min(max(value, EDGE), 1.0 - EDGE)
    return math.log(kept / (1.0 - kept))


def own_sd(item: Observation) -> float:
    """Standard deviation on the observation scale that the interval of an observation stands for.

    Nil for a censored one: its limit is the interval's end.
    """
    if item.evidence is None:
        raise ModelError(f"{item.observable} of {item.header.event_id} brings no interval; send it as spatial.evidence")
    if item.value is None:
        return 0.0
    low, high = item.evidence.low, item.evidence.high
    value, below, above = (on_scale(item.observable, one) for one in (item.value, low, high))
    if low <= 0.0:
        below = 2.0 * value - above
    elif item.unit == "1" and high >= 1.0:
        above = 2.0 * value - below
    return max(above - below, 0.0) / (2.0 * _Z90)


def inflation(item: Observation) -> float:
    """Factor of the variance: one, or more for a section out of distribution."""
    found = item.evidence
    if found is None or not found.out_of_distribution or found.distance is None or found.limit is None:
        return 1.0
    return min(_MOST_INFLATION, (2.0 * found.distance / max(found.limit, 1e-9)) ** 2)


def noise_sd(item: Observation, model_sd: float) -> float:
    """Standard deviation of an observation of a section, on its scale.

    Args:
        model_sd: what the model adds.
    """
    own, stand_in = own_sd(item), STAND_IN_SD[item.observable]
    return math.sqrt(inflation(item) * (own**2 + stand_in**2 + model_sd**2))


def operator_code(index: int, days: float, sd: float) -> int:
    """Number of an operator with its error and its days under therapy.

    Args:
        index: of the observable in the model's ``spatial``, below 16.
        days: rounded to whole ones.
        sd: rounded up to the next of grades 2 % apart, so that no observation is taken as surer than it is.
    """
    grade = math.ceil(math.log(max(sd, _LEAST_SD) / _LEAST_SD) / _LOG_STEP)
    whole = min(max(round(days), 0), _MOST_DAYS - 1)
    return FIRST_OPERATOR + index + 16 * (min(grade, _N_GRADES - 1) + _N_GRADES * whole)


@njit(types.float64(types.int64), cache=True, nogil=True)
def operator_sd(operator: int) -> float:
    """Standard deviation that an operator's number holds."""
    return _LEAST_SD * math.exp(_LOG_STEP * (((operator - FIRST_OPERATOR) // 16) % _N_GRADES))


@njit(types.float64(types.int64), cache=True, nogil=True)
def operator_days(operator: int) -> float:
    """Days under therapy that an operator's number holds."""
    return float((operator - FIRST_OPERATOR) // (16 * _N_GRADES))
