"""Niches: cells with alike surroundings, found in a few passes over blocks; the wide matrix of features is never held.

1. counts, scaled to the section's median depth, as log(1 + x); genes seen in enough cells, the most variable of them,
   each scaled to unit variance (`gene_sums`, `choose_genes`);
2. features of a cell and its surroundings (`augmented`), their principal components (`components`), scaled to unit
   variance;
3. each component weighted by the share of its variance that the neighbours explain (`neighbour_sums`,
   `explained_share`): what does not continue into the surroundings is no niche but noise, and the number of components
   ceases to matter;
4. k-means (`kmeans`); the number of niches given, or that of the largest Calinski-Harabasz ratio.

All that is summed over cells is a whole number, so no cut into blocks and no order of them changes the result.

Source:
    Singhal et al. 2024, doi:10.1038/s41588-024-01664-3 (features); Dray, Saïd & Débias 2008,
    doi:10.3170/2007-8-18312 (components judged by variance and autocorrelation); Caliński & Harabasz 1974,
    doi:10.1080/03610927408827101 (number of clusters).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial, reduce
from operator import add
from typing import Any, Protocol

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.augmented import augment, find_neighbours, neighbour_means
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.components import STEP as FEATURE_STEP
from oncotwin.spatial.components import Components, PassSums, fit_components, pass_sums, project, to_steps
from oncotwin.spatial.kmeans import STEP, Clustering, PointBlock, assign, kmeans, to_points

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LOG_STEP = 2.0**-12
_BLOCK = 1 << 16


@dataclass(frozen=True)
class CellBlock:
    """Cells of a block, and behind them those of its halo.

    Args:
        rows: (n,) number of each cell in the whole section, from nil on without gaps.
        places: (n, 2) coordinates in pitches (or in median distances to the nearest cell).
        counts: (n, n_genes) counts of all genes.
        n_owned: how many cells, from the first on, are the block's own; each cell is the own one of one block.
    """

    rows: IntArray
    places: FloatArray
    counts: NDArray[Any]
    n_owned: int


class Cells(Protocol):
    """What is asked of a block; one that reads its counts when they are asked for need not be a `CellBlock`."""

    @property
    def rows(self) -> IntArray:
        """As of `CellBlock`."""
        ...

    @property
    def places(self) -> FloatArray:
        """As of `CellBlock`."""
        ...

    @property
    def counts(self) -> NDArray[Any]:
        """As of `CellBlock`."""
        ...

    @property
    def n_owned(self) -> int:
        """As of `CellBlock`."""
        ...


@dataclass(frozen=True)
class NicheSettings:
    """One configuration for every section.

    Args:
        n_genes: how many of the most variable genes are kept.
        least_share: genes seen in a smaller share of the cells (or in fewer than 5) are left out.
        bandwidth: of the neighbourhood's Gaussian kernel, in pitches; the halo must reach three of them.
        mixing: weight of the surroundings against the cell itself, 0 to 1.
        n_components: how many principal components.
        n_starts: starts of k-means.
        most_niches: largest number tried where none is given.
    """

    n_genes: int = 2000
    least_share: float = 0.05
    bandwidth: float = 0.8
    mixing: float = 0.5
    n_components: int = 12
    n_starts: int = 50
    most_niches: int = 10


@dataclass(frozen=True)
class GeneSums:
    """Cells, and for each gene the cells that show it, the sum and the sum of squares of its logs in steps."""

    n: int
    seen: IntArray
    sums: IntArray
    squares: IntArray

    def __add__(self, other: GeneSums) -> GeneSums:
        return GeneSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class GeneScale:
    """The genes kept (their columns), with the mean and the standard deviation of their logs."""

    genes: IntArray
    means: FloatArray
    deviations: FloatArray


@dataclass(frozen=True)
class NeighbourSums:
    """Cells with neighbours, and for each component the sums of own score, neighbours' mean, and their products."""

    n: int
    own: IntArray
    near: IntArray
    own_own: IntArray
    near_near: IntArray
    own_near: IntArray

    def __add__(self, other: NeighbourSums) -> NeighbourSums:
        return NeighbourSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Niches:
    """The niche of every cell, and what it rests on.

    Args:
        labels: (n,) niche of each cell by its row; 0 is the largest.
        clustering: centres, sizes and inertia, in the weighted scores' steps.
        components: directions of the features.
        shares: (n_components,) share of each component's variance that the neighbours explain: its weight.
        genes: columns of the genes used.
        ratios: Calinski-Harabasz ratio of each number of niches tried; empty where the number was given.
    """

    labels: NDArray[np.int32]
    clustering: Clustering
    components: Components
    shares: FloatArray
    genes: IntArray
    ratios: dict[int, float]


