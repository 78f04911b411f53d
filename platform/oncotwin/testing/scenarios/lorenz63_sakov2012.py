"""The three-variable model of Lorenz, fully observed at long intervals: strongly non-linear, low-dimensional.

Source:
    Sakov, Oliver & Bertino 2012, doi:10.1175/MWR-D-11-00176.1, table 1 (dt 0.01, observed every 25 steps, variance 2
    of observations and of the start). Model: Lorenz 1963, doi:10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2. Scores:
    as published with the DAPPER software, Raanes, Chen & Grudzien 2024, doi:10.21105/joss.05150.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from oncotwin.filters.base import OBSERVE_SIGNATURE, PROPAGATE_SIGNATURE
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.testing.scenarios.twin_experiment import TwinExperiment

Array = NDArray[np.float64]


@njit(PROPAGATE_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def propagate(member: Array, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """Fourth-order Runge-Kutta in steps of ``constants[0]``."""
    n = max(round((t1 - t0) / constants[0]), 1)
    h = (t1 - t0) / n
    x, y, z = member[0], member[1], member[2]
    for _ in range(n):
        ax, ay, az = 10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z
        u, v, w = x + 0.5 * h * ax, y + 0.5 * h * ay, z + 0.5 * h * az
        bx, by, bz = 10.0 * (v - u), u * (28.0 - w) - v, u * v - 8.0 / 3.0 * w
        u, v, w = x + 0.5 * h * bx, y + 0.5 * h * by, z + 0.5 * h * bz
        cx, cy, cz = 10.0 * (v - u), u * (28.0 - w) - v, u * v - 8.0 / 3.0 * w
        u, v, w = x + h * cx, y + h * cy, z + h * cz
        dx, dy, dz = 10.0 * (v - u), u * (28.0 - w) - v, u * v - 8.0 / 3.0 * w
        x += h / 6.0 * (ax + 2.0 * (bx + cx) + dx)
        y += h / 6.0 * (ay + 2.0 * (by + cy) + dy)
        z += h / 6.0 * (az + 2.0 * (bz + cz) + dz)
    out[0], out[1], out[2] = x, y, z


@njit(OBSERVE_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def observe(member: Array, operator: int, target: int, constants: Array, out: Array) -> None:
    """One component, with noise variance ``constants[1]``."""
    out[0] = member[target]
    out[1] = constants[1]


EXPERIMENT = TwinExperiment(
    name="lorenz63", propagate=propagate, observe=observe, constants=(0.01, 2.0),
    start=(1.509, -1.531, 25.46), start_variance=2.0, interval=0.25, noise_variance=2.0, n_cycles=4_096, burn_in=64,
    diverged_at=3.0,
)
SCORES = (
    ("stochastic ensemble, 100 members, inflation 1.01", EnsembleFilter(100, inflation=1.01), 0.56),
    (
        "square-root ensemble, 10 members, inflation 1.02, rotated",
        EnsembleFilter(10, deterministic=True, inflation=1.02, rotated=True), 0.60,
    ),
    (
        "particle, 800 particles, kernel 0.6, threshold 0.2",
        ParticleFilter(800, threshold=0.2, jitter=0.6, shrink=False), 0.28,
    ),
)
"""Filter, and the published time-mean analysis root-mean-square error."""
