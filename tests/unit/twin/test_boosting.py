"""Boosted quantile trees on functions whose quantiles are known."""

from __future__ import annotations

import json

import numpy as np
from scipy import stats

from oncotwin.twin.boosting import KNOTS, Growth, QuantileTrees, fit

SMALL = Growth(n_trees=80, rate=0.1, n_leaves=6, min_rows=20)


def _data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (n, 4))
    # The first feature moves the place, the second the spread, the others say nothing.
    y = np.where(x[:, 0] > 0, 1.0, -1.0) + np.where(x[:, 1] > 0, 1.0, 0.2) * random.normal(size=n)
    return x, y


def test_trees_find_place_and_spread() -> None:
    x, y = _data(4000)
    found = fit(x, y, SMALL).predict(np.array([[0.5, 0.5, 0, 0], [-0.5, -0.5, 0, 0]]))
    assert np.abs(found[0] - (1.0 + stats.norm.ppf(KNOTS))).max() < 0.25
    assert np.abs(found[1] - (-1.0 + 0.2 * stats.norm.ppf(KNOTS))).max() < 0.2


def test_equal_data_give_equal_trees_and_json_keeps_them() -> None:
    x, y = _data(600)
    first, second = fit(x, y, SMALL), fit(x, y, SMALL)
    again = QuantileTrees.from_dict(json.loads(json.dumps(first.to_dict())))
    assert first.to_dict() == second.to_dict()
    assert np.array_equal(first.predict(x), again.predict(x))


def test_a_missing_feature_is_a_value_of_its_own() -> None:
    x, y = _data(2000)
    x[:, 2] = np.where(y > 0, np.nan, 0.0)
    known = fit(x[:, [2]], y, SMALL).predict(np.array([[np.nan], [0.0]]))
    assert known[0, 3] > 0.5 > -0.5 > known[1, 3]


def test_quantiles_never_cross() -> None:
    x, y = _data(400)
    assert (np.diff(fit(x, y, SMALL).predict(np.random.default_rng(1).normal(size=(500, 4))), axis=1) >= 0).all()


def test_features_that_say_nothing_leave_the_quantiles_of_all() -> None:
    y = np.random.default_rng(2).normal(size=300)
    trees = fit(np.full((300, 3), np.nan), y, SMALL)
    assert np.allclose(trees.predict(np.zeros((1, 3)))[0], np.quantile(y, KNOTS), atol=1e-6)


def test_too_few_rows_grow_no_tree() -> None:
    trees = fit(np.arange(10.0)[:, None], np.arange(10.0), SMALL)
    assert len(trees.roots) == 0


def test_one_bagged_tree_holds_the_quantiles_of_its_leaves() -> None:
    random = np.random.default_rng(5)
    side = np.repeat([0.0, 1.0], 300)
    y = np.where(side == 1.0, 5.0, 0.0) + random.normal(size=600)
    levels = np.array([0.01, 0.25, 0.5, 0.8, 0.99])
    alone = Growth(n_trees=1, n_leaves=2, min_rows=50, row_part=1.0, feature_part=1.0, bagged=True)
    found = fit(side[:, None], y, alone, levels).predict(np.array([[0.0], [1.0]]))
    assert np.allclose(found, [np.quantile(y[side == s], levels) for s in (0.0, 1.0)], atol=2e-6)


def test_bagged_trees_are_averaged() -> None:
    x, y = _data(3000)
    many = Growth(n_trees=30, n_leaves=20, min_rows=40, feature_part=1.0, bagged=True)
    found = fit(x, y, many).predict(np.array([[0.5, 0.5, 0, 0], [-0.5, -0.5, 0, 0]]))
    assert np.abs(found[0] - (1.0 + stats.norm.ppf(KNOTS))).max() < 0.25
    assert np.abs(found[1] - (-1.0 + 0.2 * stats.norm.ppf(KNOTS))).max() < 0.25
    assert fit(x, y, many).to_dict() == fit(x, y, many).to_dict()
