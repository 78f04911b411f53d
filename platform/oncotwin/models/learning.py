"""What a model lets calibration learn from a population: its optional attributes ``free``, ``learned``, ``effects``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
"""Nested keys (or places in a list) inside the hyperparameters."""


@dataclass(frozen=True, slots=True)
class FreeParameter:
    """A positive number inside the hyperparameters, searched on the log scale for the largest likelihood.

    Attributes:
        path: where it stands, such as ``("noise", 0)``.
        lower, upper: bounds of the search.
    """

    path: Path
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class LearnedComponent:
    """A nearly static component whose population prior is learned by expectation-maximisation.

    Attributes:
        component: name among the model's shared or per-target components.
        mean, sd: where the hyperparameters keep the prior's mean and standard deviation.
        minimum_sd: below which the prior's spread never shrinks.
    """

    component: str
    mean: Path
    sd: Path
    minimum_sd: float = 0.02


@dataclass(frozen=True, slots=True)
class RegimenEffects:
    """Learned components that belong to a regimen: each regimen has a prior of its own, shrunk towards that of all.

    Attributes:
        path: where the hyperparameters keep a mapping of regimen (`Therapy.regimen`) to
            ``{"mean": [...], "sd": [...]}``; regimens that are not in it get the prior of all.
        components: in the order of those lists; each is also a `LearnedComponent`.
    """

    path: Path
    components: tuple[str, ...]


def at(hyper: Any, path: Path) -> Any:
    """The value at a path inside hyperparameters."""
    for key in path:
        hyper = hyper[key]
    return hyper


def replaced(hyper: Mapping[str, Any], changes: Sequence[tuple[Path, Any]]) -> dict[str, Any]:
    """A copy of hyperparameters with other values at some paths."""
    found = copy.deepcopy(dict(hyper))
    for path, value in changes:
        place: Any = found
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    return found
