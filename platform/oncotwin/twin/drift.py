"""Watch a twin's innovations: single outliers, drift, inconsistency, and growing uncertainty.

A well-specified twin has innovations that are standard normal once whitened by their predicted variance, and
independent of each other. Four statistics per series (one observable of one target) look for four ways out of that:

* the predictive p-value of one observation (``outlier``);
* a two-sided cumulative sum, which finds small lasting shifts soonest (``drift``); Page 1954,
  doi:10.1093/biomet/41.1-2.100;
* the normalised innovation squared, summed over a window, against a chi-square band (``inconsistent``); Bar-Shalom,
  Li & Kirubarajan 2001, doi:10.1002/0471221279, section 5.4;
* the growth of the posterior spread over its smallest value so far (``uncertain``): no test, a fact to act on.

Limits come from simulated patients, see `oncotwin.twin.drift_thresholds`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy.special import ndtr, ndtri

from oncotwin.domain.ids import EventKey
from oncotwin.domain.observation import Censoring
from oncotwin.twin import drift_thresholds
from oncotwin.twin.alert_text import recommendation, statement

AlertKind = Literal["outlier", "drift", "inconsistent", "uncertain", "unlike"]
Severity = Literal["info", "warning", "high"]

SeriesKey = tuple[str, str]
"""(observable, target): what the running statistics are kept for."""


@dataclass(frozen=True, slots=True)
class Innovation:
    """One observation against what was expected of it; all in observation scale.

    Attributes:
        time: days since 1970-01-01.
        value: as observed; the limit where ``censored`` (the lower end of an interval).
        censoring: kind of it: none, left (below ``value``), right (above it) or interval (from ``value`` on).
        predicted_mean, predicted_variance: of the observation, noise included.
        log_likelihood: of the observation; where censored, log-probability of the censoring event.
    """

    observable: str
    target: str
    time: float
    event: EventKey
    value: float
    predicted_mean: float
    predicted_variance: float
    censoring: Censoring
    log_likelihood: float

    @property
    def censored(self) -> bool:
        """Whether only a bound was seen."""
        return self.censoring != "none"

    @property
    def whitened(self) -> float:
        """Standard normal score of the observation under the prediction; NaN where there was no prediction.

        A censored observation stands for the middle of its probability mass, so its score is milder than that of
        any single value it may have been.
        """
        if not (math.isfinite(self.predicted_mean) and self.predicted_variance > 0.0):
            return math.nan
        z = (self.value - self.predicted_mean) / math.sqrt(self.predicted_variance)
        if not self.censored:
            return z
        mass = math.exp(self.log_likelihood)
        under = float(ndtr(z))
        # Below a limit the mass is all that lies under it; above a limit, or between two, it begins at the value.
        middle = 0.5 * mass if self.censoring == "left" else under + 0.5 * mass
        return float(ndtri(min(max(middle, 1e-300), 1.0 - 1e-16)))


@dataclass(frozen=True, slots=True)
class Limits:
    """Where one observable's statistics raise an alert.

    Attributes:
        outlier: largest ``|z|`` of one observation.
        cusum: height of the cumulative sum, in predicted standard deviations.
        nis_low, nis_high: band of the windowed sum of squared ``z``.
    """

    outlier: float
    cusum: float
    nis_low: float
    nis_high: float


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """How twins are watched; the defaults were frozen on simulated patients.

    Attributes:
        window: observations in the windowed NIS.
        slack: shift (in standard deviations) that the cumulative sum lets pass; half the shift it is tuned for.
        clip: largest ``|z|`` that enters the cumulative sum; ``clip - slack`` lies under its limits, so that one
            outlier alone is never taken for drift.
        growth: logarithm of the growth of the posterior spread that is reported.
        limits: by observable.
        fallback: for observables without limits of their own.
    """

    window: int = 6
    slack: float = 0.75
    clip: float = 2.0
    growth: float = math.log(1.5)
    limits: Mapping[str, Limits] = field(
        default_factory=lambda: {name: Limits(*row) for name, row in drift_thresholds.LIMITS.items()}
    )
    fallback: Limits = Limits(*drift_thresholds.FALLBACK)

    def of(self, observable: str) -> Limits:
        """Limits of an observable."""
        return self.limits.get(observable, self.fallback)


@dataclass(frozen=True, slots=True)
class Series:
    """Running statistics of one observable of one target.

    Attributes:
        n: observations seen.
        above, below: cumulative sums of upward and downward shifts; ``above_since``, ``below_since``: when each last
            left zero (days), and ``n_above``, ``n_below``: observations since then.
        squares: (time, z squared) of the latest uncensored observations, at most a window of them.
        spread: smallest posterior spread so far (mean log standard deviation of the first ``n_spread`` components).
        spread_time: when that was.
    """

    n: int = 0
    above: float = 0.0
    above_since: float = 0.0
    n_above: int = 0
    below: float = 0.0
    below_since: float = 0.0
    n_below: int = 0
    squares: tuple[tuple[float, float], ...] = ()
    spread: float = math.inf
    spread_time: float = 0.0
    n_spread: int = 0


@dataclass(frozen=True, slots=True)
class DriftState:
    """Everything that `watch` remembers of one twin."""

    series: Mapping[SeriesKey, Series] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; floats keep every bit, an infinite spread is written as null."""
        return {
            "series": [
                [
                    *key, s.n, s.above, s.above_since, s.n_above, s.below, s.below_since, s.n_below,
                    [list(pair) for pair in s.squares], s.spread if math.isfinite(s.spread) else None,
                    s.spread_time, s.n_spread,
                ]
                for key, s in sorted(self.series.items())
            ]
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DriftState:
        """Read what `to_dict` wrote."""
        series = {}
        for row in content["series"]:
            (observable, target, n, above, above_since, n_above, below, below_since, n_below, squares, spread,
             spread_time, n_spread) = row
            series[observable, target] = Series(
                n, above, above_since, n_above, below, below_since, n_below,
                tuple((time, square) for time, square in squares), math.inf if spread is None else spread,
                spread_time, n_spread,
            )
        return cls(series)


@dataclass(frozen=True, slots=True)
class Alert:
    """What was seen, since when, and what to measure next.

    Attributes:
        alert_id: the same for the same twin, event, kind and series in every replay.
        time, since: days since 1970-01-01 of the event that raised it, and of its beginning.
        statistic, threshold: the number that was compared and what with.
    """

    alert_id: str
    kind: AlertKind
    severity: Severity
    observable: str
    target: str
    event: EventKey
    time: float
    since: float
    message: str
    recommended: str
    statistic: float
    threshold: float


def alert_id(twin_id: str, event: EventKey, kind: str, observable: str, target: str) -> str:
    """Deterministic name of an alert (32 hexadecimal digits)."""
    text = "\x1f".join((twin_id, *event, kind, observable, target)).encode()
    return hashlib.sha256(text).hexdigest()[:32]


def watch(
    state: DriftState, twin_id: str, innovation: Innovation, posterior_sd: Sequence[float], settings: DriftSettings
) -> tuple[DriftState, tuple[Alert, ...]]:
    """Take one innovation into account.

    Args:
        posterior_sd: standard deviations of the components after the observation was assimilated.
    Returns:
        The new state and the alerts that this observation raises; the arguments are unchanged. An observation
        without a prediction changes nothing.
    """
    z = innovation.whitened
    if not math.isfinite(z):
        return state, ()
    key = (innovation.observable, innovation.target)
    before = state.series.get(key, Series())
    limits = settings.of(innovation.observable)
    raised: list[tuple[AlertKind, Severity, float, float, float, int]] = []

    if abs(z) > limits.outlier:
        raised.append(("outlier", "warning", z, limits.outlier, innovation.time, 1))

    mild = min(max(z, -settings.clip), settings.clip)
    above, above_since, n_above = _cusum(
        before.above, before.above_since, before.n_above, mild - settings.slack, innovation.time
    )
    below, below_since, n_below = _cusum(
        before.below, before.below_since, before.n_below, -mild - settings.slack, innovation.time
    )
    if above > limits.cusum:
        raised.append(("drift", "high", above, limits.cusum, above_since, n_above))
        above, n_above = 0.0, 0
    elif below > limits.cusum:
        raised.append(("drift", "high", -below, -limits.cusum, below_since, n_below))
        below, n_below = 0.0, 0

    squares = before.squares
    if not innovation.censored:
        # The middle of a censored value's mass scatters less than the value would; it says nothing of the spread.
        squares = (*squares, (innovation.time, z * z))[-settings.window :]
    if len(squares) == settings.window and not innovation.censored:
        nis = math.fsum(square for _, square in squares)
        if nis > limits.nis_high:
            raised.append(("inconsistent", "warning", nis, limits.nis_high, squares[0][0], len(squares)))
            squares = ()
        elif nis < limits.nis_low:
            raised.append(("inconsistent", "info", nis, limits.nis_low, squares[0][0], len(squares)))
            squares = ()

    spread, spread_time, n_spread = before.spread, before.spread_time, before.n_spread or len(posterior_sd)
    now = math.fsum(math.log(max(sd, 1e-300)) for sd in posterior_sd[:n_spread]) / max(n_spread, 1)
    if now - spread > settings.growth:
        raised.append(("uncertain", "info", math.exp(now - spread), math.exp(settings.growth), spread_time, 1))
        spread, spread_time = now, innovation.time
    elif now < spread:
        spread, spread_time = now, innovation.time

    after = Series(
        before.n + 1, above, above_since, n_above, below, below_since, n_below, squares, spread, spread_time, n_spread
    )
    return DriftState({**state.series, key: after}), tuple(
        Alert(
            alert_id=alert_id(twin_id, innovation.event, kind, *key), kind=kind, severity=severity,
            observable=innovation.observable, target=innovation.target, event=innovation.event,
            time=innovation.time, since=since,
            message=statement(kind, *key, since, statistic, threshold, n),
            recommended=recommendation(kind, *key, statistic, threshold), statistic=statistic, threshold=threshold,
        )
        for kind, severity, statistic, threshold, since, n in raised
    )


def _cusum(total: float, since: float, n: int, step: float, time: float) -> tuple[float, float, int]:
    """One step of a one-sided cumulative sum: its height, when it last left zero, and observations since."""
    height = max(0.0, total + step)
    if height == 0.0:
        return 0.0, 0.0, 0
    return height, time if total == 0.0 else since, n + 1


def superseded(before: Iterable[Alert], after: Iterable[Alert]) -> tuple[Alert, ...]:
    """Alerts that a fold raised and that the fold of the amended journal does not: what the amendment explains."""
    standing = {alert.alert_id for alert in after}
    return tuple(alert for alert in before if alert.alert_id not in standing)
