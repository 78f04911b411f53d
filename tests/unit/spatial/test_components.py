"""Components of rows that pass by in blocks, against a singular value decomposition of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import numpy as np
import pytest

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.components import (
    DIRECTION_STEP,
    STEP,
    FloatArray,
    PassSums,
    fit_components,
    pass_sums,
    project,
    to_steps,
)


def matrix(n: int, n_features: int) -> FloatArray:
    rng = np.random.default_rng(2)
    strong = rng.normal(size=(n, 6)) * [9, 7, 5, 4, 3, 2.5] @ np.linalg.qr(rng.normal(size=(n_features, 6)))[0].T
    made: FloatArray = strong + rng.normal(0, 0.15, (n, n_features)) + 1.0
    return made


def summed(blocks: Sequence[FloatArray]) -> Callable[[FloatArray], PassSums]:
    """A pass over rows that are held."""
    return lambda directions: reduce(add, (pass_sums(block, directions) for block in blocks))


@pytest.mark.parametrize("n_features", [40, 900])
def test_components_are_those_of_the_whole(n_features: int) -> None:
    rows = matrix(700, n_features)
    found = fit_components(summed([to_steps(rows[i : i + 90]) for i in range(0, 700, 90)]), n_features, 5, 0)
    centred = rows - rows.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.variances, singular[:5] ** 2 / 699, rtol=2e-4)
    overlap = np.abs(directions[:5] @ (found.directions * DIRECTION_STEP))
    np.testing.assert_allclose(np.diag(overlap), 1.0, atol=1e-3)
    assert found.settled and (found.n_passes == 1) == (n_features == 40)
    projections = project(to_steps(rows), found.directions) * STEP
    np.testing.assert_allclose(projections.mean(axis=0), found.means, atol=1e-3)
    np.testing.assert_allclose(projections.var(axis=0, ddof=1), found.variances, rtol=1e-3)


def test_no_cut_and_no_order_changes_a_bit() -> None:
    rows = to_steps(matrix(500, 700))
    whole = fit_components(summed([rows]), 700, 4, 1)
    cut = fit_components(summed([rows[i : i + 33] for i in reversed(range(0, 500, 33))]), 700, 4, 1)
    assert np.array_equal(whole.directions, cut.directions) and np.array_equal(whole.variances, cut.variances)
    assert np.array_equal(whole.means, cut.means) and whole.n_passes == cut.n_passes


def test_sums_are_exact_at_the_largest_values() -> None:
    """All at the limit: what floating point adds must still be whole numbers it can hold."""
    steps = to_steps(np.full((4000, 3), 99.0))
    directions = np.full((3, 1), round(1 / np.sqrt(3) / DIRECTION_STEP), dtype=np.float64)
    sums = pass_sums(steps, directions)
    projection = round(3 * 2**15 * int(directions[0, 0]) * DIRECTION_STEP)
    assert sums.products[0, 0] == 4000 * 2**15 * projection and sums.features[0] == 4000 * 2**15


def test_fewer_components_where_the_rows_span_no_more() -> None:
    rows = np.outer(np.arange(20.0), [1.0, 0.5, 0.0])
    found = fit_components(summed([to_steps(rows)]), 3, 3, 0)
    assert len(found.variances) == 1 and found.directions.shape == (3, 1)


def test_what_has_no_components_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rows have no components"):
        fit_components(summed([to_steps(np.zeros((1, 3)))]), 3, 1, 0)
    with pytest.raises(ConfigurationError, match="at least 1"):
        fit_components(summed([]), 3, 0, 0)
    with pytest.raises(ConfigurationError, match="feature 1 in row 0"):
        to_steps(np.array([[0.0, np.inf]]))
    with pytest.raises(ConfigurationError, match="smaller blocks"):
        pass_sums(np.zeros((70_000, 1)), np.ones((1, 1)))
