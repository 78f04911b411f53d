"""Fold events into twins: many twins at a time, the same bits for any grouping of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.ids import EventKey
from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Plan, Treatment
from oncotwin.filters.base import Array, Filter, FilterState, FoldInfo, System
from oncotwin.models.base import TumourModel, component_names
from oncotwin.twin.drift import Alert, DriftSettings, Innovation, watch
from oncotwin.twin.journal import event_seed, fold_key, report_name, twin_seed
from oncotwin.twin.state import PartState, TwinState
from oncotwin.twin.timeline import Cursor, Item, Step, batch, days, plan_steps, therapy_after
from oncotwin.twin.typicality import unlike_alert


@dataclass(frozen=True, slots=True)
class BoundModel:
    """A model with the hyperparameters of one registered version, and the filter that follows it.

    Attributes:
        calibration: how predictive quantiles are corrected (`ModelPrior.forecast_calibration`).
    """

    model: TumourModel
    hyper: Mapping[str, Any]
    calibration: Mapping[str, Any]
    filter: Filter[Any]
    prior_mean: Array
    prior_covariance: Array
    constants: Array


@dataclass(frozen=True, slots=True)
class Binding:
    """Everything besides the journal that a twin's state depends on; named by one model version."""

    version: str
    models: tuple[BoundModel, ...]
    drift: DriftSettings

    def observables(self) -> dict[str, BoundModel]:
        """Which model follows which observable; the first that knows it."""
        found: dict[str, BoundModel] = {}
        for bound in self.models:
            for observable in bound.model.observables:
                found.setdefault(observable.name, bound)
        return found


