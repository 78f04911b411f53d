"""Ratios over a section with intervals from its squares: the ratio itself, its coverage, and no order that matters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oncotwin.spatial.square_draws import FloatArray, Ratio, ratio_signatures


def patchy(seed: int, n: int = 4000) -> tuple[FloatArray, FloatArray]:
    """Cells on 4 x 4 mm; a share of 0.3 is marked, more in some patches of 250 um than in others."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 4000, (n, 2))
    patch = np.floor(places / 250).astype(int)
    odds = rng.beta(3.0, 7.0, (16, 16))[patch[:, 0], patch[:, 1]]
    return places, (rng.uniform(size=n) < odds).astype(np.float64)


def test_the_value_is_the_ratio_and_the_interval_covers_the_share_it_came_from() -> None:
    hits, widths, spread = 0, [], []
    for seed in range(60):
        places, marked = patchy(seed)
        (found,) = ratio_signatures([Ratio("a.b", marked, np.ones(4000), "1", "s", 100.0)], places, 500.0, seed)
        assert found.value == pytest.approx(100 * marked.mean())
        hits += found.low <= 30.0 <= found.high
        widths.append(found.high - found.low)
        spread.append(found.value)
    # Ninety of a hundred, three standard deviations of a binomial around it.
    assert hits / 60 >= 0.77
    assert np.mean(widths) == pytest.approx(2 * 1.645 * np.std(spread), rel=0.3)


def test_no_order_of_the_cells_changes_a_bit() -> None:
    places, marked = patchy(1)
    order = np.random.default_rng(0).permutation(4000)
    one = ratio_signatures([Ratio("a", marked, np.ones(4000), "1", "s")], places, 500.0, 3)
    other = ratio_signatures([Ratio("a", marked[order], np.ones(4000), "1", "s")], places[order], 500.0, 3)
    assert one == other


def test_what_cannot_be_said_is_nan_and_few_squares_are_named() -> None:
    places, marked = patchy(2)
    nothing = np.zeros(4000)
    found, few = (
        ratio_signatures([Ratio("a", marked, nothing, "1", "s", note="n")], places, side, 3)[0]
        for side in (500.0, 2000.0)
    )
    assert math.isnan(found.value) and math.isnan(found.low) and found.note == "n"
    assert few.note == "n; interval from 4 squares only, too narrow"
    assert ratio_signatures([], places, 500.0, 0) == []
