"""A sum of longest diameters is of all lesions of the patient: it moves every one, and nothing before there is one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from oncotwin.domain.bundle import ModelBundle
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.testing.patients import accepted, diameter, event_line
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.expectation import live_forecasts
from oncotwin.twin.fold import Binding, Effects, Estimate, advance, bind
from oncotwin.twin.history import history
from oncotwin.twin.journal import fold_key
from oncotwin.twin.replay import Belief
from oncotwin.twin.state import TwinState
from oncotwin.twin.timeline import Item

MODEL = TumourBurden()
BINDING: Binding = bind("1", ModelBundle({}), [MODEL], UnscentedFilter(), DriftSettings())
SUM = "sum_of_longest_diameters"


def total(event_id: str, day: float, mm: float, **more: Any) -> bytes:
    """A sum over all lesions."""
    return event_line("lesion.measured", event_id, day, {"kind": SUM, "value": mm, "unit": "mm", **more})


def items_of(*lines: bytes) -> list[Item]:
    """Items in fold order."""
    return sorted((item for item in accepted(lines) if isinstance(item, Item)), key=fold_key)


def fold(*lines: bytes) -> tuple[TwinState, Effects]:
    """A twin and what its fold told."""
    [result] = advance(BINDING, [TwinState("H1/p1", "1")], [items_of(*lines)])
    return result


def belief_of(*lines: bytes) -> Belief:
    state, effects = fold(*lines)
    return Belief(state, tuple(items_of(*lines)), effects)


def lesion(estimate: Estimate, name: str) -> tuple[float, float]:
    """Mean and standard deviation of a lesion's log volume."""
    at = estimate.components.index(f"log_volume[{name}]")
    return estimate.mean[at], estimate.sd[at]


def test_a_sum_moves_every_lesion_as_the_update_by_hand() -> None:
    seen = 33.0
    _, effects = fold(diameter("a", 0, 10, lesion="L1"), diameter("b", 0, 20, lesion="L2"), total("c", 0, seen))
    _, before, after = effects.estimates
    assert after.innovation is not None
    # Kalman's update of h = log(d1 + d2), d = exp(log volume / 3 + constant), linear about the mean before. Nothing
    # links the two lesions yet: they were met at one moment.
    means, sds = (np.array(part) for part in zip(*(lesion(before, name) for name in ("L1", "L2")), strict=True))
    diameters = np.exp((means - math.log(math.pi / 6.0)) / 3.0)
    slope = diameters / diameters.sum() / 3.0
    noise = MODEL.default_hyperparameters()["noise"]
    r = ((noise["relative"] * diameters) ** 2 + noise["mm"] ** 2).sum() / diameters.sum() ** 2
    s = (slope**2 * sds**2).sum() + r
    gain = sds**2 * slope / s
    expected = means + gain * (math.log(seen) - math.log(diameters.sum()))
    got = np.array([lesion(after, name) for name in ("L1", "L2")])
    assert after.innovation.predicted_mean == pytest.approx(math.log(diameters.sum()), abs=2e-3)
    assert after.innovation.predicted_variance == pytest.approx(s, rel=0.02)
    np.testing.assert_allclose(got[:, 0] - means, expected - means, rtol=0.03)
    np.testing.assert_allclose(got[:, 1], sds * np.sqrt(1.0 - gain * slope), rtol=0.02)
    assert (got[:, 0] > means).all()


def test_a_sum_before_any_lesion_is_kept_and_moves_nothing() -> None:
    state, effects = fold(total("s", 0, 60.0))
    assert (state.parts, effects.estimates, effects.alerts, state.n_folded) == ({}, (), (), 1)
    [(key, (_, value, _))] = state.last_observed.items()
    assert (key, value) == ((SUM, ""), 60.0)
    assert live_forecasts(BINDING, belief_of(total("s", 0, 60.0))) == []
    later = diameter("a", 30, 25)
    assert fold(total("s", 0, 60.0), later)[1] == fold(later)[1]


def test_a_lesion_that_came_before_gives_a_sum_its_meaning() -> None:
    lesions = diameter("a", 0, 20, lesion="L1"), diameter("b", 0, 30, lesion="L2")
    without, _ = fold(*lesions)
    state, effects = fold(*lesions, total("s", 40, 80.0))
    assert effects.estimates[-1].innovation is not None
    assert [name for name in effects.estimates[-1].components if "log_volume" in name] == [
        "log_volume[L1]", "log_volume[L2]"
    ]
    assert set(state.parts) == set(without.parts)


def test_the_sum_is_forecast_and_is_that_of_the_lesions() -> None:
    belief = belief_of(
        diameter("a", 0, 20, lesion="L1"), diameter("b", 0, 30, lesion="L2"), total("s", 40, 52.0)
    )
    found = {(one.observable, one.target): one.quantiles["q50"] for one in live_forecasts(BINDING, belief)[::-1]}
    parts = found["longest_diameter", "L1"] + found["longest_diameter", "L2"]
    assert found[SUM, ""] == pytest.approx(parts, rel=0.05)


def test_origins_of_a_sum_begin_with_the_first_lesion() -> None:
    past = history(MODEL, items_of(total("s0", 0, 50), diameter("a", 10, 20), total("s1", 20, 55)))
    assert {key: len(series.time) for key, series in past.series.items()} == {(0, "L1"): 1, (2, ""): 1}
