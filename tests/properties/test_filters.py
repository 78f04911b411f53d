"""Grouping of twins, threads and order of folds change no bit, for any problem that hypothesis makes up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oncotwin.filters.base import System
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.resampling import effective_size, systematic
from oncotwin.filters.serial import to_bytes
from oncotwin.filters.steps import Operation
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.filter_conformance import part_of
from oncotwin.testing.scenarios import linear_gaussian

FILTERS = [
    UnscentedFilter(), EnsembleFilter(20, inflation=1.02), EnsembleFilter(9, deterministic=True, rotated=True),
    ParticleFilter(60, jitter=0.4),
]
ALL = tuple(int(operation) for operation in Operation)


def _fold(chosen: Any, seed: int, k: int, start: int, stop: int) -> Any:
    mean, covariance = linear_gaussian.prior(k, seed)
    table = part_of(linear_gaussian.steps(k, 6, seed, operations=ALL), start, stop)
    n = stop - start
    keys = np.arange(k, dtype=np.uint64)[start:stop]
    state = chosen.init(mean[start:stop], covariance[start:stop], np.full(n, 4), np.zeros(n), keys)
    everything = linear_gaussian.system(k)
    system = System(
        everything.propagate, everything.observe, everything.constants[start:stop].copy(),
        everything.process_variance[start:stop].copy(),
    )
    return chosen.fold(state, system, table, record=False)[0]


@pytest.mark.parametrize("chosen", FILTERS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_sixty_four_twins_in_any_grouping(chosen: Any, seed: int) -> None:
    """k = 64, 7 and 1, in one thread or two, give the same bits."""
    whole = _fold(chosen, seed, 64, 0, 64).moments()
    sevens = [(start, min(start + 7, 64)) for start in range(0, 64, 7)]
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda cut: _fold(chosen, seed, 64, *cut), sevens))
    for which in (0, 1):
        np.testing.assert_array_equal(np.concatenate([part.moments()[which] for part in parts]), whole[which])
        for twin in (0, 13, 63):
            alone = _fold(chosen, seed, 64, twin, twin + 1).moments()[which][0]
            np.testing.assert_array_equal(alone, whole[which][twin])


@pytest.mark.parametrize("chosen", FILTERS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_covariance_stays_definite(chosen: Any, seed: int) -> None:
    """And a fold repeated gives the same bytes."""
    state = _fold(chosen, seed, 3, 0, 3)
    assert np.linalg.eigvalsh(state.moments()[1]).min() > -1e-9
    assert to_bytes(_fold(chosen, seed, 3, 0, 3)) == to_bytes(state)


@given(
    raw=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=50).filter(lambda w: sum(w) > 1e-3), u=st.floats(1e-9, 0.999)
)
@settings(max_examples=200)
def test_systematic_resampling_is_fair(raw: list[float], u: float) -> None:
    """Each ancestor is chosen its weight times n, rounded down or up; none without weight is."""
    weights = np.array(raw) / sum(raw)
    ancestors = np.zeros(len(weights), dtype=np.int64)
    systematic(weights, u, ancestors)
    counts = np.bincount(ancestors, minlength=len(weights))
    assert np.all(np.abs(counts - weights * len(weights)) < 1.0 + 1e-9)
    assert np.all(counts[weights == 0.0] == 0)
    assert np.all(np.diff(ancestors) >= 0)
    assert 1.0 - 1e-9 <= effective_size(weights) <= len(weights) + 1e-9
