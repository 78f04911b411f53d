"""The learned second layer of a forecast: what the mechanistic model misses, and how wide its error really is.

Quantile trees read the model's own prediction and the series' past. Boosted ones learn where the outcome lies: half of
them the change from the last value, half the error of the model's mean. Bagged ones learn the shape of a change in
units of its expected size, an exact repetition included. They are grown on patients in turn (cross-fitting); on the
patients that each had not seen, the weight of the two kinds, a shrinkage of the median towards the last value and a
shift of each level are chosen, so that score and coverage hold out of sample.

Source:
    Kennedy & O'Hagan 2001, doi:10.1111/1467-9868.00294 (discrepancy of a computer model); Romano et al. 2019,
    arXiv:1905.03222 (conformalised quantile regression); Kuleshov et al. 2018, arXiv:1807.00263 (recalibration).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from oncotwin.twin.boosting import KNOTS, Growth, QuantileTrees, fit
from oncotwin.twin.origins import Progress, silent
from oncotwin.twin.quantiles import LEVELS
from oncotwin.twin.recording import UNROUNDED
from oncotwin.twin.scale import ChangeScale, learn_scale
from oncotwin.twin.scores import crps, fold_of

Array = NDArray[np.float64]

N_FOLDS = 5
FEWEST_ROWS = 200
"""Below this many forecasts with an outcome no trees are grown: only shrink and shift are learned."""
FEWEST_PATIENTS = 8
_MANY_ROWS = 30_000
_ROWS_PER_BIN = 150
_MOST_BINS = 5
_SHRINKS: Array = np.linspace(0.0, 1.2, 13)
_PARTS: Array = np.linspace(0.0, 1.0, 9)
_BAGGED = Growth(n_trees=40, n_leaves=60, min_rows=60, feature_part=0.33, bagged=True)
_TRUSTED_ROWS = 100
_REGIMEN_PATIENTS = 5.0
_LEAST_SPREAD = 1e-3
_NO_TREES = np.zeros(0, dtype=np.int64)
_NO_SHAPE = QuantileTrees(
    np.zeros(len(LEVELS)), _NO_TREES, _NO_TREES, np.zeros(0), _NO_TREES, _NO_TREES, np.zeros((0, len(LEVELS)))
)
_NO_SCALE = ChangeScale((), np.zeros(1))
"""Stand where no bagged trees were grown; their weight is zero."""


@dataclass(frozen=True, slots=True)
class Training:
    """Forecasts whose outcome is known; one row each, all of one observable.

    Attributes:
        features: (m, n_features) as `forecasting.feature_names`; the first is the horizon in days.
        mean, variance, last, regimen: (m,) as in `forecasting.RawForecast`.
        outcome: (m,) observed level; censored: (m,) whether it is only a bound.
        patient: (m,) whose; a patient's rows are never on both sides of a cross-fit.
    """

    features: Array
    mean: Array
    variance: Array
    last: Array
    regimen: NDArray[np.str_]
    outcome: Array
    censored: NDArray[np.bool_]
    patient: NDArray[np.str_]

    def rows(self, chosen: NDArray[np.bool_]) -> Training:
        """The chosen rows."""
        return Training(
            self.features[chosen], self.mean[chosen], self.variance[chosen], self.last[chosen], self.regimen[chosen],
            self.outcome[chosen], self.censored[chosen], self.patient[chosen],
        )


@dataclass(frozen=True, slots=True)
class Member:
    """Trees grown without one fold of patients.

    Attributes:
        from_last: quantiles of the change from the last level.
        from_mean: quantiles of the error of the mechanistic model's mean.
        standard: quantiles, at `LEVELS`, of the change from the last level in units of ``scale``.
        scale: expected size of a change.
        rates: mean change per day under each regimen that was seen; ``overall`` for others.
    """

    from_last: QuantileTrees
    from_mean: QuantileTrees
    standard: QuantileTrees
    scale: ChangeScale
    rates: Mapping[str, float]
    overall: float

    def steps(
        self, features: Array, mean: Array, last: Array, regimen: NDArray[np.str_]
    ) -> tuple[Array, Array]:
        """Quantiles (m, 21) of the change from the last level, by the boosted trees and by the bagged."""
        table = with_rate(features, regimen, self.rates, self.overall)
        moved = (mean - last)[:, None] + self.from_mean.predict(table)
        boosted = on_grid(0.5 * (self.from_last.predict(table) + moved))
        return boosted, self.standard.predict(table) * self.scale.predict(features)[:, None]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """The layer of one observable.

    Attributes:
        members: whose mean is taken; without any, the mechanistic model's own Gaussian stands.
        edges: (n_bins - 1,) days: forecasts are grouped by horizon for what follows.
        part: (n_bins,) weight of the bagged trees beside the boosted.
        shrink: (n_bins,) how much of the forecast change is believed.
        shift: (n_bins, 21) added to each level, in units of the forecast's spread.
        lowest: level below which values are not told apart.
        decimals: with which the observable is written down where a series' past was so too (`recording`).
    """

    members: tuple[Member, ...]
    edges: Array
    part: Array
    shrink: Array
    shift: Array
    lowest: float = -np.inf
    decimals: int = UNROUNDED

    @classmethod
    def identity(cls) -> Discrepancy:
        """No correction: the mechanistic model's Gaussian prediction."""
        return cls((), np.zeros(0), np.zeros(1), np.ones(1), np.zeros((1, len(LEVELS))))

    def quantiles(
        self, features: Array, mean: Array, variance: Array, last: Array, regimen: NDArray[np.str_]
    ) -> Array:
        """Predictive quantiles (m, 21) in observation scale, not decreasing."""
        mean, last = np.maximum(mean, self.lowest), np.maximum(last, self.lowest)
        if self.members:
            both = [member.steps(features, mean, last, regimen) for member in self.members]
            part = self.part[np.searchsorted(self.edges, features[:, 0], side="right")][:, None]
            steps = mixed(np.mean([b for b, _ in both], axis=0), np.mean([s for _, s in both], axis=0), part)
        else:
            steps = on_grid(raw_knots(mean, variance, last))
        levels = corrected(steps, last, features[:, 0], self.edges, self.shrink, self.shift)
        return np.asarray(np.maximum(levels, self.lowest))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "members": [
                {
                    "from_last": m.from_last.to_dict(), "from_mean": m.from_mean.to_dict(),
                    "standard": m.standard.to_dict(), "scale": m.scale.to_dict(), "rates": dict(m.rates),
                    "overall": m.overall,
                }
                for m in self.members
            ],
            "edges": self.edges.tolist(), "part": self.part.tolist(), "shrink": self.shrink.tolist(),
            "shift": self.shift.tolist(), "lowest": None if np.isinf(self.lowest) else self.lowest,
            "decimals": self.decimals,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Discrepancy:
        """Read what `to_dict` wrote."""
        lowest = content["lowest"]
        return cls(
            tuple(
                Member(
                    QuantileTrees.from_dict(m["from_last"]), QuantileTrees.from_dict(m["from_mean"]),
                    QuantileTrees.from_dict(m["standard"]), ChangeScale.from_dict(m["scale"]), m["rates"],
                    m["overall"],
                )
                for m in content["members"]
            ),
            np.array(content["edges"], dtype=np.float64),
            np.array(content["part"], dtype=np.float64), np.array(content["shrink"], dtype=np.float64),
            np.array(content["shift"], dtype=np.float64), -np.inf if lowest is None else lowest, content["decimals"],
        )


