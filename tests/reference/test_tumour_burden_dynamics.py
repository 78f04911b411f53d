"""The compiled tumour-burden dynamics against `solve_ivp` on the two clones, and against the classical closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from oncotwin.models import growth
from oncotwin.models.tumour_burden import propagate

Array = NDArray[np.float64]

BEGIN = 18_000.0
NO_CAPACITY = 60.0
"""A log volume so far above all tumours that growth is exponential to round-off."""
NO_RESISTANCE = -30.0


def constants(shape: float, log_capacity: float) -> Array:
    """Constants under which the log growth rate in the state is the law's own rate (logistic's for small sizes)."""
    return np.array([shape, log_capacity, 1.0, 0.02, 0.3])


def moved(member: Array, days: float, shape: float, log_capacity: float, *, treated: bool = True,
          since: float = BEGIN) -> Array:
    """State after ``days`` in one call."""
    out = np.empty_like(member)
    inputs = np.array([1.0, since]) if treated else np.zeros(2)
    propagate(member, BEGIN, BEGIN + days, inputs, constants(shape, log_capacity), out)
    return out


def member(growth_rate: float, kill: float, waning: float, odds: float, *volumes: float) -> Array:
    """A state with these rates and log-odds of resistance, and lesions of these volumes."""
    lesions = [value for volume in volumes for value in (math.log(volume), 0.0)]
    return np.array([math.log(growth_rate), math.log(kill), math.log(waning), odds, *lesions])


@pytest.mark.parametrize("shape", [1.0, 0.0, -1.0 / 3.0, 0.5])
@pytest.mark.parametrize("volume", [5.0, 250.0, 2_000.0])
def test_untreated_growth_is_the_closed_form(shape: float, volume: float) -> None:
    capacity, rate = 5_000.0, 0.03
    for days in (0.5, 4.0, 60.0):
        out = moved(member(rate, 0.1, 0.01, -2.0, volume), days, shape, math.log(capacity), treated=False)
        expected = growth.richards(days, volume, rate, capacity, shape)
        np.testing.assert_allclose(np.exp(out[4]), expected, rtol=1e-11)


def test_untreated_growth_far_below_capacity_is_exponential() -> None:
    out = moved(member(0.03, 0.1, 0.01, -2.0, 250.0), 40.0, 1.0, NO_CAPACITY, treated=False)
    np.testing.assert_allclose(np.exp(out[4]), growth.exponential(40.0, 250.0, 0.03), rtol=1e-11)


@pytest.mark.parametrize("waning", [1e-12, 0.01, 0.2])
def test_without_resistance_and_saturation_it_is_claret(waning: float) -> None:
    for days in (1.0, 42.0, 200.0):
        out = moved(member(0.005, 0.03, waning, NO_RESISTANCE, 9e3), days, 1.0, NO_CAPACITY)
        np.testing.assert_allclose(np.exp(out[4]), growth.claret(days, 9e3, 0.005, 0.03, waning), rtol=1e-9)


def test_without_waning_and_saturation_it_is_the_sum_of_two_clones() -> None:
    fraction = 0.15
    odds = math.log(fraction / (1.0 - fraction))
    for days in (1.0, 42.0, 300.0):
        out = moved(member(0.004, 0.03, 1e-12, odds, 9e3), days, 1.0, NO_CAPACITY)
        np.testing.assert_allclose(np.exp(out[4]), growth.two_clones(days, 9e3, fraction, 0.004, 0.03), rtol=1e-9)


def test_stein_is_the_early_regrowth_of_two_clones() -> None:
    """Stein's two exponentials start at twice the size less one; to first order in time they are two clones."""
    days = np.array([0.5, 1.0, 2.0])
    stein = growth.stein(days, 9e3, 0.004, 0.03)
    clones = growth.two_clones(days, 9e3, 0.5, 0.008, 0.068)
    np.testing.assert_allclose(stein / 9e3, clones / 9e3, atol=5e-3)


@pytest.mark.parametrize(
    ("rates", "odds", "volume", "log_capacity"),
    [
        ((0.004, 0.02, 0.004), -2.0, 14e3, 14.5),
        ((0.03, 0.08, 0.02), -1.0, 250.0, 8.7),
        ((0.03, 0.2, 0.05), -4.0, 900.0, 8.0),
    ],
    ids=["lesion", "xenograft", "strong_kill"],
)
@pytest.mark.parametrize("shape", [1.0, 0.0, -1.0 / 3.0])
def test_treated_clones_follow_the_differential_equations(
    rates: tuple[float, float, float], odds: float, volume: float, log_capacity: float, shape: float
) -> None:
    g, kill, waning = rates
    fraction = 1.0 / (1.0 + math.exp(-odds))

    def field(t: float, clones: Array) -> list[float]:
        z = math.log(clones.sum()) - log_capacity
        law = -g * z if shape == 0.0 else g / shape * -math.expm1(shape * z)
        return [(law - kill * math.exp(-waning * t)) * clones[0], law * clones[1]]

    at = np.array([3.0, 7.0, 42.0, 126.0])
    solution = solve_ivp(
        field, (0.0, at[-1]), [volume * (1.0 - fraction), volume * fraction], t_eval=at, rtol=1e-10, atol=1e-12,
        method="LSODA",
    )
    for days, clones in zip(at, solution.y.T, strict=True):
        out = moved(member(g, kill, waning, odds, volume), float(days), shape, log_capacity)
        assert abs(out[4] - math.log(clones.sum())) < 2e-3


def test_two_intervals_are_one_interval() -> None:
    """The kill remembers when the regimen began, so that a visit in between changes nothing."""
    start = member(0.01, 0.05, 0.02, -2.0, 9e3, 500.0)
    once = moved(start, 42.0, 0.0, 14.0)
    half, out = moved(start, 21.0, 0.0, 14.0), np.empty_like(start)
    propagate(half, BEGIN + 21.0, BEGIN + 42.0, np.array([1.0, BEGIN]), constants(0.0, 14.0), out)
    np.testing.assert_allclose(out, once, atol=1e-3)


def test_lesions_share_rates_and_keep_their_own_sizes() -> None:
    both = moved(member(0.01, 0.05, 0.02, -2.0, 9e3, 500.0), 30.0, 0.0, 14.0)
    for slot, volume in enumerate((9e3, 500.0)):
        alone = moved(member(0.01, 0.05, 0.02, -2.0, volume), 30.0, 0.0, 14.0)
        assert both[4 + 2 * slot] == alone[4]
