"""Which filter follows the twins of a model version: its name and its parameters, as settings and bundles say them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from oncotwin.domain.bundle import FILTERS, FilterChoice
from oncotwin.domain.errors import ConfigurationError
from oncotwin.filters.base import Filter
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.unscented import UnscentedFilter

FEWEST, MOST = 10, 100_000
"""Members or particles of a twin: fewer have no covariance worth the name, more do not fit beside other twins."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One name.

    Attributes:
        make: builds the filter from its parameters.
        count: parameter that says how many members there are, None where there are none.
        defaults: every parameter; a version keeps them all, so that a later release's defaults do not change it.
    """

    make: Callable[..., Filter[Any]]
    count: str | None
    defaults: Mapping[str, Any]


_KINDS: dict[str, _Kind] = {
    "unscented": _Kind(UnscentedFilter, None, {}),
    "ensemble": _Kind(
        EnsembleFilter, "n_members",
        {"n_members": 256, "inflation": 1.0, "deterministic": False, "rotated": False, "seed": 0},
    ),
    "square-root-ensemble": _Kind(
        EnsembleFilter, "n_members",
        {"n_members": 128, "inflation": 1.0, "deterministic": True, "rotated": True, "seed": 0},
    ),
    # Static parameters die out of particles that are only ever resampled: a kernel that keeps mean and covariance
    # gives them new values.
    "particle": _Kind(
        ParticleFilter, "n_particles",
        {"n_particles": 2_000, "threshold": 0.5, "jitter": 0.5, "shrink": True, "seed": 0},
    ),
}


def choose_filter(name: str, members: int | None = None) -> FilterChoice:
    """A filter by name, with all its parameters.

    Args:
        members: of the ensemble, or particles; the filter's default where not given.
    Raises:
        ConfigurationError: no such filter, or a size that it cannot have.
    """
    kind = _kind(name)
    if members is None:
        return FilterChoice(name, dict(kind.defaults))
    if kind.count is None:
        raise ConfigurationError(f"the {name} filter has no members; leave `members` out, or choose another filter")
    if not FEWEST <= members <= MOST:
        raise ConfigurationError(f"{members} members of the {name} filter: give {FEWEST} to {MOST:,}")
    return FilterChoice(name, {**kind.defaults, kind.count: members})


def make_filter(choice: FilterChoice) -> Filter[Any]:
    """The filter of a registered version.

    Raises:
        ConfigurationError: a filter or a parameter that this release does not know.
    """
    kind = _kind(choice.name)
    unknown = set(choice.parameters) - set(kind.defaults)
    if unknown:
        raise ConfigurationError(
            f"the {choice.name} filter has no parameter {', '.join(sorted(unknown))}; it has "
            f"{', '.join(kind.defaults) or 'none'}"
        )
    return kind.make(**{**kind.defaults, **choice.parameters}, name=choice.name)


def _kind(name: str) -> _Kind:
    if name not in _KINDS:
        raise ConfigurationError(f"no filter is called {name!r}; choose one of {', '.join(FILTERS)}")
    return _KINDS[name]
