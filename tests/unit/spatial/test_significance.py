"""False discovery rates: against scipy, a worked example, and the same by blocks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.significance import Dependence, adjusted, counted_at_most, rejection_threshold

SCIPY = {Dependence.POSITIVE: "bh", Dependence.ANY: "by"}
# The fifteen p-values of Benjamini & Hochberg 1995, section 3: four are rejected at 0.05.
PUBLISHED = np.array([
    0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0
])


@pytest.mark.parametrize("dependence", Dependence)
def test_adjusted_is_scipys(dependence: Dependence) -> None:
    p = np.random.default_rng(1).random((60, 7)) ** 3
    expected = false_discovery_control(p.ravel(), method=SCIPY[dependence]).reshape(p.shape)
    np.testing.assert_allclose(adjusted(p, dependence), expected, rtol=1e-12)


def test_the_published_example() -> None:
    assert int((adjusted(PUBLISHED) <= 0.05).sum()) == 4


def test_a_test_that_was_not_done_is_no_member() -> None:
    p = np.array([0.01, np.nan, 0.04])
    np.testing.assert_allclose(adjusted(p), [0.02, np.nan, 0.04])
    assert adjusted(np.array([])).size == 0


@pytest.mark.parametrize("dependence", Dependence)
@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_by_blocks_rejects_the_same(dependence: Dependence, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random(2_000)
    p[: rng.integers(0, 400)] **= 8
    p[rng.integers(0, len(p), 30)] = np.nan
    n_tests = int(np.count_nonzero(~np.isnan(p)))
    blocks = np.array_split(rng.permutation(p), rng.integers(1, 9))
    threshold = rejection_threshold(
        lambda at: sum(counted_at_most(block, at) for block in blocks), n_tests, 0.1, dependence
    )
    np.testing.assert_array_equal(p <= threshold, adjusted(p, dependence) <= 0.1)


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"p-value 1\.5 at place 1"):
        adjusted(np.array([0.5, 1.5]))
    with pytest.raises(ConfigurationError, match="false discovery rate"):
        rejection_threshold(lambda _: 0, 3, 1.0)
    assert rejection_threshold(lambda _: 0, 0, 0.05) == 0.0
