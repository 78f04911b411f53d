"""Niches: planted domains are found, and no cut into blocks and no order of them changes anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.augmented import reach
from oncotwin.spatial.kmeans import STEP
from oncotwin.spatial.niches import (
    CellBlock,
    GeneSums,
    IntArray,
    NicheSettings,
    choose_genes,
    explained_share,
    features,
    find_niches,
    gene_sums,
    neighbour_sums,
    scores,
)

HOW = NicheSettings(n_genes=300, n_components=4, n_starts=5, most_niches=5)


def section(n_side: int = 18, n_genes: int = 220, n_domains: int = 3) -> tuple[CellBlock, IntArray]:
    """Stripes of tissue on a jittered lattice; each has its own tenth of the genes three times as high."""
    rng = np.random.default_rng(11)
    x, y = np.meshgrid(np.arange(n_side), np.arange(n_side))
    places = np.column_stack([x.ravel(), y.ravel()]) + rng.uniform(-0.2, 0.2, (n_side**2, 2))
    domain = (places[:, 0] * n_domains / n_side).clip(0, n_domains - 1).astype(np.int64)
    rate = rng.gamma(2.0, 0.5, n_genes) * np.ones((n_side**2, 1))
    for d in range(n_domains):
        rate[np.ix_(domain == d, np.arange(d * n_genes // 10, (d + 1) * n_genes // 10))] *= 3
    return CellBlock(np.arange(n_side**2), places, rng.poisson(rate), n_side**2), domain


def cut(whole: CellBlock, side: float, shuffle: int) -> list[CellBlock]:
    """The section in squares, in any order, each with its halo in any order."""
    rng = np.random.default_rng(shuffle)
    tile = np.floor(whole.places / side).astype(np.int64)
    blocks = []
    for key in rng.permutation(np.unique(tile, axis=0)):
        own = rng.permutation(np.nonzero((tile == key).all(axis=1))[0])
        near = (np.abs(whole.places - (key + 0.5) * side) <= side / 2 + reach(HOW.bandwidth)).all(axis=1)
        halo = rng.permutation(np.setdiff1d(np.nonzero(near)[0], own))
        rows = np.concatenate([own, halo])
        blocks.append(CellBlock(rows, whole.places[rows], whole.counts[rows], len(own)))
    return blocks


def test_planted_domains_are_found_and_counted() -> None:
    whole, domain = section()
    found = find_niches([whole], 3, settings=HOW)
    assert len(found.clustering.counts) == 3 and max(found.ratios, key=lambda k: found.ratios[k]) == 3
    assert adjusted_rand_score(domain, found.labels) > 0.9
    assert np.array_equal(np.bincount(found.labels), found.clustering.counts)
    assert found.shares[:2].min() > 0.5 > 0.1 > found.shares[2:].max()


@pytest.mark.parametrize(("side", "shuffle"), [(18.0, 1), (7.0, 2), (2.6, 3)])
def test_no_cut_and_no_order_changes_a_bit(side: float, shuffle: int) -> None:
    whole, _ = section()
    once, other = find_niches([whole], 5, 3, HOW), find_niches(cut(whole, side, shuffle), 5, 3, HOW)
    assert np.array_equal(once.labels, other.labels)
    assert np.array_equal(once.clustering.centres, other.clustering.centres)
    assert once.clustering.inertia == other.clustering.inertia
    assert np.array_equal(once.shares, other.shares)
    assert np.array_equal(once.components.directions, other.components.directions)


def test_the_ratio_is_that_of_the_field() -> None:
    whole, _ = section()
    found = find_niches([whole], 3, settings=HOW)
    depth = float(np.median(whole.counts.sum(axis=1)))
    scale = choose_genes(gene_sums(whole, depth), HOW)
    weighted = scores(features(whole, depth, scale, HOW), found.components) * (STEP * found.shares)
    assert found.ratios[3] == pytest.approx(calinski_harabasz_score(weighted, found.labels), rel=1e-3)


def test_genes_are_scaled_as_numpy_would() -> None:
    whole, _ = section()
    totals = whole.counts.sum(axis=1, keepdims=True)
    logs = np.log1p(whole.counts / totals * np.median(totals))
    scale = choose_genes(gene_sums(whole, float(np.median(totals))), HOW)
    assert np.array_equal(scale.genes, np.nonzero((whole.counts > 0).sum(axis=0) >= 0.05 * len(logs))[0])
    np.testing.assert_allclose(scale.means, logs.mean(axis=0)[scale.genes], atol=2e-5)
    np.testing.assert_allclose(scale.deviations, logs.std(axis=0)[scale.genes], rtol=1e-4)


def test_the_share_is_a_squared_correlation() -> None:
    whole, _ = section()
    own = np.random.default_rng(1).normal(size=(len(whole.rows), 2))
    own[:, 1] = whole.places[:, 0]
    steps = np.rint(own / STEP).astype(np.int32)
    parts = [neighbour_sums(block, steps[block.rows], HOW) for block in cut(whole, 5.0, 4)]
    total = sum(parts[1:], parts[0])
    share = explained_share(total)
    assert share[0] < 0.03 and share[1] > 0.97
    assert np.array_equal(share, explained_share(neighbour_sums(whole, steps, HOW)))


def test_what_is_no_section_is_refused() -> None:
    whole, _ = section()
    with pytest.raises(ConfigurationError, match="each once"):
        find_niches([replace(whole, rows=whole.rows + 1)], 0, 2, HOW)
    with pytest.raises(ConfigurationError, match="each once"):
        find_niches([], 0, 2, HOW)
    with pytest.raises(ConfigurationError, match="raw counts"):
        find_niches([replace(whole, counts=whole.counts * 0.5)], 0, 2, HOW)
    with pytest.raises(ConfigurationError, match="row 7 has no counts"):
        find_niches([replace(whole, counts=whole.counts * (whole.rows != 7)[:, None])], 0, 2, HOW)
    with pytest.raises(ConfigurationError, match="no gene varies"):
        choose_genes(GeneSums(9, np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)), HOW)
