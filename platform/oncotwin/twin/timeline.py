"""From a patient's events to the steps that a filter folds: where treatment, time and observation meet a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Plan, PlannedItem, Treatment
from oncotwin.filters.steps import Operation, StepTable
from oncotwin.models.base import Hyperparameters, Reset, TumourModel
from oncotwin.models.spatial_observation import SpatialModel, on_scale
from oncotwin.models.therapy import Therapy

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)

Item = Observation | Treatment | Plan
"""What moves a twin; everything else in the journal is kept and shown."""


def days(moment: datetime) -> float:
    """Days since 1970-01-01 UTC of an aware datetime; the quotient of whole microseconds, so it is reproducible."""
    return (moment - _EPOCH) / _DAY


def moment(time_days: float) -> datetime:
    """The aware datetime (UTC) nearest to a number of days since 1970-01-01."""
    return _EPOCH + timedelta(microseconds=round(time_days * 86_400_000_000))


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a twin's step table before batching; see `StepTable` for the fields.

    Attributes:
        event: index of the item that caused the step among the items planned together; -1 for passing time only.
    """

    time: float
    operation: int
    inputs: tuple[float, ...]
    operator: int = 0
    target: int = 0
    value: float = 0.0
    upper: float = 0.0
    resets: tuple[Reset, ...] = ()
    key: int = 0
    event: int = -1


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a twin stands in its events: the part of its state that is no probability.

    Attributes:
        therapy: in force at ``time``.
        plan: the latest ordered schedule (`treatment.planned`), replaced as a whole by the next.
        planned_at: when the plan was made (days), None without one.
        targets: for each model, the lesions met so far, in order of appearance: slot ``i`` of its state.
        started: models that have met one of their observables.
        time: days of the last item, -inf before the first.
    """

    therapy: Therapy = field(default_factory=Therapy)
    plan: tuple[PlannedItem, ...] = ()
    planned_at: float | None = None
    targets: tuple[str, ...] = ()
    started: bool = False
    time: float = -math.inf


def therapy_after(therapy: Therapy, item: Treatment) -> Therapy:
    """The therapy once one treatment event has happened."""
    return therapy.changed(
        item.action, item.agent, days(item.start), until=None if item.stop is None else days(item.stop),
        dose=item.dose, unit=item.unit or "", line=item.line_of_therapy,
    )


def _elapse(
    model: TumourModel, hyper: Hyperparameters, therapy: Therapy, start: float, end: float, steps: list[Step],
    *, forecast: bool = False,
) -> tuple[Therapy, tuple[float, ...]]:
    """Append what happens by itself on (start, end]: ends of agents and changes of input; returns the last inputs."""
    while (stop := therapy.next_stop(start)) is not None and stop <= end:
        for piece in model.segments(therapy, start, stop, hyper, forecast=forecast):
            steps.append(Step(piece.until, Operation.ADVANCE, piece.inputs))
        after = therapy.at(stop)
        resets = tuple(model.therapy_resets(therapy, after, stop, hyper))
        if resets:
            steps.append(Step(stop, Operation.RESET, (0.0,) * model.n_inputs, resets=resets))
        therapy, start = after, stop
    pieces = model.segments(therapy, start, end, hyper, forecast=forecast)
    for piece in pieces[:-1]:
        steps.append(Step(piece.until, Operation.ADVANCE, piece.inputs))
    return therapy, pieces[-1].inputs


def _observation(item: Observation, transform: Callable[[str, float], float]) -> tuple[int, float, float]:
    """Operation and values (observation scale, by `transform`) of one observation."""
    name = item.observable
    match item.censoring:
        case "none":
            assert item.value is not None
            return Operation.OBSERVE, transform(name, item.value), 0.0
        case "left":
            assert item.limit is not None
            return Operation.BELOW, transform(name, item.limit), 0.0
        case "right":
            assert item.limit is not None
            return Operation.ABOVE, transform(name, item.limit), 0.0
        case "interval":
            assert item.value is not None and item.limit is not None
            return Operation.BETWEEN, transform(name, item.value), transform(name, item.limit)
        case _:
            return Operation.ADVANCE, 0.0, 0.0


def _of_section(
    model: SpatialModel, item: Observation, therapy: Therapy, now: float, hyper: Hyperparameters,
    inputs: tuple[float, ...], key: int, index: int,
) -> Step:
    """Step of an observation read off a section; one that says nothing now only passes time."""
    operator = model.spatial_operator(item, therapy, now, hyper)
    if operator is None:
        return Step(now, Operation.ADVANCE, inputs, key=key)
    operation, value, upper = _observation(item, on_scale)
    return Step(now, operation, inputs, operator, 0, value, upper, (), key, index)


def plan_steps(
    model: TumourModel, hyper: Hyperparameters, cursor: Cursor, items: Sequence[Item], keys: Sequence[int]
) -> tuple[list[Step], Cursor]:
    """Steps of one twin for items in fold order (clinical time, then source and id), and where it stands after them.

    The steps begin at the first observation that the model knows; treatment before that is remembered, not simulated.
    What is of all lesions together (their sum) moves nothing before the first lesion is known.

    Args:
        items: not before ``cursor.time``.
        keys: (len(items),) 64-bit seeds, from (twin, event).
    """
    operators = {observable.name: index for index, observable in enumerate(model.observables)}
    n_shared, n_per_target = len(model.shared), len(model.per_target)
    steps: list[Step] = []
    therapy, targets, started, time = cursor.therapy, list(cursor.targets), cursor.started, cursor.time
    plan, planned_at = cursor.plan, cursor.planned_at
    for index, (item, key) in enumerate(zip(items, keys, strict=True)):
        now = days(item.header.time)
        if isinstance(item, Plan):
            plan, planned_at = item.items, now
            continue
        if isinstance(item, Treatment):
            if started:
                therapy, inputs = _elapse(model, hyper, therapy, time, now, steps)
                steps.append(Step(now, Operation.ADVANCE, inputs, key=key))
                time = now
            after = therapy_after(therapy, item)
            resets = tuple(model.therapy_resets(therapy, after, now, hyper)) if started else ()
            if resets:
                steps.append(Step(now, Operation.RESET, inputs, resets=resets, key=key, event=index))
            therapy = after
            continue
        if item.evidence is not None:
            # A section corrects what is believed of a tumour that is followed; by itself it begins no twin.
            if started and isinstance(model, SpatialModel) and item.observable in model.spatial:
                therapy, inputs = _elapse(model, hyper, therapy, time, now, steps)
                steps.append(_of_section(model, item, therapy, now, hyper, inputs, key, index))
                time = now
            continue
        operator = operators.get(item.observable)
        if operator is None or (item.censoring == "not_evaluable" and not started):
            continue
        if model.observables[operator].of_all_targets and not targets:
            continue
        if not started:
            therapy = therapy.at(now)
            resets = tuple(model.therapy_resets(Therapy(), therapy, now, hyper)) if therapy.on else ()
            if resets:
                steps.append(Step(now, Operation.RESET, (0.0,) * model.n_inputs, resets=resets, key=key))
            started, time = True, now
        therapy, inputs = _elapse(model, hyper, therapy, time, now, steps)
        time = now
        slot = 0
        if model.observables[operator].per_target:
            if item.target not in targets:
                first = n_shared + len(targets) * n_per_target
                fresh = tuple(
                    Reset(first + j, float(mean), float(variance))
                    for j, (mean, variance) in enumerate(model.target_prior(hyper))
                )
                targets.append(item.target)
                steps.append(Step(now, Operation.RESET, inputs, resets=fresh, key=key))
            slot = targets.index(item.target)
        operation, value, upper = _observation(item, model.transform)
        steps.append(Step(now, operation, inputs, operator, slot, value, upper, (), key, index))
    last = days(items[-1].header.time) if items else cursor.time
    if started:
        last = max(last, time)
    return steps, Cursor(therapy, plan, planned_at, tuple(targets), started, time if started else last)


def forecast_steps(
    model: TumourModel, hyper: Hyperparameters, cursor: Cursor, wanted: Sequence[tuple[float, int, int]], key: int = 0
) -> list[Step]:
    """PREDICT steps from the cursor's time on, under the therapy in force and the plan, if there is one.

    Args:
        wanted: (time in days, operator, target slot) in order of time, none before ``cursor.time``.
    """
    steps: list[Step] = []
    therapy, time = cursor.therapy, cursor.time
    changes = sorted(_planned_changes(cursor), key=lambda change: change[0])
    for when, operator, slot in wanted:
        while changes and changes[0][0] <= when:
            at, item, action = changes.pop(0)
            therapy, inputs = _elapse(model, hyper, therapy, time, at, steps, forecast=True)
            steps.append(Step(at, Operation.ADVANCE, inputs, key=key))
            after = therapy.changed(
                action, item.agent, at, until=None, dose=item.dose, unit=item.unit or "", line=None
            )
            resets = tuple(model.therapy_resets(therapy, after, at, hyper))
            if resets:
                steps.append(Step(at, Operation.RESET, inputs, resets=resets, key=key))
            therapy, time = after, at
        therapy, inputs = _elapse(model, hyper, therapy, time, when, steps, forecast=True)
        steps.append(Step(when, Operation.PREDICT, inputs, operator, slot, key=key, event=len(steps)))
        time = when
    return steps


def _planned_changes(cursor: Cursor) -> Iterable[tuple[float, PlannedItem, str]]:
    """Begin and end of each planned item that lies after the cursor's time."""
    for item in cursor.plan:
        start = days(item.start)
        if start > cursor.time:
            yield start, item, item.action
        if item.stop is not None and (stop := days(item.stop)) > cursor.time and item.action != "off":
            yield stop, item, "off"


