"""From a twin's belief to the content of its page, and from many beliefs to the cohort's predictive check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from oncotwin.domain.ids import split_twin_id
from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Treatment
from oncotwin.filters.steps import Operation
from oncotwin.models.base import component_names
from oncotwin.models.therapy import Therapy
from oncotwin.ports.twin_rows import AlertRow
from oncotwin.twin.drift import Alert
from oncotwin.twin.fold import Binding, BoundModel, run_parts
from oncotwin.twin.forecasting import forecast
from oncotwin.twin.journal import event_seed, twin_seed
from oncotwin.twin.quantiles import LEVELS
from oncotwin.twin.replay import Belief
from oncotwin.twin.state import digest, to_bytes
from oncotwin.twin.timeline import Cursor, Step, days, moment, plan_steps, therapy_after
from oncotwin_services.report.content import (
    AlertLine,
    Fan,
    ObservedPoint,
    ParameterLine,
    PatientReport,
    PredictiveCheck,
    SeriesReport,
    TreatmentSpan,
)

Array = NDArray[np.float64]

SHOWN = (0.05, 0.25, 0.5, 0.75, 0.95)
BETWEEN = (0.2, 0.4, 0.6, 0.8, 0.999)
"""Where the band is drawn between two events, as parts of the time between them; the last shows it before the jump."""
SECOND = 1.0 / 86_400.0
STRATA = tuple((i + 0.5) / 20 for i in range(20))
"""Levels at which a predictive check takes values of each predictive distribution."""


@dataclass(frozen=True, slots=True)
class _Path:
    """Gaussian predictions of one series in observation scale, in order of time."""

    time: Array
    mean: Array
    sd: Array

    def fan(self, bound: BoundModel, observable: str, levels: Sequence[float] = SHOWN) -> Fan:
        """As quantiles in the observable's unit."""
        level = self.mean[:, None] + self.sd[:, None] * ndtri(np.array(levels))[None, :]
        values = bound.model.inverse(observable, level)
        return Fan(
            tuple(moment(float(t)) for t in self.time), tuple(levels),
            tuple(tuple(float(v) for v in row) for row in values),
        )


def patient_report(
    binding: Binding, belief: Belief, as_known_at: datetime, superseded: Sequence[AlertRow] = ()
) -> PatientReport:
    """The page of one patient.

    Args:
        superseded: alerts that later events explained; those that stand are in the belief itself.
    """
    state = belief.state
    institution, patient = split_twin_id(state.twin_id)
    owners = binding.observables()
    series = []
    for observable, target in sorted(state.last_observed):
        bound = owners.get(observable)
        if bound is None or bound.model.name not in state.parts:
            points = _points(belief, observable, target)
            series.append(SeriesReport(observable, target, _unit(belief, observable), points))
        else:
            series.append(_series(bound, belief, observable, target))
    return PatientReport(
        institution, patient, state.model_version, state.last[0] if state.last is not None else as_known_at,
        as_known_at, digest(to_bytes(state)), tuple(series), tuple(_spans(belief)),
        (*map(_line, belief.effects.alerts), *map(_superseded_line, superseded)), tuple(_parameters(binding, belief)),
    )


def predictive_check(binding: Binding, beliefs: Sequence[Belief], observable: str) -> PredictiveCheck | None:
    """Observed values beside what the prior alone and what the twins one event before them expected; None without any.

    Censored values are left out, with the predictions of them.
    """
    bound = binding.observables()[observable]
    [known] = [o for o in bound.model.observables if o.name == observable]
    observed: list[float] = []
    before: list[Array] = []
    prior: list[Array] = []
    for belief in beliefs:
        for _, target in sorted(key for key in belief.state.last_observed if key[0] == observable):
            seen = {p.time: p.value for p in _points(belief, observable, target) if p.censoring == "none"}
            for fan, found in (
                (_prior(bound, belief, observable, target).fan(bound, observable, STRATA), prior),
                (_expected(bound, belief, observable, target).fan(bound, observable, STRATA), before),
            ):
                found.extend(np.array(row) for time, row in zip(fan.times, fan.values, strict=True) if time in seen)
            observed.extend(value for value in seen.values() if value is not None)
    if not observed:
        return None
    return PredictiveCheck(
        observable, known.unit, tuple(observed), tuple(np.concatenate(prior).tolist()),
        tuple(np.concatenate(before).tolist()),
    )


