"""Calibration: what one model learns from a population of patients (empirical Bayes)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oncotwin.domain.bundle import FilterChoice, ModelBundle, ModelPrior
from oncotwin.domain.errors import OncotwinError
from oncotwin.domain.ids import TwinId
from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Treatment
from oncotwin.filters.base import Filter, FoldInfo
from oncotwin.filters.choice import make_filter
from oncotwin.filters.steps import Operation
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.base import TumourModel
from oncotwin.models.learning import FreeParameter, LearnedComponent, Path, RegimenEffects, at, replaced
from oncotwin.models.therapy import Therapy
from oncotwin.twin.backtest import owned_items
from oncotwin.twin.boosting import Growth
from oncotwin.twin.fold import BoundModel, run_parts
from oncotwin.twin.journal import fold_key
from oncotwin.twin.layers import learn_layers
from oncotwin.twin.origins import Progress, silent
from oncotwin.twin.scores import fold_of
from oncotwin.twin.timeline import Cursor, Item, Step, days, plan_steps, therapy_after


class CalibrationError(OncotwinError):
    """A population says too little to learn from."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long calibration searches; the same effort on the same data gives the same prior.

    Attributes:
        rounds: turns of expectation-maximisation, each over at most ``most_twins`` twins.
        sweeps: turns of the search over free parameters, over at most ``sample_twins`` twins.
        growth: of the trees of the learned layer.
    """

    rounds: int = 3
    sweeps: int = 2
    most_twins: int = 4_000
    sample_twins: int = 120
    growth: Growth | None = None


DEGREES_OF_FREEDOM = 5.0
"""Of the Student distribution by which noise and drift are judged: a few wild measurements must not set them."""

_REGIMEN_PATIENTS = 5.0
"""Regimens are shrunk towards the prior of all as if that had this many patients."""


def bind_hyper(model: TumourModel, hyper: Mapping[str, Any], chosen: Filter[Any] | None = None) -> BoundModel:
    """A model with hyperparameters that are not registered yet; the unscented filter where none is given."""
    mean, covariance = model.prior(hyper)
    return BoundModel(model, hyper, {}, chosen or UnscentedFilter(), mean, covariance, model.constants(hyper))


@dataclass(frozen=True, slots=True)
class Population:
    """The folded twins of one model under one set of hyperparameters.

    Attributes:
        plans: steps of each twin; info: one row a step, twin after twin.
    """

    bound: BoundModel
    plans: list[list[Step]]
    info: FoldInfo

    def score(self) -> float:
        """Sum of log densities of the innovations, the first of each series left out.

        An uncensored one counts by a Student distribution of the predicted mean and variance, a censored one by the
        filter's own probability.
        """
        total, row = 0.0, 0
        for plan in self.plans:
            met: set[tuple[int, int]] = set()
            for step in plan:
                if _observes(step):
                    series = (step.operator, step.target)
                    if series in met and step.operation == Operation.OBSERVE:
                        variance = float(self.info.predicted_variance[row])
                        miss = step.value - float(self.info.predicted_mean[row])
                        total += _student(miss, variance) if math.isfinite(miss) else _LOST
                    elif series in met:
                        total += max(float(self.info.log_likelihood[row]), _LOST)
                    met.add(series)
                row += 1
        return total


_LOST = -12.0
"""What an observation counts that the model could not predict at all."""


def _student(miss: float, variance: float) -> float:
    """Log density at ``miss`` of a centred Student distribution with this variance."""
    nu = DEGREES_OF_FREEDOM
    scaled = variance * (nu - 2.0) / nu
    return _STUDENT - 0.5 * math.log(scaled) - 0.5 * (nu + 1.0) * math.log1p(miss * miss / (nu * scaled))


_STUDENT = (
    math.lgamma(0.5 * (DEGREES_OF_FREEDOM + 1.0)) - math.lgamma(0.5 * DEGREES_OF_FREEDOM)
    - 0.5 * math.log(DEGREES_OF_FREEDOM * math.pi)
)


def fold_population(
    model: TumourModel, hyper: Mapping[str, Any], series: Sequence[Sequence[Item]], *, record: bool = False
) -> Population:
    """Fold twins from their prior through all their items."""
    bound = bind_hyper(model, hyper)
    plans = [plan_steps(model, hyper, Cursor(), items, range(len(items)))[0] for items in series]
    _, info = run_parts(bound, [None] * len(plans), plans, record=record)
    return Population(bound, plans, info)


@dataclass(frozen=True, slots=True)
class Episode:
    """Posterior of one component of one twin at the end of a spell in which it was not reset."""

    regimen: str
    followed_days: float
    mean: float
    variance: float


def learn_priors(model: TumourModel, hyper: Mapping[str, Any], series: Sequence[Sequence[Item]]) -> dict[str, Any]:
    """One round of expectation-maximisation over the model's ``learned`` components.

    The posterior at the end of each twin (of each regimen, for components that belong to it) stands for the smoothed
    one, which holds as far as components are static; the drift that they have taken meanwhile is taken off their
    spread. Regimens shrink towards the prior of all.

    Source:
        Dempster, Laird & Rubin 1977, doi:10.1111/j.2517-6161.1977.tb01600.x (expectation-maximisation); Morris 1983,
        doi:10.1080/01621459.1983.10477920 (empirical Bayes).
    """
    learned: tuple[LearnedComponent, ...] = getattr(model, "learned", ())
    if not learned:
        return dict(hyper)
    effects: RegimenEffects | None = getattr(model, "effects", None)
    of_regimen = effects.components if effects is not None else ()
    population = fold_population(model, hyper, series, record=True)
    drift = model.process_variance(hyper, 1)
    changes: list[tuple[Path, Any]] = []
    regimens: dict[str, dict[str, tuple[float, float]]] = {}
    for component in learned:
        name = component.component
        shared = name in model.shared
        place = model.shared.index(name) if shared else len(model.shared) + model.per_target.index(name)
        episodes = _episodes(population, series, place, by_regimen=name in of_regimen)
        if not episodes:
            continue
        every = _moments(episodes, float(drift[place]), component.minimum_sd)
        changes += [(component.mean, every[0]), (component.sd, every[1])]
        if name in of_regimen:
            for regimen in sorted({episode.regimen for episode in episodes if episode.regimen}):
                own = [episode for episode in episodes if episode.regimen == regimen]
                regimens.setdefault(regimen, {})[name] = _shrunk(own, every, float(drift[place]), component.minimum_sd)
    if effects is not None and regimens:
        known = {
            regimen: {"mean": [found[c][0] for c in of_regimen], "sd": [found[c][1] for c in of_regimen]}
            for regimen, found in regimens.items()
            if all(c in found for c in of_regimen)
        }
        changes.append((effects.path, known))
    return replaced(hyper, changes)


def _episodes(
    population: Population, series: Sequence[Sequence[Item]], place: int, *, by_regimen: bool
) -> list[Episode]:
    """Where a component stood before each of its resets and at the end; only spells with two observations or more."""
    found: list[Episode] = []
    model, info, row = population.bound.model, population.info, 0
    of_target = place >= len(model.shared)
    for plan, items in zip(population.plans, series, strict=True):
        n_targets = 1 + max((step.target for step in plan), default=0) if of_target else 1
        for target in range(n_targets):
            component = place + target * len(model.per_target)
            begun, n_observed, last = math.nan, 0, -1
            for index, step in enumerate([*plan, None]):
                if step is None or any(reset.component == component for reset in step.resets):
                    if n_observed > 1:
                        mean = info.mean[row + last, component]
                        variance = info.covariance[row + last, component, component]
                        until = plan[last].time
                        if math.isfinite(mean) and variance > 0.0:
                            regimen = _regimen(items, until) if by_regimen else ""
                            found.append(Episode(regimen, until - begun, float(mean), float(variance)))
                    n_observed = 0
                elif _observes(step) and (not of_target or step.target == target):
                    begun, n_observed, last = (begun if n_observed else step.time), n_observed + 1, index
        row += len(plan)
    return found


def _observes(step: Step) -> bool:
    return Operation.OBSERVE <= step.operation <= Operation.BETWEEN


def _regimen(items: Sequence[Item], time: float) -> str:
    """Names of the agents in force just before a moment (days)."""
    therapy = Therapy()
    for item in items:
        if isinstance(item, Treatment) and days(item.header.time) < time:
            therapy = therapy_after(therapy, item)
    return therapy.at(time).regimen


def _moments(episodes: Sequence[Episode], drift: float, minimum_sd: float) -> tuple[float, float]:
    """Mean and standard deviation of a prior, by the expected complete-data likelihood of its episodes."""
    mean = math.fsum(e.mean for e in episodes) / len(episodes)
    wandered = drift * math.fsum(e.followed_days for e in episodes) / len(episodes)
    spread = math.fsum(e.variance + (e.mean - mean) ** 2 for e in episodes) / len(episodes)
    return mean, max(math.sqrt(max(spread - wandered, 0.0)), minimum_sd)


def _shrunk(
    episodes: Sequence[Episode], every: tuple[float, float], drift: float, minimum_sd: float
) -> tuple[float, float]:
    """Moments of one regimen, shrunk towards those of all as if that had a few patients more."""
    n = len(episodes)
    own_mean, own_sd = _moments(episodes, drift, minimum_sd)
    part = n / (n + _REGIMEN_PATIENTS)
    mean = part * own_mean + (1.0 - part) * every[0]
    variance = part * own_sd**2 + (1.0 - part) * every[1] ** 2 + part * (1.0 - part) * (own_mean - every[0]) ** 2 / n
    return mean, max(math.sqrt(variance), minimum_sd)


def search_free(
    model: TumourModel, hyper: Mapping[str, Any], series: Sequence[Sequence[Item]], *, sweeps: int, finer: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Raise the population's predictive score over the model's ``free`` parameters, one at a time on the log scale.

    Each sweep tries a step up and a step down for each parameter, goes on in a direction that pays, and the next
    sweep halves the steps; ``finer`` sweeps are taken as done.
    """
    free: tuple[FreeParameter, ...] = getattr(model, "free", ())
    best = dict(hyper)
    if not free:
        return best
    score = fold_population(model, best, series).score()
    for sweep in range(sweeps):
        factor = math.exp(0.7 / 2 ** (sweep + finer))
        for index, parameter in enumerate(free):
            for step in (factor, 1.0 / factor):
                gained = False
                for _ in range(4):
                    value = min(max(float(at(best, parameter.path)) * step, parameter.lower), parameter.upper)
                    trial = replaced(best, [(parameter.path, value)])
                    found = fold_population(model, trial, series).score()
                    if not found > score:
                        break
                    best, score, gained = trial, found, True
                if gained:
                    break
            progress("searching noise and drift", (sweep + (index + 1) / len(free)) / sweeps)
    return best


