"""Rolling origins: what every twin knew after each observation, and what came later."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from oncotwin.domain.ids import TwinId
from oncotwin.twin.fold import BoundModel, batch_size, run_parts
from oncotwin.twin.history import History, Series, history
from oncotwin.twin.journal import event_seed, twin_seed
from oncotwin.twin.state import PartState
from oncotwin.twin.timeline import Cursor, Item, Step, days, plan_steps

AFTER_OBSERVATION = timedelta(seconds=1)
"""An origin lies this long after its observation: what has the observation's own time is strictly before it."""

MAX_VISITS_AHEAD = 3

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

    All twins are folded once, with a stop at each origin; an origin takes the state after the last step before it, so
    that it is the same as of a twin that has seen nothing more.

    Args:
        items_by_twin: of each twin the items in fold order.
        with_targets_only: leave out origins that nothing follows.
    """
    return [
        origin
        for some in origins_by_batch(bound, items_by_twin, with_targets_only=with_targets_only, progress=progress)
        for origin in some
    ]


def origins_by_batch(
    bound: BoundModel, items_by_twin: Mapping[TwinId, Sequence[Item]], *, with_targets_only: bool = True,
    progress: Progress = silent,
) -> Iterator[list[Origin]]:
    """The same, some twins at a time: where a state has thousands of members all origins do not fit in memory."""
    names = list(items_by_twin)
    size = batch_size(bound)
    for begin in range(0, len(names), size):
        chosen = names[begin : begin + size]
        yield _origins(bound, {name: items_by_twin[name] for name in chosen}, with_targets_only)
        progress("folding", min(1.0, (begin + size) / max(len(names), 1)))


def _origins(
    bound: BoundModel, items_by_twin: Mapping[TwinId, Sequence[Item]], with_targets_only: bool
) -> list[Origin]:
    # Of each twin: origin time (days) -> the origin's own moment, the steps since the origin before it, cursor there.
    known: list[dict[float, tuple[float, list[Step], Cursor]]] = []
    pasts: list[History] = []
    for twin_id, items in items_by_twin.items():
        past = history(bound.model, items)
        known.append(_plan_with_stops(bound, twin_id, items, past))
        pasts.append(past)
    parts = _parts_at_stops(bound, list(items_by_twin), known)
    found: list[Origin] = []
    for twin_id, moments, past, part in zip(items_by_twin, known, pasts, parts, strict=True):
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
                        twin_id, operator, target, time, before, bisect_left(series.time, before), part[time], past,
                        tuple(last_of[v] for v in later[:MAX_VISITS_AHEAD]),
                    )
                )
    return found


def _parts_at_stops(
    bound: BoundModel, names: Sequence[TwinId], known: Sequence[Mapping[float, tuple[float, list[Step], Cursor]]]
) -> list[dict[float, PartState]]:
    """State of each twin at each of its stops: all twins go on to their next one together."""
    parts: list[dict[float, PartState]] = [{} for _ in names]
    seeds = [twin_seed(name) for name in names]
    last: list[PartState | None] = [None] * len(names)
    ways = [list(stops.items()) for stops in known]
    for turn in range(max((len(way) for way in ways), default=0)):
        going = [i for i, way in enumerate(ways) if turn < len(way)]
        stops = [ways[i][turn] for i in going]
        state, _ = run_parts(
            bound, [last[i] for i in going], [steps for _, (_, steps, _) in stops],
            keys=[seeds[i] for i in going], record=False,
        )
        for row, (i, (time, (_, _, cursor))) in enumerate(zip(going, stops, strict=True)):
            parts[i][time] = last[i] = PartState(cursor, bound.filter.cut(state, row))
    return parts


def _plan_with_stops(
    bound: BoundModel, twin_id: TwinId, items: Sequence[Item], past: History
) -> dict[float, tuple[float, list[Step], Cursor]]:
    """For each time of an observation, in order: the origin after it, the steps up to there, the cursor."""
    wanted = {time for series in past.series.values() for time in series.time}
    moments = {days(item.header.time): days(item.header.time + AFTER_OBSERVATION) for item in items}
    times = [days(item.header.time) for item in items]
    seeds = [event_seed(twin_id, item.header.key) for item in items]
    cuts = sorted({(moments[time], time) for time in wanted})
    stops: dict[float, tuple[float, list[Step], Cursor]] = {}
    cursor, done = Cursor(), 0
    for before, time in cuts:
        upto = bisect_left(times, before)
        steps, cursor = plan_steps(bound.model, bound.hyper, cursor, items[done:upto], seeds[done:upto])
        done = upto
        stops[time] = (before, steps, cursor)
    return stops
