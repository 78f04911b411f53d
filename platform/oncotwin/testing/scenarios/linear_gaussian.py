"""A linear-Gaussian system, for which the Kalman filter is the exact answer.

Source:
    Kalman 1960, doi:10.1115/1.3662552; in the covariance form of Anderson & Moore 1979, Optimal Filtering, chapter 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from oncotwin.filters.base import OBSERVE_SIGNATURE, PROPAGATE_SIGNATURE, System
from oncotwin.filters.steps import Operation, StepTable

Array = NDArray[np.float64]
N = 4


@njit(PROPAGATE_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def propagate(member: Array, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """A damped rotation in each pair of components, pushed by the input; exact over any interval."""
    dt = t1 - t0
    for pair in range(member.shape[0] // 2):
        angle = constants[0] * (pair + 1) * dt
        damp = math.exp(-constants[1] * dt)
        c, s = damp * math.cos(angle), damp * math.sin(angle)
        out[2 * pair] = c * member[2 * pair] - s * member[2 * pair + 1] + inputs[0] * dt
        out[2 * pair + 1] = s * member[2 * pair] + c * member[2 * pair + 1]


@njit(OBSERVE_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def observe(member: Array, operator: int, target: int, constants: Array, out: Array) -> None:
    """Operator 0: one component; operator 1: the sum of all; operator 2 never gives a number."""
    if operator == 0:
        out[0] = member[target]
    else:
        out[0] = 0.0
        for i in range(member.shape[0]):
            out[0] += member[i]
    if operator == 2:
        out[0] = math.nan
    out[1] = constants[2]


def system(n_twins: int) -> System:
    """The same system for every twin."""
    return System(
        propagate, observe, np.tile(np.array([0.3, 0.02, 0.5]), (n_twins, 1)),
        np.tile(np.array([0.01, 0.0, 0.03, 0.02]), (n_twins, 1)),
    )


def prior(n_twins: int, seed: int) -> tuple[Array, Array]:
    """Means (k, 4) and full covariances (k, 4, 4), another for each twin."""
    draw = np.random.default_rng(seed)
    roots = draw.normal(size=(n_twins, N, N)) * 0.5
    return draw.normal(size=(n_twins, N)), roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(N)


def steps(
    n_twins: int, n_each: int, seed: int, *, operations: tuple[int, ...] = (int(Operation.OBSERVE),)
) -> StepTable:
    """Observations of a simulated truth at irregular times (some together), of one component or of the sum of all.

    A censoring operation is given limits that the simulated observation satisfies; RESET renews component 1.
    """
    return _drawn(n_twins, n_each, seed, operations)[0]


def truth(n_twins: int, n_each: int, seed: int) -> Array:
    """(k, 4) the state behind the last observation of `steps` of the same arguments."""
    return _drawn(n_twins, n_each, seed, (int(Operation.OBSERVE),))[1]


def _drawn(n_twins: int, n_each: int, seed: int, operations: tuple[int, ...]) -> tuple[StepTable, Array]:
    draw = np.random.default_rng(seed)
    n = n_twins * n_each
    gaps = draw.exponential(1.0, size=(n_twins, n_each)) * (draw.random((n_twins, n_each)) > 0.2)
    time, inputs = np.cumsum(gaps, axis=1).ravel(), draw.normal(size=(n, 1)) * 0.3
    operator = draw.integers(0, 2, n)
    target = np.where(operator == 0, draw.integers(0, N, n), 0)
    operation = draw.choice(np.array(operations, dtype=np.int64), n)
    model, (mean, covariance) = system(n_twins), prior(n_twins, seed)
    seen, pair, last = np.zeros(n), np.zeros(2), np.zeros((n_twins, N))
    for twin in range(n_twins):
        member, clock = draw.multivariate_normal(mean[twin], covariance[twin]), 0.0
        for step in range(twin * n_each, (twin + 1) * n_each):
            if time[step] > clock:
                moved = np.zeros(N)
                model.propagate(member, clock, time[step], inputs[step], model.constants[twin], moved)
                spread = np.sqrt(model.process_variance[twin] * (time[step] - clock))
                member, clock = moved + spread * draw.standard_normal(N), time[step]
            model.observe(member, operator[step], target[step], model.constants[twin], pair)
            seen[step] = pair[0] + math.sqrt(pair[1]) * draw.standard_normal()
        last[twin] = member
    margin = draw.exponential(0.7, size=(n, 2))
    is_reset = operation == int(Operation.RESET)
    value = np.select(
        [operation == int(Operation.BELOW), operation >= int(Operation.ABOVE)],
        [seen + margin[:, 0], seen - margin[:, 0]], seen,
    )
    resets = np.full((1, N, 2), np.nan)
    resets[0, 1] = 0.3, 0.8
    table = StepTable(
        offsets=np.arange(n_twins + 1, dtype=np.int64) * n_each, time=time, operation=operation, operator=operator,
        target=target, value=value, upper=seen + margin[:, 1], inputs=inputs, reset=np.where(is_reset, 0, -1),
        resets=resets, keys=draw.integers(1, 2**63, n, dtype=np.uint64),
    )
    return table, last


@dataclass(frozen=True, slots=True)
class KalmanAnswer:
    """The exact posterior after each step: mean (n_steps, n), covariance (n_steps, n, n), log-likelihood (n_steps,)."""

    mean: Array
    covariance: Array
    log_likelihood: Array


def kalman(mean: Array, covariance: Array, model: System, table: StepTable) -> KalmanAnswer:
    """The closed form for tables of OBSERVE steps: the transition matrix is read off `propagate`."""
    means, covariances = np.zeros((table.n_steps, N)), np.zeros((table.n_steps, N, N))
    log_likelihood = np.zeros(table.n_steps)
    for twin in range(table.n_twins):
        m, p, clock = mean[twin].copy(), covariance[twin].copy(), 0.0
        for step in range(table.offsets[twin], table.offsets[twin + 1]):
            constants, until = model.constants[twin], float(table.time[step])
            a, b = _affine(model.propagate, clock, until, table.inputs[step], constants)
            m = a @ m + b
            p = a @ p @ a.T + np.diag(model.process_variance[twin]) * (until - clock)
            clock = until
            h = np.zeros(N)
            if table.operator[step] == 0:
                h[table.target[step]] = 1.0
            else:
                h[:] = 1.0
            total = float(h @ p @ h + constants[2])
            innovation = table.value[step] - float(h @ m)
            log_likelihood[step] = -0.5 * (math.log(2 * math.pi * total) + innovation**2 / total)
            gain = p @ h / total
            m = m + gain * innovation
            p = p - np.outer(gain, gain) * total
            means[step], covariances[step] = m, p
    return KalmanAnswer(means, covariances, log_likelihood)


def _affine(move: Any, t0: float, t1: float, inputs: Array, constants: Array) -> tuple[Array, Array]:
    if t1 <= t0:
        return np.eye(N), np.zeros(N)
    out = np.zeros((N + 1, N))
    starts = np.vstack([np.eye(N), np.zeros((1, N))])
    for row in range(N + 1):
        move(starts[row], t0, t1, inputs, constants, out[row])
    return (out[:N] - out[N]).T, out[N]