def calibrate(
    model: TumourModel, items_by_twin: Mapping[TwinId, Sequence[Item]], *, effort: Effort | None = None,
    progress: Progress = silent, chosen: Filter[Any] | None = None,
) -> ModelPrior:
    """Learn one model's population prior, noise, drift and forecast layer from its twins.

    The prior is learned by the likelihood of the unscented filter, which is exact enough and has no Monte Carlo noise
    to search through; the forecast layer from the predictions of the filter that the twins will be followed by.

    Args:
        chosen: that filter; the unscented one where not given.
        items_by_twin: each twin's items in fold order, observations of this model's observables only.
    Raises:
        CalibrationError: no series has two evaluable observations at different times.
    """
    effort = effort or Effort()
    counts = {twin: _most_visits(model, items) for twin, items in items_by_twin.items()}
    names = sorted((t for t, n in counts.items() if n >= 2), key=lambda t: (fold_of(t, 2**32), t))
    if not names:
        raise CalibrationError(
            f"calibrating {model.name} needs at least 1 series with two observations of "
            f"{' or '.join(o.name for o in model.observables)} at different times; {len(counts)} twins have none: "
            "send more of their measurements, or work on with the literature prior"
        )
    series = [list(items_by_twin[name]) for name in names]
    hyper = model.default_hyperparameters()
    pretrain = getattr(model, "pretrain", None)
    if pretrain is not None:
        progress("learning switching", 0.0)
        hyper = pretrain(series, hyper)
    rich = [items for items, name in zip(series, names, strict=True) if counts[name] >= 3] or series
    judged = rich[: effort.sample_twins]
    for done in range(effort.rounds):
        # The end of a twin stands for its smoothed posterior only where components are static: keep what predicts.
        trial = learn_priors(model, hyper, series[: effort.most_twins])
        if fold_population(model, trial, judged).score() > fold_population(model, hyper, judged).score():
            hyper = trial
        if done < effort.sweeps:
            hyper = search_free(model, hyper, judged, sweeps=1, finer=done, progress=progress)
        progress("learning priors", (done + 1) / effort.rounds)
    bound = bind_hyper(model, hyper, chosen)
    calibration = learn_layers(bound, {name: items_by_twin[name] for name in names}, effort.growth, progress)
    return ModelPrior(model.name, hyper, calibration, fingerprint(items_by_twin))


