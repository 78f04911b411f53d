"""Simulated patients on which drift detection is tuned and judged: well specified, and with an onset of resistance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.observation import Observation
from oncotwin.filters.base import FoldInfo
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.androgen import SHARED as ANDROGEN_COMPONENTS
from oncotwin.models.androgen import AndrogenSuppression
from oncotwin.models.base import TumourModel
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.twin.drift import Alert, DriftSettings, DriftState, Innovation, watch
from oncotwin.twin.fold import BoundModel, run_parts
from oncotwin.twin.simulate import START, Course, Onset, SimulatedPatient, simulate_many

FREEZE_SEED = 20_261
"""Patients on which limits are set."""
TEST_SEED = 77_003
"""Patients on which promises are tested; never used to set anything."""

YEAR = 365.25

_ANDROGEN, _CASTRATION, _INDEPENDENT, _INDEPENDENT_GROWTH, _REMNANT = (
    ANDROGEN_COMPONENTS.index(name)
    for name in ("androgen", "log_castration", "log_independent", "independent_growth", "log_remnant")
)

Relapse = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""What an onset of resistance does to the truth: components (n,) before it to components (n,) after it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """How patients of one observable are seen, treated, and relapse.

    Attributes:
        same: observables whose whitened innovations are the same numbers, so that they share the limits.
        course: of patient ``i`` of a seed.
        relapse_name: the strength of relapse that detection is judged by, a name in `RELAPSES`.
        relapse: what an onset does to the truth.
        onset_after: visits before the onset.
    """

    observable: str
    same: tuple[str, ...]
    model: TumourModel
    course: Callable[[np.random.Generator], Course]
    relapse_name: str
    relapse: Relapse
    onset_after: int


def _lesion_course(observable: str) -> Callable[[np.random.Generator], Course]:
    """One to three lesions, imaged every five to nine weeks for one to three years under one regimen."""

    def course(rng: np.random.Generator) -> Course:
        n_targets = int(rng.integers(1, 4))
        gaps = rng.uniform(35.0, 63.0, int(rng.integers(8, 22)))
        return Course(
            (observable,), (0.0, *np.cumsum(gaps).tolist()), ((1.0, "on", "drug"),),
            tuple(f"L{i + 1}" for i in range(n_targets)),
        )

    return course


def lesion_relapse(doubling_days: float) -> Relapse:
    """All clones resistant, and growth that doubles the volume of the patient's largest lesion in so many days."""
    model = TumourBurden()
    hyper = model.default_hyperparameters()
    rate_per_growth = float(model.constants(hyper)[2])

    def change(member: NDArray[np.float64]) -> NDArray[np.float64]:
        room = max(float(hyper["log_capacity"]) - float(member[4::2].max()), 0.5)
        after = member.copy()
        after[0] = math.log(math.log(2.0) / doubling_days / (rate_per_growth * room))
        after[3] = 8.0
        return after

    return change


def _suppression_course(rng: np.random.Generator) -> Course:
    """PSA and testosterone about every four weeks: nine months of suppression, nine to ten without, and again."""
    visits = 28.0 * np.arange(36) + np.concatenate([[0.0], rng.uniform(-5.0, 5.0, 35)])
    return Course(
        ("psa", "testosterone"), tuple(visits.tolist()),
        ((1.0, "on", "suppression"), (255.0, "off", "suppression"), (535.0, "on", "suppression")),
        limits={"psa": 0.05},
    )


def escape(doubling_days: float) -> Relapse:
    """Androgen-independent cells that make as much PSA as all others, and double in so many days under suppression."""

    def change(member: NDArray[np.float64]) -> NDArray[np.float64]:
        after = member.copy()
        after[_INDEPENDENT] = max(member[_INDEPENDENT], member[_REMNANT])
        after[_INDEPENDENT_GROWTH] = 100.0 * math.log(2.0) / doubling_days
        return after

    return change


def failing_suppression(member: NDArray[np.float64]) -> NDArray[np.float64]:
    """Suppression acts no more: the androgen signal is at half of its normal height, and nothing pulls it down."""
    after = member.copy()
    after[_ANDROGEN] = 0.0
    after[_CASTRATION] = -10.0
    return after


RELAPSES: Mapping[str, Mapping[str, Relapse]] = {
    "longest_diameter": {f"volume doubles in {days} days": lesion_relapse(float(days)) for days in (30, 45, 60)},
    "psa": {f"resistant cells double in {days} days": escape(float(days)) for days in (20, 30, 60)},
    "testosterone": {"suppression fails": failing_suppression},
}
"""By observable and name: onsets from violent to slow."""


