"""The shipped gene sets: complete, in order, with sources, and names that do not clash."""

from __future__ import annotations

import re

import pytest

from oncotwin.spatial.gene_names import known_names
from oncotwin.spatial.gene_sets import GeneSet, gene_sets

WANTED = {
    "breast_ducts", "her2_amplicon",
    "adipose", "cytotoxicity", "emt", "endothelium", "exhaustion", "hypoxia", "immune", "proliferation", "stemness",
    "stroma", "tumour_epithelium",
}
WHOLE = {"cytotoxicity": 10, "emt": 100, "hypoxia": 51, "proliferation": 97}
"""Sets that are a paper's own list, and how many genes that list has."""


def test_the_sets_are_those_that_are_promised() -> None:
    assert set(gene_sets()) == WANTED


@pytest.mark.parametrize("one", gene_sets().values(), ids=lambda one: one.name)
def test_a_set_is_sorted_sourced_and_large_enough(one: GeneSet) -> None:
    assert list(one.genes) == sorted(set(one.genes)) and len(one.genes) >= 10
    assert re.fullmatch(r"[A-Z][\w' -]+ (19|20)\d\d, doi:10\.\d{4,}/\S+, .{20,}", one.source), one.source
    assert one.extent in ("whole", "selection") and one.note
    assert (one.extent == "whole") == (one.name in WHOLE)
    if one.name in WHOLE:
        assert len(one.genes) == WHOLE[one.name]


def test_an_identifier_belongs_to_one_gene_and_a_gene_to_one_identifier() -> None:
    found = [symbol for name, symbol in known_names().items() if name.startswith("ENSG")]
    assert len(found) == len(set(found)) >= 30


def test_no_alias_is_the_symbol_of_another_gene_of_the_sets() -> None:
    genes = {gene for one in gene_sets().values() for gene in one.genes}
    assert not [name for name, symbol in known_names().items() if name in genes and symbol != name]
