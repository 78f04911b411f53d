"""Names of genes brought to approved symbols, and how much of a set a panel covers.

Only what the shipped table knows is renamed: aliases and identifiers of genes in the shipped sets. The table of
Ensembl identifiers is short; where a file carries symbols beside identifiers, hand in the symbols.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.gene_sets import GeneSet

IntArray = NDArray[np.int64]

MIN_GENES = 5
MIN_COVERAGE = 0.3
_ENSEMBL = re.compile(r"^(ENSG\d{11})(\.\d+)?$")


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a panel holds of one set.

    Attributes:
        name: of the set.
        columns: (n_found,) places in the panel, increasing.
        missing: genes of the set that the panel lacks.
        reason: why the set is not scored on this panel; "" where it is.
    """

    name: str
    columns: IntArray
    missing: tuple[str, ...]
    reason: str

    @property
    def share(self) -> float:
        """Share of the set's genes that the panel holds."""
        return len(self.columns) / (len(self.columns) + len(self.missing))


def known_names() -> dict[str, str]:
    """The shipped table: alias or Ensembl identifier, in capitals, to approved symbol."""
    text = files("oncotwin.spatial").joinpath("data/gene_names.csv").read_text(encoding="utf-8")
    return {row["name"].upper(): row["symbol"] for row in csv.DictReader(io.StringIO(text))}


def approved_symbols(names: Sequence[str]) -> list[str]:
    """Names of a panel's genes as approved symbols, one for each, in the panel's order.

    The version of an Ensembl identifier is dropped. An alias is left as it is where the panel also holds the approved
    symbol, since both are then measured apart. What the table does not know is left as it is.

    Raises:
        ConfigurationError: a name is empty, or two columns come to the same symbol.
    """
    table = known_names()
    plain = [match.group(1) if (match := _ENSEMBL.match(name.strip())) else name.strip() for name in names]
    held = set(plain)
    symbols = []
    for place, name in enumerate(plain):
        if not name:
            raise ConfigurationError(f"gene {place} has no name; leave the column out or name it")
        symbol = table.get(name.upper(), name)
        symbols.append(name if symbol != name and symbol in held else symbol)
    first: dict[str, int] = {}
    for place, symbol in enumerate(symbols):
        if first.setdefault(symbol, place) != place:
            raise ConfigurationError(
                f"genes {names[first[symbol]]!r} and {names[place]!r} (columns {first[symbol]} and {place}) are both "
                f"{symbol}; add their counts up or leave one out"
            )
    return symbols


def coverages(symbols: Sequence[str], sets: Mapping[str, GeneSet]) -> dict[str, Coverage]:
    """What a panel of approved symbols holds of each set.

    A set is abstained from where fewer than `MIN_GENES` of its genes, or less than `MIN_COVERAGE` of them, are held.
    """
    places = {symbol: place for place, symbol in enumerate(symbols)}
    found = {}
    for name, gene_set in sets.items():
        columns = np.array(sorted(places[gene] for gene in gene_set.genes if gene in places), dtype=np.int64)
        missing = tuple(gene for gene in gene_set.genes if gene not in places)
        n_genes = len(gene_set.genes)
        few = len(columns) < MIN_GENES or len(columns) < MIN_COVERAGE * n_genes
        reason = (
            f"{name}: the panel holds {len(columns)} of {n_genes} genes; at least {MIN_GENES} and "
            f"{MIN_COVERAGE:.0%} are needed"
        )
        found[name] = Coverage(name, columns, missing, reason if few else "")
    return found