def raw_knots(mean: Array, variance: Array, last: Array) -> Array:
    """The mechanistic model's Gaussian as quantiles (m, n_knots) of the change from the last level."""
    return np.asarray((mean - last)[:, None] + np.sqrt(variance)[:, None] * ndtri(KNOTS))


def on_grid(knots: Array) -> Array:
    """Quantiles at `LEVELS` (m, 21) from those at `KNOTS`: straight lines over normal scores, also beyond the ends."""
    x, wanted = ndtri(KNOTS), ndtri(LEVELS)
    k = np.clip(np.searchsorted(x, wanted) - 1, 0, len(x) - 2)
    part = (wanted - x[k]) / (x[k + 1] - x[k])
    return np.asarray(knots[:, k] + part * (knots[:, k + 1] - knots[:, k]))


def mixed(boosted: Array, standard: Array, part: Array | float) -> Array:
    """Quantiles averaged level by level, ``part`` of them the second (Vincent 1912; Lichtendahl, Grushka-Cockayne &
    Winkler 2013, doi:10.1287/mnsc.1120.1667: sharper than averaged probabilities).
    """
    return np.asarray((1.0 - part) * boosted + part * standard)


def corrected(steps: Array, last: Array, horizon: Array, edges: Array, shrink: Array, shift: Array) -> Array:
    """Quantiles (m, 21) after shrinking the median towards the last level and shifting each level."""
    group = np.searchsorted(edges, horizon, side="right")
    middle = steps[:, [10]]
    moved = steps + (shrink[group][:, None] - 1.0) * middle + shift[group] * spread(steps)
    return np.maximum.accumulate(last[:, None] + moved, axis=1)


