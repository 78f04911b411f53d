"""What was seen of a patient before a moment, as numbers that the learned layer of a forecast reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Treatment
from oncotwin.models.base import TumourModel
from oncotwin.models.therapy import Therapy
from oncotwin.twin.recording import COARSEST, UNROUNDED, decimals
from oncotwin.twin.timeline import Item, days, therapy_after

Array = NDArray[np.float64]

SERIES_FEATURES = (
    "n", "last", "step_1", "gap_1", "step_2", "gap_2", "step_3", "gap_3", "slope_1", "slope_4", "since_first",
    "days_since_first", "above_lowest", "days_since_lowest", "below_highest", "days_since_highest", "last_censored",
    "roughness", "mean_gap",
)
PHASE_FEATURES = (
    "on", "days_in_phase", "n_phases", "last_at_switch", "above_phase_lowest", "below_phase_highest", "n_in_phase",
    "previous_on_lowest", "previous_off_highest", "previous_same_days", "analogue_step", "same_phase_then",
)
OTHER_FEATURES = ("other_last", "other_age", "other_step")

_NOTHING = float("nan")


@dataclass(frozen=True, slots=True)
class Series:
    """Evaluable observations of one observable of one target, in fold order.

    Attributes:
        time: days since 1970-01-01, not decreasing.
        level: in observation scale; the bound of a censored value, the middle of an interval.
        value: in the observable's unit, likewise.
        kind: censoring of each.
        low, limit: measured value or lower end of an interval, and bound of a censored value; NaN where there is none.
        decimals: most decimals of the measured values up to each; `recording.UNROUNDED` before the first.
    """

    time: tuple[float, ...]
    level: tuple[float, ...]
    value: tuple[float, ...]
    kind: tuple[str, ...]
    low: tuple[float, ...]
    limit: tuple[float, ...]
    decimals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class History:
    """One patient's past as one model sees it.

    Attributes:
        series: by (operator, target).
        switches: (days, whether treated from then on), in order of time; empty while nothing was given.
        therapies: after each treatment event: its time (days), how many of ``switches`` it and those before it made,
            and the therapy in force. An end that was known beforehand becomes a switch when its time has come.
    """

    series: dict[tuple[int, str], Series]
    switches: tuple[tuple[float, bool], ...]
    therapies: tuple[tuple[float, int, Therapy], ...]

    def switches_before(self, before: float) -> list[tuple[float, bool]]:
        """Switches that had happened and were known strictly before a moment (days)."""
        n = bisect_left(self.therapies, before, key=lambda entry: entry[0])
        if n == 0:
            return []
        _, n_switches, therapy = self.therapies[n - 1]
        known = list(self.switches[:n_switches])
        now = therapy.at(before)
        if now.on != therapy.on and now.switched is not None:
            known.append((now.switched, now.on))
        return known


def history(model: TumourModel, items: Sequence[Item]) -> History:
    """Collect a patient's items, in fold order, for one model; what does not move it (`plan_steps`) is left out."""
    operators = {observable.name: index for index, observable in enumerate(model.observables)}
    found: dict[tuple[int, str], list[tuple[float, float, float, str, float, float]]] = {}
    therapy = Therapy()
    switches: list[tuple[float, bool]] = []
    therapies: list[tuple[float, int, Therapy]] = []
    lesions = False
    for item in items:
        now = days(item.header.time)
        if isinstance(item, Treatment):
            before = therapy.at(now)
            if before.on != therapy.on and before.switched is not None:
                switches.append((before.switched, before.on))
            therapy = therapy_after(therapy, item)
            if therapy.on != before.on:
                switches.append((now, therapy.on))
            therapies.append((now, len(switches), therapy))
        elif isinstance(item, Observation) and item.censoring != "not_evaluable":
            operator = operators.get(item.observable)
            if operator is None:
                continue
            observed = model.observables[operator]
            if observed.of_all_targets and not lesions:
                continue
            lesions = lesions or observed.per_target
            name = item.observable
            low = _NOTHING if item.value is None else item.value
            limit = _NOTHING if item.limit is None else item.limit
            if item.censoring == "none":
                value, level = low, model.transform(name, low)
            elif item.censoring == "interval":
                level = 0.5 * (model.transform(name, low) + model.transform(name, limit))
                value = float(model.inverse(name, np.array([level]))[0])
            else:
                value, level = limit, model.transform(name, limit)
            target = item.target if observed.per_target else ""
            found.setdefault((operator, target), []).append((now, level, value, item.censoring, low, limit))
    series = {}
    for key, rows in found.items():
        series[key] = Series(
            tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows),
            tuple(r[3] for r in rows), tuple(r[4] for r in rows), tuple(r[5] for r in rows),
            _decimals([r[4] for r in rows if r[3] == "none"], [r[3] == "none" for r in rows]),
        )
    return History(series, tuple(switches), tuple(therapies))


