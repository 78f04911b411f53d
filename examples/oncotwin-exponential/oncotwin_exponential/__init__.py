"""Exponential ctDNA under treatment.

    d log(fraction) / dt = growth - effect * treated

Three hidden quantities of the patient, none of a lesion. Everything is linear in the logarithm, so the default filter
is exact here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.models.base import Hyperparameters, Observable, Reset, Segment
from oncotwin.models.learning import FreeParameter, LearnedComponent
from oncotwin.models.therapy import Therapy

Array = NDArray[np.float64]
_vector = types.float64[::1]


@njit(types.void(_vector, types.float64, types.float64, _vector, _vector, _vector), cache=True, nogil=True)
def propagate(member: Array, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """One member from day ``t0`` to ``t1``; ``inputs[0]`` is 1 while treated."""
    out[0] = member[0] + (member[1] - member[2] * inputs[0]) * (t1 - t0)
    out[1] = member[1]
    out[2] = member[2]


@njit(types.void(_vector, types.int64, types.int64, _vector, _vector), cache=True, nogil=True)
def observe(member: Array, operator: int, target: int, constants: Array, out: Array) -> None:
    """Expected logarithm of the allele fraction, and the variance of its noise."""
    out[0] = member[0]
    out[1] = constants[0]


@dataclass(frozen=True, slots=True)
class ExponentialModel:
    """Exponential growth of ctDNA, slowed or reversed by treatment."""

    name: str = "exponential_ctdna"
    observables: tuple[Observable, ...] = (Observable("ctdna_allele_fraction", "1", False, 1e-4),)
    shared: tuple[str, ...] = ("log_fraction", "growth", "effect")
    per_target: tuple[str, ...] = ()
    n_inputs: int = 1
    propagate: Any = propagate
    observe: Any = observe
    # What `oncotwin calibrate` may learn; without these two lines the model keeps its own priors.
    free: tuple[FreeParameter, ...] = (
        FreeParameter(("noise",), 0.02, 1.0), FreeParameter(("drift_sd", 0), 0.001, 0.3),
    )
    learned: tuple[LearnedComponent, ...] = tuple(
        LearnedComponent(name, ("prior_mean", i), ("prior_sd", i))
        for i, name in enumerate(("log_fraction", "growth", "effect"))
    )

    def default_hyperparameters(self) -> dict[str, Any]:
        """Before any calibration: fractions about 2 %, doubling in about ten weeks, halving in about as many."""
        return {
            "prior_mean": [math.log(0.02), 0.01, 0.02],
            "prior_sd": [1.5, 0.01, 0.02],
            "drift_sd": [0.02, 0.0005, 0.0005],
            "noise": 0.25,
        }

    def prior(self, hyper: Hyperparameters) -> tuple[Array, Array]:
        """Mean (3,) and covariance (3, 3) of a new patient."""
        return np.array(hyper["prior_mean"], dtype=np.float64), np.diag(np.square(np.array(hyper["prior_sd"])))

    def target_prior(self, hyper: Hyperparameters) -> Array:
        """No quantity belongs to a lesion."""
        return np.zeros((0, 2))

    def constants(self, hyper: Hyperparameters) -> Array:
        """(1,): variance of the noise of one measurement, in log units."""
        return np.array([float(hyper["noise"]) ** 2])

    def process_variance(self, hyper: Hyperparameters, n_targets: int) -> Array:
        """(3,): variance a day by which fraction, growth and effect wander."""
        return np.square(np.array(hyper["drift_sd"], dtype=np.float64))

    def transform(self, observable: str, value: float) -> float:
        """Logarithm; a fraction reported as zero counts as half of the smallest that is told apart."""
        return math.log(max(value, 0.5 * self.observables[0].floor))

    def inverse(self, observable: str, value: Array) -> Array:
        """The fraction; exponential growth knows no bound, not even 1."""
        return np.asarray(np.exp(value))

    def segments(
        self, therapy: Therapy, start: float, end: float, hyper: Hyperparameters, *, forecast: bool
    ) -> Sequence[Segment]:
        """Treated or not, over the whole interval."""
        return (Segment(end, (1.0 if therapy.on else 0.0,)),)

    def therapy_resets(
        self, before: Therapy, after: Therapy, time: float, hyper: Hyperparameters
    ) -> Sequence[Reset]:
        """Another regimen may work better or worse: its effect is unknown again."""
        if not after.on or after.regimen == before.regimen or not before.regimen:
            return ()
        return (Reset(2, float(hyper["prior_mean"][2]), float(hyper["prior_sd"][2]) ** 2),)
