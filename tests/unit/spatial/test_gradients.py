"""Gradients: planted layers, slopes, depths and widths come back with intervals around them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from oncotwin.spatial.gradients import (
    FloatArray,
    border_signatures,
    layer_signatures,
    penetration_signatures,
    slope_signatures,
    vessel_signatures,
)
from oncotwin.spatial.section_cut import SectionScale
from oncotwin.spatial.signature import Signature

SCALE = SectionScale(100.0, 1e4, 500.0)


def section(seed: int = 0, n: int = 6000) -> tuple[FloatArray, FloatArray]:
    """Cells on 4 x 4 mm with the tumour to the left of x = 2000; places and signed distance."""
    places = np.random.default_rng(seed).uniform(0, 4000, (n, 2))
    return places, places[:, 0] - 2000.0


def named(made: list[Signature]) -> dict[str, Signature]:
    assert len({one.name for one in made}) == len(made)
    return {one.name: one for one in made}


def test_layers_and_slopes() -> None:
    places, distance = section()
    noise = np.random.default_rng(1).normal(0, 2e-4, len(places))
    falling = 0.004 - 1e-6 * distance + noise
    found = named(layer_signatures(["a"], falling[:, None], distance, places, SCALE, 0))
    for layer, low, high in (("core", -2000, -500), ("inner_margin", -500, -100), ("far_stroma", 500, 2000)):
        own = falling[(distance >= low) & (distance < high)]
        one = found[f"a.layer.{layer}"]
        assert one.value == pytest.approx(own.mean(), rel=1e-4) and one.low < one.value < one.high
        assert f"{len(own)} cells" in one.note
    slopes = named(slope_signatures(["a", "b"], np.column_stack([falling, noise]), distance, places, SCALE, 0))
    for side in ("inside", "outside"):
        one = slopes[f"a.slope_{side}"]
        assert one.low < -1e-6 < one.high and one.unit == "/um" and one.high < 0
        assert slopes[f"b.slope_{side}"].low < 0 < slopes[f"b.slope_{side}"].high


def test_penetration_stops_or_does_not() -> None:
    places, distance = section(2)
    depth = np.maximum(-distance, 0)
    scores = np.column_stack([np.exp(-depth / 200.0), np.ones(len(places))])
    found = named(penetration_signatures(["a", "b"], scores, distance, places, SCALE, 0))
    assert found["a.penetration_depth"].value == pytest.approx(200 * math.log(2), rel=0.1)
    assert found["a.penetration_depth"].high < 250
    assert math.isinf(found["b.penetration_depth"].value) and "does not fall" in found["b.penetration_depth"].note
    assert found["b.penetration_depth"].as_json()["value"] is None
    assert penetration_signatures(["a"], scores[:, :1], np.full(len(places), 5.0), places, SCALE, 0) == []


def test_width_and_layering() -> None:
    places, distance = section(3)
    score = 0.01 + 0.03 * norm.cdf(-distance / 150.0)
    labels = (distance > 0).astype(np.int64)
    found = named(border_signatures(score, labels, distance, places, SCALE, 0))
    assert found["interface.width"].value == pytest.approx(2 * norm.ppf(0.9) * 150.0, rel=0.05)
    assert found["interface.layering_index"].value > 0.8
    chance = np.random.default_rng(0).integers(0, 2, len(places))
    (only,) = border_signatures(None, chance, distance, places, SCALE, 0)
    assert only.name == "interface.layering_index" and only.value < 0.01


def test_slope_from_vessels() -> None:
    places, _ = section(4)
    away = np.abs(places[:, 0] - 1000.0)
    (found,) = vessel_signatures(["hypoxia"], (1e-6 * away)[:, None], away, places, SCALE, 0)
    assert found.name == "hypoxia.vessel_slope" and found.value == pytest.approx(1e-6, rel=0.05)


def test_a_handful_of_cells_has_no_slope() -> None:
    places, distance = section(5, 40)
    keep = (distance > -1000) & ((distance > 0) | (np.cumsum(distance <= 0) < 5))
    made = slope_signatures(["a"], np.ones((int(keep.sum()), 1)), distance[keep], places[keep], SCALE, 0)
    inside = next(one for one in made if one.name == "a.slope_inside")
    assert math.isnan(inside.value) and "at least 10" in inside.note


def test_no_order_of_the_cells_changes_a_bit() -> None:
    places, distance = section(6, 900)
    scores = np.random.default_rng(1).uniform(size=(900, 2))
    order = np.random.default_rng(2).permutation(900)
    for made in (layer_signatures, slope_signatures, penetration_signatures):
        one = made(["a", "b"], scores, distance, places, SCALE, 1)
        other = made(["a", "b"], scores[order], distance[order], places[order], SCALE, 1)
        assert [s.as_json() for s in one] == [s.as_json() for s in other]
