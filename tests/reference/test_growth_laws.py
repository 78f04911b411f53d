"""The closed forms of the classical laws against numerical solutions of their equations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from oncotwin.models import growth

Array = NDArray[np.float64]
DAYS = np.linspace(0.0, 120.0, 13)
SIZE = 250.0


def solved(rate: Callable[[float, float], float], size: float = SIZE) -> Array:
    """Size (13,) at `DAYS` of ``ds/dt = rate(t, s)``."""
    solution = solve_ivp(
        lambda t, s: [rate(t, s[0])], (0.0, DAYS[-1]), [size], t_eval=DAYS, rtol=1e-11, atol=1e-9, method="LSODA"
    )
    return np.asarray(solution.y[0])


@pytest.mark.parametrize(
    ("closed", "rate"),
    [
        (growth.exponential(DAYS, SIZE, 0.03), lambda t, s: 0.03 * s),
        (growth.exponential(DAYS, SIZE, -0.02), lambda t, s: -0.02 * s),
        (growth.logistic(DAYS, SIZE, 0.06, 2e3), lambda t, s: 0.06 * s * (1.0 - s / 2e3)),
        (growth.logistic(DAYS, SIZE, 0.06, 1e2), lambda t, s: 0.06 * s * (1.0 - s / 1e2)),
        (growth.gompertz(DAYS, SIZE, 0.02, 8e3), lambda t, s: -0.02 * s * np.log(s / 8e3)),
        (growth.bertalanffy(DAYS, SIZE, 0.5, 0.03), lambda t, s: 0.5 * s ** (2.0 / 3.0) - 0.03 * s),
        (
            growth.richards(DAYS, SIZE, 0.04, 5e3, 0.4),
            lambda t, s: 0.04 / 0.4 * s * (1.0 - (s / 5e3) ** 0.4),
        ),
        (growth.claret(DAYS, SIZE, 0.01, 0.05, 0.03), lambda t, s: 0.01 * s - 0.05 * np.exp(-0.03 * t) * s),
        (growth.claret(DAYS, SIZE, 0.01, 0.05, 0.0), lambda t, s: (0.01 - 0.05) * s),
    ],
    ids=["exponential", "shrinkage", "logistic", "logistic_above_capacity", "gompertz", "bertalanffy", "richards",
         "claret", "claret_without_waning"],
)
def test_closed_form_solves_its_equation(closed: Array, rate: Callable[[float, float], float]) -> None:
    np.testing.assert_allclose(closed, solved(rate), rtol=1e-7)


def test_bertalanffy_is_richards_of_shape_minus_a_third() -> None:
    gain, loss = 0.5, 0.03
    as_richards = growth.richards(DAYS, SIZE, loss / 3.0, (gain / loss) ** 3, -1.0 / 3.0)
    np.testing.assert_allclose(growth.bertalanffy(DAYS, SIZE, gain, loss), as_richards, rtol=1e-12)


def test_gompertz_is_the_limit_of_richards() -> None:
    near = growth.richards(DAYS, SIZE, 0.02, 8e3, 1e-7)
    np.testing.assert_allclose(near, growth.gompertz(DAYS, SIZE, 0.02, 8e3), rtol=1e-6)


def test_stein_solves_the_two_exponentials_it_is_made_of() -> None:
    """One part decays, one grows; the third term takes the double count at the start away."""
    decaying = solved(lambda t, s: -0.03 * s)
    growing = solved(lambda t, s: 0.008 * s)
    np.testing.assert_allclose(growth.stein(DAYS, SIZE, 0.008, 0.03), decaying + growing - SIZE, rtol=1e-7)
    assert growth.stein(0.0, SIZE, 0.008, 0.03) == SIZE


def test_two_clones_are_the_sum_of_a_killed_and_an_untouched_one() -> None:
    killed = solved(lambda t, s: (0.01 - 0.06) * s, 0.8 * SIZE)
    untouched = solved(lambda t, s: 0.01 * s, 0.2 * SIZE)
    np.testing.assert_allclose(growth.two_clones(DAYS, SIZE, 0.2, 0.01, 0.06), killed + untouched, rtol=1e-7)
