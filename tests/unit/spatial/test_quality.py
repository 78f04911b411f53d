"""Quality of spots: measures against sums, limits against scipy, and no effect of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.quality import (
    MAX_MITOCHONDRIAL,
    MIN_COUNTS,
    MIN_GENES,
    N_DEVIATIONS,
    SpotMeasures,
    join_measures,
    mitochondrial_genes,
    refusals,
    section_limits,
    spot_measures,
)

IntArray = NDArray[np.int64]


def a_section(seed: int = 1) -> tuple[IntArray, NDArray[np.bool_]]:
    """Spots of some thousand counts over 1,000 genes, the first 13 of them mitochondrial."""
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(8.0, 0.4, 300)
    profile = rng.dirichlet(np.full(1000, 0.3))
    counts = rng.poisson(depth[:, None] * profile).astype(np.int64)
    return counts, np.arange(1000) < 13


def test_measures_are_plain_sums() -> None:
    found = spot_measures(np.array([[0, 3, 1], [0, 0, 0]]), np.array([False, True, False]))
    assert found.n_counts.tolist() == [4, 0] and found.n_genes.tolist() == [2, 0]
    assert found.n_mitochondrial.tolist() == [3, 0] and found.n_panel == 3
    assert found.mitochondrial_share.tolist() == [0.75, 0.0]


def test_mitochondrial_genes_are_known_by_name() -> None:
    assert mitochondrial_genes(["MT-CO1", "mt-nd1", "MTOR", "CD3E"]).tolist() == [True, True, False, False]


def test_limits_are_robust_outliers_of_the_section() -> None:
    counts, mitochondrial = a_section()
    measures = spot_measures(counts, mitochondrial)
    limits = section_limits(measures)
    logs = np.log(measures.n_counts)
    expected = np.exp(np.median(logs) - N_DEVIATIONS * median_abs_deviation(logs, scale="normal"))
    assert limits.min_counts == pytest.approx(expected, rel=1e-6)
    share = measures.mitochondrial_share
    highest = np.median(share) + N_DEVIATIONS * median_abs_deviation(share, scale="normal")
    assert limits.max_mitochondrial == pytest.approx(min(MAX_MITOCHONDRIAL, highest), rel=1e-6)
    assert sum(map(bool, refusals(measures, limits))) <= 3


def test_what_fails_is_named_and_kept_out() -> None:
    counts, mitochondrial = a_section()
    counts[0] = 0
    counts[1, 20:] = 0
    counts[1, 20:25] = 900
    counts[2, :13] += 400
    measures = spot_measures(counts, mitochondrial)
    reasons = refusals(measures, section_limits(measures))
    assert reasons[0].startswith("0 counts, below ")
    assert " genes, below " in reasons[1]
    assert reasons[2].startswith("mitochondrial share 0.") and "above" in reasons[2]
    assert sum(map(bool, reasons[3:])) <= 3


def test_values_that_are_mostly_alike_refuse_nobody() -> None:
    same = np.full(20, 200, dtype=np.int64)
    counts = same.copy()
    counts[:8] = np.arange(150, 190, 5)
    limits = section_limits(SpotMeasures(counts, same, np.zeros(20, dtype=np.int64), 1000))
    assert limits.min_counts == MIN_COUNTS and limits.min_genes == MIN_GENES
    assert limits.max_mitochondrial == MAX_MITOCHONDRIAL


def test_floors_are_lower_on_a_small_panel() -> None:
    nothing = np.zeros(1, dtype=np.int64)
    assert section_limits(SpotMeasures(nothing, nothing, nothing, 300)).min_genes == pytest.approx(9.0)
    assert section_limits(SpotMeasures(nothing, nothing, nothing, 300)).min_counts == pytest.approx(15.0)
    assert section_limits(SpotMeasures(nothing, nothing, nothing, 20_000)).min_genes == MIN_GENES


@pytest.mark.parametrize("size", [1, 7, 100, 300])
def test_blocks_change_nothing(size: int) -> None:
    counts, mitochondrial = a_section()
    whole = spot_measures(counts, mitochondrial)
    parts = [spot_measures(counts[at : at + size], mitochondrial) for at in range(0, 300, size)]
    joined = join_measures(parts)
    assert np.array_equal(joined.n_counts, whole.n_counts) and np.array_equal(joined.n_genes, whole.n_genes)
    assert section_limits(joined) == section_limits(whole)
    assert refusals(joined, section_limits(joined)) == refusals(whole, section_limits(whole))


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf])
def test_what_is_no_count_is_refused(value: float) -> None:
    counts = np.ones((3, 4))
    counts[1, 2] = value
    with pytest.raises(ConfigurationError, match=r"spot 1 of a block has .* counts of gene 2; send raw counts"):
        spot_measures(counts, np.zeros(4, dtype=np.bool_))  # type: ignore[arg-type]


def test_blocks_must_be_of_one_panel() -> None:
    nothing = np.zeros(1, dtype=np.int64)
    parts = [SpotMeasures(nothing, nothing, nothing, n) for n in (5, 6)]
    with pytest.raises(ConfigurationError, match=r"panels of \[5, 6\] genes"):
        join_measures(parts)