def _series(bound: BoundModel, belief: Belief, observable: str, target: str) -> SeriesReport:
    [known] = [o for o in bound.model.observables if o.name == observable]
    points = _points(belief, observable, target)
    part = belief.state.parts[bound.model.name]
    gaps = np.diff([days(point.time) for point in points])
    reach = max(3.0 * float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 0.0, 60.0)
    times = (part.time + np.linspace(0.02, 1.0, 26) * reach).tolist()
    values = forecast(bound, part, belief.items, observable, target, part.time + SECOND, times)
    columns = [int(np.argmin(np.abs(LEVELS - level))) for level in SHOWN]
    sizes = [v for p in points for v in (p.value, p.limit) if v is not None and v > 0.0]
    return SeriesReport(
        observable, target, known.unit, points,
        band=_filtered(bound, belief, observable, target).fan(bound, observable),
        forecast=Fan(
            tuple(moment(t) for t in times), SHOWN, tuple(tuple(float(row[c]) for c in columns) for row in values)
        ),
        prior=_prior(bound, belief, observable, target).fan(bound, observable),
        logarithmic=bool(sizes) and max(sizes) > 15.0 * min(sizes),
    )


def _plan(bound: BoundModel, belief: Belief, observable: str, target: str) -> tuple[list[Step], int, int]:
    """All steps of a twin under one model, and the operator and slot of a series."""
    items = belief.items
    seeds = [event_seed(belief.state.twin_id, item.header.key) for item in items]
    steps, cursor = plan_steps(bound.model, bound.hyper, Cursor(), items, seeds)
    operator = [o.name for o in bound.model.observables].index(observable)
    slot = cursor.targets.index(target) if bound.model.observables[operator].per_target else 0
    return steps, operator, slot


def _predicted(bound: BoundModel, belief: Belief, steps: list[Step]) -> _Path:
    """Run steps from the prior and keep the predictions."""
    _, info = run_parts(bound, [None], [steps], keys=[twin_seed(belief.state.twin_id)], record=False)
    asked = np.array([step.operation == Operation.PREDICT for step in steps], dtype=np.bool_)
    asked &= np.isfinite(info.predicted_mean) & np.isfinite(info.predicted_variance)
    time = np.array([step.time for step in steps])[asked]
    return _Path(time, info.predicted_mean[asked], np.sqrt(info.predicted_variance[asked]))


def _of_series(step: Step, operator: int, slot: int) -> bool:
    """Whether a step observes the series."""
    return step.operation > Operation.PREDICT and step.operation != Operation.RESET and (
        (step.operator, step.target) == (operator, slot)
    )


def _filtered(bound: BoundModel, belief: Belief, observable: str, target: str) -> _Path:
    """What the twin expected of a measurement at every moment, knowing what came before it and at it."""
    planned, operator, slot = _plan(bound, belief, observable, target)
    steps: list[Step] = []
    started = False
    for n, step in enumerate(planned):
        if started and step.time > planned[n - 1].time:
            span = step.time - planned[n - 1].time
            steps.extend(
                Step(planned[n - 1].time + part * span, Operation.PREDICT, step.inputs, operator, slot)
                for part in BETWEEN
            )
        steps.append(step)
        started = started or _of_series(step, operator, slot)
        if started and step.operation != Operation.RESET:
            steps.append(Step(step.time, Operation.PREDICT, step.inputs, operator, slot))
    return _predicted(bound, belief, steps)