def bind(
    version: str, bundle: ModelBundle, models: Sequence[TumourModel], chosen: Filter[Any], drift: DriftSettings
) -> Binding:
    """Join models with a bundle's priors; a model that the bundle does not know keeps its literature prior."""
    bound = []
    for model in models:
        prior = bundle.models.get(model.name)
        hyper = model.default_hyperparameters() if prior is None else prior.hyperparameters
        mean, covariance = model.prior(hyper)
        bound.append(
            BoundModel(
                model, hyper, {} if prior is None else prior.forecast_calibration, chosen, mean, covariance,
                model.constants(hyper),
            )
        )
    return Binding(version, tuple(bound), drift)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a twin believed right after one event.

    Attributes:
        event: (source, id) of the event it follows; ``time`` in days since 1970-01-01.
        components, mean, sd: posterior marginals of one model's components.
        innovation: what was expected and seen, None where the event was no observation.
    """

    event: EventKey
    time: float
    model: str
    components: tuple[str, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    innovation: Innovation | None


@dataclass(frozen=True, slots=True)
class Effects:
    """What a fold asks the shell to write down."""

    estimates: tuple[Estimate, ...] = ()
    alerts: tuple[Alert, ...] = ()


_GAUSSIAN_BATCH, _MEMBERS_BATCH = 4_096, 2**18
"""Twins folded together: so many with mean and covariance, or with so many members in all."""


def batch_size(bound: BoundModel) -> int:
    """How many twins to fold together, so that a batch takes some hundred megabytes at the most."""
    n_members = bound.filter.n_members
    return max(1, _MEMBERS_BATCH // n_members) if n_members else _GAUSSIAN_BATCH


def run_parts(
    bound: BoundModel, parts: Sequence[PartState | None], plans: Sequence[Sequence[Step]], *,
    keys: Sequence[int] | None = None, record: bool = True,
) -> tuple[FilterState, FoldInfo]:
    """Run planned steps of many twins through the filter; a part that is None starts from the prior at its first step.

    Args:
        keys: (k,) names to the random generator of the twins that start here (`twin_seed`); 0, 1, 2 ... by default.
    Returns:
        The filter's state of all twins and one row of diagnostics a step, twin after twin.
    """
    model = bound.model
    n_shared, n_per_target = len(model.shared), len(model.per_target)
    k = len(parts)
    fresh = [i for i, part in enumerate(parts) if part is None]
    capacity = n_shared
    posteriors = [None if part is None else part.posterior for part in parts]
    if fresh:
        begun = bound.filter.init(
            np.tile(bound.prior_mean, (len(fresh), 1)), np.tile(bound.prior_covariance, (len(fresh), 1, 1)),
            np.full(len(fresh), n_shared, dtype=np.int64),
            np.array([plans[i][0].time if plans[i] else 0.0 for i in fresh]),
            np.array(fresh if keys is None else [keys[i] for i in fresh], dtype=np.uint64),
        )
        for row, i in enumerate(fresh):
            posteriors[i] = bound.filter.cut(begun, row)
    gathered = [posterior for posterior in posteriors if posterior is not None]
    for posterior, plan in zip(gathered, plans, strict=True):
        capacity = max(capacity, posterior.n_active)
        for step in plan:
            for reset in step.resets:
                capacity = max(capacity, reset.component + 1)
    n_targets = (capacity - n_shared) // n_per_target if n_per_target else 0
    system = System(
        propagate=model.propagate,
        observe=model.observe,
        constants=np.tile(bound.constants, (k, 1)),
        process_variance=np.tile(model.process_variance(bound.hyper, n_targets), (k, 1)),
        propagate_many=getattr(model, "propagate_many", None),
    )
    state = bound.filter.gather(gathered, capacity)
    return bound.filter.fold(state, system, batch(plans, model.n_inputs, capacity), record=record)


def _base_after(base: Cursor, items: Sequence[Item]) -> Cursor:
    """Therapy and plan after items, for models that have not started."""
    therapy, plan, planned_at = base.therapy, base.plan, base.planned_at
    for item in items:
        if isinstance(item, Treatment):
            therapy = therapy_after(therapy, item)
        elif isinstance(item, Plan):
            plan, planned_at = item.items, days(item.header.time)
    return Cursor(therapy, plan, planned_at)


def advance(
    binding: Binding, states: Sequence[TwinState], batches: Sequence[Sequence[Item]]
) -> list[tuple[TwinState, Effects]]:
    """Fold each twin's items, given in fold order and none before the twin's ``last``, into its state.

    Args:
        states: (k,) twins; batches: (k,) items of each, in fold order.
    Returns:
        New states and their effects, in the order of the arguments; the arguments are unchanged.
    """
    k = len(states)
    parts: list[dict[str, PartState]] = [dict(state.parts) for state in states]
    estimates: list[list[tuple[int, Estimate]]] = [[] for _ in range(k)]
    owners = binding.observables()
    seeds = [
        [event_seed(state.twin_id, item.header.key) for item in items]
        for state, items in zip(states, batches, strict=True)
    ]
    for bound in binding.models:
        name = bound.model.name
        concerned = [
            i
            for i in range(k)
            if name in parts[i]
            or any(isinstance(item, Observation) and owners.get(item.observable) is bound for item in batches[i])
        ]
        size = batch_size(bound)
        for group in (concerned[begin : begin + size] for begin in range(0, len(concerned), size)):
            plans: list[list[Step]] = []
            cursors: list[Cursor] = []
            for i in group:
                known = parts[i].get(name)
                steps, cursor = plan_steps(
                    bound.model, bound.hyper, states[i].base if known is None else known.cursor, batches[i], seeds[i]
                )
                plans.append(steps)
                cursors.append(cursor)
            result, info = run_parts(
                bound, [parts[i].get(name) for i in group], plans, keys=[twin_seed(states[i].twin_id) for i in group]
            )
            offset = 0
            for row, i in enumerate(group):
                if cursors[row].started:
                    parts[i][name] = PartState(cursors[row], bound.filter.cut(result, row))
                estimates[i].extend(_estimates(bound, cursors[row], batches[i], plans[row], info, offset))
                offset += len(plans[row])
    return [
        _finish(binding, state, items, part, estimate)
        for state, items, part, estimate in zip(states, batches, parts, estimates, strict=True)
    ]


def _estimates(
    bound: BoundModel, cursor: Cursor, items: Sequence[Item], steps: Sequence[Step], info: FoldInfo, offset: int
) -> list[tuple[int, Estimate]]:
    """One estimate an event that moved this model, with the index of the item that it follows."""
    found = []
    names = component_names(bound.model, cursor.targets)
    for row, step in enumerate(steps, start=offset):
        if step.event < 0:
            continue
        item = items[step.event]
        n = int(info.n_active[row])
        mean = info.mean[row, :n]
        sd = np.sqrt(np.maximum(np.diagonal(info.covariance[row])[:n], 0.0))
        innovation = None
        if isinstance(item, Observation) and item.censoring != "not_evaluable":
            innovation = Innovation(
                observable=item.observable, target=item.target, time=step.time, event=item.header.key,
                value=step.value, predicted_mean=float(info.predicted_mean[row]),
                predicted_variance=float(info.predicted_variance[row]), censoring=item.censoring,
                log_likelihood=float(info.log_likelihood[row]),
            )
        found.append(
            (
                step.event,
                Estimate(
                    item.header.key, step.time, bound.model.name, names[:n], tuple(mean.tolist()), tuple(sd.tolist()),
                    innovation,
                ),
            )
        )
    return found


def _finish(
    binding: Binding, state: TwinState, items: Sequence[Item], parts: dict[str, PartState],
    estimates: list[tuple[int, Estimate]],
) -> tuple[TwinState, Effects]:
    """Watch the innovations in fold order and close one twin's step."""
    estimates.sort(key=lambda pair: pair[0])
    drift = state.drift
    raised: list[tuple[int, Alert]] = []
    for index, estimate in estimates:
        if estimate.innovation is not None:
            drift, found = watch(drift, state.twin_id, estimate.innovation, estimate.sd, binding.drift)
            raised.extend((index, alert) for alert in found)
    models = [bound.model for bound in binding.models]
    for index, item in enumerate(items):
        if isinstance(item, Observation) and item.evidence is not None and item.evidence.out_of_distribution:
            raised.append((index, unlike_alert(state.twin_id, item, models)))
    # In the order of the events, whatever the batches.
    alerts = [alert for _, alert in sorted(raised, key=lambda pair: pair[0])]
    observed = dict(state.last_observed)
    for item in items:
        if isinstance(item, Observation) and item.censoring != "not_evaluable":
            value = item.value if item.censoring in ("none", "interval") else item.limit
            observed[item.observable, item.target] = (days(item.header.time), value, item.censoring)
    after = TwinState(
        twin_id=state.twin_id,
        model_version=binding.version,
        last=fold_key(items[-1]) if items else state.last,
        n_folded=state.n_folded + len(items),
        base=_base_after(state.base, items),
        parts=parts,
        drift=drift,
        last_observed=observed,
        reports=state.reports | {name for item in items if (name := report_name(item.header)) is not None},
        guarded=state.guarded,
    )
    return after, Effects(tuple(estimate for _, estimate in estimates), tuple(alerts))
