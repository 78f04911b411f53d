"""k-means in integers: no cut and no order of the points changes a bit, and it is as good as scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.kmeans import STEP, FloatArray, PointBlock, _draw, assign, kmeans, to_points


def cloud(n: int, n_centres: int, seed: int, spread: float = 0.6) -> FloatArray:
    rng = np.random.default_rng(seed)
    drawn: FloatArray = rng.normal(size=(n_centres, 3))[rng.integers(n_centres, size=n)] * 3
    return drawn + rng.normal(0, spread, (n, 3))


def cut(scores: FloatArray, size: int, order: np.random.Generator | None = None) -> list[PointBlock]:
    rows = np.arange(len(scores))
    if order is not None:
        order.shuffle(rows)
    return [PointBlock(rows[i : i + size], to_points(scores[rows[i : i + size]])) for i in range(0, len(rows), size)]


@settings(max_examples=25)
@given(size=st.integers(1, 130), seed=st.integers(0, 1000), n_clusters=st.integers(1, 6))
def test_no_cut_and_no_order_changes_a_bit(size: int, seed: int, n_clusters: int) -> None:
    scores = cloud(120, 4, seed)
    whole = kmeans(cut(scores, 120), n_clusters, seed, 2)
    other = kmeans(cut(scores, size, np.random.default_rng(seed)), n_clusters, seed, 2)
    assert np.array_equal(whole.centres, other.centres) and np.array_equal(whole.counts, other.counts)
    assert (whole.inertia, whole.n_rounds) == (other.inertia, other.n_rounds)


@pytest.mark.parametrize("seed", range(5))
def test_as_good_as_another_implementation(seed: int) -> None:
    scores = cloud(600, 5, seed)
    ours = kmeans(cut(scores, 100), 5, seed)
    theirs = KMeans(5, n_init=10, random_state=seed).fit(scores)
    assert ours.inertia * STEP**2 == pytest.approx(theirs.inertia_, rel=2e-3)
    assert ours.counts.sum() == 600 and (np.diff(ours.counts) <= 0).all()


def test_many_points_start_on_a_sample_that_no_cut_changes() -> None:
    scores = cloud(30_000, 4, 5)
    one, other = kmeans(cut(scores, 30_000), 4, 2, 3), kmeans(cut(scores, 777, np.random.default_rng(1)), 4, 2, 3)
    assert np.array_equal(one.centres, other.centres) and one.counts.sum() == 30_000
    assert one.inertia * STEP**2 == pytest.approx(KMeans(4, n_init=5, random_state=0).fit(scores).inertia_, rel=2e-3)


def test_inertia_and_centres_are_those_of_the_labels() -> None:
    scores = cloud(300, 4, 7)
    found = kmeans(cut(scores, 64), 4, 1)
    labels, squared = assign(to_points(scores), found.centres)
    assert squared.sum() == found.inertia and np.array_equal(np.bincount(labels), found.counts)
    for k in range(4):
        mean = to_points(scores)[labels == k].mean(axis=0)
        np.testing.assert_allclose(found.centres[k], mean, atol=0.5)


def test_the_draw_has_odds_by_squared_distance() -> None:
    """Two points beside a heap, one twice as far as the other: it is drawn four times in five."""
    scores = np.zeros((52, 1))
    scores[50], scores[51] = 1.0, 2.0
    keys = np.random.default_rng(3).integers(1 << 63, size=4000).tolist()
    drawn = _draw(cut(scores, 20), np.zeros((1, 1), dtype=np.int64), keys)
    assert drawn is not None and set(np.unique(drawn * STEP)) == {1.0, 2.0}
    assert abs((drawn * STEP == 2.0).mean() - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 4000)


def test_an_empty_cluster_takes_the_farthest_point() -> None:
    scores = np.concatenate([np.zeros((40, 2)), np.full((2, 2), 9.0), np.array([[9.0, 8.0]])])
    found = kmeans(cut(scores, 7), 3, 0, 1)
    assert found.counts.tolist() == [40, 2, 1] and found.inertia == 0


def test_what_cannot_be_clustered_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="only 1 different"):
        kmeans(cut(np.zeros((9, 2)), 4), 2, 0)
    with pytest.raises(ConfigurationError, match="no points"):
        kmeans([], 2, 0)
    with pytest.raises(ConfigurationError, match="at least 1"):
        kmeans(cut(np.zeros((9, 2)), 4), 0, 0)
    with pytest.raises(ConfigurationError, match="row 1 of the block is not finite"):
        to_points(np.array([[0.0], [np.nan]]))
    with pytest.raises(ConfigurationError, match="smaller blocks"):
        kmeans([PointBlock(np.arange(2), np.zeros((2, 200), dtype=np.int32))], 1, 0)