def scenarios() -> tuple[Scenario, ...]:
    """Every observable of the built-in models that is simulated.

    A volume is the third power of a diameter, noise included, and a sum of diameters of one lesion is the diameter.
    """
    violent, quick, failing = "volume doubles in 30 days", "resistant cells double in 30 days", "suppression fails"
    return (
        Scenario(
            "longest_diameter", ("volume", "sum_of_longest_diameters"), TumourBurden(),
            _lesion_course("longest_diameter"), violent, RELAPSES["longest_diameter"][violent], 6,
        ),
        Scenario("psa", (), AndrogenSuppression(), _suppression_course, quick, RELAPSES["psa"][quick], 25),
        Scenario(
            "testosterone", (), AndrogenSuppression(), _suppression_course, failing,
            RELAPSES["testosterone"][failing], 25,
        ),
    )


@dataclass(frozen=True, slots=True)
class Watched:
    """Innovations and posterior spreads of one simulated patient, in fold order.

    Attributes:
        years: followed, from first to last visit.
        onset: day of the onset, infinite without one.
    """

    name: str
    innovations: tuple[Innovation, ...]
    spreads: tuple[tuple[float, ...], ...]
    years: float
    onset: float

    def alerts(self, settings: DriftSettings) -> list[Alert]:
        """What watching this patient raises."""
        state = DriftState()
        alerts: list[Alert] = []
        for innovation, spread in zip(self.innovations, self.spreads, strict=True):
            state, raised = watch(state, self.name, innovation, spread, settings)
            alerts.extend(raised)
        return alerts


def follow(scenario: Scenario, n_patients: int, seed: int, *, relapsing: bool = False) -> list[Watched]:
    """Simulate patients and fold them through the default filter with the priors that they were drawn from."""
    model = scenario.model
    hyper = model.default_hyperparameters()
    courses = [scenario.course(np.random.default_rng([seed, 1, i])) for i in range(n_patients)]
    onsets = [
        Onset(course.visits[min(scenario.onset_after, len(course.visits) - 4)], scenario.relapse) if relapsing else None
        for course in courses
    ]
    patients = simulate_many(model, hyper, courses, seed, onsets)
    mean, covariance = model.prior(hyper)
    bound = BoundModel(model, hyper, {}, UnscentedFilter(), mean, covariance, model.constants(hyper))
    _, info = run_parts(bound, [None] * n_patients, [patient.steps for patient in patients])
    watched, offset = [], 0
    for i, (patient, course, onset) in enumerate(zip(patients, courses, onsets, strict=True)):
        rows = slice(offset, offset + len(patient.steps))
        offset += len(patient.steps)
        innovations, spreads = _seen(patient, info, rows)
        watched.append(
            Watched(
                f"simulated/{seed}-{i}", innovations, spreads, (course.visits[-1] - course.visits[0]) / YEAR,
                math.inf if onset is None else START + onset.time,
            )
        )
    return watched


def _seen(
    patient: SimulatedPatient, info: FoldInfo, rows: slice
) -> tuple[tuple[Innovation, ...], tuple[tuple[float, ...], ...]]:
    """Innovations and posterior spreads of one patient's rows of a fold, as `oncotwin.twin.fold` would make them."""
    innovations, spreads = [], []
    for step, mean, variance, log_likelihood, covariance, n in zip(
        patient.steps, info.predicted_mean[rows], info.predicted_variance[rows], info.log_likelihood[rows],
        info.covariance[rows], info.n_active[rows], strict=True,
    ):
        if step.event < 0 or math.isnan(mean):
            continue
        item = patient.items[step.event]
        assert isinstance(item, Observation)
        innovations.append(
            Innovation(
                item.observable, item.target, step.time, item.header.key, step.value, float(mean), float(variance),
                item.censoring, float(log_likelihood),
            )
        )
        spreads.append(tuple(np.sqrt(np.diagonal(covariance)[: int(n)]).tolist()))
    return tuple(innovations), tuple(spreads)


def false_alarms(
    patients: Sequence[Watched], observable: str, settings: DriftSettings
) -> tuple[Counter[str], float]:
    """Alerts of one observable by kind on well-specified patients, and the years that they were followed.

    ``uncertain`` is counted apart: it tests nothing, it reports a fact about the posterior.
    """
    counts: Counter[str] = Counter()
    for patient in patients:
        counts.update(
            "overcautious" if alert.kind == "inconsistent" and alert.severity == "info" else alert.kind
            for alert in patient.alerts(settings)
            if alert.observable == observable
        )
    return counts, math.fsum(patient.years for patient in patients)


def visits_to_detection(patient: Watched, observable: str, settings: DriftSettings) -> float:
    """Visits after the onset until the first alert of more than expected of an observable; infinite without any.

    An alert counts where it is a drift upwards, an outlier upwards, or scatter wider than expected.
    """
    visits = sorted({innovation.time for innovation in patient.innovations if innovation.time > patient.onset})
    for alert in patient.alerts(settings):
        if alert.observable == observable and alert.time > patient.onset and (
            (alert.kind in ("drift", "outlier") and alert.statistic > 0)
            or (alert.kind == "inconsistent" and alert.severity == "warning")
        ):
            return float(visits.index(alert.time) + 1)
    return math.inf
