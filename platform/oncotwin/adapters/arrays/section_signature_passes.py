"""The passes over a section's blocks that its signatures need; each function may run in another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.section_signature_store import (
    DENSE_COUNTS,
    SortedBlock,
    SortedBlocks,
    StoredRows,
    open_sorted,
)
from oncotwin.spatial.autocorrelation import (
    Autocorrelation,
    AutocorrelationSums,
    autocorrelation,
    merge,
    shift_of,
    sums_of_block,
)
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.graphs import CellBlock, GraphRows, SpatialGraph, join_rows, radius_rows
from oncotwin.spatial.niches import log_counts
from oncotwin.spatial.pairs import CHUNK, PairBlock, PairWeights
from oncotwin.spatial.quality import SpotMeasures, spot_measures
from oncotwin.spatial.rank_scores import aucell, gene_order
from oncotwin.spatial.set_fractions import REACH, bandwidths, set_counts, smoothed_fractions

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CELLS_AT_ONCE = 1 << 14
"""Of passes over places and a few numbers of each cell."""
_SHIFT_CELLS = 512
MOST_GROUPS = 128
"""Results that a pass hands over: a pass over thousands of small blocks sums them up where they were made."""


@dataclass(frozen=True, slots=True)
class RowScores:
    """What one pass says of every row: measures of quality, counts of each set and AUCell of each set."""

    measures: SpotMeasures
    set_counts: IntArray
    aucell: FloatArray


def score_rows(rows: StoredRows, mitochondrial: NDArray[np.bool_], columns: tuple[IntArray, ...]) -> RowScores:
    """Measures and scores of some rows, each row for itself.

    Args:
        rows: of the stored section.
        mitochondrial: (n_genes,).
        columns: for each scored set the places of its genes in the panel.
    """
    block = rows.section.block(rows.first, rows.end)
    found = np.zeros((rows.end - rows.first, len(mitochondrial)), dtype=block.counts.dtype)
    found[np.repeat(np.arange(len(found)), np.diff(block.indptr)), block.indices] = block.counts
    measures, dense = spot_measures(found, mitochondrial), found.astype(np.int64)
    n_sets = len(columns)
    counts, scores = np.zeros((len(dense), n_sets), dtype=np.int64), np.zeros((len(dense), n_sets))
    if n_sets:
        order = gene_order(dense.astype(np.float64))
        for at, own in enumerate(columns):
            counts[:, at] = dense[:, own].sum(axis=1)
            scores[:, at] = aucell(order, own)
    return RowScores(measures, counts, scores)


def fractions(
    folder: str, n_cells: int, pitch_um: float, run: Run, cells_at_once: int
) -> tuple[FloatArray, FloatArray]:
    """Smoothed share of each set around every cell, with its interval.

    Returns:
        (n_cells, n_sets, 3): share, lower and upper end; and the sets' bandwidths (n_sets,) in pitches.
    """
    widths = bandwidths(set_counts(open_sorted(folder).set_counts))
    blocks = SortedBlocks(folder, n_cells, cells_at_once, REACH * float(widths.max()) * pitch_um, pitch_um)
    return np.concatenate(list(run(partial(_block_fractions, widths=widths), blocks))), widths


def _block_fractions(block: SortedBlock, widths: FloatArray) -> FloatArray:
    cells, held = block.cells, block.held
    own = np.searchsorted(held, np.arange(block.first, block.end))
    points, totals, counts = cells.points_um[held] / block.pitch_um, cells.totals[held], cells.set_counts[held]
    found = np.empty((block.n_owned, len(widths), 3))
    for at, width in enumerate(widths):
        shares = smoothed_fractions(held, points, own, counts[:, at], totals, float(width))
        found[:, at] = np.column_stack([shares.value, shares.lower, shares.upper])
    return found


def neighbour_graph(
    folder: str, n_cells: int, pitch_um: float, radius_um: float, run: Run, cells_at_once: int
) -> SpatialGraph:
    """Graph of all cells at most a radius apart: about 40 bytes a cell are held."""
    blocks = SortedBlocks(folder, n_cells, cells_at_once, radius_um, pitch_um)
    return join_rows(list(run(partial(_block_rows, radius_um=radius_um), blocks)), n_cells)


def _block_rows(block: SortedBlock, radius_um: float) -> GraphRows:
    # The halo was cut to hold every cell within the radius, so no window has to be trusted.
    places = np.asarray(block.cells.points_um[block.rows])
    return radius_rows(CellBlock(places, block.rows, block.n_owned), radius_um)


def gene_autocorrelation(
    folder: str, n_cells: int, depth: float, pairs: PairWeights, run_of: Callable[[], Run]
) -> tuple[Autocorrelation, Autocorrelation]:
    """Moran's I and Geary's C of the logarithm of every gene's scaled counts, some genes and cells at a time.

    Args:
        folder: scratch.
        n_cells: in it.
        depth: median of the cells' totals, to which counts are scaled.
        pairs: the section's graph.
        run_of: how a function is applied to all blocks, anew for each group of genes.
    """
    cells = open_sorted(folder)
    n_genes = cells.n_genes
    at_once = min(n_genes, max(1, DENSE_COUNTS // (2 * CHUNK)))
    size = CHUNK * max(1, min(DENSE_COUNTS // (2 * CHUNK * at_once), CELLS_AT_ONCE // CHUNK))
    parts = []
    for gene in range(0, n_genes, at_once):
        genes = (gene, min(gene + at_once, n_genes))
        shift = shift_of(_logs(folder, np.arange(min(_SHIFT_CELLS, n_cells)), genes, depth))

        def blocks() -> Iterator[tuple[str, PairBlock]]:
            for first in range(0, n_cells, size):
                yield folder, pairs.block(first, min(first + size, n_cells))

        what = partial(_block_autocorrelation, genes=genes, depth=depth, shift=shift)
        parts.append(autocorrelation(_merged(run_of()(what, blocks())), pairs))
    return _joined([moran for moran, _ in parts]), _joined([geary for _, geary in parts])


def _block_autocorrelation(
    block: tuple[str, PairBlock], genes: tuple[int, int], depth: float, shift: FloatArray
) -> AutocorrelationSums:
    folder, pairs = block
    cells = np.concatenate([np.arange(pairs.first, pairs.first + len(pairs.ends)), pairs.halo])
    return sums_of_block(_logs(folder, cells, genes, depth), pairs, shift)


def _logs(folder: str, which: IntArray, genes: tuple[int, int], depth: float) -> FloatArray:
    """Logarithms in steps: autocorrelation has no unit."""
    cells = open_sorted(folder)
    return log_counts(cells.dense(which, *genes), np.asarray(cells.totals[which]), depth).astype(np.float64)


def _merged(parts: Iterable[AutocorrelationSums]) -> AutocorrelationSums:
    total: AutocorrelationSums | None = None
    for part in parts:
        total = part if total is None else merge([total, part])
    assert total is not None
    return total


def _joined(parts: list[Autocorrelation]) -> Autocorrelation:
    return Autocorrelation(
        np.concatenate([part.statistic for part in parts]), parts[0].expected, parts[0].variance_normality,
        np.concatenate([part.variance_randomisation for part in parts]), parts[0].sign,
    )


@dataclass(frozen=True, slots=True)
class SortedGroup:
    """Some neighbouring blocks; each is made anew when its turn comes."""

    blocks: SortedBlocks
    first: int
    end: int

    def __iter__(self) -> Iterator[SortedBlock]:
        return (self.blocks[at] for at in range(self.first, self.end))


def grouped(run: Run) -> Run:
    """A run whose results are sums, or arrays one below the other, of at most `MOST_GROUPS` groups of blocks.

    For callers that add all results up, or join them, in the order of the blocks, as `find_niches` does.
    """

    def apply(function: Callable[[Any], Any], blocks: Iterable[Any]) -> Iterable[Any]:
        return run(partial(_of_group, function=function), _groups(blocks))

    return apply


def _groups(blocks: Iterable[Any]) -> Iterable[Iterable[Any]]:
    if isinstance(blocks, SortedBlocks):
        size = -(-len(blocks) // MOST_GROUPS)
        return [SortedGroup(blocks, i, min(i + size, len(blocks))) for i in range(0, len(blocks), size)]
    return ([block] for block in blocks)


def _of_group(group: Iterable[Any], function: Callable[[Any], Any]) -> Any:
    parts = (function(block) for block in group)
    first = next(parts)
    if isinstance(first, np.ndarray):
        return np.concatenate([first, *parts])
    return reduce(add, parts, first)
