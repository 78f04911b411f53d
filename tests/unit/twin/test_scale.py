"""The expected size of a change, held against group means and against a size that is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from oncotwin.twin.scale import ChangeScale, learn_scale


def test_without_a_ridge_two_groups_have_their_mean_absolute_changes() -> None:
    random = np.random.default_rng(0)
    group = random.integers(0, 2, 400).astype(float)
    change = np.where(group == 1.0, 3.0, 0.5) * random.normal(size=400)
    found = learn_scale(group[:, None], change, ridge=0.0).predict(np.array([[0.0], [1.0]]))
    expected = [np.abs(change[group == g]).mean() for g in (0.0, 1.0)]
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_missing_feature_has_a_size_of_its_own() -> None:
    random = np.random.default_rng(1)
    x = np.where(random.random(600) < 0.5, np.nan, random.normal(size=600))
    change = np.where(np.isnan(x), 2.0, 0.2) * random.normal(size=600)
    found = learn_scale(x[:, None], change, ridge=0.1).predict(np.array([[np.nan], [0.0]]))
    assert found[0] == pytest.approx(np.abs(change[np.isnan(x)]).mean(), rel=0.05)
    assert found[1] < 0.4


def test_sizes_that_grow_with_a_feature_are_found_among_noise() -> None:
    random = np.random.default_rng(2)
    x = random.uniform(0.0, 1.0, (6000, 8))
    true = np.exp(-2.0 + 1.5 * x[:, 3])
    scale = learn_scale(x, true * random.standard_t(4, 6000) * (random.random(6000) > 0.2))
    ratio = scale.predict(x) / true
    assert np.std(np.log(ratio)) < 0.12


def test_a_stronger_ridge_brings_sizes_together() -> None:
    random = np.random.default_rng(3)
    x = random.uniform(size=(500, 2))
    change = np.exp(x[:, 0]) * random.normal(size=500)
    loose, tight = (np.ptp(np.log(learn_scale(x, change, ridge=r).predict(x))) for r in (1.0, 1e6))
    assert tight < 0.01 < loose


def test_one_row_gives_the_bits_of_many_and_json_keeps_them() -> None:
    random = np.random.default_rng(4)
    x = random.normal(size=(700, 5))
    x[random.random(x.shape) < 0.1] = np.nan
    scale = learn_scale(x, random.normal(size=700))
    again = ChangeScale.from_dict(json.loads(json.dumps(scale.to_dict())))
    whole = scale.predict(x)
    assert np.array_equal(whole, again.predict(x))
    assert np.array_equal(whole[:9], np.concatenate([scale.predict(x[[i]]) for i in range(9)]))


def test_beyond_what_was_seen_the_size_stays() -> None:
    x = np.linspace(0.0, 1.0, 300)[:, None]
    scale = learn_scale(x, 1.0 + x[:, 0], ridge=1.0)
    assert np.array_equal(scale.predict(np.array([[50.0]])), scale.predict(np.array([[1.0]])))


def test_series_that_never_move_have_a_small_size() -> None:
    assert (learn_scale(np.arange(300.0)[:, None], np.zeros(300)).predict(np.array([[5.0]])) < 1e-3).all()
