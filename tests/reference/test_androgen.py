"""The androgen model against closed forms, an adaptive integrator, and what the trial that it is meant for reported."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from oncotwin.models import androgen_kernels as kernels
from oncotwin.models.androgen import SHARED, AndrogenSuppression, typical

Array = NDArray[np.float64]
MODEL = AndrogenSuppression()
HYPER = MODEL.default_hyperparameters()
CONSTANTS = MODEL.constants(HYPER)
TYPICAL = typical(HYPER)


def course(member: Array, switches: list[tuple[float, bool]], times: Array) -> Array:
    """States (n_times, 14) of a member under known switches [(day, on), ...], the first at day 0."""
    now, state, states = 0.0, member.copy(), []
    stops = sorted({*times.tolist(), *(day for day, _ in switches)})
    on = switches[0][1]
    begun = dict(switches)
    for stop in stops:
        if stop > now:
            after = np.empty_like(state)
            MODEL.propagate(state, now, stop, np.array([float(on), 0.0, 0.0]), CONSTANTS, after)
            state, now = after, stop
        on = begun.get(stop, on)
        if stop in times:
            states.append(state.copy())
    return np.array(states)


def psa(state: Array) -> float:
    """Expected PSA (ng/mL) of one member."""
    out = np.empty(2)
    MODEL.observe(state, 0, 0, CONSTANTS, out)
    return math.exp(out[0])


def hormone(state: Array) -> float:
    """Expected testosterone (nmol/L) of one member."""
    out = np.empty(2)
    MODEL.observe(state, 1, 0, CONSTANTS, out)
    return math.exp(out[0])


@pytest.mark.parametrize(("androgen", "on"), [("low", True), ("high", False)])
def test_linear_phases_follow_the_matrix_exponential(androgen: str, on: bool) -> None:
    """With a settled signal the logarithms obey a linear system, whose solution is a matrix exponential."""
    z = HYPER["androgen_range"][0 if androgen == "low" else 1]
    member = TYPICAL.copy()
    member[kernels.ANDROGEN] = z
    signal = 1.0 / (1.0 + math.exp(-(z + math.log(HYPER["sensitivity"]))))
    up = math.exp(member[kernels.GROWTH]) * signal
    down = math.exp(member[kernels.DECLINE]) * (1.0 - signal)
    creep = 0.01 * member[kernels.INDEPENDENT_GROWTH] * (1.0 - signal)
    push = up * member[kernels.CAPACITY] + down * member[kernels.REMNANT]
    system = np.array([[-(up + down), 0.0, push], [0.0, 0.0, creep], [0.0, 0.0, 0.0]])
    start = np.array([member[kernels.DEPENDENT], member[kernels.INDEPENDENT], 1.0])
    for day in (1.0, 28.0, 270.0):
        expected = expm(system * day) @ start
        got = np.empty_like(member)
        MODEL.propagate(member, 0.0, day, np.array([float(on), 0.0, 0.0]), CONSTANTS, got)
        assert got[kernels.DEPENDENT] == pytest.approx(expected[0], abs=1e-10)
        assert got[kernels.INDEPENDENT] == pytest.approx(expected[1], abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_two_cycles_agree_with_an_adaptive_integrator(seed: int) -> None:
    """Patients of the prior through on, off, on, off against an integrator at a tolerance of 1e-10."""
    rng = np.random.default_rng(seed)
    member = TYPICAL + np.array(HYPER["prior_sd"]) * rng.standard_normal(len(SHARED))
    switches = [(0.0, True), (270.0, False), (600.0, True), (870.0, False)]
    times = np.arange(14.0, 1100.0, 14.0)
    low, high = HYPER["androgen_range"]

    def slope(t: float, y: Array, on: bool) -> list[float]:
        z, dependent, _ = y
        signal = 1.0 / (1.0 + math.exp(-(z + math.log(HYPER["sensitivity"]))))
        castration, recovery = math.exp(member[kernels.CASTRATION]), math.exp(member[kernels.RECOVERY])
        return [
            castration * (low - z) if on else recovery * (high - z),
            math.exp(member[kernels.GROWTH]) * signal * (member[kernels.CAPACITY] - dependent)
            - math.exp(member[kernels.DECLINE]) * (1.0 - signal) * (dependent - member[kernels.REMNANT]),
            0.01 * member[kernels.INDEPENDENT_GROWTH] * (1.0 - signal),
        ]

    places = [kernels.ANDROGEN, kernels.DEPENDENT, kernels.INDEPENDENT]
    y, pieces = member[places], []
    for (begin, on), end in zip(switches, [*(day for day, _ in switches[1:]), 1100.0], strict=True):
        inside = times[(times > begin) & (times <= end)]
        solved = solve_ivp(slope, (begin, end), y, args=(on,), t_eval=[*inside, end], rtol=1e-10, atol=1e-12)
        pieces.append(solved.y[:, : len(inside)].T)
        y = solved.y[:, -1]
    expected, states = np.vstack(pieces), course(member, switches, times)
    assert np.abs(states[:, kernels.ANDROGEN] - expected[:, 0]).max() < 1e-8
    # The signal's mean over a step stands for its course: good to two per cent of PSA, far below its noise.
    assert np.abs(states[:, places[1:]] - expected[:, 1:]).max() < 0.02


def test_first_cycle_looks_like_the_trial() -> None:
    """Bruchovsky et al. 2006 (doi:10.1002/cncr.21989): PSA under 4 ng/mL by 36 weeks, testosterone low."""
    times = np.array([1.0, 56.0, 252.0, 420.0, 700.0])
    first, eighth_week, nadir, rising, late = course(TYPICAL, [(0.0, True), (252.0, False)], times)
    assert psa(first) > 10.0
    assert hormone(first) > 8.0
    assert hormone(eighth_week) < 3.0
    assert psa(nadir) < 4.0
    assert psa(nadir) < 0.1 * psa(first)
    assert hormone(nadir) < 1.0
    assert hormone(rising) > 8.0
    assert psa(nadir) < psa(rising) < psa(late)


def test_nadirs_rise_where_independent_cells_grow() -> None:
    """The relapse of Hirata et al. 2010: each suppression ends higher where the independent cells grow under it."""
    member = TYPICAL.copy()
    member[kernels.INDEPENDENT_GROWTH] = 0.5
    switches = [(0.0, True), (250.0, False), (550.0, True), (800.0, False), (1100.0, True), (1350.0, False)]
    nadirs = [psa(state) for state in course(member, switches, np.array([250.0, 800.0, 1350.0]))]
    assert nadirs[0] < nadirs[1] < nadirs[2]
