"""Names of genes: aliases and identifiers, clashes, coverage and abstention."""

from __future__ import annotations

import numpy as np
import pytest

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.gene_names import MIN_COVERAGE, MIN_GENES, approved_symbols, coverages
from oncotwin.spatial.gene_sets import GeneSet


def a_set(n: int) -> GeneSet:
    return GeneSet("a_set", tuple(f"G{i:03d}" for i in range(n)), "Nobody 2000, doi:10.0/x, a paper", "whole", "")


def test_aliases_and_identifiers_become_symbols() -> None:
    names = ["HIG2", "igj", "ENSG00000141736", "ENSG00000167286.12", " CD8A ", "Unheard-of"]
    assert approved_symbols(names) == ["HILPDA", "JCHAIN", "ERBB2", "CD3D", "CD8A", "Unheard-of"]


def test_an_alias_beside_its_symbol_is_left_alone() -> None:
    assert approved_symbols(["HIG2", "HILPDA"]) == ["HIG2", "HILPDA"]


def test_two_columns_of_one_gene_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'HIG2' and 'C7orf68' \(columns 0 and 2\) are both HILPDA"):
        approved_symbols(["HIG2", "CD3D", "C7orf68"])
    with pytest.raises(ConfigurationError, match="are both CD3D"):
        approved_symbols(["CD3D", "CD3D"])
    with pytest.raises(ConfigurationError, match="gene 1 has no name"):
        approved_symbols(["CD3D", " "])


def test_coverage_says_what_is_held_and_what_is_missing() -> None:
    found = coverages(["G004", "X", "G000", "G002", "G001", "G003"], {"a_set": a_set(8)})["a_set"]
    assert np.array_equal(found.columns, [0, 2, 3, 4, 5]) and found.missing == ("G005", "G006", "G007")
    assert found.share == 5 / 8 and found.reason == ""


@pytest.mark.parametrize(("n_held", "n_set"), [(MIN_GENES - 1, MIN_GENES), (MIN_GENES, 100), (0, 10)])
def test_a_small_panel_is_abstained_from(n_held: int, n_set: int) -> None:
    assert n_held < MIN_GENES or n_held < MIN_COVERAGE * n_set
    found = coverages([f"G{i:03d}" for i in range(n_held)], {"a_set": a_set(n_set)})["a_set"]
    assert found.reason == (
        f"a_set: the panel holds {n_held} of {n_set} genes; at least {MIN_GENES} and {MIN_COVERAGE:.0%} are needed"
    )