def spread(steps: Array) -> Array:
    """Width (m, 1) of a forecast: from q15 to q85."""
    return np.maximum(steps[:, [17]] - steps[:, [3]], _LEAST_SPREAD)


def with_rate(features: Array, regimen: NDArray[np.str_], rates: Mapping[str, float], overall: float) -> Array:
    """Features with the regimen's mean change per day and over the horizon appended."""
    names, place = np.unique(regimen, return_inverse=True)
    rate = np.array([rates.get(str(name), overall) for name in names])[place]
    return np.column_stack([features, rate, rate * features[:, 0]])


def regimen_rates(training: Training) -> tuple[dict[str, float], float]:
    """Mean change per day by regimen, each patient counted once, shrunk towards that of all."""
    daily = np.clip((training.outcome - training.last) / np.maximum(training.features[:, 0], 1.0), -1.0, 1.0)
    keys = np.char.add(np.char.add(training.regimen, "\x1f"), training.patient)
    _, first, owner = np.unique(keys, return_index=True, return_inverse=True)
    patient_rate = np.bincount(owner, daily) / np.bincount(owner)
    regimens = training.regimen[first]
    overall = float(patient_rate.mean())
    rates = {}
    for name in np.unique(regimens):
        own = patient_rate[regimens == name]
        rates[str(name)] = float((own.sum() + _REGIMEN_PATIENTS * overall) / (len(own) + _REGIMEN_PATIENTS))
    return rates, overall


def learn(
    training: Training, *, lowest: float = -np.inf, growth: Growth | None = None, progress: Progress = silent
) -> Discrepancy:
    """Learn the layer of one observable.

    Args:
        lowest: level of the observable's floor; outcomes below count as it.
        growth: of the trees; by default as the number of forecasts allows.
    """
    known = training.rows(~training.censored)
    growth = growth or growth_for(len(known.outcome))
    outcome = np.maximum(training.outcome, lowest)
    last, mean = np.maximum(training.last, lowest), np.maximum(training.mean, lowest)
    members: list[Member] = []
    # With very many forecasts the boosted trees find the spread by themselves: bagged ones gain nothing beside them.
    few = len(known.outcome) < _MANY_ROWS
    boosted = standard = on_grid(raw_knots(mean, training.variance, last))
    if len(known.outcome) >= FEWEST_ROWS and len(np.unique(known.patient)) >= FEWEST_PATIENTS:
        fold = _balanced_folds(training.patient)
        boosted, standard = np.zeros((2, len(fold), len(LEVELS)))
        for k in range(N_FOLDS):
            inside, outside = (fold != k) & ~training.censored, fold == k
            rates, overall = regimen_rates(training.rows(inside))
            features, change = training.features[inside], (outcome - last)[inside]
            table = with_rate(features, training.regimen[inside], rates, overall)
            from_last = fit(table, change, growth)
            progress("growing trees", (k + 0.4) / N_FOLDS)
            from_mean = fit(table, (outcome - mean)[inside], growth)
            progress("growing trees", (k + 0.8) / N_FOLDS)
            scale, shape = _NO_SCALE, _NO_SHAPE
            if few:
                scale = learn_scale(features, change)
                shape = fit(table, change / scale.predict(features), _BAGGED, LEVELS)
            progress("growing trees", (k + 1.0) / N_FOLDS)
            members.append(Member(from_last, from_mean, shape, scale, rates, overall))
            boosted[outside], standard[outside] = members[-1].steps(
                training.features[outside], mean[outside], last[outside], training.regimen[outside]
            )
    edges = _horizon_edges(training.features[:, 0])
    group = np.searchsorted(edges, training.features[:, 0], side="right")
    n_bins = len(edges) + 1
    part, shrink, shift = np.zeros(n_bins), np.ones(n_bins), np.zeros((n_bins, len(LEVELS)))
    for b in range(n_bins):
        rows = (group == b) & ~training.censored
        if not rows.any():
            continue
        trust = min(1.0, rows.sum() / _TRUSTED_ROWS)
        change = (outcome - last)[rows]
        if members and few:
            losses = np.array([crps(mixed(boosted[rows], standard[rows], p), change) for p in _PARTS])
            part[b] = _PARTS[_smoothest(losses, training.patient[rows])]
        steps = mixed(boosted[rows], standard[rows], part[b])
        middle = steps[:, [10]]
        best = np.argmin([crps(steps + (s - 1.0) * middle, change).mean() for s in _SHRINKS])
        shrink[b] = 1.0 + trust * (_SHRINKS[best] - 1.0)
        # Shifts answer for values that can be measured; what is too small to measure is left to the lower tail.
        moved = steps + (shrink[b] - 1.0) * middle
        shift[b] = trust * _conformal((change[:, None] - moved) / spread(steps), len(np.unique(training.patient[rows])))
    return Discrepancy(tuple(members), edges, part, shrink, np.round(shift, 6), lowest)