def _expected(bound: BoundModel, belief: Belief, observable: str, target: str) -> _Path:
    """What the twin expected of each measurement right before it."""
    planned, operator, slot = _plan(bound, belief, observable, target)
    steps: list[Step] = []
    for step in planned:
        if _of_series(step, operator, slot):
            steps.append(replace(step, operation=Operation.PREDICT))
        steps.append(step)
    return _predicted(bound, belief, steps)


def _prior(bound: BoundModel, belief: Belief, observable: str, target: str) -> _Path:
    """What the population's prior expects of each measurement, given the treatment and nothing that was seen."""
    planned, operator, slot = _plan(bound, belief, observable, target)
    steps = [
        step
        if step.operation == Operation.RESET
        else replace(
            step, operation=Operation.PREDICT if _of_series(step, operator, slot) else Operation.ADVANCE
        )
        for step in planned
    ]
    return _predicted(bound, belief, steps)


def _points(belief: Belief, observable: str, target: str) -> tuple[ObservedPoint, ...]:
    return tuple(
        ObservedPoint(item.header.time, item.value, item.censoring, item.limit)
        for item in belief.items
        if isinstance(item, Observation) and (item.observable, item.target) == (observable, target)
    )


def _unit(belief: Belief, observable: str) -> str:
    return next(i.unit for i in belief.items if isinstance(i, Observation) and i.observable == observable)


def _spans(belief: Belief) -> list[TreatmentSpan]:
    """Treatment as it was in force, then as planned."""
    therapy, open_since = Therapy(), dict[str, datetime]()
    spans: list[TreatmentSpan] = []

    def close(names: set[str], end: datetime) -> None:
        for name in sorted(names & set(open_since)):
            spans.append(TreatmentSpan(name, open_since.pop(name), end))

    for item in belief.items:
        if not isinstance(item, Treatment):
            continue
        now = days(item.start)
        for agent in therapy.agents:
            if agent.until is not None and agent.until <= now:
                close({agent.name}, moment(agent.until))
        after = therapy_after(therapy, item)
        names = {agent.name for agent in after.agents}
        close(set(open_since) - names, item.start)
        for agent in after.agents:
            open_since.setdefault(agent.name, moment(agent.since))
        therapy = after
    for agent in therapy.agents:
        spans.append(
            TreatmentSpan(agent.name, open_since[agent.name], None if agent.until is None else moment(agent.until))
        )
    spans.extend(
        TreatmentSpan(planned.agent, planned.start, planned.stop, planned=True)
        for planned in belief.state.base.plan
        if planned.action != "off"
    )
    return sorted(spans, key=lambda span: (span.start, span.agent))


def _parameters(binding: Binding, belief: Belief) -> list[ParameterLine]:
    """Marginals of the patient's shared components beside the population's."""
    z = float(ndtri(0.95))
    lines = []
    for bound in binding.models:
        part = belief.state.parts.get(bound.model.name)
        if part is None:
            continue
        means, covariance = part.moments()
        for i, name in enumerate(component_names(bound.model, ())):
            centre, spread = float(bound.prior_mean[i]), float(np.sqrt(bound.prior_covariance[i, i]))
            mean, sd = float(means[i]), float(np.sqrt(max(covariance[i, i], 0.0)))
            lines.append(
                ParameterLine(
                    name.replace("_", " "), (centre - z * spread, centre, centre + z * spread),
                    (mean - z * sd, mean, mean + z * sd),
                )
            )
    return lines


def _line(alert: Alert) -> AlertLine:
    return AlertLine(
        moment(alert.time), moment(alert.since), alert.kind, alert.severity, alert.observable, alert.target,
        alert.message, alert.recommended,
    )


def _superseded_line(row: AlertRow) -> AlertLine:
    return AlertLine(
        row.time, row.since, row.kind, row.severity, row.observable, "", row.message, row.recommended, superseded=True
    )