def calibrate_bundle(
    items_by_twin: Mapping[TwinId, Sequence[Item]], models: Sequence[TumourModel], *, effort: Effort | None = None,
    progress: Progress = silent, choice: FilterChoice | None = None,
) -> ModelBundle:
    """Calibrate each model whose observables occur in the data.

    Args:
        items_by_twin: each twin's items in force, in fold order (`journal.in_force`).
        choice: the filter that is to follow the twins of this version.
    Raises:
        CalibrationError: none of the models finds a series with two observations.
    """
    choice = choice or FilterChoice()
    chosen = make_filter(choice)
    priors: dict[str, ModelPrior] = {}
    too_little: list[CalibrationError] = []
    for model, items in owned_items(models, items_by_twin):
        if not items:
            continue
        try:
            priors[model.name] = calibrate(model, items, effort=effort, progress=progress, chosen=chosen)
        except CalibrationError as error:
            too_little.append(error)
    if priors:
        return ModelBundle(priors, choice)
    if too_little:
        raise too_little[0]
    known = sorted({observable.name for model in models for observable in model.observables})
    raise CalibrationError(
        f"calibration found no observation that a model follows ({', '.join(known)}) among {len(items_by_twin)} twins; "
        "convert a table that has some, or name a model for what you have in the settings"
    )


def fingerprint(items_by_twin: Mapping[TwinId, Sequence[Item]]) -> str:
    """SHA-256 (hex) over every item's twin, place in the fold and content hash: which data a prior was learned from."""
    summed = hashlib.sha256()
    for name in sorted(items_by_twin):
        for item in items_by_twin[name]:
            time, source, event = fold_key(item)
            summed.update("\x1f".join((name, time.isoformat(), source, event, item.header.content_hash)).encode())
            summed.update(b"\x1e")
    return summed.hexdigest()


def _most_visits(model: TumourModel, items: Sequence[Item]) -> int:
    """Distinct times of the best observed series."""
    own = {observable.name for observable in model.observables}
    visits: dict[tuple[str, str], set[Any]] = {}
    for item in items:
        if isinstance(item, Observation) and item.observable in own and item.censoring != "not_evaluable":
            visits.setdefault((item.observable, item.target), set()).add(item.header.time)
    return max((len(times) for times in visits.values()), default=0)
