"""LISI against a brute-force second implementation, closed forms, and any cut into blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.lisi import Neighbourhood, lisi

FloatArray = NDArray[np.float64]


def brute(points: FloatArray, labels: NDArray[np.int64], perplexity: float) -> FloatArray:
    """All distances, a root finder for the width, a dictionary for the shares."""
    found = []
    k = math.ceil(3 * perplexity)
    for i, one in enumerate(points):
        squares = ((points - one) ** 2).sum(axis=1)
        squares[i] = np.inf
        near = np.argsort(squares, kind="stable")[:k]
        d = squares[near] - squares[near].min()

        def entropy(log_beta: float, d: FloatArray = d) -> float:
            w = np.exp(-math.exp(log_beta) * d)
            p = w / w.sum()
            return float(-(p * np.log(np.maximum(p, 1e-300))).sum()) - math.log(perplexity)

        w = np.exp(-math.exp(brentq(entropy, -40.0, 40.0, xtol=1e-12)) * d)
        share: dict[int, float] = {}
        for label, weight in zip(labels[near].tolist(), (w / w.sum()).tolist(), strict=True):
            share[label] = share.get(label, 0.0) + weight
        found.append(1.0 / sum(value**2 for value in share.values()))
    return np.array(found)


def test_equals_brute_force() -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(150, 4))
    labels = rng.integers(0, 3, 150)
    np.testing.assert_allclose(lisi(Neighbourhood(points, 10.0), labels), brute(points, labels, 10.0), rtol=1e-5)


def test_one_label_is_one_and_mixed_labels_are_their_number() -> None:
    rng = np.random.default_rng(4)
    near = Neighbourhood(rng.normal(size=(3_000, 2)))
    assert lisi(near, np.zeros(3_000, dtype=np.int64)) == pytest.approx(1.0)
    mixed = lisi(near, rng.integers(0, 2, 3_000))
    assert 1.85 < np.median(mixed) <= 2.0
    apart = Neighbourhood(np.vstack([near.points, near.points + 100.0]))
    assert lisi(apart, np.repeat([0, 1], 3_000)) == pytest.approx(1.0)


def test_neighbours_at_one_distance_weigh_the_same() -> None:
    angle = 2 * np.pi * np.arange(6) / 6
    points = np.vstack([[0.0, 0.0], np.column_stack([np.cos(angle), np.sin(angle)])])
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    assert lisi(Neighbourhood(points, 2.0), labels)[0] == pytest.approx(2.0)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_change_nothing(size: int) -> None:
    rng = np.random.default_rng(5)
    points, labels = rng.normal(size=(200, 3)), rng.integers(0, 4, 200)
    near = Neighbourhood(points, 12.0)
    parts = [lisi(near, labels, first, min(first + size, 200)) for first in range(0, 200, size)]
    assert np.concatenate(parts).tolist() == lisi(near, labels).tolist()


def test_doubles_at_one_place_are_served() -> None:
    points = np.vstack([np.zeros((60, 2)), np.random.default_rng(6).normal(size=(60, 2))])
    found = lisi(Neighbourhood(points, 5.0), np.tile([0, 1], 60))
    assert np.isfinite(found).all() and (found >= 1.0).all() and (found <= 2.0 + 1e-9).all()


def test_bad_input_is_refused() -> None:
    points = np.random.default_rng(7).normal(size=(50, 2))
    with pytest.raises(ConfigurationError, match="too few"):
        Neighbourhood(points, 30.0)
    with pytest.raises(ConfigurationError, match="finite"):
        Neighbourhood(np.full((50, 2), np.nan), 3.0)
    with pytest.raises(ConfigurationError, match="above one"):
        Neighbourhood(points, 1.0)
    with pytest.raises(ConfigurationError, match="labels"):
        lisi(Neighbourhood(points, 3.0), np.zeros(49, dtype=np.int64))
