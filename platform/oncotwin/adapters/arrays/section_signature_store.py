"""The cells of a section that passed quality, along a Hilbert curve in a scratch folder that every worker can open.

A stored section has its rows in the input's order, and neighbours anywhere. Here neighbours lie side by side: a block
is a run of rows, its halo a few more. What is held in memory for each cell are its place and a few numbers; counts stay
on disk and are made dense for one block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.spatial.section_cut import Runs, make_runs

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DENSE_COUNTS = 1 << 23
"""Counts of a block that are dense at a time: 32 MB, and a few times as much while they are worked on."""
MOST_ROWS = 1 << 15
_ENTRIES = 1 << 22


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Some rows of a stored section, named so that any process can read them."""

    folder: str
    stamp: int
    """When the folder was written: a folder of the same name written since is another one."""
    first: int
    end: int

    @property
    def section(self) -> StoredSection:
        """The section."""
        return _stored(self.folder, self.stamp)


def stored_rows(folder: Path, n_rows: int, n_genes: int, most_rows: int = MOST_ROWS) -> list[StoredRows]:
    """All rows of a stored section, as many at a time as may be dense."""
    size = max(1, min(DENSE_COUNTS // max(n_genes, 1), most_rows))
    return [StoredRows(str(folder), stamp_of(folder), i, min(i + size, n_rows)) for i in range(0, n_rows, size)]


@lru_cache(maxsize=2)
def _stored(folder: str, stamp: int) -> StoredSection:
    return StoredSection(Path(folder))


class SortedCells:
    """The scratch folder, opened: cell ``i`` is the i-th along the curve.

    Attributes:
        points_um: (n, 2).
        totals: (n,) int64 counts of all genes.
        genes_seen: (n,) int64 genes with a count.
        set_counts: (n, n_sets) int64 counts of each scored set.
        n_genes: width of the panel.
    """

    def __init__(self, folder: str) -> None:
        self.points_um: FloatArray = _load(folder, "points_um")
        self.totals: IntArray = _load(folder, "totals")
        self.genes_seen: IntArray = _load(folder, "genes_seen")
        self.set_counts: IntArray = _load(folder, "set_counts")
        self.n_genes = int(_load(folder, "n_genes")[0])
        self._starts: IntArray = _load(folder, "starts")
        self._genes = _load(folder, "genes")
        self._counts = _load(folder, "counts")

    @cached_property
    def runs(self) -> Runs:
        """Boxes by which halos are found."""
        return make_runs(np.asarray(self.points_um))

    def dense(self, cells: IntArray, first_gene: int = 0, end_gene: int | None = None) -> NDArray[np.int32]:
        """Counts (n_cells, n_genes) of some cells and of a run of genes."""
        end = self.n_genes if end_gene is None else end_gene
        starts = self._starts[cells]
        lengths = self._starts[cells + 1] - starts
        at = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        genes, counts = self._genes[at], self._counts[at]
        row = np.repeat(np.arange(len(cells)), lengths)
        wanted = (genes >= first_gene) & (genes < end)
        dense = np.zeros((len(cells), end - first_gene), dtype=np.int32)
        dense[row[wanted], genes[wanted] - first_gene] = counts[wanted]
        return dense

    def cells_by_gene(self) -> IntArray:
        """How many cells (n_genes,) show each gene."""
        seen = np.zeros(self.n_genes, dtype=np.int64)
        for first in range(0, int(self._starts[-1]), _ENTRIES):
            end = min(first + _ENTRIES, int(self._starts[-1]))
            seen += np.bincount(self._genes[first:end], minlength=self.n_genes)
        return seen


def open_sorted(folder: str) -> SortedCells:
    """The scratch folder, opened once in each process."""
    return _opened(folder)


@lru_cache(maxsize=2)
def _opened(folder: str) -> SortedCells:
    return SortedCells(folder)


def forget_sorted() -> None:
    """Let go of scratch folders that this process has opened, so that they can be removed."""
    _opened.cache_clear()


def stamp_of(folder: Path) -> int:
    """When a stored section was written; nil where it does not say."""
    header = folder / "zarr.json"
    return header.stat().st_mtime_ns if header.exists() else 0


def _load(folder: str, name: str) -> Any:
    return np.load(Path(folder, f"{name}.npy"), mmap_mode="r")


@dataclass(frozen=True)
class SortedBlock:
    """A run of cells with its halo; all but where it begins and ends is read when it is asked for.

    Attributes:
        folder: scratch.
        first, end: the block's own cells are ``first`` to ``end - 1``.
        reach_um: of the halo.
        pitch_um: unit of `places`.
    """

    folder: str
    first: int
    end: int
    reach_um: float
    pitch_um: float

    @property
    def cells(self) -> SortedCells:
        """The scratch folder."""
        return open_sorted(self.folder)

    @property
    def n_owned(self) -> int:
        """How many cells are the block's own."""
        return self.end - self.first

    @cached_property
    def held(self) -> IntArray:
        """Own cells and those of the halo, increasing."""
        return self.cells.runs.held(self.first, self.end, self.reach_um)

    @cached_property
    def rows(self) -> IntArray:
        """Own cells, then those of the halo."""
        halo = self.held[(self.held < self.first) | (self.held >= self.end)]
        return np.concatenate([np.arange(self.first, self.end), halo])

    @property
    def places(self) -> FloatArray:
        """Places (n, 2) of `rows` in pitches."""
        return np.asarray(self.cells.points_um[self.rows] / self.pitch_um)

    @cached_property
    def counts(self) -> NDArray[np.int32]:
        """Counts (n, n_genes) of `rows`."""
        return self.cells.dense(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: what was read is read again where it is needed."""
        return SortedBlock, (self.folder, self.first, self.end, self.reach_um, self.pitch_um)


class SortedBlocks(Sequence[SortedBlock]):
    """All cells in blocks; each is made anew when it is asked for, so that none stays in memory."""

    def __init__(self, folder: str, n_cells: int, size: int, reach_um: float, pitch_um: float) -> None:
        self._folder, self._n_cells, self._size = folder, n_cells, size
        self._reach_um, self._pitch_um = reach_um, pitch_um

    def __len__(self) -> int:
        return -(-self._n_cells // self._size)

    def __getitem__(self, at: Any) -> Any:
        if not 0 <= at < len(self):
            raise IndexError(at)
        first = at * self._size
        end = min(first + self._size, self._n_cells)
        return SortedBlock(self._folder, first, end, self._reach_um, self._pitch_um)

    def __iter__(self) -> Iterator[SortedBlock]:
        return (self[at] for at in range(len(self)))


def write_sorted(
    folder: Path, rows: Sequence[StoredRows], order: IntArray, n_genes_seen: IntArray, columns: Mapping[str, Any],
    n_genes: int,
) -> None:
    """Write the scratch folder in one pass over the stored section.

    Args:
        folder: to write into.
        rows: all rows of the stored section.
        order: (n_cells,) row of each cell along the curve.
        n_genes_seen: (n_rows,) genes with at least one count, of every row.
        columns: ``points_um``, ``totals``, ``genes_seen`` and ``set_counts``, along the curve.
        n_genes: width of the panel.
    """
    for name, values in (*columns.items(), ("n_genes", np.array([n_genes]))):
        np.save(folder / f"{name}.npy", values)
    starts = np.concatenate([[0], np.cumsum(n_genes_seen[order])]).astype(np.int64)
    np.save(folder / "starts.npy", starts)
    cell_of = np.full(len(n_genes_seen), -1, dtype=np.int64)
    cell_of[order] = np.arange(len(order))
    # At least one entry: nothing cannot be mapped.
    shape = (max(int(starts[-1]), 1),)
    genes = np.lib.format.open_memmap(folder / "genes.npy", mode="w+", dtype=np.int32, shape=shape)
    counts = np.lib.format.open_memmap(folder / "counts.npy", mode="w+", dtype=np.int32, shape=shape)
    for part in rows:
        block = part.section.block(part.first, part.end)
        row = np.repeat(np.arange(part.first, part.end), np.diff(block.indptr))
        kept = (cell_of[row] >= 0) & (block.counts > 0)
        row = row[kept]
        n_before = np.searchsorted(row, row)
        at = starts[cell_of[row]] + np.arange(len(row)) - n_before
        genes[at] = block.indices[kept]
        counts[at] = block.counts[kept]
    genes.flush()
    counts.flush()
