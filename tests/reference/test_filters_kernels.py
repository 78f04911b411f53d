"""Every kernel against its NumPy reference, over all operations, with the same random stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from oncotwin.filters import reference
from oncotwin.filters.ensemble import EnsembleFilter, rotate
from oncotwin.filters.members import truncated_quantile
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.random_stream import fill_uniform, normal_quantile
from oncotwin.filters.steps import Operation
from oncotwin.filters.truncated import truncated_moments
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.scenarios import linear_gaussian

K, EACH, N = 3, 40, 4
ALL = tuple(int(operation) for operation in Operation)
CASES: list[tuple[Any, Callable[..., reference.Answer]]] = [
    (UnscentedFilter(), reference.fold_unscented),
    (UnscentedFilter(0.7, 2.0, 1.0), reference.fold_unscented),
    (EnsembleFilter(50, inflation=1.05), reference.fold_ensemble),
    (EnsembleFilter(50, deterministic=True, inflation=1.02), reference.fold_ensemble),
    (ParticleFilter(300, threshold=0.5), reference.fold_particle),
    (ParticleFilter(300, threshold=0.7, jitter=0.8), reference.fold_particle),
    (ParticleFilter(300, threshold=0.9, jitter=0.8, shrink=False), reference.fold_particle),
]


@pytest.mark.parametrize(("chosen", "oracle"), CASES)
def test_kernel_matches_numpy(chosen: Any, oracle: Callable[..., reference.Answer]) -> None:
    """Means, covariances, predictions and log-likelihoods after every step of every twin."""
    table = linear_gaussian.steps(K, EACH, 11, operations=ALL)
    system, (mean, covariance) = linear_gaussian.system(K), linear_gaussian.prior(K, 11)
    state = chosen.init(mean, covariance, np.full(K, N), np.zeros(K), np.arange(5, 5 + K, dtype=np.uint64))
    _, info = chosen.fold(state, system, table)
    for twin in range(K):
        answer = oracle(chosen, state, system, table, twin)
        rows = slice(table.offsets[twin], table.offsets[twin + 1])
        found = (info.mean, info.covariance, info.predicted_mean, info.predicted_variance, info.log_likelihood)
        for number, array in enumerate(found):
            wanted = np.array([step[number] for step in answer])
            np.testing.assert_allclose(array[rows], wanted, rtol=1e-6, atol=1e-7)


def test_the_random_stream_is_philox() -> None:
    """The same words as NumPy's own generator, for any length."""
    for n in (1, 2, 3, 4, 5, 1001):
        out = np.zeros(n)
        fill_uniform(np.uint64(12345), np.uint64(678), np.float64(18_000.5).view(np.uint64), np.uint64(9), out, n)
        np.testing.assert_array_equal(out, reference.uniforms(12345, 678, 18_000.5, 9, n))


def test_normal_quantile() -> None:
    """To round-off, from the far lower to the far upper tail."""
    p = np.concatenate([np.logspace(-300, -1, 400), np.linspace(0.01, 0.99, 300), 1.0 - np.logspace(-15, -1, 100)])
    np.testing.assert_allclose([normal_quantile(x) for x in p], ndtri(p), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("operation", [Operation.BELOW, Operation.ABOVE, Operation.BETWEEN])
@pytest.mark.parametrize("at", [-9.0, -3.0, -0.4, 0.0, 0.7, 4.0, 9.5])
def test_truncated_gaussian(operation: Operation, at: float) -> None:
    """Moments against quadrature; quantiles average to the mean and respect the limits."""
    out = np.zeros(3)
    low, high = 1.5 + 0.8 * at, 1.5 + 0.8 * (at + 0.6)
    truncated_moments(int(operation), low, high, 1.5, 0.64, out)
    np.testing.assert_allclose(out, reference.truncated(operation, low, high, 1.5, 0.64), rtol=2e-5, atol=1e-15)
    u = (np.arange(4000) + 0.5) / 4000
    drawn = 1.5 + np.array([truncated_quantile(int(operation), low - 1.5, high - 1.5, 0.8, x) for x in u])
    assert drawn.mean() == pytest.approx(out[1], abs=0.02)
    assert np.all(drawn <= {1: low, 2: np.inf, 3: high}[int(operation) - 2] + 1e-12)
    assert np.all(drawn >= {1: -np.inf, 2: low, 3: low}[int(operation) - 2] - 1e-12)


def test_rotation_keeps_mean_and_covariance() -> None:
    """And moves the members; over many rotations no direction is preferred."""
    rng = np.random.default_rng(4)
    n_members = 7
    anomalies = rng.normal(size=(n_members, 3))
    anomalies -= anomalies.mean(axis=0)
    draws, normal = np.zeros(n_members * n_members), np.zeros(n_members)
    sums = np.zeros_like(anomalies)
    for key in range(2000):
        rotated = anomalies.copy()
        rotate(rotated, np.uint64(key), np.uint64(0), 1.0, draws, normal)
        np.testing.assert_allclose(rotated.mean(axis=0), 0.0, atol=1e-12)
        np.testing.assert_allclose(rotated.T @ rotated, anomalies.T @ anomalies, rtol=1e-10, atol=1e-12)
        sums += rotated
    assert np.abs(sums / 2000).max() < 0.1