@njit(types.int64[:, ::1](types.int64[:, ::1], types.float64[::1]), cache=True, nogil=True)
def _logs(counts: IntArray, scales: FloatArray) -> IntArray:
    """log(1 + scaled count) in steps."""
    logs = np.zeros(counts.shape, dtype=np.int64)
    for i in range(counts.shape[0]):
        for g in range(counts.shape[1]):
            if counts[i, g]:
                logs[i, g] = round(math.log1p(counts[i, g] * scales[i]) / _LOG_STEP)
    return logs


def depths(block: Cells) -> IntArray:
    """Total counts (n_owned,) of the block's own cells.

    Raises:
        ConfigurationError: counts are negative or no whole numbers, or a cell has none at all.
    """
    own = block.counts[: block.n_owned]
    if not np.issubdtype(own.dtype, np.integer) or (own.size and own.min() < 0):
        raise ConfigurationError(f"counts of type {own.dtype} must be whole numbers from nil on; give raw counts")
    totals: IntArray = own.sum(axis=1, dtype=np.int64)
    if (totals == 0).any():
        row = int(block.rows[int(np.argmin(totals))])
        raise ConfigurationError(f"cell in row {row} has no counts; leave such cells out and number the rest anew")
    return totals


def log_counts(counts: NDArray[Any], totals: IntArray, depth: float) -> IntArray:
    """log(1 + count scaled to the typical depth) in steps of 2^-12: (n, n_genes)."""
    return np.asarray(_logs(np.ascontiguousarray(counts, dtype=np.int64), depth / totals))


def gene_sums(block: Cells, depth: float) -> GeneSums:
    """Sums of the block's own cells for each gene.

    Args:
        block: halo unused.
        depth: median of all cells' total counts.
    """
    own = block.counts[: block.n_owned]
    logs = log_counts(own, own.sum(axis=1, dtype=np.int64), depth)
    return GeneSums(len(own), (logs > 0).sum(axis=0), logs.sum(axis=0), (logs * logs).sum(axis=0))


def choose_genes(sums: GeneSums, settings: NicheSettings) -> GeneScale:
    """The most variable of the genes that enough cells show; of equals the first.

    Raises:
        ConfigurationError: no gene varies in enough cells.
    """
    means = sums.sums / sums.n * _LOG_STEP
    deviations = np.sqrt(np.maximum(sums.squares / sums.n * _LOG_STEP**2 - means**2, 0.0))
    enough = sums.seen >= min(max(5.0, settings.least_share * sums.n), sums.n)
    usable = np.nonzero(enough & (deviations > _LOG_STEP))[0]
    if not usable.size:
        raise ConfigurationError(
            f"no gene varies in at least {settings.least_share:.0%} of {sums.n} cells; check counts and quality"
        )
    genes = np.sort(usable[np.argsort(-deviations[usable], kind="stable")[: settings.n_genes]])
    return GeneScale(genes, means[genes], deviations[genes])


def features(block: Cells, depth: float, scale: GeneScale, settings: NicheSettings) -> FloatArray:
    """Augmented features (n_owned, 3 n_genes) of the block's own cells, in steps of `components`."""
    totals = np.maximum(block.counts.sum(axis=1, dtype=np.int64), 1)
    logs = log_counts(block.counts[:, scale.genes], totals, depth) * _LOG_STEP
    near = find_neighbours(block.places, block.rows, block.n_owned, settings.bandwidth)
    return to_steps(augment((logs - scale.means) / scale.deviations, near, settings.mixing))


def scores(steps: FloatArray, components: Components) -> NDArray[np.int32]:
    """Components of unit variance (n, n_components) of a block's features, in steps of `kmeans`."""
    centred = project(steps, components.directions) * FEATURE_STEP - components.means
    return to_points(centred / np.sqrt(components.variances))


def component_sums(
    block: Cells, directions: FloatArray, depth: float, scale: GeneScale, settings: NicheSettings
) -> PassSums:
    """What a pass of `fit_components` needs of the block's own cells; the features stay where they were made."""
    return pass_sums(features(block, depth, scale, settings), directions)


def component_scores(
    block: Cells, components: Components, depth: float, scale: GeneScale, settings: NicheSettings
) -> NDArray[np.int32]:
    """Components of unit variance (n_owned, n_components) of the block's own cells, in steps of `kmeans`."""
    return scores(features(block, depth, scale, settings), components)


def neighbour_sums(block: Cells, held_scores: NDArray[np.int32], settings: NicheSettings) -> NeighbourSums:
    """Sums over the block's own cells of their scores and of their neighbours' mean scores.

    Args:
        held_scores: (n, n_components) scores of all cells of the block, its halo among them.
    """
    near = find_neighbours(block.places, block.rows, block.n_owned, settings.bandwidth)
    means = np.rint(neighbour_means(held_scores.astype(np.float64), near)).astype(np.int64)
    own = held_scores[: block.n_owned].astype(np.int64)
    has = np.diff(near.offsets) > 0
    own, means = own[has], means[has]
    return NeighbourSums(
        len(own), own.sum(axis=0), means.sum(axis=0), (own * own).sum(axis=0), (means * means).sum(axis=0),
        (own * means).sum(axis=0),
    )


