"""The forty-variable model of Lorenz, fully observed at every step: chaotic, high-dimensional, mildly non-linear.

Source:
    Sakov & Oke 2008, doi:10.1111/j.1600-0870.2007.00299.x (dt 0.05, observed at every step with variance 1). Model:
    Lorenz & Emanuel 1998, doi:10.1175/1520-0469(1998)055<0399:OSFSWO>2.0.CO;2. Scores: as published with the DAPPER
    software, Raanes, Chen & Grudzien 2024, doi:10.21105/joss.05150.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from oncotwin.filters.base import OBSERVE_SIGNATURE, PROPAGATE_SIGNATURE
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.testing.scenarios.twin_experiment import TwinExperiment

Array = NDArray[np.float64]
N = 40


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _slope(x: Array, forcing: float, out: Array) -> None:
    n = x.shape[0]
    for i in range(n):
        out[i] = (x[(i + 1) % n] - x[i - 2]) * x[i - 1] - x[i] + forcing


@njit(PROPAGATE_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def propagate(member: Array, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """Fourth-order Runge-Kutta in steps of ``constants[0]``; forcing ``constants[2]``."""
    steps = max(round((t1 - t0) / constants[0]), 1)
    h = (t1 - t0) / steps
    n = member.shape[0]
    a, b, c, d, at = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    out[:] = member
    for _ in range(steps):
        _slope(out, constants[2], a)
        for i in range(n):
            at[i] = out[i] + 0.5 * h * a[i]
        _slope(at, constants[2], b)
        for i in range(n):
            at[i] = out[i] + 0.5 * h * b[i]
        _slope(at, constants[2], c)
        for i in range(n):
            at[i] = out[i] + h * c[i]
        _slope(at, constants[2], d)
        for i in range(n):
            out[i] += h / 6.0 * (a[i] + 2.0 * (b[i] + c[i]) + d[i])


@njit(OBSERVE_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def observe(member: Array, operator: int, target: int, constants: Array, out: Array) -> None:
    """One component, with noise variance ``constants[1]``."""
    out[0] = member[target]
    out[1] = constants[1]


EXPERIMENT = TwinExperiment(
    name="lorenz96", propagate=propagate, observe=observe, constants=(0.05, 1.0, 8.0),
    start=(1.0,) + (0.0,) * (N - 1), start_variance=0.001, interval=0.05, noise_variance=1.0, n_cycles=2_000,
    burn_in=400, diverged_at=2.0,
)
SCORES = (
    ("stochastic ensemble, 40 members, inflation 1.06", EnsembleFilter(40, inflation=1.06), 0.22),
    (
        "square-root ensemble, 24 members, inflation 1.013, rotated",
        EnsembleFilter(24, deterministic=True, inflation=1.013, rotated=True), 0.18,
    ),
)
"""Filter, and the published time-mean analysis root-mean-square error."""