def _decimals(values: Sequence[float], measured: Sequence[bool]) -> tuple[int, ...]:
    """Most decimals so far at each observation; ``values`` are those of the measured ones, in order."""
    found: list[int] = []
    most, n = COARSEST, 0
    for one in measured:
        if one:
            most, n = max(most, decimals(values[n])), n + 1
        found.append(most if n else UNROUNDED)
    return tuple(found)


def describe(past: History, operator: int, target: str, before: float) -> list[float]:
    """`SERIES_FEATURES` and `PHASE_FEATURES` of one series, from what lies strictly before a moment (days).

    The series must have at least one observation before it.
    """
    series = past.series[operator, target]
    n = bisect_left(series.time, before)
    time, level = series.time[:n], series.level[:n]
    t, y = time[-1], level[-1]
    steps: list[float] = []
    for back in (1, 2, 3):
        if n > back:
            steps += [level[-back] - level[-back - 1], time[-back] - time[-back - 1]]
        else:
            steps += [_NOTHING, _NOTHING]
    slope_1 = steps[0] / max(steps[1], 1.0) if n > 1 else _NOTHING
    recent_t, recent_y = time[-4:], level[-4:]
    slope_4 = roughness = _NOTHING
    if n > 2:
        mean_t, mean_y = sum(recent_t) / len(recent_t), sum(recent_y) / len(recent_y)
        spread = sum((a - mean_t) ** 2 for a in recent_t)
        if spread > 0.0:
            slope_4 = sum((a - mean_t) * (b - mean_y) for a, b in zip(recent_t, recent_y, strict=True)) / spread
            roughness = sum(
                abs(b - mean_y - slope_4 * (a - mean_t)) for a, b in zip(recent_t, recent_y, strict=True)
            ) / len(recent_t)
    lowest, highest = min(level), max(level)
    at_lowest, at_highest = n - 1 - level[::-1].index(lowest), n - 1 - level[::-1].index(highest)
    return [
        float(n), y, *steps, slope_1, slope_4, y - level[0], t - time[0], y - lowest, t - time[at_lowest],
        highest - y, t - time[at_highest], float(series.kind[n - 1] != "none"), roughness,
        (t - time[0]) / (n - 1) if n > 1 else _NOTHING,
        *_phases(past.switches_before(before), time, level),
    ]


def _phases(switches: Sequence[tuple[float, bool]], time: Sequence[float], level: Sequence[float]) -> list[float]:
    """`PHASE_FEATURES`: where the series stands in the present spell with or without treatment."""
    n_switches = len(switches)
    t, y = time[-1], level[-1]
    if n_switches == 0:
        return [0.0, t - time[0], 0.0, _NOTHING, y - min(level), max(level) - y, float(len(level)), *([_NOTHING] * 5)]
    since, on = switches[n_switches - 1]
    first = bisect_left(time, since)
    inside = level[first:]
    at_switch = level[first - 1] if first > 0 else level[0]
    previous_on = previous_off = previous_days = analogue = then = _NOTHING
    for k in range(n_switches - 1):
        begin, was_on = switches[k]
        end = switches[k + 1][0]
        i, j = bisect_left(time, begin), bisect_left(time, end)
        if j <= i:
            continue
        if was_on:
            previous_on = min(level[i:j])
        else:
            previous_off = max(level[i:j])
        if was_on == on:
            previous_days = end - begin
            # The same point of an earlier phase of the same kind, and what came next there.
            at = i + bisect_left(time[i:j], begin + (t - since))
            if at < j:
                then = level[at]
                analogue = level[min(at + 1, len(level) - 1)] - level[at]
    return [
        float(on), t - since, float(n_switches), y - at_switch, y - min(inside) if inside else 0.0,
        max(inside) - y if inside else 0.0, float(len(inside)), previous_on, previous_off, previous_days, analogue,
        then,
    ]


def describe_others(past: History, operator: int, n_operators: int, before: float) -> list[float]:
    """`OTHER_FEATURES` of each other observable of the model, its targets taken together."""
    found: list[float] = []
    for other in range(n_operators):
        if other == operator:
            continue
        latest: tuple[float, float, float] | None = None
        for (which, _), series in past.series.items():
            n = bisect_left(series.time, before)
            if which == other and n > 0:
                step = series.level[n - 1] - series.level[n - 2] if n > 1 else _NOTHING
                if latest is None or series.time[n - 1] > latest[0]:
                    latest = (series.time[n - 1], series.level[n - 1], step)
        found += [_NOTHING] * 3 if latest is None else [latest[1], before - latest[0], latest[2]]
    return found
