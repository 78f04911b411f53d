"""Gene-set scores from the ranks of genes within each cell: AUCell and single-sample GSEA.

Ties are broken by the gene's place in the panel, the earlier gene first: ranks are then a permutation, and the same
on every machine. Each cell is scored alone, so how the cells are cut into blocks changes nothing; the panel, and its
order, must be the same for all blocks. Scores of panels of different genes are not comparable.

Source:
    AUCell: Aibar et al. 2017, doi:10.1038/nmeth.4463, online methods: area under the recovery curve of the set among
    the `n_top` highest genes, over the largest possible area.
    ssGSEA: Barbie et al. 2009, doi:10.1038/nature08460, supplementary methods: the running difference of the
    weighted distribution of ranks within the set and the distribution of the others, summed over all places.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

ALPHA = 0.25
TOP_SHARE = 0.05
_f1, _i1, _i2 = types.float64[::1], types.int64[::1], types.int64[:, ::1]


def gene_order(values: Array) -> IntArray:
    """Genes of each cell (n_cells, n_genes) from the highest value to the lowest, ties in the panel's order.

    Raises:
        ConfigurationError: a value is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        cell, gene = (int(at[0]) for at in np.nonzero(~np.isfinite(values)))
        raise ConfigurationError(f"cell {cell} of a block has no finite value of gene {gene}; leave the cell out")
    return np.ascontiguousarray(np.argsort(-values, axis=1, kind="stable"), dtype=np.int64)


@njit(types.void(_i2, _i1, types.int64, types.int64, _f1), cache=True, nogil=True, error_model="numpy")
def _aucell(order: IntArray, held: IntArray, n_set: int, n_top: int, scores: Array) -> None:
    n_best = min(n_set, n_top)
    largest = 0.5 * n_best * (n_best - 1) + float(n_top - n_best) * n_best
    for i in range(order.shape[0]):
        area = 0
        for place in range(n_top - 1):
            if held[order[i, place]]:
                area += n_top - 1 - place
        scores[i] = area / largest


@njit(types.void(_i2, _i1, types.int64, _f1, _f1), cache=True, nogil=True, error_model="numpy")
def _ssgsea(order: IntArray, held: IntArray, n_set: int, weights: Array, scores: Array) -> None:
    """The sum over places, turned round: a gene counts at its own place and at all after it."""
    n_genes = order.shape[1]
    everywhere = n_genes * (n_genes + 1) // 2
    for i in range(order.shape[0]):
        norm, inside, n_after = 0.0, 0.0, 0
        for place in range(n_genes):
            if held[order[i, place]]:
                after = n_genes - place
                norm += weights[place]
                inside += weights[place] * after
                n_after += after
        scores[i] = inside / norm - (everywhere - n_after) / (n_genes - n_set)


def _held(order: IntArray, columns: IntArray) -> IntArray:
    n_genes = order.shape[1]
    columns = np.asarray(columns, dtype=np.int64)
    fits = len(columns) > 0 and columns.min() >= 0 and columns.max() < n_genes
    if not fits or len(np.unique(columns)) != len(columns) or len(columns) == n_genes:
        raise ConfigurationError(
            f"a set of {len(columns)} columns does not fit a panel of {n_genes} genes; give some of them, each once"
        )
    held = np.zeros(n_genes, dtype=np.int64)
    held[columns] = 1
    return held


def aucell(order: IntArray, columns: IntArray, n_top: int | None = None) -> Array:
    """AUCell score (n_cells,) of one set, between 0 and 1.

    Args:
        order: (n_cells, n_genes) from `gene_order`.
        columns: (n_set,) places of the set's genes in the panel.
        n_top: highest genes that are looked at; by default `TOP_SHARE` of the panel rounded up, at least two.
    Raises:
        ConfigurationError: the set or `n_top` does not fit the panel.
    """
    held = _held(order, columns)
    n_top = max(2, math.ceil(TOP_SHARE * order.shape[1])) if n_top is None else n_top
    if not 2 <= n_top <= order.shape[1]:
        raise ConfigurationError(f"the {n_top} highest of {order.shape[1]} genes: n_top must lie between 2 and those")
    scores = np.empty(len(order))
    _aucell(np.ascontiguousarray(order), held, len(columns), n_top, scores)
    return scores


def ssgsea(order: IntArray, columns: IntArray) -> Array:
    """ssGSEA score (n_cells,) of one set: the sum of Barbie's running difference, weights rank ** `ALPHA`.

    It is not divided by the range over samples, which would let one cell's score depend on the others.

    Args:
        order: (n_cells, n_genes) from `gene_order`.
        columns: (n_set,) places of the set's genes in the panel.
    Raises:
        ConfigurationError: the set does not fit the panel.
    """
    held = _held(order, columns)
    weights = np.arange(order.shape[1], 0, -1, dtype=np.float64) ** ALPHA
    scores = np.empty(len(order))
    _ssgsea(np.ascontiguousarray(order), held, len(columns), weights, scores)
    return scores
