"""Simulated patients: drawn from a model's prior, moved by its dynamics and noise, seen through its operators.

A simulated patient passes through the same steps that a filter folds, so that simulation and inference agree on when
treatment, targets and process noise act. What is well specified by construction tells whether limits and intervals
keep their promises; a change of the truth at one moment (`Onset`) tells whether the change is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.header import EventHeader
from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Action, Treatment
from oncotwin.filters.steps import Operation
from oncotwin.models.base import Hyperparameters, TumourModel
from oncotwin.twin.timeline import Cursor, Item, Step, days, moment, plan_steps

Array = NDArray[np.float64]

SOURCE = "urn:oncotwin:simulation"
START = days(datetime(2020, 1, 1, tzinfo=UTC))
"""Day of a course's first event."""


@dataclass(frozen=True, slots=True)
class Course:
    """When a simulated patient is seen and treated; times in days from the start.

    Attributes:
        observables: by name, measured at each of ``visits``; on every target where they belong to targets.
        treatments: (time, action, agent) of treatment events.
        targets: lesion ids; "" alone where the model has none.
        limits: by observable, the smallest value (canonical unit) that the assay tells from zero.
    """

    observables: tuple[str, ...]
    visits: tuple[float, ...]
    treatments: tuple[tuple[float, Action, str], ...] = ()
    targets: tuple[str, ...] = ("",)
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Onset:
    """A change of the truth right after one moment: ``change`` takes the components and returns the new ones.

    Attributes:
        time: days from the course's start.
        change: from components (n,) to components (n,); must not write to its argument.
    """

    time: float
    change: Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class SimulatedPatient:
    """A patient's events, steps and truth.

    Attributes:
        items: as the journal would hold them; simulated values in canonical unit.
        steps: what a filter folds, with the simulated values in observation scale.
        cursor: where the patient stands after the last item.
        truth: (n_steps, n) components at each step, NaN where not yet active; read-only.
    """

    items: tuple[Item, ...]
    steps: tuple[Step, ...]
    cursor: Cursor
    truth: Array


def _header(time: float, name: str) -> EventHeader:
    when = moment(time)
    return EventHeader(
        source=SOURCE, event_id=name, kind="simulated", institution="simulated", patient="p", time=when,
        time_precision="instant", recorded_at=when, sequence=None, status="final", content_hash="", traceparent=None,
    )


def _items(model: TumourModel, course: Course) -> list[Item]:
    """The course's events in fold order, with placeholders for what is to be observed."""
    known = {observable.name: observable for observable in model.observables}
    items: list[Item] = []
    for n, (time, action, agent) in enumerate(course.treatments):
        header = _header(START + time, f"a{n:04d}")
        items.append(Treatment(header, agent, action, None, None, None, header.time, None, None))
    for n, time in enumerate(course.visits):
        for name in course.observables:
            targets = course.targets if known[name].per_target else ("",)
            for target in targets:
                header = _header(START + time, f"v{n:04d}-{name}-{target}")
                items.append(Observation(header, name, target, 1.0, known[name].unit))
    return sorted(items, key=lambda item: (item.header.time, item.header.event_id))


def simulate(
    model: TumourModel, hyper: Hyperparameters, course: Course, rng: np.random.Generator, onset: Onset | None = None
) -> SimulatedPatient:
    """Draw one patient from the prior and follow it through a course.

    Args:
        rng: of this patient alone, so that patients do not depend on how many were drawn before.
    """
    items = _items(model, course)
    planned, cursor = plan_steps(model, hyper, Cursor(), items, list(range(len(items))))
    mean, covariance = model.prior(hyper)
    member = np.asarray(rng.multivariate_normal(mean, covariance, method="eigh"))
    constants = model.constants(hyper)
    n_shared, n_per_target = len(model.shared), len(model.per_target)
    variance = model.process_variance(hyper, len(cursor.targets))
    n = n_shared + len(cursor.targets) * n_per_target
    truth = np.full((len(planned), n), np.nan)
    steps: list[Step] = []
    time = planned[0].time if planned else 0.0
    pair = np.zeros(2)
    pending = onset
    for row, step in enumerate(planned):
        if step.time > time:
            if pending is not None and time >= START + pending.time:
                member, pending = np.array(pending.change(member)), None
            moved = np.empty_like(member)
            model.propagate(member, time, step.time, np.array(step.inputs), constants, moved)
            spread = np.sqrt(variance[: len(member)] * (step.time - time))
            member, time = moved + spread * rng.standard_normal(len(member)), step.time
        for reset in step.resets:
            if reset.component >= len(member):
                member = np.append(member, np.zeros(reset.component + 1 - len(member)))
            member[reset.component] = reset.mean + math.sqrt(reset.variance) * rng.standard_normal()
        truth[row, : len(member)] = member
        if step.operation == Operation.OBSERVE:
            model.observe(member, step.operator, step.target, constants, pair)
            seen = pair[0] + math.sqrt(pair[1]) * rng.standard_normal()
            step, items[step.event] = _seen(model, step, items[step.event], float(seen), course)
        steps.append(step)
    truth.flags.writeable = False
    return SimulatedPatient(tuple(items), tuple(steps), cursor, truth)


def _seen(model: TumourModel, step: Step, item: Item, value: float, course: Course) -> tuple[Step, Item]:
    """A step and its event with what was seen, censored where it lies under the assay's limit."""
    assert isinstance(item, Observation)
    name = item.observable
    limit = course.limits.get(name)
    if limit is not None and value < model.transform(name, limit):
        return (
            replace(step, operation=Operation.BELOW, value=model.transform(name, limit)),
            replace(item, value=None, censoring="left", limit=limit),
        )
    natural = float(model.inverse(name, np.array([value]))[0])
    return replace(step, value=value), replace(item, value=natural)


def simulate_many(
    model: TumourModel, hyper: Hyperparameters, courses: Sequence[Course], seed: int,
    onsets: Sequence[Onset | None] | None = None,
) -> list[SimulatedPatient]:
    """One patient for each course; patient ``i`` is the same whatever comes before it."""
    chosen = [None] * len(courses) if onsets is None else onsets
    return [
        simulate(model, hyper, course, np.random.default_rng([seed, i]), onset)
        for i, (course, onset) in enumerate(zip(courses, chosen, strict=True))
    ]