def _smoothest(losses: Array, patients: NDArray[np.str_]) -> int:
    """The last candidate that is no worse than the best by more than one standard error over patients.

    The bagged trees are the smoother of the two kinds, and what is learned on few patients must hold on others.

    Args:
        losses: (n_candidates, m), the candidates from rough to smooth; patients: (m,) whose row each is.
    Source:
        Breiman et al. 1984, Classification and Regression Trees, section 3.4.3 (the one-standard-error rule).
    """
    best = int(np.argmin(losses.mean(axis=1)))
    _, owner = np.unique(patients, return_inverse=True)
    chosen = best
    for candidate in range(best + 1, len(losses)):
        worse = np.bincount(owner, losses[candidate] - losses[best])
        if worse.sum() <= np.sqrt((worse**2).sum()):
            chosen = candidate
    return chosen


def growth_for(n_rows: int) -> Growth:
    """Small trees where forecasts are few: a leaf then speaks for a hundred of them."""
    if n_rows < _MANY_ROWS:
        return Growth(n_trees=100, n_leaves=7, min_rows=100)
    return Growth(n_trees=100, rate=0.08, min_rows=100)


def _conformal(miss: Array, n_patients: int) -> Array:
    """(21,) shift of each level so that the share of misses below it is the level.

    Levels are taken outwards by a quarter of one patient's share: rows of a patient go together, so that with few
    patients the intervals of new ones would else be too narrow; half a share made them too wide.
    """
    margin = 0.25 / (n_patients + 1)
    outward = LEVELS + np.sign(LEVELS - 0.5) * np.minimum(np.abs(LEVELS - 0.5), margin)
    return np.array([np.quantile(miss[:, j], min(max(level, 0.0), 1.0)) for j, level in enumerate(outward)])


def _balanced_folds(patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """Folds of patients by the order of their hash, so that even eight patients fill all of them."""
    names = sorted({str(name) for name in patients}, key=lambda name: (fold_of(name, 2**32), name))
    place = {name: index % N_FOLDS for index, name in enumerate(names)}
    return np.array([place[str(name)] for name in patients], dtype=np.int64)


def _horizon_edges(horizon: Array) -> Array:
    """Days that part the horizons into up to five groups of equal size."""
    n_bins = int(np.clip(len(horizon) // _ROWS_PER_BIN, 1, _MOST_BINS))
    return np.unique(np.quantile(horizon, np.arange(1, n_bins) / n_bins))
