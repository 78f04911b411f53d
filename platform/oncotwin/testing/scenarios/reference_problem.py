"""The problem on which filters are timed: two clones under treatment, ten augmented components, 84 steps an interval.

With s and r the sensitive and the resistant burden (in units of the first measurement), b = s + r and u the treatment::

    ds/dt = s (growth_s - crowding_s b - u kill_s - switch_sr) + r switch_rs
    dr/dt = r (growth_r - crowding_r b - u kill_r - switch_rs) + s switch_sr

State: the logarithms of s, r and of the eight rates, which drift slowly. Observed: log(s + r) every 21 days. The
right-hand side has no transcendental function, so that filters are timed and not a logarithm. Every peer integrates
the same equations by the same Runge-Kutta steps of six hours and is held to the same posterior.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray

from oncotwin.filters.base import OBSERVE_SIGNATURE, PROPAGATE_MANY_SIGNATURE, PROPAGATE_SIGNATURE, System
from oncotwin.filters.steps import Operation, StepTable

Array = NDArray[np.float64]

COMPONENTS = (
    "log_s", "log_r", "log_growth_s", "log_growth_r", "log_crowding_s", "log_crowding_r", "log_kill_s", "log_kill_r",
    "log_switch_sr", "log_switch_rs",
)
MEDIAN = (0.9, 0.05, 0.010, 0.008, 0.002, 0.002, 0.03, 0.002, 1e-4, 1e-4)
SPREAD = (0.3, 0.7, 0.4, 0.4, 0.5, 0.5, 0.5, 0.7, 0.5, 0.5)
N = len(COMPONENTS)
INTERVAL_DAYS = 21.0
N_SUBSTEPS = 84
DRIFT_VARIANCE_PER_DAY = 1e-5
NOISE_VARIANCE = 0.01
_WIDTH, _USED = 32, 10


@intrinsic  # type: ignore[untyped-decorator]
def fma(_context: Any, a: Any, _b: Any, _c: Any) -> Any:
    """a * b + c rounded once: one instruction, and the same bits in a vector register as in a scalar one."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), build


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(_context: Any, shifted: Any) -> Any:
    """2**n of n + 1.5 * 2**52: the low bits of that sum are n, and become the exponent."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        bits = builder.shl(builder.bitcast(arguments[0], word), ir.Constant(word, 52))
        return builder.bitcast(builder.add(bits, ir.Constant(word, 1023 << 52)), ir.DoubleType())

    return shifted(shifted), build


@njit(inline="always", error_model="numpy")  # type: ignore[untyped-decorator]
def _exp(x: float) -> float:
    """Exponential of abs(x) < 700 without a branch or a call, so that loops of it fill vector registers.

    Reduction by n log 2 in two parts (Cody & Waite 1980), then the series to the 13th power, good to 2 units of the
    last place.
    """
    shifted = fma(x, 1.4426950408889634, 6755399441055744.0)
    n = shifted - 6755399441055744.0
    r = fma(-n, 1.90821492927058770002e-10, fma(-n, 6.93147180369123816490e-01, x))
    p = fma(r, 1.6059043836821613e-10, 2.08767569878681e-09)
    p = fma(r, p, 2.505210838544172e-08)
    p = fma(r, p, 2.755731922398589e-07)
    p = fma(r, p, 2.7557319223985893e-06)
    p = fma(r, p, 2.48015873015873e-05)
    p = fma(r, p, 0.0001984126984126984)
    p = fma(r, p, 0.001388888888888889)
    p = fma(r, p, 0.008333333333333333)
    p = fma(r, p, 0.041666666666666664)
    p = fma(r, p, 0.16666666666666666)
    p = fma(r, p, 0.5)
    result: float = fma(r, fma(r, p, 1.0), 1.0) * _power_of_two(shifted)
    return result


@njit(PROPAGATE_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def propagate(member: Array, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """Runge-Kutta in steps of about ``constants[0]`` days."""
    n = max(round((t1 - t0) / constants[0]), 1)
    h = (t1 - t0) / n
    half, sixth = 0.5 * h, h / 6.0
    s, r = _exp(member[0]), _exp(member[1])
    to_r, to_s = _exp(member[8]), _exp(member[9])
    gain_s = _exp(member[2]) - inputs[0] * _exp(member[6]) - to_r
    gain_r = _exp(member[3]) - inputs[0] * _exp(member[7]) - to_s
    crowd_s, crowd_r = _exp(member[4]), _exp(member[5])
    for _ in range(n):
        b = s + r
        s1 = fma(s, fma(-crowd_s, b, gain_s), r * to_s)
        r1 = fma(r, fma(-crowd_r, b, gain_r), s * to_r)
        x, y = fma(half, s1, s), fma(half, r1, r)
        b = x + y
        s2 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
        r2 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
        x, y = fma(half, s2, s), fma(half, r2, r)
        b = x + y
        s3 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
        r3 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
        x, y = fma(h, s3, s), fma(h, r3, r)
        b = x + y
        s4 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
        r4 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
        s = fma(sixth, fma(2.0, s2 + s3, s1) + s4, s)
        r = fma(sixth, fma(2.0, r2 + r3, r1) + r4, r)
    out[0], out[1] = math.log(s), math.log(r)
    for i in range(2, member.shape[0]):
        out[i] = member[i]


@njit(PROPAGATE_MANY_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def propagate_many(
    members: Array, n: int, t0: float, t1: float, inputs: Array, constants: Array, out: Array
) -> None:
    """`propagate` for 32 members at a time: the inner loop runs across members, so that it fills vector registers."""
    steps = max(round((t1 - t0) / constants[0]), 1)
    h = (t1 - t0) / steps
    half, sixth = 0.5 * h, h / 6.0
    w = np.empty(_USED * _WIDTH)
    for first in range(0, members.shape[0], _WIDTH):
        width = min(_WIDTH, members.shape[0] - first)
        # Whole registers: the lanes beyond the last member repeat it, and nobody reads them.
        lanes = min((width + 3) // 4 * 4, _WIDTH)
        for j in range(lanes):
            member = members[first + min(j, width - 1)]
            for i in range(_USED):
                w[i * _WIDTH + j] = member[i]
        for i in range(_USED):
            row = w[i * _WIDTH : i * _WIDTH + lanes]
            for j in range(lanes):
                row[j] = _exp(row[j])
        for j in range(lanes):
            to_r, to_s = w[8 * _WIDTH + j], w[9 * _WIDTH + j]
            w[2 * _WIDTH + j] = w[2 * _WIDTH + j] - inputs[0] * w[6 * _WIDTH + j] - to_r
            w[3 * _WIDTH + j] = w[3 * _WIDTH + j] - inputs[0] * w[7 * _WIDTH + j] - to_s
        for _ in range(steps):
            for j in range(lanes):
                s, r = w[j], w[_WIDTH + j]
                gain_s, gain_r = w[2 * _WIDTH + j], w[3 * _WIDTH + j]
                crowd_s, crowd_r = w[4 * _WIDTH + j], w[5 * _WIDTH + j]
                to_r, to_s = w[8 * _WIDTH + j], w[9 * _WIDTH + j]
                b = s + r
                s1 = fma(s, fma(-crowd_s, b, gain_s), r * to_s)
                r1 = fma(r, fma(-crowd_r, b, gain_r), s * to_r)
                x, y = fma(half, s1, s), fma(half, r1, r)
                b = x + y
                s2 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
                r2 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
                x, y = fma(half, s2, s), fma(half, r2, r)
                b = x + y
                s3 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
                r3 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
                x, y = fma(h, s3, s), fma(h, r3, r)
                b = x + y
                s4 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
                r4 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
                w[j] = fma(sixth, fma(2.0, s2 + s3, s1) + s4, s)
                w[_WIDTH + j] = fma(sixth, fma(2.0, r2 + r3, r1) + r4, r)
        for j in range(width):
            out[first + j, 0], out[first + j, 1] = math.log(w[j]), math.log(w[_WIDTH + j])
            for i in range(2, n):
                out[first + j, i] = members[first + j, i]


@njit(OBSERVE_SIGNATURE, cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def observe(member: Array, operator: int, target: int, constants: Array, out: Array) -> None:
    """Logarithm of the whole burden, with noise variance ``constants[1]``."""
    larger = max(member[0], member[1])
    out[0] = larger + math.log(1.0 + math.exp(min(member[0], member[1]) - larger))
    out[1] = constants[1]


def system(n_twins: int) -> System:
    """The same system for every twin."""
    return System(
        propagate, observe, np.tile(np.array([INTERVAL_DAYS / N_SUBSTEPS, NOISE_VARIANCE]), (n_twins, 1)),
        np.full((n_twins, N), DRIFT_VARIANCE_PER_DAY), propagate_many,
    )


def prior(n_twins: int) -> tuple[Array, Array]:
    """Mean (k, 10) and covariance (k, 10, 10)."""
    mean, covariance = np.log(np.array(MEDIAN)), np.diag(np.square(SPREAD))
    return np.tile(mean, (n_twins, 1)), np.tile(covariance, (n_twins, 1, 1))


def simulate(n_twins: int, n_observations: int, seed: int) -> Array:
    """(k, n_observations) values seen in twins drawn from the prior, the first after one interval; always treated."""
    values = np.zeros((n_twins, n_observations))
    model, pair, always = system(1), np.zeros(2), np.ones(1)
    for twin in range(n_twins):
        draw = np.random.default_rng([seed, twin])
        member = np.log(np.array(MEDIAN)) + np.array(SPREAD) * draw.standard_normal(N)
        for visit in range(n_observations):
            moved = np.zeros(N)
            model.propagate(member, 0.0, INTERVAL_DAYS, always, model.constants[0], moved)
            member = moved + math.sqrt(DRIFT_VARIANCE_PER_DAY * INTERVAL_DAYS) * draw.standard_normal(N)
            model.observe(member, 0, 0, model.constants[0], pair)
            values[twin, visit] = pair[0] + math.sqrt(pair[1]) * draw.standard_normal()
    return values


def steps(values: Array) -> StepTable:
    """The step table of observations (k, n_observations) at days 21, 42, ..., under treatment."""
    k, n = values.shape
    rows = k * n
    indices: Any = np.zeros(rows, dtype=np.int64)
    return StepTable(
        offsets=np.arange(k + 1, dtype=np.int64) * n, time=np.tile(INTERVAL_DAYS * np.arange(1.0, n + 1.0), k),
        operation=indices + int(Operation.OBSERVE), operator=indices, target=indices.copy(),
        value=values.ravel().copy(), upper=np.zeros(rows), inputs=np.ones((rows, 1)), reset=indices - 1,
        resets=np.full((1, N, 2), np.nan), keys=np.arange(1, rows + 1, dtype=np.uint64),
    )
