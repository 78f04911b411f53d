"""Filters against the closed form of the linear-Gaussian case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.scenarios import linear_gaussian

K, EACH, SEED = 6, 25, 3


@pytest.fixture(scope="module")
def problem() -> tuple[Any, ...]:
    """Priors, system, table and exact answer."""
    system, (mean, covariance) = linear_gaussian.system(K), linear_gaussian.prior(K, SEED)
    table = linear_gaussian.steps(K, EACH, SEED)
    return mean, covariance, system, table, linear_gaussian.kalman(mean, covariance, system, table)


@pytest.mark.parametrize("points", [UnscentedFilter(), UnscentedFilter(0.5, 2.0, 0.0), UnscentedFilter(1.0, 0.0, 2.0)])
def test_unscented_is_the_kalman_filter(problem: tuple[Any, ...], points: UnscentedFilter) -> None:
    """Whatever the spread of the sigma points."""
    mean, covariance, system, table, exact = problem
    _, info = points.fold(points.init(mean, covariance, np.full(K, 4), np.zeros(K)), system, table)
    np.testing.assert_allclose(info.mean, exact.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(info.covariance, exact.covariance, rtol=0, atol=1e-10)
    np.testing.assert_allclose(info.log_likelihood, exact.log_likelihood, rtol=0, atol=1e-10)


@pytest.mark.parametrize("deterministic", [False, True])
def test_ensemble_tends_to_the_kalman_filter(problem: tuple[Any, ...], deterministic: bool) -> None:
    """Its error falls with the square root of the number of members."""
    mean, covariance, system, table, exact = problem
    sd = np.sqrt(np.einsum("sii->si", exact.covariance))
    errors = []
    for n_members in (200, 3_200):
        chosen = EnsembleFilter(n_members, deterministic=deterministic)
        _, info = chosen.fold(chosen.init(mean, covariance, np.full(K, 4), np.zeros(K)), system, table)
        errors.append(float(np.sqrt(np.mean(((info.mean - exact.mean) / sd) ** 2))))
        assert np.mean(np.einsum("sii->si", info.covariance) / sd**2) == pytest.approx(1.0, abs=0.05)
    assert errors[1] < 0.06
    assert 2.0 < errors[0] / errors[1] < 8.0


def test_particles_tend_to_the_kalman_filter(problem: tuple[Any, ...]) -> None:
    """Means, variances and log-likelihood."""
    mean, covariance, system, table, exact = problem
    chosen = ParticleFilter(20_000)
    _, info = chosen.fold(chosen.init(mean, covariance, np.full(K, 4), np.zeros(K)), system, table)
    sd = np.sqrt(np.einsum("sii->si", exact.covariance))
    assert float(np.sqrt(np.mean(((info.mean - exact.mean) / sd) ** 2))) < 0.1
    assert abs(info.log_likelihood.sum() - exact.log_likelihood.sum()) / K < 0.2
