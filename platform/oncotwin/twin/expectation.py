"""What a live twin expects next: forecasts from its last event on, of everything that was observed of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from oncotwin.domain.errors import ModelError
from oncotwin.twin.fold import Binding
from oncotwin.twin.forecasting import forecast
from oncotwin.twin.quantiles import COLUMNS
from oncotwin.twin.replay import Belief
from oncotwin.twin.timeline import moment

HORIZONS_DAYS = (28.0, 56.0, 84.0)
"""Standard horizons of exported forecasts: one, two and three months of four weeks."""

_SECOND = 1.0 / 86_400.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """One forecast of a live twin.

    Attributes:
        origin_time: just after the last event known.
        horizon_days: from the last observation of the series.
        quantiles: ``q01``, ``q05`` ... ``q99`` in ``unit``.
    """

    observable: str
    target: str
    unit: str
    origin_time: datetime
    target_time: datetime
    horizon_days: float
    quantiles: dict[str, float]


def live_forecasts(
    binding: Binding, belief: Belief, times: Sequence[float] | None = None
) -> list[Expectation]:
    """Forecast every observed series of a twin.

    Args:
        times: days since 1970-01-01, ascending; `HORIZONS_DAYS` after the last event where not given.
    Raises:
        ModelError: a time lies before the twin's last event.
    """
    owners = binding.observables()
    found: list[Expectation] = []
    for (observable, target), (last, _, _) in sorted(belief.state.last_observed.items()):
        bound = owners.get(observable)
        if bound is None or bound.model.name not in belief.state.parts:
            continue
        part = belief.state.parts[bound.model.name]
        wanted = [part.time + horizon for horizon in HORIZONS_DAYS] if times is None else list(times)
        if wanted[0] < part.time:
            raise ModelError(
                f"{moment(wanted[0]):%Y-%m-%d} lies before the last event of {belief.state.twin_id} "
                f"({moment(part.time):%Y-%m-%d}); ask for later times, or `oncotwin twin --as-of` for the past"
            )
        known = next(o for o in bound.model.observables if o.name == observable)
        # Just after the last event, so that it is strictly before the origin.
        origin = part.time + _SECOND
        values = forecast(
            bound, part, belief.items, observable, target if known.per_target else "", origin, wanted
        )
        for time, row in zip(wanted, values, strict=True):
            quantiles = {name: float(q) for name, q in zip(COLUMNS, row, strict=True)}
            found.append(
                Expectation(observable, target, known.unit, moment(origin), moment(time), time - last, quantiles)
            )
    return found
