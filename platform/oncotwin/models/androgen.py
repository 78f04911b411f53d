"""PSA under intermittent androgen suppression: androgen-dependent and androgen-independent cells, and testosterone.

The androgen signal follows treatment u (1 on, 0 off), fast down and slowly up, on the logit scale::

    dz/dt = -castration (z - low)    on treatment,        dz/dt = recovery (high - z)    off treatment
    A = 1 / (1 + exp(-z)),           E = 1 / (1 + exp(-(z + sensitivity)))

A is the part of the normal testosterone that is there and E what the tumour makes of it: a tumour that is more
sensitive than the assay answers before testosterone is back. The androgen-dependent cells D (as ng/mL of PSA at full
signal) grow towards a capacity K under androgen and decline towards a remnant L without it, both Gompertz-like; the
androgen-independent cells I grow under suppression alone::

    d log D / dt = growth E (log K - log D) - decline (1 - E) (log D - log L)
    d log I / dt = independent growth (1 - E)
    PSA = secretion (D (basal + (1 - basal) E) + I),        testosterone = castrate + normal A

Relatives: on/off switching of dependent and independent compartments of Hirata, Bruchovsky & Aihara 2010
(doi:10.1016/j.jtbi.2010.02.027); testosterone as a driver and saturating answer to it of Portz, Kuang & Nagy 2012
(doi:10.1063/1.3697848) and Baez & Kuang 2016 (doi:10.3390/app6110352); few parameters that differ between patients
of Brady-Nicholls et al. 2020 (doi:10.1038/s41467-020-15424-4). Gompertz saturation (Laird 1964,
doi:10.1038/bjc.1964.55) keeps both phases linear in the logarithms, where the filter works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.models import androgen_kernels as kernels
from oncotwin.models.base import Array, Hyperparameters, Observable, Reset, Segment
from oncotwin.models.learning import FreeParameter
from oncotwin.models.therapy import Therapy

SHARED = (
    "androgen", "log_secretion", "log_dependent", "log_independent", "log_growth", "log_decline",
    "independent_growth", "log_castration", "log_recovery", "log_normal_testosterone", "basal_secretion",
    "log_capacity", "log_remnant", "switched",
)
"""Androgen signal (logit); secretion per cell (log, relative); both compartments (log ng/mL); growth and decline
(log 1/day); growth of the independent cells (percent a day); castration and recovery (log 1/day); normal testosterone
(log nmol/L); basal secretion (logit); capacity and remnant (log ng/mL); cumulative hazard of a switch of treatment
since the origin of a forecast (0 otherwise)."""

_SEARCHED = {
    "typical": (
        ("log_growth", 0.0005, 0.1), ("log_decline", 0.0002, 0.2), ("log_castration", 0.005, 0.3),
        ("log_recovery", 0.002, 0.2), ("log_independent", 0.005, 5.0), ("log_remnant", 0.001, 2.0),
        ("log_capacity", 2.0, 200.0),
    ),
    "drift_sd": (("androgen", 0.01, 1.0), ("log_growth", 0.001, 0.1), ("log_normal_testosterone", 0.001, 0.1)),
}
"""What calibration searches: component, lower and upper bound of the number, by key of the hyperparameters."""


@dataclass(frozen=True, slots=True)
class AndrogenSuppression:
    """The model of PSA under intermittent androgen suppression; see the module's head for its equations."""

    name: str = "androgen_suppression"
    observables: tuple[Observable, ...] = (
        Observable("psa", "ng/mL", False, 0.05),
        Observable("testosterone", "nmol/L", False, 0.05),
    )
    shared: tuple[str, ...] = SHARED
    per_target: tuple[str, ...] = ()
    n_inputs: int = 3
    propagate: Any = kernels.propagate
    observe: Any = kernels.observe
    free: tuple[FreeParameter, ...] = (
        *(
            FreeParameter((key, SHARED.index(name)), lower, upper)
            for key, searched in _SEARCHED.items()
            for name, lower, upper in searched
        ),
        FreeParameter(("psa_noise", 0), 0.005, 0.5),
        FreeParameter(("testosterone_noise", 1), 0.02, 1.0),
        FreeParameter(("sensitivity",), 0.05, 20.0),
    )

    def default_hyperparameters(self) -> dict[str, Any]:
        """Priors for a man with prostate cancer before androgen suppression; sources in docs/models/androgen.md.

        Keys: ``typical`` (the median man, in natural units: fractions, ng/mL, nmol/L, 1/day, percent a day),
        ``prior_sd`` and ``drift_sd`` (per square root of a day) on the scale of the state, in the order of `SHARED`;
        ``androgen_range`` (logit of the signal on long treatment, and long after); ``sensitivity`` (odds ratio);
        ``castrate_testosterone`` (nmol/L); ``secretion_return`` (1/day); ``psa_noise``, ``testosterone_noise``
        (relative, in the unit); ``restart`` (PSA in ng/mL, width of its logarithm, rate per day above it) and
        ``pause`` (days on treatment, width in days, rate per day after it): the protocol's switching.
        """
        return {
            "typical": [0.97, 1.0, 12.0, 0.14, 0.01, 0.006, 0.1, 0.05, 0.018, 13.5, 0.18, 13.5, 0.05, 0.0],
            "prior_sd": [1.0, 0.15, 0.8, 0.8, 0.5, 0.7, 0.1, 0.4, 0.4, 0.4, 1.0, 0.5, 0.8, 0.0],
            "drift_sd": [0.1, 0.03, 0.005, 0.02, 0.01, 0.003, 0.005, 0.003, 0.005, 0.01, 0.005, 0.005, 0.005, 0.0],
            "androgen_range": [-6.0, 6.0],
            "sensitivity": 1.0,
            "castrate_testosterone": 0.35,
            "secretion_return": 0.002,
            "psa_noise": [0.05, 0.01],
            "testosterone_noise": [0.2, 0.15],
            "restart": [12.0, 0.15, 0.04],
            "pause": [252.0, 5.0, 0.06],
        }

    def prior(self, hyper: Hyperparameters) -> tuple[Array, Array]:
        """Mean (14,) and diagonal covariance (14, 14) before any treatment."""
        return typical(hyper), np.diag(np.square(np.array(hyper["prior_sd"], dtype=np.float64)))

    def target_prior(self, hyper: Hyperparameters) -> Array:
        """(0, 2): PSA and testosterone are the patient's own."""
        return np.zeros((0, 2))

    def constants(self, hyper: Hyperparameters) -> Array:
        """(16,) in the order of `androgen_kernels`."""
        restart, pause = hyper["restart"], hyper["pause"]
        return np.array([
            *hyper["androgen_range"], math.log(hyper["sensitivity"]), hyper["castrate_testosterone"],
            hyper["secretion_return"], *hyper["psa_noise"], *hyper["testosterone_noise"],
            math.log(restart[0]), *restart[1:], *pause, 0.4 * self.observables[0].floor,
        ], dtype=np.float64)

    def process_variance(self, hyper: Hyperparameters, n_targets: int) -> Array:
        """(14,) variance per day."""
        return np.square(np.array(hyper["drift_sd"], dtype=np.float64))

    def transform(self, observable: str, value: float) -> float:
        """Logarithm of a concentration, those below the floor being told apart by none."""
        return math.log(max(value, self._floor(observable)))

    def inverse(self, observable: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Concentration (ng/mL or nmol/L) of logarithms."""
        return np.asarray(np.exp(value))

    def segments(
        self, therapy: Therapy, start: float, end: float, hyper: Hyperparameters, *, forecast: bool
    ) -> Sequence[Segment]:
        """One segment. In a forecast treatment follows the state, unless the end of what is being given is known."""
        known_end = any(agent.until is not None for agent in therapy.agents)
        switched = therapy.switched if therapy.switched is not None else start
        return (Segment(end, (float(therapy.on), float(forecast and not known_end), switched)),)

    def therapy_resets(
        self, before: Therapy, after: Therapy, time: float, hyper: Hyperparameters
    ) -> Sequence[Reset]:
        """A switch starts the hazard of the next one anew; a man met in mid-treatment is already suppressed."""
        if before.on == after.on:
            return ()
        resets = [Reset(kernels.SWITCHED, 0.0, 0.0)]
        begun = after.switched if after.switched is not None else time
        if after.on and time > begun:
            low = hyper["androgen_range"][0]
            mean, sd = typical(hyper), hyper["prior_sd"]
            left = math.exp(-math.exp(mean[kernels.CASTRATION]) * (time - begun))
            resets.append(Reset(kernels.ANDROGEN, low + (mean[kernels.ANDROGEN] - low) * left, 1.0))
            # How far the dependent cells are down by now is unknown: anywhere from capacity to remnant.
            top, bottom = mean[kernels.CAPACITY], mean[kernels.REMNANT]
            spread = 0.25 * (top - bottom) ** 2 + sd[kernels.CAPACITY] ** 2
            resets.append(Reset(kernels.DEPENDENT, 0.5 * (top + bottom), spread))
        return tuple(resets)

    def _floor(self, observable: str) -> float:
        for known in self.observables:
            if known.name == observable:
                return known.floor
        raise ValueError(f"{self.name} does not know the observable {observable!r}; it knows "
                         f"{', '.join(known.name for known in self.observables)}")


def typical(hyper: Hyperparameters) -> Array:
    """State (14,) of the median man before treatment: logits of fractions, logarithms of levels and rates."""
    natural = np.array(hyper["typical"], dtype=np.float64)
    state = natural.copy()
    for place, name in enumerate(SHARED):
        if name.startswith("log_"):
            state[place] = math.log(natural[place])
    for place in (kernels.ANDROGEN, kernels.BASAL_SECRETION):
        state[place] = math.log(natural[place] / (1.0 - natural[place]))
    return state
