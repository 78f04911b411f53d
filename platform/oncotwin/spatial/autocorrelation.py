"""Moran's I and Geary's C of all genes at once, with analytic moments: one pass over a matrix that need not fit memory.

The graph is held whole (each unordered pair once); the (n_cells, n_genes) matrix is read once, in blocks of whole
chunks (`oncotwin.spatial.pairs.CHUNK` rows) with the rows of their later neighbours as halo. A chunk's sums are float64
in a fixed order; chunks are added exactly. So neither block size nor order changes a bit. Sums are of
``y = x - shift``, one shift a gene for all blocks, near the mean: nothing cancels when the mean is large beside the
spread.

Cells should be stored in Hilbert order (`oncotwin.spatial.nearest.hilbert_order`): neighbours' rows are then in cache.

Source:
    Moran 1950, doi:10.1093/biomet/37.1-2.17; Geary 1954, doi:10.2307/2986645. Moments under normality and
    randomisation: Cliff & Ord 1981, "Spatial Processes: Models and Applications", section 2.3, pages 42 to 46.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.autocorrelation_pass import N_MORAN, N_SUMS, sum_chunks
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.exact_sums import exact_sums, rounded
from oncotwin.spatial.pairs import PairBlock, PairWeights

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SHIFT_ROWS = 512


class Assumption(StrEnum):
    """What the values are under the null hypothesis of no spatial order."""

    NORMALITY = "normality"
    """Independent draws of one normal distribution."""
    RANDOMISATION = "randomisation"
    """The observed values, all assignments to places equally likely."""


class Wanted(StrEnum):
    """What is asked for, and so how many sums are taken of each gene."""

    MORAN = "moran"
    """Moran's I and its moments under normality: four sums, the fastest."""
    ALL = "all"
    """Moran's I and Geary's C and their moments under both assumptions: seven sums."""


@dataclass(frozen=True, slots=True)
class AutocorrelationSums:
    """Sums of some blocks.

    Attributes:
        n_cells: how many rows went in.
        shift: (n_genes,) that was subtracted.
        wanted: which sums were taken.
        digits: (n_sums * n_genes, n_digits) exact sums, as of `oncotwin.spatial.exact_sums`.
    """

    n_cells: int
    shift: Array
    wanted: Wanted
    digits: IntArray


@dataclass(frozen=True, slots=True)
class Autocorrelation:
    """One statistic of all genes, and its moments under the null hypothesis.

    Attributes:
        statistic: (n_genes,); NaN for a gene that is constant, as is all that follows from it.
        expected: under both assumptions.
        variance_normality: under normality, one number for all genes.
        variance_randomisation: (n_genes,), from each gene's kurtosis; NaN where only `Wanted.MORAN` was asked for.
        sign: +1 where larger values mean that neighbours are alike (Moran), -1 where smaller ones do (Geary).
    """

    statistic: Array
    expected: float
    variance_normality: float
    variance_randomisation: Array
    sign: int

    def z(self, assumption: Assumption = Assumption.RANDOMISATION) -> Array:
        """Standardised statistic (n_genes,), with the sign that is usual: negative for Geary where neighbours agree."""
        if assumption is Assumption.NORMALITY:
            return np.asarray((self.statistic - self.expected) / np.sqrt(self.variance_normality))
        return np.asarray((self.statistic - self.expected) / np.sqrt(self.variance_randomisation))

    def p(self, assumption: Assumption = Assumption.RANDOMISATION, two_sided: bool = False) -> Array:
        """p-values (n_genes,) by the normal distribution; one-sided: against neighbours that are alike."""
        z = self.z(assumption)
        return np.asarray(2.0 * ndtr(-np.abs(z)) if two_sided else ndtr(-self.sign * z))


def shift_of(sample: Array) -> Array:
    """A shift (n_genes,) for all blocks: of the first rows of the section, each gene's value nearest to their mean.

    A value rather than the mean, so that a constant gene becomes exactly zero.
    """
    head = np.asarray(sample[:_SHIFT_ROWS], dtype=np.float64)
    if len(head) == 0:
        raise ConfigurationError("a section without cells has no spatial statistics; leave it out")
    nearest = np.abs(head - head.mean(axis=0)).argmin(axis=0)
    return np.asarray(head[nearest, np.arange(head.shape[1])])


def sums_of_block(
    matrix: Array, pairs: PairBlock, shift: Array, wanted: Wanted = Wanted.ALL, run: Run = map
) -> AutocorrelationSums:
    """Sums of one block.

    Args:
        matrix: (n_own + n_halo, n_genes) float64, rows in C order: those of ``pairs.first`` and on, then those of
            ``pairs.halo``. A whole section is the block without halo.
        pairs: from `PairWeights.block`.
        shift: (n_genes,) from `shift_of`, the same for all blocks.
        wanted: what will be asked of the sums.
        run: how parts of the block are worked on: the built-in `map`, or threads, which share the matrix; for a matrix
            that is in memory whole. No bit depends on it.
    Raises:
        ConfigurationError: shapes that do not fit, a block that does not begin at a chunk, a value that is not finite.
    """
    n_own = len(pairs.ends)
    if matrix.ndim != 2 or matrix.shape != (n_own + len(pairs.halo), len(shift)):
        raise ConfigurationError(
            f"matrix {matrix.shape} for {n_own} own cells, {len(pairs.halo)} halo cells and {len(shift)} genes: "
            "give the own rows and then those of the halo"
        )
    values = np.ascontiguousarray(matrix, dtype=np.float64)
    chunks = sum_chunks(values, pairs, np.ascontiguousarray(shift, dtype=np.float64), wanted is Wanted.ALL, run)
    if not np.isfinite(chunks).all():
        row, gene = (int(at[0]) for at in np.nonzero(~np.isfinite(values)))
        raise ConfigurationError(
            f"gene {gene} in row {row} of the block that begins at cell {pairs.first}: {values[row, gene]} is not "
            "finite; leave such cells or genes out"
        )
    return AutocorrelationSums(n_own, np.array(shift), wanted, exact_sums(chunks))


