"""A small linear model for tests of what is generic: each series a level, moved by one trend of the patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from oncotwin.filters.base import OBSERVE_SIGNATURE, PROPAGATE_SIGNATURE
from oncotwin.models.base import Array, Hyperparameters, Observable, Reset, Segment
from oncotwin.models.learning import FreeParameter, LearnedComponent, RegimenEffects
from oncotwin.models.therapy import Therapy


@njit(PROPAGATE_SIGNATURE)
def propagate(member: Array, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """Levels move by the trend, and by the effect of treatment while it is on."""
    for i in range(member.shape[0]):
        out[i] = member[i]
    for i in range(2, member.shape[0]):
        out[i] = member[i] + (member[0] + member[1] * inputs[0]) * (t1 - t0)


@njit(OBSERVE_SIGNATURE)
def observe(member: Array, operator: int, target: int, constants: Array, out: Array) -> None:
    """The level itself."""
    out[0] = member[2 + target]
    out[1] = constants[0] * constants[0]

EFFECTS = RegimenEffects(("effects",), ("effect",))
FREE = (FreeParameter(("noise",), 0.005, 1.0), FreeParameter(("drift",), 1e-4, 0.3))
LEARNED = (
    LearnedComponent("trend", ("mean", 0), ("sd", 0), 1e-4), LearnedComponent("effect", ("mean", 1), ("sd", 1), 1e-4),
)


@dataclass(frozen=True, slots=True)
class TrendModel:
    """State: trend per day, effect per day, and one log level for each target."""

    name: str = "trend"
    observables: tuple[Observable, ...] = (Observable("volume", "mm3", True, 1.0),)
    shared: tuple[str, ...] = ("trend", "effect")
    per_target: tuple[str, ...] = ("level",)
    n_inputs: int = 1
    propagate: Any = propagate
    observe: Any = observe
    free: tuple[FreeParameter, ...] = FREE
    learned: tuple[LearnedComponent, ...] = LEARNED
    effects: RegimenEffects = EFFECTS

    def default_hyperparameters(self) -> dict[str, Any]:
        """Wide priors."""
        return {"mean": [0.0, 0.0], "sd": [0.05, 0.05], "noise": 0.2, "drift": 0.02, "effects": {}}

    def prior(self, hyper: Hyperparameters) -> tuple[Array, Array]:
        """Of trend and effect."""
        return np.array(hyper["mean"]), np.diag(np.square(hyper["sd"]))

    def target_prior(self, hyper: Hyperparameters) -> Array:
        """A level anywhere."""
        return np.array([[3.0, 9.0]])

    def constants(self, hyper: Hyperparameters) -> Array:
        """The noise."""
        return np.array([hyper["noise"]])

    def process_variance(self, hyper: Hyperparameters, n_targets: int) -> Array:
        """Levels wander, the trend does not."""
        return np.array([0.0, 0.0, *([hyper["drift"] ** 2] * n_targets)])

    def transform(self, observable: str, value: float) -> float:
        """Logarithm."""
        return math.log(max(value, 0.1))

    def inverse(self, observable: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exponential."""
        return np.asarray(np.exp(value))

    def segments(
        self, therapy: Therapy, start: float, end: float, hyper: Hyperparameters, *, forecast: bool
    ) -> Sequence[Segment]:
        """On or off."""
        return (Segment(end, (float(therapy.on),)),)

    def therapy_resets(self, before: Therapy, after: Therapy, time: float, hyper: Hyperparameters) -> Sequence[Reset]:
        """Another regimen, another effect."""
        if not after.on or after.regimen == before.regimen:
            return ()
        known = hyper["effects"].get(after.regimen)
        mean, sd = (hyper["mean"][1], hyper["sd"][1]) if known is None else (known["mean"][0], known["sd"][0])
        return (Reset(1, mean, sd * sd),)
