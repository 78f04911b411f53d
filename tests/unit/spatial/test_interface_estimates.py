"""The border of a disc as signatures: closed forms for length, area and curvature, and pairs counted one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from oncotwin.spatial.distance import INSIDE, NOT_TISSUE, OUTSIDE
from oncotwin.spatial.interface import PAIR_REACH, neighbours_by_class
from oncotwin.spatial.interface_estimates import FloatArray, border_ratios, shape_signatures
from oncotwin.spatial.section_cut import measure_scale

RADIUS_UM = 700.0


def disc(n: int = 40) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.int8]]]:
    x, y = np.meshgrid(np.arange(n) * 50.0, np.arange(n) * 50.0)
    places = np.column_stack([x.ravel(), y.ravel()])
    return places, np.where(np.hypot(*(places - 975).T) < RADIUS_UM, INSIDE, OUTSIDE).astype(np.int8)


def test_neighbours_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    places, classes = rng.uniform(0, 100, (300, 2)), rng.integers(-1, 2, 300).astype(np.int8)
    near = neighbours_by_class(places, classes, 200, 5.0)
    close = cdist(places, places) <= PAIR_REACH * 5.0
    np.fill_diagonal(close, False)
    for column, other in enumerate((INSIDE, OUTSIDE)):
        wanted = (close[:200] & (classes == other)).sum(axis=1) * (classes[:200] != NOT_TISSUE)
        np.testing.assert_array_equal(near[:, column], wanted)


def test_a_disc_has_its_area_and_its_circumference() -> None:
    places, classes = disc()
    scale = measure_scale(places)
    near = neighbours_by_class(places, classes, len(places), math.sqrt(scale.cell_um2))
    found = {one.name: one for one in border_ratios(classes, near, places, scale, 0)}
    assert found["tumour.area"].value == pytest.approx(math.pi * RADIUS_UM**2, rel=0.02)
    assert found["tumour.share"].value == pytest.approx(math.pi * RADIUS_UM**2 / 2000.0**2, rel=0.02)
    length = found["interface.length"]
    assert length.value == pytest.approx(2 * math.pi * RADIUS_UM, rel=0.05) and length.low < length.value < length.high
    assert found["interface.length_per_area"].value == pytest.approx(length.value / 2000.0**2)
    assert 0 < found["interface.mixing"].value < 0.3


def test_a_disc_has_its_curvature_and_no_roughness() -> None:
    pixel = 10.0
    x, y = np.meshgrid(np.arange(200) * pixel, np.arange(200) * pixel)
    classes = np.where(np.hypot(x - 1000, y - 1000) < RADIUS_UM, INSIDE, OUTSIDE).astype(np.int8)
    found = {one.name: one for one in shape_signatures(classes, pixel, 40, 0)}
    curvature = found["interface.mean_curvature"]
    assert curvature.value == pytest.approx(1 / RADIUS_UM, rel=0.1) and curvature.low < curvature.high
    assert found["interface.absolute_curvature"].value > curvature.value
    assert found["interface.roughness"].value == pytest.approx(1.0, abs=0.03)
    whole = shape_signatures(classes, pixel, 400, 0)
    assert [one.value for one in whole] == [one.value for one in found.values()]
    assert math.isnan(whole[0].low) and "1 tiles only" in whole[0].note
