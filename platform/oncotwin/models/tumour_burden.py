"""Tumour burden under systemic therapy: a sensitive and a resistant clone in each lesion, saturating growth, and kill.

Each lesion of volume B holds a sensitive part S and a part R that the regimen does not kill. With g the specific
growth rate, K the carrying capacity, v the shape of saturation and k exp(-w t) a kill rate that wanes::

    dS/dt = G(B) S - k exp(-w t) S,    dR/dt = G(B) R,    B = S + R,    G(B) = rate / v (1 - (B / K)^v)

In logarithms, with x = log(R / S) the log-odds of resistance, both equations become short::

    d log(B)/dt = G(B) - k exp(-w t) / (1 + exp(x)),        dx/dt = k exp(-w t)

so that the clones of all lesions of a patient move apart at one speed: x = (patient's) + (lesion's own constant).

Special cases: v = 1 logistic, v -> 0 Gompertz, v = -1/3 Bertalanffy growth; K -> infinity exponential; without R the
model of Claret 2009 (doi:10.1200/JCO.2008.21.0807); without waning and saturation the two exponentials of Stein 2011
(doi:10.1158/1078-0432.CCR-10-1762).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Plan, Treatment
from oncotwin.domain.units import RESISTANT_FRACTION
from oncotwin.models.base import Array, Hyperparameters, Observable, Reset, Segment
from oncotwin.models.learning import FreeParameter, LearnedComponent, RegimenEffects
from oncotwin.models.spatial_observation import (
    FIRST_OPERATOR,
    noise_sd,
    operator_code,
    operator_days,
    operator_sd,
)
from oncotwin.models.therapy import Therapy
from oncotwin.models.tumour_scale import LOG_SPHERE, on_scale_of

_f1 = types.float64[::1]

SHARED = ("log_growth", "log_kill", "log_waning", "resistance")
PER_TARGET = ("log_volume", "resistance_offset")
EFFECT = ("log_kill", "resistance")
"""Components that belong to a regimen: they get a new prior when the regimen changes."""

_REGIMEN_EFFECTS = RegimenEffects(("effects",), EFFECT)

_N_SHARED = 4
_TURNOVER = 0.5
"""Growth and kill of one step together, in log units: keeps the error of splitting below about 1e-3."""
_MOST_STEPS = 64
# Members far out in the tails must stay finite; no tumour has rates or sizes near these bounds.
_LOWEST, _HIGHEST = -30.0, 30.0


@njit(types.float64(types.float64, types.float64, types.float64, types.float64), cache=True, nogil=True)
def grown(log_volume: float, days: float, rate: float, shape: float) -> float:
    """Logarithm of volume over capacity after ``days`` of Richards growth from ``log_volume`` over capacity."""
    decay = math.exp(-rate * days)
    if shape == 0.0:
        return log_volume * decay
    w = 1.0 + math.expm1(-shape * log_volume) * decay
    return -math.log(w) / shape


@njit(types.float64(types.float64, types.float64, types.float64), cache=True, nogil=True)
def killed(kill: float, waning: float, days: float) -> float:
    """Integral of ``kill exp(-waning t)`` over the first ``days`` of a regimen."""
    if waning * days < 1e-8:
        return kill * days
    return -kill * math.expm1(-waning * days) / waning


@njit(types.void(_f1, types.float64, types.float64, _f1, _f1, _f1), cache=True, nogil=True)
def propagate(member: Array, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """One member over [t0, t1]; ``inputs`` are 1 under therapy (else 0) and the day on which the regimen began.

    Growth and kill are each solved exactly and composed by Strang splitting (Strang 1968, doi:10.1137/0705041), which
    is exact without saturation or without kill, and takes a few steps between visits.
    """
    shape, log_capacity, rate_per_growth = constants[0], constants[1], constants[2]
    rate = rate_per_growth * math.exp(min(max(member[0], _LOWEST), 3.0))
    kill = math.exp(min(max(member[1], _LOWEST), 3.0))
    waning = math.exp(min(max(member[2], _LOWEST), 3.0))
    span = t1 - t0
    treated = inputs[0] > 0.0
    n_steps = min(max(math.ceil(span * (rate + kill) / _TURNOVER), 1), _MOST_STEPS)
    h = span / n_steps
    for i in range(member.shape[0]):
        out[i] = member[i]
    for target in range((member.shape[0] - 4) // 2):
        z = member[4 + 2 * target] - log_capacity
        if treated:
            day = max(t0 - inputs[1], 0.0)
            before = killed(kill, waning, day)
            x = min(max(member[3] + member[5 + 2 * target], _LOWEST), _HIGHEST)
            for step in range(n_steps):
                z = grown(z, 0.5 * h if step == 0 else h, rate, shape)
                after = killed(kill, waning, day + (step + 1) * h)
                # log(S + R) with R unchanged and S = 1 at the regimen's begin, before and after this step.
                odds = math.exp(x)
                z += math.log((math.exp(-after) + odds) / (math.exp(-before) + odds))
                before = after
            z = grown(z, 0.5 * h, rate, shape)
        else:
            z = grown(z, span, rate, shape)
        out[4 + 2 * target] = min(max(z + log_capacity, _LOWEST), _HIGHEST)


@njit(types.void(_f1, types.int64, types.int64, _f1, _f1), cache=True, nogil=True)
def observe(member: Array, operator: int, target: int, constants: Array, out: Array) -> None:
    """Logarithm of diameter (0), volume (1) or sum of diameters (2), and the variance of its noise.

    From `FIRST_OPERATOR` on: log-odds of the resistant fraction of the patient's tumour at that day of the regimen.

    The noise of one diameter has a relative part and one in mm, as a reader's cursor and a slice's thickness make it;
    a volume, the third power of a diameter, carries three times both. Readings of several lesions err independently:
    the variance (mm2) of the sum is the sum of theirs.
    """
    if operator >= FIRST_OPERATOR:
        # dx/dt = k exp(-w t) from the regimen's begin on: what the sensitive clone has lost so far.
        kill = math.exp(min(max(member[1], _LOWEST), 3.0))
        waning = math.exp(min(max(member[2], _LOWEST), 3.0))
        out[0] = min(max(member[3], _LOWEST), _HIGHEST) + killed(kill, waning, operator_days(operator))
        out[1] = operator_sd(operator) ** 2
        return
    relative, absolute = constants[3], constants[4]
    scale = 1.0
    if operator == 2:
        n_targets = (member.shape[0] - 4) // 2
        total, squares = 0.0, 0.0
        for t in range(n_targets):
            diameter = math.exp((member[4 + 2 * t] - LOG_SPHERE) / 3.0)
            total += diameter
            squares += diameter * diameter
        log_diameter = math.log(total)
        relative *= math.sqrt(squares) / total
        absolute *= math.sqrt(n_targets)
        out[0] = log_diameter
    else:
        log_diameter = (member[4 + 2 * target] - LOG_SPHERE) / 3.0
        out[0] = log_diameter
        if operator == 1:
            out[0] = member[4 + 2 * target]
            scale = 3.0
    # Beyond a relative error of about one the size is unknown anyway; the bound keeps tiny members finite.
    absolute = min(absolute * math.exp(-log_diameter), 1.0)
    out[1] = scale * scale * (relative * relative + absolute * absolute)


@dataclass(frozen=True, slots=True)
class TumourBurden:
    """The tumour-burden model; see the module's head for its equations.

    State: log growth rate at the reference volume (1/day), log kill rate (1/day), log waning rate (1/day) and the
    patient's log-odds of resistance when the present regimen began, then for each lesion its log volume (mm3) and the
    deviation of its log-odds of resistance from the patient's.
    """

    name: str = "tumour_burden"
    observables: tuple[Observable, ...] = (
        Observable("longest_diameter", "mm", True, 2.0),
        Observable("volume", "mm3", True, 10.0),
        Observable("sum_of_longest_diameters", "mm", False, 2.0, of_all_targets=True),
    )
    shared: tuple[str, ...] = SHARED
    per_target: tuple[str, ...] = PER_TARGET
    spatial: tuple[str, ...] = (RESISTANT_FRACTION,)
    n_inputs: int = 2
    propagate: Any = propagate
    observe: Any = observe
    free: tuple[FreeParameter, ...] = (
        FreeParameter(("growth_rate", "median"), 1e-5, 0.3),
        FreeParameter(("growth_rate", "spread"), 0.1, 2.0),
        FreeParameter(("noise", "relative"), 0.01, 0.3),
        FreeParameter(("noise", "mm"), 0.05, 5.0),
        FreeParameter(("drift", "log_growth"), 0.001, 0.2),
        FreeParameter(("drift", "log_volume"), 0.003, 0.2),
    )
    learned: tuple[LearnedComponent, ...] = tuple(
        LearnedComponent(name, (name, "mean"), (name, "sd"), 0.1) for name in EFFECT
    )
    effects: RegimenEffects = _REGIMEN_EFFECTS

    def default_hyperparameters(self) -> dict[str, Any]:
        """Priors for a lesion of an adult with a solid tumour; see docs/models/tumour_burden.md for the sources.

        ``growth_rate`` is log-normal (``median`` per day at the size ``log_reference``, ``spread`` of its logarithm);
        other components have ``mean`` and ``sd``, those in `EFFECT` for a regimen that has no entry in ``effects``.
        ``growth_shape`` is v; sizes are log mm3; ``noise`` is that of a diameter; ``drift`` per square root of a day.
        """
        return {
            "growth_shape": 0.0,
            "log_capacity": 15.0,
            "log_reference": 9.5,
            "growth_rate": {"median": 0.0025, "spread": 0.6},
            "log_kill": {"mean": -5.3, "sd": 0.7},
            "log_waning": {"mean": -5.3, "sd": 0.3},
            "resistance": {"mean": -3.0, "sd": 1.0},
            "log_volume": {"mean": 9.5, "sd": 3.0},
            "resistance_offset": {"mean": 0.0, "sd": 0.3},
            "noise": {"relative": 0.02, "mm": 0.1},
            "drift": {"log_growth": 0.02, "log_kill": 0.015, "log_volume": 0.053},
            "effects": {},
        }

    def pretrain(
        self, series: Sequence[Sequence[Observation | Treatment | Plan]], hyper: Hyperparameters
    ) -> dict[str, Any]:
        """Hyperparameters on the scale of a population's sizes and pace, from which a search can set out.

        Mice are measured every few days and live ten times faster than men; a search that begins with men's rates
        ends elsewhere. Robust statistics of the series suffice: the quartiles of size, and of the slope in log volume.
        """
        return on_scale_of(series, {known.name: known.floor for known in self.observables if known.per_target}, hyper)

    def prior(self, hyper: Hyperparameters) -> tuple[Array, Array]:
        """Mean (4,) and diagonal covariance (4, 4) of the shared components, for a patient of the population."""
        growth = hyper["growth_rate"]
        mean = [math.log(growth["median"]), *(hyper[name]["mean"] for name in SHARED[1:])]
        sd = [growth["spread"], *(hyper[name]["sd"] for name in SHARED[1:])]
        return np.array(mean, dtype=np.float64), np.diag(np.square(np.array(sd, dtype=np.float64)))

    def target_prior(self, hyper: Hyperparameters) -> Array:
        """(2, 2): mean and variance of a new lesion's log volume and of its own log-odds of resistance."""
        pairs = [[hyper[name]["mean"], hyper[name]["sd"] ** 2] for name in PER_TARGET]
        return np.array(pairs, dtype=np.float64)

    def constants(self, hyper: Hyperparameters) -> Array:
        """(5,): shape, log capacity, rate over stated growth, noise of a diameter (relative, mm)."""
        shape, log_capacity = float(hyper["growth_shape"]), float(hyper["log_capacity"])
        # The reference lies below the capacity, else the stated growth would be none.
        z = min(float(hyper["log_reference"]) - log_capacity, -0.1)
        rate_per_growth = -1.0 / z if shape == 0.0 else -shape / math.expm1(shape * z)
        noise = hyper["noise"]
        return np.array([shape, log_capacity, rate_per_growth, noise["relative"], noise["mm"]], dtype=np.float64)

    def process_variance(self, hyper: Hyperparameters, n_targets: int) -> Array:
        """(4 + 2 n_targets,) variance per day of the slow drift."""
        drift = hyper["drift"]
        variance = [float(drift.get(name, 0.0)) ** 2 for name in (*SHARED, *PER_TARGET)]
        return np.array(variance[:_N_SHARED] + variance[_N_SHARED:] * n_targets, dtype=np.float64)

    def transform(self, observable: str, value: float) -> float:
        """Logarithm of a size, one that vanished (0) being kept at half of the floor below which none is told apart."""
        return math.log(max(value, 0.5 * self._floor(observable)))

    def inverse(self, observable: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Size (mm or mm3) of log sizes."""
        return np.asarray(np.exp(value))

    def segments(
        self, therapy: Therapy, start: float, end: float, hyper: Hyperparameters, *, forecast: bool
    ) -> Sequence[Segment]:
        """One segment: under therapy or not. Known ends of agents are the caller's to cut at."""
        return (Segment(end, (1.0, max(agent.since for agent in therapy.agents)) if therapy.on else (0.0, 0.0)),)

    def spatial_operator(
        self, item: Observation, therapy: Therapy, time: float, hyper: Hyperparameters
    ) -> int | None:
        """Resistant fraction of a section while a regimen is in force.

        Without one it says nothing here: resistance is to a regimen, and the next brings a prior of its own.
        """
        if not therapy.on:
            return None
        began = max(agent.since for agent in therapy.agents)
        return operator_code(0, time - began, noise_sd(item, float(hyper["resistance_offset"]["sd"])))

    def therapy_resets(
        self, before: Therapy, after: Therapy, time: float, hyper: Hyperparameters
    ) -> Sequence[Reset]:
        """Another regimen: kill, waning and log-odds of resistance of its own prior; lesions keep their offsets."""
        if not after.on or after.regimen == before.regimen:
            return ()
        return tuple(
            Reset(SHARED.index(name), mean, sd * sd) for name, (mean, sd) in effect_prior(hyper, after).items()
        )

    def _floor(self, observable: str) -> float:
        for known in self.observables:
            if known.name == observable:
                return known.floor
        raise ValueError(f"{self.name} does not know the observable {observable!r}; it knows "
                         f"{', '.join(known.name for known in self.observables)}")


def effect_prior(hyper: Hyperparameters, therapy: Therapy) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the `EFFECT` components under a regimen.

    A regimen with an entry of its own has that; a combination without one whose agents are known adds their kill
    rates (independent action) and takes the rest from the strongest of them; anything else is of the population.
    """
    effects: Mapping[str, Any] = hyper["effects"]
    known, log_kill = effects.get(therapy.regimen), None
    if known is None and (parts := [effects[agent.name] for agent in therapy.agents if agent.name in effects]):
        known = max(parts, key=lambda part: float(part["mean"][0]))
        log_kill = math.log(sum(math.exp(float(part["mean"][0])) for part in parts))
    if known is None:
        known = {key: [hyper[name][key] for name in EFFECT] for key in ("mean", "sd")}
    effect = {
        name: (float(mean), float(sd)) for name, mean, sd in zip(EFFECT, known["mean"], known["sd"], strict=True)
    }
    if log_kill is not None:
        effect["log_kill"] = (log_kill, effect["log_kill"][1])
    return effect
