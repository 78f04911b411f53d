"""Niches by composition: planted mixtures are found, and blocks change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.composition_niches import composition_niches, composition_points
from oncotwin.spatial.graphs import CellBlock, radius_rows, whole_section
from oncotwin.spatial.kmeans import STEP
from oncotwin.spatial.niches import NicheSettings

HOW = NicheSettings(n_starts=5, most_niches=5)


def section() -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.bool_]]:
    """Two halves, each a mixture of three classes."""
    rng = np.random.default_rng(3)
    places = rng.uniform(0, 100, (1200, 2))
    left = places[:, 0] < 50
    labels = np.where(left, rng.choice(3, 1200, p=[0.7, 0.3, 0.0]), rng.choice(3, 1200, p=[0.1, 0.3, 0.6]))
    return places, labels.astype(np.uint8), left


def test_planted_mixtures_are_found() -> None:
    places, labels, left = section()
    rows = radius_rows(whole_section(places), 8.0)
    points = composition_points(rows, labels, 3)
    close = cdist(places, places[:5]) <= 8.0
    shares = np.array([np.bincount(labels[close[:, k]], minlength=3) / close[:, k].sum() for k in range(5)])
    np.testing.assert_allclose(points[:5] * STEP, np.sqrt(shares), atol=STEP)
    found = composition_niches(points, None, 0, HOW)
    assert max(found.ratios, key=lambda k: found.ratios[k]) == 2
    assert adjusted_rand_score(left, found.labels) > 0.85


def test_no_block_changes_a_bit() -> None:
    places, labels, _ = section()
    whole = composition_points(radius_rows(whole_section(places), 8.0), labels, 3)
    for first in range(0, 1200, 350):
        own = np.arange(first, min(first + 350, 1200))
        ids = np.concatenate([own, np.setdiff1d(np.arange(1200), own)])
        rows = radius_rows(CellBlock(places[ids], ids, len(own)), 8.0)
        assert np.array_equal(composition_points(rows, labels, 3), whole[own])


def test_more_niches_than_mixtures_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="only 1 different points"):
        composition_niches(np.full((50, 2), 7, dtype=np.int32), 2, 0, HOW)
