"""States, diagnostics and refusals of the filters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oncotwin.domain.errors import ConfigurationError, ModelError
from oncotwin.filters import diagnostics
from oncotwin.filters.base import StepStatus
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.serial import from_bytes, to_bytes
from oncotwin.filters.steps import Operation
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.scenarios import linear_gaussian

FILTERS = [UnscentedFilter(), EnsembleFilter(16), ParticleFilter(64)]
K, N = 2, 4


def _start(chosen: Any) -> tuple[Any, Any]:
    mean, covariance = linear_gaussian.prior(K, 1)
    return chosen.init(mean, covariance, np.full(K, N), np.zeros(K)), linear_gaussian.system(K)


@pytest.mark.parametrize("chosen", FILTERS)
def test_bytes_are_canonical(chosen: Any) -> None:
    """A state survives its bytes bit for bit, and they are the same each time."""
    state, _ = _start(chosen)
    content = to_bytes(state)
    again = from_bytes(content)
    assert to_bytes(again) == content
    assert type(again) is type(state)
    for mine, other in zip(state.moments(), again.moments(), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"no json\n1234"])
def test_damaged_bytes_are_refused(damage: bytes) -> None:
    """With what to do about it."""
    with pytest.raises(ModelError, match="restore an earlier snapshot"):
        from_bytes(damage)


def test_cut_bytes_are_refused() -> None:
    """A state cut short is not read as a smaller one."""
    state, _ = _start(UnscentedFilter())
    with pytest.raises(ModelError, match="bytes where"):
        from_bytes(to_bytes(state)[:-8])


@pytest.mark.parametrize("chosen", FILTERS)
def test_time_never_runs_back(chosen: Any) -> None:
    """A step before the state's time is refused by name."""
    state, system = _start(chosen)
    with pytest.raises(ModelError, match="step 1 of twin 1 is at day -1"):
        chosen.forecast(state, system, np.array([1.0, -1.0]), np.zeros((K, 1)))


@pytest.mark.parametrize("chosen", FILTERS)
def test_shapes_must_agree(chosen: Any) -> None:
    """Before a kernel reads past the end of an array."""
    state, system = _start(chosen)
    with pytest.raises(ModelError, match="same twins"):
        chosen.fold(state, system, linear_gaussian.steps(K + 1, 2, 1))
    with pytest.raises(ModelError, match="same capacity"):
        chosen.fold(state, replace(system, process_variance=np.zeros((K, N + 1))), linear_gaussian.steps(K, 2, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: UnscentedFilter(alpha=0.0), lambda: UnscentedFilter(kappa=-1.0), lambda: EnsembleFilter(1),
        lambda: EnsembleFilter(10, inflation=0.0), lambda: ParticleFilter(1), lambda: ParticleFilter(10, threshold=2.0),
    ],
)
def test_impossible_settings_are_refused(make: Any) -> None:
    """When the filter is made, not when it runs."""
    with pytest.raises(ConfigurationError):
        make()


def test_repaired_covariance_only_widens() -> None:
    """An indefinite prior is widened by as little as it takes, and said so."""
    chosen = UnscentedFilter()
    covariance = np.eye(N)[None].copy()
    covariance[0, 0, 1] = covariance[0, 1, 0] = 1.0 + 1e-6
    state = chosen.init(np.zeros((1, N)), covariance, np.array([N]), np.zeros(1))
    after, info = chosen.forecast(state, linear_gaussian.system(1), np.array([1.0]), np.zeros((1, 1)))
    assert info.status[0] == StepStatus.REPAIRED
    assert np.linalg.eigvalsh(after.covariance[0]).min() >= -1e-12


@pytest.mark.parametrize("chosen", [EnsembleFilter(500, keep_members=True), ParticleFilter(500, keep_members=True)])
def test_members_at_predictions(chosen: Any) -> None:
    """Kept at PREDICT steps alone; their mixture's quantiles agree with the predicted moments."""
    table = linear_gaussian.steps(K, 12, 5, operations=(int(Operation.PREDICT), int(Operation.OBSERVE)))
    state, system = _start(chosen)
    _, info = chosen.fold(state, system, table, record=False)
    predicted = table.operation == int(Operation.PREDICT)
    assert info.member_mean.shape == (predicted.sum(), 500)
    np.testing.assert_allclose(info.member_weight.sum(axis=1), 1.0)
    mixture = (info.member_weight * info.member_mean).sum(axis=1)
    np.testing.assert_allclose(mixture, info.predicted_mean[predicted])
    quantiles = diagnostics.predictive_quantiles(info, np.array([0.1, 0.5, 0.9]))
    sd = np.sqrt(info.predicted_variance[predicted])
    np.testing.assert_allclose(quantiles[:, 2] - quantiles[:, 0], 2 * 1.2816 * sd, rtol=0.12)
    np.testing.assert_allclose(quantiles[:, 1], mixture, atol=0.25)


def test_diagnostics_of_a_well_specified_twin() -> None:
    """Normalised innovations average to one, transforms are uniform, a certain rank is found."""
    table = linear_gaussian.steps(200, 20, 9)
    mean, covariance = linear_gaussian.prior(200, 9)
    chosen = UnscentedFilter()
    state = chosen.init(mean, covariance, np.full(200, N), np.zeros(200))
    _, info = chosen.fold(state, linear_gaussian.system(200), table, record=False)
    assert diagnostics.normalised_innovations_squared(info, table).mean() == pytest.approx(1.0, abs=0.08)
    assert diagnostics.uniformity(diagnostics.probability_transform(info, table)) > 1e-3
    assert diagnostics.uniformity(np.full(100, 0.3)) < 1e-10
    ranks = diagnostics.weighted_ranks(np.array([[1.0, 2.0, 3.0]]), np.full((1, 3), 1 / 3), np.array([2.0]))
    np.testing.assert_allclose(ranks, [0.5])
    assert diagnostics.holm_rejects(np.array([0.004, 0.5, 0.0001])).tolist() == [True, False, True]


def test_effective_size() -> None:
    """All equal before any observation, fewer after one, at least one."""
    chosen = ParticleFilter(400, threshold=0.0)
    state, system = _start(chosen)
    np.testing.assert_allclose(diagnostics.effective_sizes(state), 400.0)
    after, _ = chosen.fold(state, system, linear_gaussian.steps(K, 3, 2))
    assert np.all((diagnostics.effective_sizes(after) >= 1.0) & (diagnostics.effective_sizes(after) < 400.0))
