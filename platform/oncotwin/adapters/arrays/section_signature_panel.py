"""The panel of genes of a section, and what it covers of the shipped sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.spatial.gene_names import Coverage, approved_symbols, coverages, known_names
from oncotwin.spatial.gene_sets import gene_sets


@dataclass(frozen=True, slots=True)
class Panel:
    """Genes of a section.

    Attributes:
        names: one for each gene, approved symbols where they are known.
        covered: sets that are scored, in order.
        coverage: of every shipped set.
        n_doubles: genes whose symbol another gene has too; they are in no set.
        n_renamed: genes whose name was an alias or an identifier of a known one.
    """

    names: list[str]
    covered: tuple[str, ...]
    coverage: Mapping[str, Coverage]
    n_doubles: int
    n_renamed: int


def read_panel(section: StoredSection) -> Panel:
    """Genes of a section and what they cover of the shipped sets.

    Raises:
        ConfigurationError: see `approved_symbols`.
    """
    given = section.gene_names or section.genes
    symbols, seen = list(given), set[str]()
    n_doubles = 0
    for at, symbol in enumerate(given):
        if symbol in seen or not symbol.strip():
            # The same symbol twice is usual in 10x panels: the second is called by its identifier as well.
            symbols[at] = f"{symbol} ({section.genes[at]})"
            n_doubles += 1
        seen.add(symbol)
    names, table = approved_symbols(symbols), known_names()
    found = coverages(names, gene_sets())
    n_renamed = sum(name != own and own.upper() in table for name, own in zip(names, given, strict=True))
    return Panel(names, tuple(name for name, one in found.items() if not one.reason), found, n_doubles, n_renamed)
