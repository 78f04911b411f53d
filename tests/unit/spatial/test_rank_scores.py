"""AUCell, ssGSEA and ULM: against decoupler, gseapy, scipy and sums written out, and the same in any chunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.rank_scores import ALPHA, aucell, gene_order, ssgsea
from oncotwin.spatial.ulm import ulm

Array = NDArray[np.float64]
PEERS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "reference" / "expression_scores.json").read_text())


def columns_of(name: str) -> NDArray[np.int64]:
    return np.array(PEERS["sets"][name], dtype=np.int64)


@pytest.mark.parametrize("name", PEERS["sets"])
def test_aucell_is_decouplers(name: str) -> None:
    # Without ties: decoupler breaks them in another order than the panel's.
    found = aucell(gene_order(np.array(PEERS["plain"])), columns_of(name), PEERS["n_top"])
    np.testing.assert_allclose(found, PEERS["aucell"]["plain"][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PEERS["sets"])
@pytest.mark.parametrize("values", ["plain", "tied"])
def test_ulm_is_decouplers(values: str, name: str) -> None:
    np.testing.assert_allclose(
        ulm(np.array(PEERS[values]), columns_of(name)), PEERS["ulm"][values][name], rtol=1e-9
    )


@pytest.mark.parametrize("name", PEERS["sets"])
def test_ssgsea_is_gseapys(name: str) -> None:
    found = ssgsea(gene_order(np.array(PEERS["plain"])), columns_of(name))
    np.testing.assert_allclose(found, PEERS["ssgsea"]["plain"][name], rtol=1e-6)


def barbies_running_sum(values: Array, columns: NDArray[np.int64]) -> float:
    """The difference of the two distributions at every place, added up."""
    order = sorted(range(len(values)), key=lambda gene: (-values[gene], gene))
    own = set(columns.tolist())
    n = len(values)
    weight = {gene: (n - place) ** ALPHA for place, gene in enumerate(order)}
    norm = sum(weight[gene] for gene in own)
    inside = outside = total = 0.0
    for gene in order:
        if gene in own:
            inside += weight[gene] / norm
        else:
            outside += 1.0 / (n - len(own))
        total += inside - outside
    return total


def test_ssgsea_is_the_sum_over_places_with_ties_too() -> None:
    rng = np.random.default_rng(3)
    values = rng.poisson(0.6, (7, 200)).astype(float)
    columns = np.sort(rng.choice(200, 23, replace=False))
    found = ssgsea(gene_order(values), columns)
    expected = [barbies_running_sum(row, columns) for row in values]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_aucell_is_one_for_the_highest_genes_and_nil_for_the_lowest() -> None:
    order = gene_order(np.arange(100.0)[::-1][None, :])
    assert aucell(order, np.arange(4))[0] == 1.0
    assert aucell(order, np.arange(50))[0] == 1.0
    assert aucell(order, np.arange(5, 50))[0] == 0.0
    # The default looks at a twentieth rounded up: 101 genes give six places.
    longer = gene_order(np.arange(101.0)[::-1][None, :])
    assert aucell(longer, np.array([4]))[0] == pytest.approx(1.0 / 5.0)


def test_ulm_is_students_t() -> None:
    rng = np.random.default_rng(8)
    values = rng.normal(size=(5, 40)) + np.isin(np.arange(40), np.arange(6))
    expected = ttest_ind(values[:, :6], values[:, 6:], axis=1).statistic
    np.testing.assert_allclose(ulm(values, np.arange(6)), expected, rtol=1e-12)
    assert np.isnan(ulm(np.ones((1, 40)), np.arange(6)))[0]


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_no_chunk_changes_a_bit(size: int) -> None:
    rng = np.random.default_rng(5)
    counts = rng.poisson(0.7, (64, 300)).astype(float)
    columns = np.sort(rng.choice(300, 17, replace=False))
    chunks = [slice(at, at + size) for at in range(0, 64, size)]
    for score in (aucell, ssgsea):
        whole = score(gene_order(counts), columns)
        parts = np.concatenate([score(gene_order(counts[chunk]), columns) for chunk in chunks])
        assert np.array_equal(whole, parts)
    logs = np.log1p(counts)
    assert np.array_equal(ulm(logs, columns), np.concatenate([ulm(logs[chunk], columns) for chunk in chunks]))


def test_what_does_not_fit_is_refused() -> None:
    order = gene_order(np.arange(20.0).reshape(2, 10))
    for columns in (np.array([], dtype=np.int64), np.array([10]), np.array([-1]), np.array([1, 1]), np.arange(10)):
        with pytest.raises(ConfigurationError, match="does not fit a panel of 10 genes"):
            aucell(order, columns)
        with pytest.raises(ConfigurationError, match="does not fit a panel of 10 genes"):
            ssgsea(order, columns)
    for columns in (np.array([], dtype=np.int64), np.array([10]), np.array([-1]), np.arange(10)):
        with pytest.raises(ConfigurationError, match="does not fit a panel of 10 genes"):
            ulm(np.arange(20.0).reshape(2, 10), columns)
    with pytest.raises(ConfigurationError, match="the 11 highest of 10"):
        aucell(order, np.array([1]), 11)
    with pytest.raises(ConfigurationError, match="the 1 highest of 10"):
        aucell(order, np.array([1]), 1)
    hole = np.array([[1.0, 2.0, np.nan]])
    with pytest.raises(ConfigurationError, match="cell 0 of a block has no finite value of gene 2"):
        gene_order(hole)
    with pytest.raises(ConfigurationError, match="cell 0 of a block has no finite value of gene 2"):
        ulm(hole, np.array([1]))
