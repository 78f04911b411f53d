"""Signed distances: scipy's transform is the oracle, and no block size changes a bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.distance import (
    INSIDE,
    NONE,
    NOT_TISSUE,
    OUTSIDE,
    carry_columns,
    column_ends,
    make_grid,
    nearest_distance,
    signed_distance,
    signed_distance_spots,
    squared_distances,
)

PIXELS = [(1.0, 1.0), (0.25, 0.25), (0.5, 2.0), (200.0, 173.2), (0.2525, 0.25)]


@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), share=st.sampled_from([0.002, 0.02, 0.3, 0.9]),
    pixel=st.sampled_from(PIXELS), block=st.tuples(st.integers(1, 45), st.integers(1, 45)), seed=st.integers(0, 2**32),
)
def test_blocks_agree_with_scipy_and_with_each_other(
    rows: int, columns: int, share: float, pixel: tuple[float, float], block: tuple[int, int], seed: int
) -> None:
    sites = np.random.default_rng(seed).random((rows, columns)) < share
    grid = make_grid((rows, columns), pixel)
    squared = squared_distances(sites, grid, block)
    assert np.array_equal(squared, squared_distances(sites, grid, (rows, columns)))
    if not sites.any():
        assert (squared == NONE).all()
    else:
        oracle = distance_transform_edt(~sites, sampling=pixel)
        np.testing.assert_allclose(np.sqrt(squared) * grid.step_um, oracle, rtol=1e-9)


def test_a_site_far_away_crosses_every_block() -> None:
    sites = np.zeros((300, 2), dtype=np.bool_)
    sites[3, 1] = True
    ends = [column_ends(np.ascontiguousarray(sites[i : i + 50]), i) for i in range(0, 300, 50)]
    carries = carry_columns(ends)
    assert carries[5][0].tolist() == [NONE, 3] and carries[0][1].tolist() == [NONE, NONE]
    assert squared_distances(sites, make_grid((300, 2), (1.0, 1.0)), (50, 1))[299, 0] == 296**2 + 1


def test_the_interface_runs_between_pixels() -> None:
    classes = np.array([[1, 1, 1, 0, 0, -1, 0]], dtype=np.int8)
    signed = signed_distance(classes, (2.0, 2.0), (1, 2))
    np.testing.assert_array_equal(signed, [[-5.0, -3.0, -1.0, 1.0, 3.0, math.nan, 7.0]])


def test_glass_is_no_interface() -> None:
    """A tumour that reaches the edge of the tissue is as deep there as its distance to stroma says."""
    classes = np.full((9, 9), NOT_TISSUE, dtype=np.int8)
    classes[2:7, 2:7] = INSIDE
    assert (signed_distance(classes, (1.0, 1.0))[2:7, 2:7] == -math.inf).all()
    classes[4, 7] = OUTSIDE
    assert signed_distance(classes, (1.0, 1.0))[4, 2] == -4.5


def test_a_disc_has_the_distances_of_a_disc() -> None:
    y, x = np.mgrid[-100:101, -100:101]
    radius = np.hypot(x, y)
    signed = signed_distance((radius <= 60).astype(np.int8), (0.5, 0.5), (64, 64))
    assert np.abs(signed - 0.5 * (radius - 60)).max() < 0.5


@pytest.mark.parametrize(
    ("shape", "pixel", "what"),
    [
        ((5, 5), (0.0, 1.0), "positive"), ((5, 5), (math.nan, 1.0), "positive"),
        ((5, 5), (math.pi, 1.0), "round both to five digits"), ((5, 5), (1e9, 1.0), "round both"),
        ((10**6, 10**6), (1.0001, 1.0), "61 bits"),
    ],
)
def test_what_is_no_grid_is_refused(shape: tuple[int, int], pixel: tuple[float, float], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        make_grid(shape, pixel)


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="class 7"):
        signed_distance(np.full((2, 2), 7, dtype=np.int8), (1.0, 1.0))
    with pytest.raises(ConfigurationError, match="shapes must agree"):
        squared_distances(np.ones((2, 3), dtype=np.bool_), make_grid((3, 2), (1.0, 1.0)), (1, 1))


def test_spots_are_half_a_pitch_nearer_and_blocks_agree() -> None:
    rng = np.random.default_rng(5)
    points = rng.uniform(0, 3000, (500, 2))
    classes = rng.choice(np.array([INSIDE, OUTSIDE, NOT_TISSUE], dtype=np.int8), 500)
    whole = signed_distance_spots(points, classes, points, classes, 50.0)
    parts = [signed_distance_spots(points[i : i + 33], classes[i : i + 33], points, classes, 50.0)
             for i in range(0, 500, 33)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    every = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    oracle = np.where(
        classes == INSIDE, -np.maximum(every[:, classes == OUTSIDE].min(1) - 25, 0),
        np.maximum(every[:, classes == INSIDE].min(1) - 25, 0),
    )
    np.testing.assert_allclose(whole[classes != NOT_TISSUE], oracle[classes != NOT_TISSUE], rtol=1e-12)
    assert np.isnan(whole[classes == NOT_TISSUE]).all()


def test_spots_without_another_class_or_place() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0]])
    ones = np.ones(2, dtype=np.int8)
    assert (signed_distance_spots(points, ones, points, ones, 1.0) == -math.inf).all()
    assert (nearest_distance(points, np.empty((0, 2))) == math.inf).all()
    with pytest.raises(ConfigurationError, match="finite coordinates"):
        nearest_distance(np.array([[math.nan, 0.0]]), points)
    with pytest.raises(ConfigurationError, match="pitch"):
        signed_distance_spots(points, ones, points, ones, 0.0)
