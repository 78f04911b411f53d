"""Tumour told from the tissue around it: against a threshold by brute force, and planted groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.distance import INSIDE, NOT_TISSUE, OUTSIDE
from oncotwin.spatial.tumour_mask import (
    N_BINS,
    odds,
    otsu,
    tumour_from_names,
    tumour_from_score,
)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_leaves_the_least_variance(seed: int) -> None:
    """Every threshold between bins, tried on the values themselves."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 300), rng.normal(4, 1.5, 150)])
    found = otsu(values)
    edges = np.linspace(values.min(), values.max(), N_BINS + 1)[1:-1]

    def within(edge: float) -> float:
        upper = values >= edge
        parts = [part for part in (values[upper], values[~upper]) if part.size]
        return float(sum(part.var() * part.size for part in parts) / values.size)

    least = min(within(edge) for edge in edges)
    assert within(found.value) == pytest.approx(least, rel=0.01)
    assert found.separability == pytest.approx(1 - least / values.var(), abs=0.01)
    assert found.upper_share == pytest.approx(float((values >= found.value).mean()), abs=1e-9)


def test_one_normal_group_has_the_separability_of_the_field() -> None:
    values = np.random.default_rng(9).normal(size=200_000)
    assert otsu(values).separability == pytest.approx(2 / math.pi, abs=0.01)


def test_no_order_changes_it() -> None:
    values = np.random.default_rng(3).normal(size=1000) ** 2
    assert otsu(values) == otsu(values[np.random.default_rng(4).permutation(1000)])


def test_planted_tumour_is_found() -> None:
    rng = np.random.default_rng(5)
    truth = np.arange(600) < 180
    scores = np.where(truth, 0.03, 0.005) * np.exp(rng.normal(0, 0.2, 600))
    scores[17], scores[400] = np.nan, 0.0
    classes, threshold = tumour_from_score(scores)
    assert classes[17] == NOT_TISSUE and classes[400] == OUTSIDE
    judged = np.arange(600) != 17
    assert np.array_equal(classes[judged] == INSIDE, truth[judged])
    assert 0.005 < threshold.value < 0.03 and threshold.separability > 0.9


def test_sections_without_two_regions_are_said_to_have_none() -> None:
    with pytest.raises(ConfigurationError, match="all values are"):
        tumour_from_score(np.full(50, 0.01))
    lone = np.full(1000, 0.01)
    lone[3] = 0.9
    with pytest.raises(ConfigurationError, match="cannot be told apart"):
        tumour_from_score(lone)
    with pytest.raises(ConfigurationError, match="at least one"):
        tumour_from_score(np.full(5, np.nan))


def test_classes_from_names_and_probabilities() -> None:
    names = ["T", "B", "", "T2"]
    assert tumour_from_names(names, {"T", "T2"}).tolist() == [INSIDE, OUTSIDE, NOT_TISSUE, INSIDE]
    with pytest.raises(ConfigurationError, match="no cell is of class 'X'"):
        tumour_from_names(names, ["X"])
    classes, threshold = tumour_from_score(odds(np.array([0.7, 0.75, 0.2, 0.21, np.nan])))
    assert classes.tolist() == [INSIDE, INSIDE, OUTSIDE, OUTSIDE, NOT_TISSUE] and 0.25 < threshold.value < 3
