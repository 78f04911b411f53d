"""Posterior intervals of patients drawn from the prior hold the truth as often as they say.

A short run; `tests/benchmarks/bench_filters_posterior.py` has 5,000 patients and the converged particle filter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from oncotwin.filters.diagnostics import holm_rejects, uniformity
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.scenarios import linear_gaussian

N_PATIENTS, Z90 = 1_000, 1.6448536269514722


@pytest.mark.parametrize(
    ("chosen", "slack"), [(UnscentedFilter(), 0.0), (EnsembleFilter(256), 0.01), (ParticleFilter(2_000), 0.02)]
)
def test_intervals_of_a_linear_twin(chosen: Any, slack: float) -> None:
    """90 % within four standard errors (and what few members cost), for every component."""
    table = linear_gaussian.steps(N_PATIENTS, 10, 5)
    mean, covariance = linear_gaussian.prior(N_PATIENTS, 5)
    truth = linear_gaussian.truth(N_PATIENTS, 10, 5)
    state = chosen.init(mean, covariance, np.full(N_PATIENTS, linear_gaussian.N), np.zeros(N_PATIENTS))
    after, _ = chosen.fold(state, linear_gaussian.system(N_PATIENTS), table, record=False)
    found, spread = after.moments()
    z = (truth - found) / np.sqrt(np.diagonal(spread, axis1=1, axis2=2))
    covered = (np.abs(z) < Z90).mean(axis=0)
    assert np.abs(covered - 0.9).max() < 4.0 * np.sqrt(0.09 / N_PATIENTS) + slack
    if isinstance(chosen, UnscentedFilter):
        assert not holm_rejects(np.array([uniformity(ndtr(column)) for column in z.T])).any()
