"""The problem on which filters are timed: moving members side by side changes no bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.serial import to_bytes
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.scenarios import reference_problem as problem


@pytest.mark.parametrize("n_members", [1, 3, 20, 32, 33, 100])
def test_side_by_side_is_one_by_one(n_members: int) -> None:
    """For numbers of members that fill the vector registers and for those that do not."""
    draw = np.random.default_rng(n_members)
    members = np.log(problem.MEDIAN) + np.array(problem.SPREAD) * draw.normal(size=(n_members, problem.N))
    together, alone = np.zeros_like(members), np.zeros_like(members)
    constants, treated = problem.system(1).constants[0], np.ones(1)
    problem.propagate_many(members, problem.N, 0.0, problem.INTERVAL_DAYS, treated, constants, together)
    for member, out in zip(members, alone, strict=True):
        problem.propagate(member, 0.0, problem.INTERVAL_DAYS, treated, constants, out)
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("chosen", [UnscentedFilter(), EnsembleFilter(40), ParticleFilter(50)])
def test_a_fold_is_the_same_either_way(chosen: Any) -> None:
    """A system with and without `propagate_many` ends in the same bytes."""
    values = problem.simulate(3, 4, 1)
    mean, covariance = problem.prior(3)
    state = chosen.init(mean, covariance, np.full(3, problem.N), np.zeros(3))
    system, table = problem.system(3), problem.steps(values)
    fast, _ = chosen.fold(state, system, table)
    slow, _ = chosen.fold(state, replace(system, propagate_many=None), table)
    assert to_bytes(fast) == to_bytes(slow)


def test_steps_of_a_day_are_exact_enough() -> None:
    """Against steps sixteen times finer: the integrator is no part of what filters are compared on."""
    member = np.log(np.array(problem.MEDIAN))
    coarse, fine = np.zeros(problem.N), np.zeros(problem.N)
    problem.propagate(member, 0.0, 21.0, np.ones(1), np.array([1.0, 0.01]), coarse)
    problem.propagate(member, 0.0, 21.0, np.ones(1), np.array([1.0 / 16.0, 0.01]), fine)
    np.testing.assert_allclose(coarse, fine, atol=1e-6)
