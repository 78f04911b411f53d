"""A section of tissue as rows of cells or spots, block by block, and what a block must be to be let in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.claim import ArrayError

MAX_COUNT = 2**31 - 1
MAX_GENES = 200_000
MAX_ID_LETTERS = 200

Column = NDArray[np.float64] | list[str]
"""One attribute of each row: numbers (NaN where unknown) or text ("" where unknown)."""


@dataclass(frozen=True, slots=True)
class SectionBlock:
    """Some rows of a section; counts in compressed rows."""

    ids: list[str]
    """(n_rows,), as the input names them."""
    coordinates: NDArray[np.float64]
    """(n_rows, 2): x, y."""
    indptr: NDArray[np.int64]
    """(n_rows + 1,): where each row begins in `indices` and `counts`; the first is 0."""
    indices: NDArray[np.int32]
    """(n_counts,): the gene of each count, rising within a row."""
    counts: NDArray[Any]
    """(n_counts,)"""
    columns: Mapping[str, Column] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SectionImage:
    """A picture of the tissue beside the counts; its pixels lie along the axes of the coordinates."""

    path: Path
    units_per_pixel: float
    """Edge of a pixel in units of the coordinates."""
    origin: tuple[float, float] = (0.0, 0.0)
    """x and y, in these units, of the centre of its first pixel."""


@dataclass(frozen=True, slots=True)
class SectionSource:
    """A section as a reader finds it; nothing is judged yet."""

    where: str
    """Name of the input, for messages."""
    platform: str
    genes: Sequence[str]
    """Unique identifiers."""
    gene_names: Sequence[str] | None
    """Symbols, where `genes` are other identifiers."""
    column_is_text: Mapping[str, bool]
    um_per_unit: float | None
    """Micrometres per unit of the coordinates, where the input says it."""
    blocks: Iterator[SectionBlock]
    left_out: Sequence[str] = ()
    """Parts of the input that are not read."""
    image: SectionImage | None = None


class RowCheck:
    """Judges the rows of a section as they pass; what needs all of them is judged at the end."""

    def __init__(self, where: str, n_genes: int) -> None:
        self._where = where
        self._n_genes = n_genes
        self._digests = bytearray()
        self.n_rows = 0
        self.total = 0

    def check(self, block: SectionBlock) -> None:
        """Judge one block.

        Raises:
            ArrayError: `bad_coordinates`, `bad_id`, `bad_counts` or `bad_block`, with the row.
        """
        n = len(block.ids)
        if block.coordinates.shape != (n, 2) or block.indptr.shape != (n + 1,):
            raise self._error("bad_block", f"has {n} names for {block.coordinates.shape} coordinates", 0)
        finite = np.isfinite(block.coordinates).all(axis=1)
        if not finite.all():
            raise self._error("bad_coordinates", "has a coordinate that is no number", int(np.argmin(finite)))
        for row, name in enumerate(block.ids):
            if not 0 < len(name) <= MAX_ID_LETTERS or not name.isprintable():
                raise self._error("bad_id", "has a name that is empty, too long or cannot be shown", row)
            self._digests += blake2b(name.encode(), digest_size=16).digest()
        self._check_counts(block)
        self.n_rows += n
        self.total += int(block.counts.sum())

    def finish(self) -> None:
        """Judge the section as a whole.

        Raises:
            ArrayError: `no_rows`, `duplicate_id` (with both rows) or `no_counts`.
        """
        if not self.n_rows:
            raise ArrayError("no_rows", "holds no cell and no spot", self._where, "send a section with rows")
        # Sixteen bytes a name, sorted: a set of twenty million names would take two gigabytes.
        high, low = np.frombuffer(self._digests, "<u8").reshape(-1, 2).T
        order = np.lexsort((np.arange(len(low)), low, high))
        same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
        if same.any():
            at = int(np.argmax(same))
            raise self._error("duplicate_id", f"has the name of row {order[at] + 1}", int(order[at + 1]), absolute=True)
        if self._n_genes and not self.total:
            raise ArrayError("no_counts", "holds no count above zero", self._where, "send the raw counts")

    def _check_counts(self, block: SectionBlock) -> None:
        counts, indices, indptr = block.counts, block.indices, block.indptr
        lengths = np.diff(indptr)
        if indptr[0] or (lengths < 0).any() or indptr[-1] != len(counts) or len(indices) != len(counts):
            raise self._error("bad_block", "has rows that begin before the one above ends", 0)
        if not len(counts):
            return
        # NaN is no whole number: every comparison with it is false.
        with np.errstate(invalid="ignore"):
            whole = (counts >= 0) & (counts <= MAX_COUNT) & (counts == np.floor(counts))
        if not whole.all():
            at = int(np.argmin(whole))
            what = f"has a count of {counts[at]}: counts are whole numbers from 0 to {MAX_COUNT}"
            raise self._error("bad_counts", what, self._row(indptr, at), "send raw counts, not normalised ones")
        inside = (indices >= 0) & (indices < self._n_genes)
        if not inside.all():
            at = int(np.argmin(inside))
            raise self._error("bad_counts", f"counts gene {indices[at]} of {self._n_genes}", self._row(indptr, at))
        rising = np.diff(indices.astype(np.int64)) > 0
        starts = indptr[1:-1][lengths[1:] > 0]
        rising[starts[(starts > 0) & (starts < len(indices))] - 1] = True
        if not rising.all():
            at = int(np.argmin(rising)) + 1
            raise self._error("bad_counts", "counts a gene twice, or out of order", self._row(indptr, at))

    @staticmethod
    def _row(indptr: NDArray[np.int64], at: int) -> int:
        return int(np.searchsorted(indptr, at, side="right")) - 1

    def _error(self, code: str, what: str, row: int, remedy: str = "", *, absolute: bool = False) -> ArrayError:
        number = row + 1 + (0 if absolute else self.n_rows)
        return ArrayError(
            code, f"row {number} {what}", f"{self._where}, row {number}", remedy or "mend it, or take it out"
        )


def check_genes(source: SectionSource, expected: frozenset[str] | None) -> None:
    """Judge the genes of a section.

    Args:
        source: the section; none at all is right for cells that carry types instead of counts.
        expected: genes that somebody wants to score; None if nobody asks.
    Raises:
        ArrayError: `bad_gene`, `duplicate_gene` (with both places), `too_large` or `no_common_gene`.
    """
    where = source.where
    if len(source.genes) > MAX_GENES:
        raise ArrayError("too_large", f"has {len(source.genes):,} genes, more than {MAX_GENES:,}", where)
    first: dict[str, int] = {}
    for at, gene in enumerate(source.genes):
        if not 0 < len(gene) <= MAX_ID_LETTERS or not gene.isprintable():
            raise ArrayError("bad_gene", f"gene {at + 1} has a name that is empty, too long or cannot be shown", where)
        if first.setdefault(gene, at) != at:
            what = f"genes {first[gene] + 1} and {at + 1} are both called '{gene}'"
            raise ArrayError("duplicate_gene", what, where, "name each once, as by its Ensembl identifier")
    if expected is not None and not expected & (first.keys() | set(source.gene_names or ())):
        raise ArrayError(
            "no_common_gene", f"none of the {len(first):,} genes is among the {len(expected):,} that are scored", where,
            "name genes by symbol or Ensembl identifier",
        )  # fmt: skip
