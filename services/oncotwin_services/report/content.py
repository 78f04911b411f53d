"""What a report shows, as plain values: the pages compute nothing but their layout.

Patients appear by the pseudonym that their institution sent, never by anything else. All datetimes are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Fan:
    """Predictive or posterior quantiles over time.

    Attributes:
        times: (n_times,) ascending.
        levels: (n_levels,) probabilities, ascending, symmetric about the median, such as 0.05, 0.25, 0.5, 0.75, 0.95.
        values: (n_times, n_levels) in the unit of the series.
    """

    times: tuple[datetime, ...]
    levels: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def at_level(self, level: float) -> tuple[float, ...]:
        """(n_times,) one quantile over time.

        Raises:
            ValueError: the fan has no such level.
        """
        index = self.levels.index(level)
        return tuple(row[index] for row in self.values)


@dataclass(frozen=True, slots=True)
class ObservedPoint:
    """One observation as it stands in the journal; fields as in `oncotwin.domain.observation.Observation`."""

    time: datetime
    value: float | None
    censoring: str = "none"
    limit: float | None = None

    def in_words(self, unit: str) -> str:
        """``12.5 mm``, ``< 5 mm``, ``not evaluable``."""
        if self.censoring == "not_evaluable":
            return "not evaluable"
        if self.censoring == "left":
            return f"< {self.limit:.4g} {unit}"
        if self.censoring == "right":
            return f"> {self.limit:.4g} {unit}"
        if self.censoring == "interval":
            return f"{self.value:.4g} to {self.limit:.4g} {unit}"
        return f"{self.value:.4g} {unit}"


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """One observable of one target of one patient.

    Attributes:
        target: lesion id, or "" for a quantity of the whole patient.
        band: what the twin believed right after each observation up to then (posterior of the observable, with the
            noise of one measurement).
        forecast: from the last observation on, under the treatment in force or planned.
        prior: what the population prior alone expected at the same times (prior predictive).
        logarithmic: whether the axis is.
    """

    observable: str
    target: str
    unit: str
    points: tuple[ObservedPoint, ...]
    band: Fan | None = None
    forecast: Fan | None = None
    prior: Fan | None = None
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class TreatmentSpan:
    """One agent in force; ``stop`` is None while no end is known."""

    agent: str
    start: datetime
    stop: datetime | None
    planned: bool = False


@dataclass(frozen=True, slots=True)
class AlertLine:
    """One alert; ``superseded`` where a later correction explained it."""

    time: datetime
    since: datetime
    kind: str
    severity: str
    observable: str
    target: str
    message: str
    recommended: str
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class ParameterLine:
    """One hidden quantity: its 90 % interval for the population and for this patient, on the model's own scale."""

    name: str
    prior: tuple[float, float, float]
    """5 %, 50 %, 95 % of the population prior."""
    posterior: tuple[float, float, float]
    """5 %, 50 %, 95 % for this patient, given all data."""


@dataclass(frozen=True, slots=True)
class PatientReport:
    """One patient's page.

    Attributes:
        data_through: clinical time of the last event folded.
        as_known_at: received by then; later corrections are not in it.
        state_digest: SHA-256 of the twin's canonical state.
        twin_version: of the twin; None where the page stands for no commit of its own.
    """

    institution: str
    patient: str
    model_version: str
    data_through: datetime
    as_known_at: datetime
    state_digest: str
    series: tuple[SeriesReport, ...]
    treatments: tuple[TreatmentSpan, ...] = ()
    alerts: tuple[AlertLine, ...] = ()
    parameters: tuple[ParameterLine, ...] = ()
    twin_version: int | None = None


@dataclass(frozen=True, slots=True)
class SkillRow:
    """Forecast error beside a reference's on the same targets; the ratio's interval is a bootstrap over patients."""

    observable: str
    score: str
    """Such as ``MAE (log mm)`` or ``CRPS (mm)``."""
    visits_ahead: int
    n: int
    value: float
    reference_name: str
    reference: float
    ratio_low: float
    ratio_high: float

    @property
    def ratio(self) -> float:
        """Below 1: the twin is better than the reference."""
        return self.value / self.reference


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """How many later observations fell inside a predictive interval."""

    observable: str
    visits_ahead: int
    n: int
    nominal: float
    covered: float


@dataclass(frozen=True, slots=True)
class PitRow:
    """Histogram of the probability that forecasts gave to values up to the one seen; flat when well calibrated."""

    observable: str
    shares: tuple[float, ...]
    n: int


@dataclass(frozen=True, slots=True)
class PredictiveCheck:
    """Does the model make data like the data? Values pooled over patients, in the unit of the observable.

    Attributes:
        observed: what was seen.
        prior: draws of the prior predictive.
        posterior: draws of the posterior predictive.
    """

    observable: str
    unit: str
    observed: tuple[float, ...]
    prior: tuple[float, ...]
    posterior: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InstitutionRow:
    """What one institution sent and what became of it."""

    institution: str
    twins: int
    events: int
    rejected: int
    alerts: int


@dataclass(frozen=True, slots=True)
class CohortReport:
    """The first page."""

    title: str
    subtitle: str
    model_version: str
    generated_at: datetime
    institutions: tuple[InstitutionRow, ...]
    skill: tuple[SkillRow, ...] = ()
    coverage: tuple[CoverageRow, ...] = ()
    pit: tuple[PitRow, ...] = ()
    checks: tuple[PredictiveCheck, ...] = ()
    alerts_by_kind: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the figures: splits, references, limits."""