def batch(plans: Sequence[Sequence[Step]], n_inputs: int, capacity: int) -> StepTable:
    """Steps of many twins as one table with ``capacity`` components a twin."""
    flat = [step for plan in plans for step in plan]
    n = len(flat)
    offsets = np.zeros(len(plans) + 1, dtype=np.int64)
    np.cumsum([len(plan) for plan in plans], out=offsets[1:])
    reset_rows = [step.resets for step in flat if step.operation == Operation.RESET]
    resets = np.full((max(len(reset_rows), 1), capacity, 2), np.nan)
    for row, fresh in enumerate(reset_rows):
        for reset in fresh:
            resets[row, reset.component] = reset.mean, reset.variance
    is_reset = np.fromiter((step.operation == Operation.RESET for step in flat), dtype=np.int64, count=n)
    return StepTable(
        offsets=offsets,
        time=np.fromiter((step.time for step in flat), dtype=np.float64, count=n),
        operation=np.fromiter((step.operation for step in flat), dtype=np.int64, count=n),
        operator=np.fromiter((step.operator for step in flat), dtype=np.int64, count=n),
        target=np.fromiter((step.target for step in flat), dtype=np.int64, count=n),
        value=np.fromiter((step.value for step in flat), dtype=np.float64, count=n),
        upper=np.fromiter((step.upper for step in flat), dtype=np.float64, count=n),
        inputs=np.array([step.inputs for step in flat], dtype=np.float64).reshape(n, n_inputs),
        reset=np.where(is_reset == 1, np.cumsum(is_reset) - 1, -1),
        resets=resets,
        keys=np.fromiter((step.key for step in flat), dtype=np.uint64, count=n),
    )


