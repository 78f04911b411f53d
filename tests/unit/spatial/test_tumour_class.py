"""Probability of tumour: features against sums written out, sklearn's predictions, a generated section, and blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.gene_sets import gene_sets
from oncotwin.spatial.section_phantom import make_section
from oncotwin.spatial.tumour_class import (
    BANDWIDTHS,
    SETS,
    WIDEST_BANDWIDTH,
    TumourModel,
    feature_names,
    feature_sums,
    merge_feature_sums,
    shipped_model,
    spot_features,
    standardised,
    tumour_probability,
)

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


def a_section(n: int = 15, seed: int = 3) -> tuple[Array, dict[str, IntArray], IntArray]:
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(n, dtype=float), np.arange(n, dtype=float))
    totals = rng.poisson(2000, n * n).astype(np.int64)
    counts = {name: rng.binomial(totals, 0.002 * (1 + at)).astype(np.int64) for at, name in enumerate(SETS)}
    return np.column_stack([x.ravel(), y.ravel()]), counts, totals


def test_features_are_logarithms_of_kernel_sums() -> None:
    points, counts, totals = a_section()
    ids = np.arange(len(points))
    found = spot_features(ids, points, ids, counts, totals, totals // 3)
    assert found.shape == (len(ids), len(feature_names()))
    away = cdist(points, points)
    for width in BANDWIDTHS:
        weights = np.where(away <= 3 * width, np.exp(-(away**2) / (2 * width**2)), 0.0)
        depth = np.log(weights @ totals / weights.sum(axis=1))
        np.testing.assert_allclose(found[:, feature_names().index(f"depth.{width}")], depth, rtol=1e-12)
        for name in SETS:
            share = np.log1p(1e4 * (weights @ counts[name]) / (weights @ totals))
            np.testing.assert_allclose(found[:, feature_names().index(f"{name}.{width}")], share, rtol=1e-12)
    np.testing.assert_allclose(found[:, feature_names().index("genes_seen")], np.log(totals // 3), rtol=1e-12)


def test_a_model_of_sklearns_says_the_same() -> None:
    points, counts, totals = a_section()
    ids = np.arange(len(points))
    features = spot_features(ids, points, ids, counts, totals, totals // 3)
    labels = points[:, 0] > 7
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    np.testing.assert_allclose(standardised(features, feature_sums(features)), scaled, rtol=1e-9, atol=1e-9)
    fitted = LogisticRegression(C=0.1).fit(scaled, labels)
    model = TumourModel("a test", float(fitted.intercept_[0]), fitted.coef_[0])
    found = tumour_probability(features, feature_sums(features), model)
    np.testing.assert_allclose(found, fitted.predict_proba(scaled)[:, 1], rtol=1e-9)


@pytest.mark.parametrize("size", [1, 40, 225])
def test_no_block_changes_a_bit(size: int) -> None:
    points, counts, totals = a_section()
    ids = np.arange(len(points))
    whole = spot_features(ids, points, ids, counts, totals, totals // 3)
    expected = tumour_probability(whole, feature_sums(whole), shipped_model())
    order = np.random.default_rng(5).permutation(ids)
    parts, sums = [], []
    for own in np.array_split(order, math.ceil(len(ids) / size)):
        own = np.sort(own)
        held = ids[cdist(points, points[own]).min(axis=1) <= 3 * WIDEST_BANDWIDTH + 1e-9]
        block = {name: column[held] for name, column in counts.items()}
        made = spot_features(held, points[held], np.searchsorted(held, own), block, totals[held], totals[held] // 3)
        assert np.array_equal(made, whole[own])
        parts.append((own, made))
        sums.append(feature_sums(made))
    section = merge_feature_sums(sums[::-1])
    for own, made in parts:
        assert np.array_equal(tumour_probability(made, section, shipped_model()), expected[own])


@pytest.mark.parametrize("pattern", ["hot", "excluded", "cold"])
def test_the_tumour_of_a_generated_section_is_found(pattern: str) -> None:
    made = make_section(pattern, np.random.default_rng(1))
    kept = ~made.failed & (made.counts.sum(axis=1) > 0)
    places = {gene: at for at, gene in enumerate(made.genes)}
    counts = {
        name: made.counts[kept][:, [places[gene] for gene in gene_sets()[name].genes if gene in places]].sum(axis=1)
        for name in SETS
    }
    ids = np.arange(int(kept.sum()))
    own = made.counts[kept]
    features = spot_features(ids, made.places_um[kept] / 100.0, ids, counts, own.sum(axis=1), (own > 0).sum(axis=1))
    found = tumour_probability(features, feature_sums(features), shipped_model())
    truth = np.array(made.region)[kept] == "tumour"
    assert roc_auc_score(truth, found) > 0.9


def test_a_set_that_is_not_covered_says_nothing() -> None:
    points, counts, totals = a_section()
    ids = np.arange(len(points))
    del counts["adipose"]
    features = spot_features(ids, points, ids, counts, totals, totals // 3)
    scaled = standardised(features, feature_sums(features))
    assert not scaled[:, [at for at, name in enumerate(feature_names()) if name.startswith("adipose")]].any()
    assert np.isfinite(tumour_probability(features, feature_sums(features), shipped_model())).all()


def test_the_shipped_model_says_what_it_was_taught_on() -> None:
    model = shipped_model()
    assert "Andersson" in model.taught_on and len(model.coefficients) == len(feature_names())


def test_what_does_not_fit_is_refused() -> None:
    points, counts, totals = a_section(3)
    totals[4] = 0
    with pytest.raises(ConfigurationError, match="spot 4 has no counts"):
        spot_features(np.arange(9), points, np.arange(9), counts, totals, totals)
    with pytest.raises(ConfigurationError, match="at least one"):
        merge_feature_sums([])
