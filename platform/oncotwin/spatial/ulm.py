"""Univariate linear model: how much higher a set's genes are in a cell than all its other genes, as a t-value.

In each cell the genes' values are regressed on one variable, 1 for a gene of the set and 0 for the others; the score
is the t-value of the slope. With such a variable the least squares have a closed form, which is also Student's
two-sample t with a common variance. Each cell is scored alone, so blocks change nothing; the panel must be the same.

Source:
    Badia-i-Mompel et al. 2022, doi:10.1093/bioadv/vbac016 (decoupler: method ulm); Student 1908, doi:10.2307/2331554.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_f1, _f2, _i1 = types.float64[::1], types.float64[:, ::1], types.int64[::1]


@njit(types.void(_f2, _i1, _f1), cache=True, nogil=True, error_model="numpy")
def _ulm(values: Array, columns: IntArray, scores: Array) -> None:
    n, k = values.shape[1], len(columns)
    spread_of_set = k * (1.0 - k / n)
    for i in range(values.shape[0]):
        total = 0.0
        for gene in range(n):
            total += values[i, gene]
        mean = total / n
        spread, shared = 0.0, 0.0
        for gene in range(n):
            spread += (values[i, gene] - mean) ** 2
        for at in range(k):
            shared += values[i, columns[at]] - mean
        slope = shared / spread_of_set
        left = spread - slope * shared
        scores[i] = slope / np.sqrt(left / (n - 2) / spread_of_set) if left > 0.0 else np.nan


def ulm(values: Array, columns: IntArray) -> Array:
    """Score (n_cells,) of one set: Student's t with n_genes - 2 degrees of freedom; NaN where it has no variance.

    Args:
        values: (n_cells, n_genes), such as logarithms of scaled counts; raw counts follow a few high genes.
        columns: (n_set,) places of the set's genes in the panel.
    Raises:
        ConfigurationError: a value is not finite, or the set does not fit the panel.
    """
    values = np.ascontiguousarray(values, dtype=np.float64)
    columns = np.unique(np.asarray(columns, dtype=np.int64))
    n_genes = values.shape[1]
    if not (0 < len(columns) < n_genes and columns[0] >= 0 and columns[-1] < n_genes and n_genes > 2):
        raise ConfigurationError(
            f"a set of {len(columns)} columns does not fit a panel of {n_genes} genes; give some of them, not all"
        )
    if not np.isfinite(values).all():
        cell, gene = (int(at[0]) for at in np.nonzero(~np.isfinite(values)))
        raise ConfigurationError(f"cell {cell} of a block has no finite value of gene {gene}; leave the cell out")
    scores = np.empty(len(values))
    _ulm(values, columns, scores)
    return scores
