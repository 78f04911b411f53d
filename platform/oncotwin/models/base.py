"""The protocol of a model: what a twin, a calibration and a user's own package must agree on.

A model describes the hidden state of one patient as components shared by the whole patient (parameters in log space,
drug effect, immune effect ...) followed by components of each target (a lesion's clones). It says how one member of
an ensemble moves (`propagate`), what would be observed (`observe`), and which priors the population gives. It holds no
state of its own and knows no filter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oncotwin.models.therapy import Therapy

Array = NDArray[np.float64]
Hyperparameters = Mapping[str, Any]
"""JSON-like: numbers, lists of numbers, and nested mappings. Part of the registered model version."""


@dataclass(frozen=True, slots=True)
class Observable:
    """One thing that the model can predict; its index among the model's observables is the ``operator``.

    Attributes:
        name: as in the event catalogue (``longest_diameter``, ``psa`` ...).
        unit: canonical unit of ``name``.
        per_target: whether each lesion has its own.
        floor: smallest value (in ``unit``) that is told apart when scores are computed on the log scale.
        of_all_targets: whether it is of all lesions together, so that it says nothing before the first is known.
    """

    name: str
    unit: str
    per_target: bool
    floor: float
    of_all_targets: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """A fresh independent prior for one component, from a named moment on.

    Attributes:
        component: index among the twin's components.
        mean, variance: of its new marginal.
    """

    component: int
    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Inputs in force until ``until`` (days since 1970-01-01): one piece of a piecewise constant input."""

    until: float
    inputs: tuple[float, ...]


class TumourModel(Protocol):
    """A mechanistic model with its observation operators and its priors."""

    @property
    def name(self) -> str:
        """Under which the registry keeps its priors."""
        ...

    @property
    def observables(self) -> tuple[Observable, ...]:
        """What it can predict; the index of one is its ``operator``."""
        ...

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the components of the patient, first in the state."""
        ...

    @property
    def per_target(self) -> tuple[str, ...]:
        """Names of the components of each target (lesion), after the shared ones, target by target."""
        ...

    @property
    def n_inputs(self) -> int:
        """Number of inputs that `segments` gives and `propagate` takes."""
        ...

    @property
    def propagate(self) -> Callable[..., Any]:
        """numba function of `oncotwin.filters.base.PROPAGATE_SIGNATURE`."""
        ...

    @property
    def observe(self) -> Callable[..., Any]:
        """numba function of `oncotwin.filters.base.OBSERVE_SIGNATURE`."""
        ...

    def default_hyperparameters(self) -> dict[str, Any]:
        """Literature priors, used until a calibration has been promoted."""
        ...

    def prior(self, hyper: Hyperparameters) -> tuple[Array, Array]:
        """Mean (n_shared,) and covariance (n_shared, n_shared) of the shared components."""
        ...

    def target_prior(self, hyper: Hyperparameters) -> Array:
        """(n_per_target, 2): mean and variance of a new target's components."""
        ...

    def constants(self, hyper: Hyperparameters) -> Array:
        """(n_constants,) passed to `propagate` and `observe` (noise levels, floors ...)."""
        ...

    def process_variance(self, hyper: Hyperparameters, n_targets: int) -> Array:
        """(n_shared + n_targets * n_per_target,) variance per day: the slow drift of parameters and clones."""
        ...

    def transform(self, observable: str, value: float) -> float:
        """Observation scale of a value in canonical unit; finite for any value that validation lets through."""
        ...

    def inverse(self, observable: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Canonical unit of values in observation scale."""
        ...

    def segments(
        self, therapy: Therapy, start: float, end: float, hyper: Hyperparameters, *, forecast: bool
    ) -> Sequence[Segment]:
        """Inputs over (start, end], the last segment ending at ``end``.

        Where ``forecast`` is set the therapy is what is known at the origin or planned for; the model may then let
        treatment follow the state (switching), as it learned it. Otherwise the therapy is what was in force.
        """
        ...

    def therapy_resets(self, before: Therapy, after: Therapy, time: float, hyper: Hyperparameters) -> Sequence[Reset]:
        """Shared components that get a new prior when therapy changes (the effect of another regimen, say)."""
        ...


def component_names(model: TumourModel, targets: Sequence[str]) -> tuple[str, ...]:
    """Names of all components of a twin with these targets, such as ``log_growth`` and ``log_sensitive[L1]``."""
    names = list(model.shared)
    for target in targets:
        names.extend(f"{name}[{target}]" if target else name for name in model.per_target)
    return tuple(names)