def merge(parts: Sequence[AutocorrelationSums]) -> AutocorrelationSums:
    """Sums of some blocks from those of each; their order does not matter.

    Raises:
        ConfigurationError: none given, or their shifts differ.
    """
    if not parts or any(not np.array_equal(part.shift, parts[0].shift) for part in parts[1:]):
        raise ConfigurationError("blocks were summed with different shifts; use one of `shift_of` for all of a section")
    if any(part.wanted is not parts[0].wanted for part in parts):
        raise ConfigurationError("blocks hold different sums; ask the same of all of a section")
    digits = parts[0].digits.copy()
    for part in parts[1:]:
        digits += part.digits
    return AutocorrelationSums(sum(part.n_cells for part in parts), parts[0].shift, parts[0].wanted, digits)


def morans_i(sums: AutocorrelationSums, pairs: PairWeights) -> Autocorrelation:
    """Moran's I of all genes, from either kind of sums; arguments and errors as of `autocorrelation`."""
    return _moran(_totals(sums, pairs), pairs)


def autocorrelation(sums: AutocorrelationSums, pairs: PairWeights) -> tuple[Autocorrelation, Autocorrelation]:
    """Moran's I and Geary's C of all genes.

    Args:
        sums: of all blocks of the section.
        pairs: the section's graph, at least four cells and one edge.
    Returns:
        (Moran's I, Geary's C).
    Raises:
        ConfigurationError: rows or sums are missing, or the graph is too small.
    """
    if sums.wanted is not Wanted.ALL:
        raise ConfigurationError("Geary's C needs all seven sums: sum the blocks with Wanted.ALL, or use `morans_i`")
    totals = _totals(sums, pairs)
    n, s0, s1, s2 = pairs.n_cells, pairs.s0, pairs.s1, pairs.s2
    _, square = _mean_and_square(totals, n)
    kurtosis = _kurtosis(totals, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (n - 1.0) / (2.0 * s0) * (totals[6] - 2.0 * totals[3]) / square
    normal = ((2.0 * s1 + s2) * (n - 1.0) - 4.0 * s0**2) / (2.0 * (n + 1.0) * s0**2)
    random = (
        (n - 1.0) * s1 * (n**2 - 3.0 * n + 3.0 - (n - 1.0) * kurtosis)
        - 0.25 * (n - 1.0) * s2 * (n**2 + 3.0 * n - 6.0 - (n**2 - n + 2.0) * kurtosis)
        + s0**2 * (n**2 - 3.0 - (n - 1.0) ** 2 * kurtosis)
    ) / (n * (n - 2.0) * (n - 3.0) * s0**2)
    return _moran(totals, pairs), Autocorrelation(statistic, 1.0, normal, random, -1)


def _moran(totals: Array, pairs: PairWeights) -> Autocorrelation:
    n, s0, s1, s2 = pairs.n_cells, pairs.s0, pairs.s1, pairs.s2
    mean, square = _mean_and_square(totals, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = n / s0 * (totals[3] - mean * totals[2] + mean**2 * s0) / square
    at = -1.0 / (n - 1.0)
    normal = (n**2 * s1 - n * s2 + 3.0 * s0**2) / ((n**2 - 1.0) * s0**2) - at**2
    random = (
        n * ((n**2 - 3.0 * n + 3.0) * s1 - n * s2 + 3.0 * s0**2)
        - _kurtosis(totals, n) * ((n**2 - n) * s1 - 2.0 * n * s2 + 6.0 * s0**2)
    ) / ((n - 1.0) * (n - 2.0) * (n - 3.0) * s0**2) - at**2
    return Autocorrelation(statistic, at, normal, random, 1)


def _totals(sums: AutocorrelationSums, pairs: PairWeights) -> Array:
    """Sums (n_sums, n_genes) of the section, each rounded once."""
    n, s0 = pairs.n_cells, pairs.s0
    if sums.n_cells != n:
        raise ConfigurationError(f"sums of {sums.n_cells} cells, a graph of {n}: merge the sums of every block once")
    if n < 4 or s0 <= 0.0:
        raise ConfigurationError(f"a graph of {n} cells and a total weight of {s0}: four cells and one edge are needed")
    return rounded(sums.digits).reshape(N_SUMS if sums.wanted is Wanted.ALL else N_MORAN, -1)


def _mean_and_square(totals: Array, n: int) -> tuple[Array, Array]:
    """Mean over the shift, and sum of squares around it: NaN for a gene that is constant."""
    mean = totals[0] / n
    square = totals[1] - n * mean**2
    return mean, np.where(square > 0.0, square, np.nan)


def _kurtosis(totals: Array, n: int) -> Array:
    """Fourth moment over the square of the second; NaN where it was not summed."""
    mean, square = _mean_and_square(totals, n)
    if len(totals) < N_SUMS:
        return np.full(mean.shape, np.nan)
    fourth = totals[5] - 4.0 * mean * totals[4] + 6.0 * mean**2 * totals[1] - 3.0 * n * mean**4
    return np.asarray(n * fourth / square**2)
