"""Moran's I and Geary's C: against esda and plain sums, and the same to the bit whatever the blocks."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial import autocorrelation as auto
from oncotwin.spatial.autocorrelation import Assumption, Autocorrelation, AutocorrelationSums, Wanted
from oncotwin.spatial.exact_sums import exact_sums, rounded
from oncotwin.spatial.graphs import SpatialGraph, join_rows, knn_rows, radius_rows, whole_section
from oncotwin.spatial.nearest import hilbert_order
from oncotwin.spatial.pairs import CHUNK, PairWeights, Weighting, pair_weights

Array = NDArray[np.float64]
ESDA: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "reference" / "spatial_statistics.json").read_text()
)


def esdas_graph(name: str) -> SpatialGraph:
    """The graph that esda was given."""
    block = whole_section(np.array(ESDA["points_um"]))
    rows = knn_rows(block, ESDA["k"]) if name == "knn" else radius_rows(block, ESDA["radius_um"])
    return join_rows([rows], len(block.ids))


def in_one_block(matrix: Array, pairs: PairWeights) -> tuple[Autocorrelation, Autocorrelation]:
    """Both statistics of a matrix in memory."""
    whole = pairs.block(0, pairs.n_cells)
    return auto.autocorrelation(auto.sums_of_block(matrix, whole, auto.shift_of(matrix)), pairs)


def a_section(n: int, n_genes: int, k: int = 6, seed: int = 4) -> tuple[Array, PairWeights]:
    """A matrix with spatial order, and its graph."""
    rng = np.random.default_rng(seed)
    points = rng.random((n, 2)) * math.sqrt(n) * 10.0
    points = points[hilbert_order(points)]
    graph = join_rows([knn_rows(whole_section(points), k)], n)
    matrix = rng.gamma(0.5, 2.0, (n, n_genes)) + 3.0 * np.sin(points[:, :1] / 40.0 + np.arange(n_genes))
    return matrix, pair_weights(graph, Weighting.ROW)


@pytest.mark.parametrize("graph", ["knn", "radius"])
@pytest.mark.parametrize("weighting", Weighting)
def test_statistics_and_moments_are_esdas(graph: str, weighting: Weighting) -> None:
    moran, geary = in_one_block(np.array(ESDA["values"]), pair_weights(esdas_graph(graph), weighting))
    for gene, expected in enumerate(ESDA["global"][f"{graph} {weighting}"]):
        for ours, theirs, two_sided in ((moran, expected["moran"], True), (geary, expected["geary"], False)):
            found = [
                ours.statistic[gene], ours.expected, ours.variance_normality, ours.variance_randomisation[gene],
                ours.z(Assumption.NORMALITY)[gene], ours.z()[gene],
            ]
            if two_sided:
                found += [ours.p(Assumption.NORMALITY, two_sided=True)[gene], ours.p(two_sided=True)[gene]]
            np.testing.assert_allclose(found, theirs, rtol=1e-6)


def test_moments_are_those_of_all_permutations() -> None:
    """Seven cells, 5,040 permutations: the mean and variance under randomisation are exact."""
    points = np.random.default_rng(2).random((7, 2)) * 100.0
    pairs = pair_weights(join_rows([knn_rows(whole_section(points), 2)], 7), Weighting.ROW)
    values = np.array([0.3, 1.0, 4.0, 0.0, 2.5, 9.0, 1.5])
    everyone = values[np.array(list(permutations(range(7))))].T.copy()
    for ours in in_one_block(everyone, pairs):
        np.testing.assert_allclose(ours.statistic.mean(), ours.expected, rtol=1e-12)
        np.testing.assert_allclose(ours.statistic.var(), ours.variance_randomisation, rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_change_no_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, pairs = a_section(5 * CHUNK + 137, 9)
    shift = auto.shift_of(matrix)
    cuts = np.unique([0, *rng.choice(np.arange(1, 6), rng.integers(1, 6)) * CHUNK, len(matrix)])
    parts: list[AutocorrelationSums] = []
    for first, end in rng.permutation(np.column_stack([cuts[:-1], cuts[1:]])):
        block = pairs.block(int(first), int(end))
        rows = np.concatenate([np.arange(first, end), block.halo])
        parts.append(auto.sums_of_block(matrix[rows], block, shift))
    nested = auto.merge([auto.merge(parts[:1]), *parts[1:]])
    for ours, whole in zip(auto.autocorrelation(nested, pairs), in_one_block(matrix, pairs), strict=True):
        np.testing.assert_array_equal(ours.statistic, whole.statistic)
        np.testing.assert_array_equal(ours.variance_randomisation, whole.variance_randomisation)


@pytest.mark.parametrize("n_genes", [1, 7, 8, 9, 512, 513])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_the_pass_is_the_definition(n_genes: int, k: int) -> None:
    matrix, pairs = a_section(201, n_genes, k)
    centred = matrix - matrix.mean(axis=0)
    rows = np.repeat(np.arange(201), np.diff(pairs.offsets))
    cross = (pairs.weights[:, None] * centred[rows] * centred[pairs.neighbours]).sum(axis=0)
    apart = (pairs.weights[:, None] * (matrix[rows] - matrix[pairs.neighbours]) ** 2).sum(axis=0)
    moran, geary = in_one_block(matrix, pairs)
    square = (centred**2).sum(axis=0)
    np.testing.assert_allclose(moran.statistic, 201 / pairs.s0 * cross / square, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(geary.statistic, 200 / (2.0 * pairs.s0) * apart / square, rtol=1e-9)


def test_moran_alone_is_the_same_to_the_bit() -> None:
    matrix, pairs = a_section(2 * CHUNK + 77, 19)
    whole, shift = pairs.block(0, len(matrix)), auto.shift_of(matrix)
    moran, _ = in_one_block(matrix, pairs)
    alone = auto.morans_i(auto.sums_of_block(matrix, whole, shift, Wanted.MORAN), pairs)
    np.testing.assert_array_equal(alone.statistic, moran.statistic)
    np.testing.assert_array_equal(alone.z(Assumption.NORMALITY), moran.z(Assumption.NORMALITY))
    assert np.isnan(alone.variance_randomisation).all()


def test_threads_change_no_bit() -> None:
    matrix, pairs = a_section(20 * CHUNK + 5, 11)
    whole, shift = pairs.block(0, len(matrix)), auto.shift_of(matrix)
    with ThreadPoolExecutor(3) as pool:
        side_by_side = auto.sums_of_block(matrix, whole, shift, run=pool.map)
    np.testing.assert_array_equal(side_by_side.digits, auto.sums_of_block(matrix, whole, shift).digits)


def test_a_large_mean_costs_no_digits() -> None:
    matrix, pairs = a_section(900, 3)
    moran, geary = in_one_block(matrix, pairs)
    far_moran, far_geary = in_one_block(matrix + 2.0**30, pairs)
    # The inputs themselves lose 2 ** 30 / 2 ** 53 of a unit.
    np.testing.assert_allclose(far_moran.statistic, moran.statistic, rtol=1e-6)
    np.testing.assert_allclose(far_geary.z(), geary.z(), rtol=1e-6)


def test_a_constant_gene_has_no_statistic() -> None:
    matrix, pairs = a_section(100, 2)
    matrix[:, 1] = 0.1
    moran, geary = in_one_block(matrix, pairs)
    assert np.isnan([moran.statistic[1], moran.p()[1], geary.statistic[1], geary.z()[1]]).all()
    assert np.isfinite([moran.statistic[0], moran.p()[0], geary.statistic[0], geary.z()[0]]).all()


def test_one_sided_p_is_small_where_neighbours_agree() -> None:
    matrix, pairs = a_section(400, 2)
    assert all((ours.p() < 1e-3).all() for ours in in_one_block(matrix, pairs))


def test_bad_input_is_named() -> None:
    matrix, pairs = a_section(CHUNK + 5, 3)
    shift = auto.shift_of(matrix)
    whole = pairs.block(0, len(matrix))
    with pytest.raises(ConfigurationError, match="begin and end at multiples"):
        pairs.block(3, 9)
    with pytest.raises(ConfigurationError, match="give the own rows"):
        auto.sums_of_block(matrix[:-1], whole, shift)
    with pytest.raises(ConfigurationError, match="different shifts"):
        auto.merge([auto.sums_of_block(matrix, whole, shift), auto.sums_of_block(matrix, whole, shift + 1.0)])
    some, all_of_it = (auto.sums_of_block(matrix, whole, shift, wanted) for wanted in (Wanted.MORAN, Wanted.ALL))
    with pytest.raises(ConfigurationError, match="hold different sums"):
        auto.merge([some, all_of_it])
    with pytest.raises(ConfigurationError, match="seven sums"):
        auto.autocorrelation(some, pairs)
    with pytest.raises(ConfigurationError, match="merge the sums of every block"):
        auto.autocorrelation(auto.merge([auto.sums_of_block(matrix, whole, shift)] * 2), pairs)
    with pytest.raises(ConfigurationError, match="without cells"):
        auto.shift_of(matrix[:0])
    matrix[CHUNK + 1, 2] = np.nan
    with pytest.raises(ConfigurationError, match=f"gene 2 in row {CHUNK + 1}"):
        auto.sums_of_block(matrix, whole, shift)


def test_sums_are_exact() -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((500, 4)) * 10.0 ** rng.integers(-300, 290, (500, 4))
    values[0] = [5e-324, -5e-324, 0.0, 1.0]
    expected = [math.fsum(column) for column in values.T]
    assert rounded(exact_sums(values)).tolist() == expected
    assert rounded(exact_sums(values[:123]) + exact_sums(values[123:])).tolist() == expected
    assert rounded(exact_sums(np.zeros((0, 2)))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [-1074, -1060, -500, 0, 500, 960])
def test_sums_are_rounded_to_the_nearest_even(scale: int) -> None:
    """Bits at random places, so that ties, borrows and carries over many digits occur."""
    rng = np.random.default_rng(scale + 2_000)
    powers = np.clip(rng.integers(scale, scale + 70, (8, 400)), -1074, 1000)
    values = np.ldexp(rng.choice([-1.0, 1.0], powers.shape), powers)
    expected = [float(sum((Fraction(value) for value in column), Fraction(0))) for column in values.T.tolist()]
    assert rounded(exact_sums(values)).tolist() == expected


def test_a_sum_beyond_float64_is_refused() -> None:
    with pytest.raises(OverflowError, match="sum 1"):
        rounded(exact_sums(np.array([[1.0, 1.7e308], [1.0, 1.7e308]])))