def explained_share(sums: NeighbourSums) -> FloatArray:
    """Share (n_components,) of each score's variance that its neighbours' mean explains; nil where they oppose it."""
    n = max(sums.n, 1)
    own, near = sums.own / n, sums.near / n
    together = np.maximum(sums.own_near / n - own * near, 0.0)
    apart = (sums.own_own / n - own**2) * (sums.near_near / n - near**2)
    share: FloatArray = np.divide(together**2, apart, out=np.zeros_like(apart), where=apart > 0)
    return share


def find_niches(
    blocks: Sequence[Cells], seed: int, n_niches: int | None = None, settings: NicheSettings | None = None,
    run: Run = map,
) -> Niches:
    """Niches of a section.

    Args:
        blocks: the section in blocks with halo; the sequence may load each block when it is asked for. What is held
            are one block's features at a time and for each cell its depth and its scores.
        seed: of the components' and of k-means' starts.
        n_niches: how many; None chooses the number with the largest Calinski-Harabasz ratio.
        settings: None for the one configuration that serves every section.
        run: how a function is applied to all blocks.
    Returns:
        labels by row, and what they rest on. The cut into blocks and their order change nothing.
    Raises:
        ConfigurationError: rows are not numbered from nil on, each once; or as in the functions above.
    """
    how = settings or NicheSettings()
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *(block.rows[: block.n_owned] for block in blocks)])
    if not rows.size or not np.array_equal(np.sort(rows), np.arange(rows.size)):
        raise ConfigurationError(f"own rows of the blocks are not 0 to {rows.size - 1}, each once; number them anew")
    depth = float(np.median(np.concatenate(list(run(depths, blocks)))))
    scale = choose_genes(reduce(add, run(partial(gene_sums, depth=depth), blocks)), how)

    def sum_up(directions: FloatArray) -> PassSums:
        what = partial(component_sums, directions=directions, depth=depth, scale=scale, settings=how)
        return reduce(add, run(what, blocks))

    found = fit_components(sum_up, 3 * len(scale.genes), min(how.n_components, max(rows.size - 1, 1)), seed)
    every = np.empty((rows.size, len(found.variances)), dtype=np.int32)
    what = partial(component_scores, components=found, depth=depth, scale=scale, settings=how)
    every[rows] = np.concatenate(list(run(what, blocks)))
    held = ((block, every[block.rows]) for block in blocks)
    shares = explained_share(reduce(add, run(partial(_neighbour_sums_of, settings=how), held)))
    labels, clustering, ratios = cluster(to_points(every * (STEP * shares)), n_niches, seed, how)
    return Niches(labels, clustering, found, shares, scale.genes, ratios)


def _neighbour_sums_of(held: tuple[Cells, NDArray[np.int32]], settings: NicheSettings) -> NeighbourSums:
    """`neighbour_sums` of a block that comes with its scores."""
    return neighbour_sums(*held, settings)


def cluster(
    points: NDArray[np.int32], n_niches: int | None, seed: int, settings: NicheSettings
) -> tuple[NDArray[np.int32], Clustering, dict[int, float]]:
    """Cluster points into a given number, or into that of the largest ratio of variance between to within.

    Args:
        points: (n, n_coordinates) of all cells, in steps of `kmeans`.
        n_niches: how many; None to choose.
        seed: of the starts.
        settings: of them ``n_starts`` and ``most_niches``.
    Returns:
        labels (n,), the clustering, and the Calinski-Harabasz ratio of each number tried.
    """
    n = len(points)
    pieces = [
        PointBlock(np.arange(i, min(i + _BLOCK, n)), points[i : i + _BLOCK]) for i in range(0, n, _BLOCK)
    ]
    if n_niches is not None:
        best = kmeans(pieces, n_niches, seed, settings.n_starts)
        return assign(points, best.centres)[0], best, {}
    whole = kmeans(pieces, 1, seed, 1)
    best, ratios = whole, dict[int, float]()
    for k in range(2, min(settings.most_niches, n - 1) + 1):
        tried = kmeans(pieces, k, seed, settings.n_starts)
        ratios[k] = (whole.inertia - tried.inertia) / (k - 1) / (max(tried.inertia, 1) / (n - k))
        if ratios[k] > max((ratios[j] for j in ratios if j < k), default=0.0):
            best = tried
    return assign(points, best.centres)[0], best, ratios
