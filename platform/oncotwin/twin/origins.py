"""Rolling origins: what every twin knew after each observation, and what came later."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from oncotwin.domain.ids import TwinId
from oncotwin.twin.fold import BoundModel, run_parts
from oncotwin.twin.history import History, Series, history
from oncotwin.twin.state import PartState
from oncotwin.twin.timeline import Cursor, Item, Step, days, plan_steps

AFTER_OBSERVATION = timedelta(seconds=1)
"""An origin lies this long after its observation: what has the observation's own time is strictly before it."""

MAX_VISITS_AHEAD = 3
CHUNK = 1_024
"""Twins folded at a time: bounds the memory of the recorded posteriors."""

Progress = Callable[[str, float], None]
"""Told what is going on and how much of it is done (0 to 1)."""


def silent(_what: str, _part: float) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True, slots=True)
class Origin:
    """One twin at one moment, seen from one of its series.

    Attributes:
        twin_id: whose.
        operator, target: the series: index of the observable, lesion id ("" for the patient's own).
        time: days of the observation that the origin follows.
        before: days of the origin itself; nothing at or after it is known.
        n_prior: observations of the series before the origin.
        part: state of the model at ``time``.
        past: history that may hold more than is known; readers stop at ``before``.
        targets: indices into the series of what is to be forecast: one for each of the next visits.
    """

    twin_id: TwinId
    operator: int
    target: str
    time: float
    before: float
    n_prior: int
    part: PartState
    past: History
    targets: tuple[int, ...]

    @property
    def series(self) -> Series:
        """The origin's own series."""
        return self.past.series[self.operator, self.target]


def rolling_origins(
    bound: BoundModel, items_by_twin: Mapping[TwinId, Sequence[Item]], *, with_targets_only: bool = True,
    progress: Progress = silent,
) -> list[Origin]:
    """Every origin of every series: after each observation, from the first on.

    All twins are folded once with their posteriors recorded; an origin takes the posterior after the last step before
    it, so that it is the same as of a twin that has seen nothing more.

    Args:
        items_by_twin: of each twin the items in fold order.
        with_targets_only: leave out origins that nothing follows.
    """
    names = list(items_by_twin)
    found: list[Origin] = []
    for begin in range(0, len(names), CHUNK):
        chosen = names[begin : begin + CHUNK]
        found.extend(_origins(bound, {name: items_by_twin[name] for name in chosen}, with_targets_only))
        progress("folding", min(1.0, (begin + CHUNK) / max(len(names), 1)))
    return found


def _origins(
    bound: BoundModel, items_by_twin: Mapping[TwinId, Sequence[Item]], with_targets_only: bool
) -> list[Origin]:
    plans: list[list[Step]] = []
    # Of each twin: origin time (days) -> the origin's own moment, steps done by then, cursor there.
    known: list[dict[float, tuple[float, int, Cursor]]] = []
    pasts: list[History] = []
    for items in items_by_twin.values():
        past = history(bound.model, items)
        plan, moments = _plan_with_stops(bound, items, past)
        plans.append(plan)
        known.append(moments)
        pasts.append(past)
    _, info = run_parts(bound, [None] * len(plans), plans)
    found: list[Origin] = []
    offset = 0
    for twin_id, plan, moments, past in zip(items_by_twin, plans, known, pasts, strict=True):
        parts: dict[float, PartState] = {}
        for time, (_, n_steps, cursor) in moments.items():
            row = offset + n_steps - 1
            n = int(info.n_active[row])
            parts[time] = PartState(
                cursor, plan[n_steps - 1].time,
                {"mean": info.mean[row, :n], "covariance": info.covariance[row, :n, :n]},
            )
        for (operator, target), series in sorted(past.series.items()):
            visits = sorted(set(series.time))
            # Of several values of one visit the last in fold order stands for it.
            last_of = {time: index for index, time in enumerate(series.time)}
            for visit, time in enumerate(visits):
                before = moments[time][0]
                later = [v for v in visits[visit + 1 :] if v >= before]
                if with_targets_only and not later:
                    continue
                found.append(
                    Origin(
                        twin_id, operator, target, time, before, bisect_left(series.time, before), parts[time], past,
                        tuple(last_of[v] for v in later[:MAX_VISITS_AHEAD]),
                    )
                )
        offset += len(plan)
    return found


def _plan_with_stops(
    bound: BoundModel, items: Sequence[Item], past: History
) -> tuple[list[Step], dict[float, tuple[float, int, Cursor]]]:
    """Steps of one twin, and for each time of an observation: the origin after it, steps done by then, the cursor."""
    wanted = {time for series in past.series.values() for time in series.time}
    moments = {days(item.header.time): days(item.header.time + AFTER_OBSERVATION) for item in items}
    times = [days(item.header.time) for item in items]
    cuts = sorted({(moments[time], time) for time in wanted})
    plan: list[Step] = []
    stops: dict[float, tuple[float, int, Cursor]] = {}
    cursor, done = Cursor(), 0
    for before, time in cuts:
        upto = bisect_left(times, before)
        steps, cursor = plan_steps(
            bound.model, bound.hyper, cursor, items[done:upto], range(done, upto)
        )
        plan.extend(steps)
        done = upto
        stops[time] = (before, len(plan), cursor)
    return plan, stops
