"""The filters of the platform pass the suite that a user's own filter would have to pass."""

from __future__ import annotations

from typing import Any

from oncotwin.filters.base import Filter
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.filter_conformance import FilterConformance


class TestUnscented(FilterConformance):
    """The default filter."""

    def make_filter(self) -> Filter[Any]:
        """With its defaults."""
        return UnscentedFilter()


class TestStochasticEnsemble(FilterConformance):
    """Perturbed observations."""

    def make_filter(self) -> Filter[Any]:
        """Small and inflated."""
        return EnsembleFilter(48, inflation=1.01)


class TestSquareRootEnsemble(FilterConformance):
    """Deterministic, rotated."""

    def make_filter(self) -> Filter[Any]:
        """Small, inflated and rotated."""
        return EnsembleFilter(24, deterministic=True, inflation=1.02, rotated=True)


class TestParticles(FilterConformance):
    """Bootstrap with a kernel."""

    def make_filter(self) -> Filter[Any]:
        """Few, with a kernel."""
        return ParticleFilter(200, jitter=0.5)
