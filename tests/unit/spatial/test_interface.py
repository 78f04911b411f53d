"""Shape of an interface on circles, rotated squares and stripes, whose lengths and curvatures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.interface import (
    PAIR_REACH,
    ClassArray,
    InterfaceSums,
    cut_with_halo,
    halo_of,
    interface_sums,
    layering_index,
    length_from_pairs,
    measure_interface,
    mixing,
    pairs_within,
)


def whole_sums(classes: ClassArray, radius: int, block: tuple[int, int] = (10**6, 10**6)) -> InterfaceSums:
    parts = [
        interface_sums(cut_with_halo(classes, (i, j), block, halo_of(radius)), radius)
        for i in range(0, classes.shape[0], block[0]) for j in range(0, classes.shape[1], block[1])
    ]
    return sum(parts[1:], parts[0])


def disc(radius: float, side: int = 201, pixel: tuple[float, float] = (1.0, 1.0)) -> ClassArray:
    y, x = (np.arange(side) - side // 2) * pixel[0], (np.arange(side) - side // 2 + 0.3) * pixel[1]
    inside: ClassArray = (np.hypot(*np.meshgrid(y, x, indexing="ij")) <= radius).astype(np.int8)
    return inside


def turned_square(points: NDArray[np.float64], half: float, angle: float) -> ClassArray:
    c, s = math.cos(angle), math.sin(angle)
    turned = points @ np.array([[c, -s], [s, c]])
    inside: ClassArray = (np.abs(turned).max(axis=-1) <= half).astype(np.int8)
    return inside


@pytest.mark.parametrize("radius", [15.0, 40.0, 80.0])
def test_a_circle_has_its_length_and_curvature(radius: float) -> None:
    shape = measure_interface(whole_sums(disc(radius), 6), (1.0, 1.0), 6)
    assert shape.length_um == pytest.approx(2 * math.pi * radius, rel=0.01)
    assert shape.mean_curvature_per_um == pytest.approx(1 / radius, rel=0.15)
    assert shape.roughness == pytest.approx(1.0, abs=0.04)
    hole = measure_interface(whole_sums((1 - disc(radius)).astype(np.int8), 6), (1.0, 1.0), 6)
    assert hole.mean_curvature_per_um == pytest.approx(-shape.mean_curvature_per_um)
    assert hole.length_um == shape.length_um


def test_pixels_need_not_be_square() -> None:
    shape = measure_interface(whole_sums(disc(60.0, 401, (0.5, 0.75)), 4), (0.5, 0.75), 4)
    assert shape.length_um == pytest.approx(2 * math.pi * 60, rel=0.01)
    assert math.isnan(shape.mean_curvature_per_um)


@pytest.mark.parametrize("degrees", [0, 11, 22.5, 30, 45, 60, 77])
def test_a_square_has_its_length_however_it_is_turned(degrees: float) -> None:
    y, x = np.mgrid[-120:121, -120:121].astype(np.float64)
    square = turned_square(np.stack([y, x], axis=-1), 70.25, math.radians(degrees))
    shape = measure_interface(whole_sums(square, 5), (0.5, 0.5), 5)
    # Pixel centres within 70.25 of the middle make a square of 140 to 141 pixels.
    assert shape.length_um == pytest.approx(4 * 140.5 * 0.5, rel=0.02)


def test_a_straight_edge_is_smooth_and_a_comb_is_rough() -> None:
    y, x = np.mgrid[0:200, 0:200]
    straight = measure_interface(whole_sums((x > y + 0.5).astype(np.int8), 5), (1.0, 1.0), 5)
    assert abs(straight.mean_curvature_per_um) < 1e-12 and straight.roughness == pytest.approx(1.0, abs=0.03)
    comb = measure_interface(whole_sums((y + 4 * (x % 4 < 2) > 100).astype(np.int8), 5), (1.0, 1.0), 5)
    assert comb.roughness > 2.0


def test_no_cut_changes_a_count() -> None:
    rng = np.random.default_rng(3)
    classes = rng.choice(np.array([-1, 0, 1], dtype=np.int8), (61, 47), p=[0.03, 0.5, 0.47])
    classes[20:40, 10:30] = 1
    whole = whole_sums(classes, 3)
    for block in ((61, 9), (1, 47), (8, 8), (17, 23)):
        part = whole_sums(classes, 3, block)
        for name in ("pixels", "crossings", "smooth_crossings", "pairs", "bends"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)), (block, name)


def test_the_edge_of_the_tissue_is_no_interface() -> None:
    classes = np.full((60, 60), -1, dtype=np.int8)
    classes[10:50, 10:50] = 1
    shape = measure_interface(whole_sums(classes, 3), (1.0, 1.0), 3)
    assert shape.length_um == 0.0 and math.isnan(shape.roughness) and shape.mixing == 0.0


@pytest.mark.parametrize("lattice", ["square", "hexagonal", "scattered"])
def test_spots_measure_circles_and_squares_too(lattice: str) -> None:
    side, rng = 160, np.random.default_rng(8)
    y, x = np.meshgrid(np.arange(side) - side / 2, np.arange(side) - side / 2, indexing="ij")
    if lattice == "hexagonal":
        stretch = math.sqrt(math.sqrt(3) / 2)
        x, y = (x + 0.5 * (np.arange(side)[:, None] % 2)) / stretch, y * stretch
    points = np.column_stack([y.ravel(), x.ravel()])
    if lattice == "scattered":
        points = rng.uniform(-side / 2, side / 2, points.shape)
    points *= 100.0
    inside = (np.hypot(*points.T) <= 5000).astype(np.int8)
    found = length_from_pairs(pairs_within(points, inside, len(points), 100.0), 100.0)
    # Scattered points: three standard deviations of their density's noise.
    tolerance = 0.15 if lattice == "scattered" else 0.03
    assert found == pytest.approx(2 * math.pi * 5000, rel=tolerance)
    for degrees in (0, 20, 45):
        square = turned_square(points, 4520.0, math.radians(degrees))
        found = length_from_pairs(pairs_within(points, square, len(points), 100.0), 100.0)
        assert found == pytest.approx(8 * 4520, rel=tolerance)


def test_pairs_of_blocks_add_up_to_those_written_out() -> None:
    rng = np.random.default_rng(2)
    points, classes = rng.uniform(0, 1000, (300, 2)), rng.choice(np.array([-1, 0, 1], dtype=np.int8), 300)
    away = np.hypot(*(points[:, None] - points).transpose(2, 0, 1))
    near = (away <= PAIR_REACH * 50) & ~np.eye(300, dtype=bool)
    inside, outside = classes == 1, classes == 0
    expected = [near[inside][:, inside].sum(), 2 * near[inside][:, outside].sum(), near[outside][:, outside].sum()]
    total = np.zeros(3, dtype=np.int64)
    for i in range(0, 300, 70):
        own = np.arange(i, min(i + 70, 300))
        rows = np.concatenate([own, np.setdiff1d(np.arange(300), own)])
        total += pairs_within(points[rows], classes[rows], len(own), 50.0)
    assert total.tolist() == expected
    assert mixing(total) == pytest.approx(expected[1] / expected[0])


def test_layers_tell_the_class_entirely_or_not_at_all() -> None:
    assert layering_index(np.array([[9, 0], [0, 9], [0, 0]])) == pytest.approx(1.0)
    assert layering_index(np.array([[8, 4], [4, 2]])) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(layering_index(np.array([[8, 0], [4, 0]])))
    # Written out: H(class) = log 2; H(class | layer) = -(0.75 log 0.75 + 0.25 log 0.25).
    given = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert layering_index(np.array([[3, 1], [1, 3]])) == pytest.approx(1 - given / math.log(2))


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing is left"):
        interface_sums(np.zeros((10, 10), dtype=np.int8), 3)
    with pytest.raises(ConfigurationError, match="class 4"):
        interface_sums(np.full((40, 40), 4, dtype=np.int8), 3)
