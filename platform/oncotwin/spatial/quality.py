"""Which spots or cells are good enough to be used, and why the others are not.

Fixed floors refuse what is empty; robust outliers on a logarithmic scale refuse what differs from its own section.
Only low counts and genes and high mitochondrial shares are refused: tissue with few counts (fat, stroma) is not an
outlier where it is common, since the spread is the section's own.

The floors are lower on a panel of few genes, where a good cell shows fewer: they ask for at most `FLOOR_SHARE` of the
panel's genes, and for counts in the same proportion.

Blocks: medians need all values of a section: three numbers a spot, collected, sorted by nothing but value. They do
not depend on blocks or their order.

Source:
    Median absolute deviations: Leys et al. 2013, doi:10.1016/j.jesp.2013.03.013; use for single cells: McCarthy
    et al. 2017, doi:10.1093/bioinformatics/btw777.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MIN_COUNTS = 50
MIN_GENES = 30
FLOOR_SHARE = 0.03
MAX_MITOCHONDRIAL = 0.5
N_DEVIATIONS = 5.0
_TO_SIGMA = 1.482602218505602


@dataclass(frozen=True, slots=True)
class SpotMeasures:
    """What quality is judged by; arrays are (n_spots,).

    Attributes:
        n_counts: int64, counts of all genes.
        n_genes: int64, genes with at least one count.
        n_mitochondrial: int64, counts of mitochondrial genes.
        n_panel: genes of the panel.
    """

    n_counts: IntArray
    n_genes: IntArray
    n_mitochondrial: IntArray
    n_panel: int

    @property
    def mitochondrial_share(self) -> Array:
        """Share of the counts; 0 where there are none."""
        return np.asarray(self.n_mitochondrial / np.maximum(self.n_counts, 1))


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one section: fixed floors, or the robust ones where they are stricter."""

    min_counts: float
    min_genes: float
    max_mitochondrial: float


def mitochondrial_genes(symbols: Sequence[str]) -> BoolArray:
    """Which genes (n_genes,) of a human panel are transcribed in mitochondria."""
    return np.array([symbol.upper().startswith("MT-") for symbol in symbols], dtype=np.bool_)


def spot_measures(counts: IntArray, mitochondrial: BoolArray) -> SpotMeasures:
    """Measures of one block's spots, from counts (n_spots, n_genes).

    Raises:
        ConfigurationError: a count is negative, or no whole number.
    """
    counts = np.asarray(counts)
    bad = ~(np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts)))
    if bad.any():
        spot, gene = (int(at[0]) for at in np.nonzero(bad))
        raise ConfigurationError(
            f"spot {spot} of a block has {counts[spot, gene]} counts of gene {gene}; send raw counts, not values "
            "that were normalised"
        )
    whole = counts.astype(np.int64)
    return SpotMeasures(
        whole.sum(axis=1), np.count_nonzero(whole, axis=1).astype(np.int64), whole[:, mitochondrial].sum(axis=1),
        whole.shape[1],
    )


def join_measures(parts: Sequence[SpotMeasures]) -> SpotMeasures:
    """Measures of a section from its blocks, in the order of its spots.

    Raises:
        ConfigurationError: no blocks, or blocks of different panels.
    """
    panels = {part.n_panel for part in parts}
    if len(panels) != 1:
        raise ConfigurationError(
            f"the blocks of a section have panels of {sorted(panels)} genes; give at least one block, all of one panel"
        )
    return SpotMeasures(
        np.concatenate([part.n_counts for part in parts]), np.concatenate([part.n_genes for part in parts]),
        np.concatenate([part.n_mitochondrial for part in parts]), panels.pop(),
    )


def section_limits(measures: SpotMeasures) -> Limits:
    """Limits from all spots of a section; spots below the fixed floors do not enter the medians."""
    min_genes = min(float(MIN_GENES), FLOOR_SHARE * measures.n_panel)
    min_counts = MIN_COUNTS * min_genes / MIN_GENES
    usable = (measures.n_counts >= min_counts) & (measures.n_genes >= min_genes)
    if not usable.any():
        return Limits(min_counts, min_genes, MAX_MITOCHONDRIAL)
    share = measures.mitochondrial_share[usable]
    middle, spread = _middle_and_spread(share)
    # Where more than half of the values are alike the spread is nil, and says nothing of the others.
    highest = middle + N_DEVIATIONS * spread if spread > 0.0 else MAX_MITOCHONDRIAL
    return Limits(
        max(min_counts, _low(measures.n_counts[usable])), max(min_genes, _low(measures.n_genes[usable])),
        min(MAX_MITOCHONDRIAL, highest),
    )


def _low(values: IntArray) -> float:
    """Lowest value that is no outlier on the logarithmic scale; nil where there is no spread to judge by."""
    middle, spread = _middle_and_spread(np.log(np.maximum(values, 1)))
    return float(np.exp(middle - N_DEVIATIONS * spread)) if spread > 0.0 else 0.0


def _middle_and_spread(values: Array) -> tuple[float, float]:
    middle = np.median(values)
    return float(middle), float(_TO_SIGMA * np.median(np.abs(values - middle)))


def refusals(measures: SpotMeasures, limits: Limits) -> list[str]:
    """Why each spot is kept out; "" where it is kept."""
    share = measures.mitochondrial_share
    reasons = []
    for i in range(len(measures.n_counts)):
        if measures.n_counts[i] < limits.min_counts:
            reasons.append(f"{measures.n_counts[i]} counts, below {limits.min_counts:.4g}")
        elif measures.n_genes[i] < limits.min_genes:
            reasons.append(f"{measures.n_genes[i]} genes, below {limits.min_genes:.4g}")
        elif share[i] > limits.max_mitochondrial:
            reasons.append(f"mitochondrial share {share[i]:.3f}, above {limits.max_mitochondrial:.3f}")
        else:
            reasons.append("")
    return reasons
