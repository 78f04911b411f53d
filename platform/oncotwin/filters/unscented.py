"""The unscented Kalman filter over a batch of twins, one observation at a time: the default filter.

Source:
    Julier & Uhlmann 2004, doi:10.1109/JPROC.2003.823141 (sigma points, equations 12 to 15); Wan & van der Merwe 2000,
    doi:10.1109/ASSPCC.2000.882463 (scaled weights). Censored observations by moments of the truncated predictive
    (assumed-density filtering): Allik et al. 2016, doi:10.1109/TAES.2015.140898.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types

from oncotwin.domain.errors import ConfigurationError, ModelError
from oncotwin.filters.base import (
    OBSERVE,
    PROPAGATE,
    PROPAGATE_MANY,
    Array,
    FoldInfo,
    FoldingFilter,
    IntArray,
    KeyArray,
    StepStatus,
    System,
    TwinPosterior,
    blank_info,
    check_shapes,
    kept,
    read_only,
)
from oncotwin.filters.linear import factorise
from oncotwin.filters.members import functions_of, move
from oncotwin.filters.steps import Operation, StepTable
from oncotwin.filters.truncated import truncated_moments

_PREDICT = int(Operation.PREDICT)
_RESET = int(Operation.RESET)
_OBSERVE = int(Operation.OBSERVE)
_DONE, _MISSING, _REPAIRED, _REFUSED, _DIVERGED = (int(status) for status in StepStatus)

_f1, _f2, _f3 = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_i1 = types.int64[::1]
_f8, _i8, _b1 = types.float64, types.int64, types.boolean


@njit(types.boolean(_f1, _f2, _i8, _f8, _f2, _f2), cache=True, nogil=True, error_model="numpy")
def sigma_points(mean: Array, covariance: Array, n: int, scale: float, factor: Array, points: Array) -> bool:
    """Write the 2n + 1 sigma points (rows): the centre, then plus and minus by column of the factor.

    Returns whether the covariance had to be repaired.
    """
    repaired: bool = factorise(covariance, n, factor)
    for i in range(n):
        points[0, i] = mean[i]
    for j in range(n):
        for i in range(n):
            d = scale * factor[i, j]
            points[1 + j, i] = mean[i] + d
            points[1 + n + j, i] = mean[i] - d
    return repaired


@njit(
    _i8(
        PROPAGATE, PROPAGATE_MANY, _b1, _f1, _f2, _i8, _f8, _f8, _f1, _f1, _f1, _f8, _f8, _f8, _f2, _f2, _f2,
    ),
    cache=True, nogil=True, error_model="numpy",
)
def _forecast(
    propagate: Any, propagate_many: Any, side_by_side: bool, mean: Array, covariance: Array, n: int, start: float,
    end: float, inputs: Array, constants: Array, process_variance: Array, alpha: float, beta: float, kappa: float,
    factor: Array, points: Array, moved: Array,
) -> int:
    """Propagate one twin's moments in place; returns a `StepStatus`,
    and leaves them untouched where it is DIVERGED."""
    spread = alpha * alpha * (n + kappa)
    w = 0.5 / spread
    w0 = 1.0 - n / spread + 1.0 - alpha * alpha + beta
    # Cubature points give the centre no weight at all: it need not be moved.
    first = 1 if n == spread and w0 == 0.0 else 0
    repaired = sigma_points(mean, covariance, n, math.sqrt(spread), factor, points)
    if not move(
        propagate, propagate_many, side_by_side, points[first : 2 * n + 1], 2 * n + 1 - first, n, start, end, inputs,
        constants, moved[first:],
    ):
        return _DIVERGED
    # Sums run over deviations from one of the points: exact where the system is linear, whatever the weights.
    shift = points[0]
    for i in range(n):
        shift[i] = 0.0
    for s in range(1, 2 * n + 1):
        for i in range(n):
            shift[i] += moved[s, i] - moved[first, i]
    for i in range(n):
        shift[i] *= w
        mean[i] = moved[first, i] + shift[i]
    for s in range(1, 2 * n + 1):
        for i in range(n):
            moved[s, i] -= mean[i]
    for i in range(n):
        for j in range(0, i + 1, 2):
            # Four sums that do not wait for each other: two components, points on the one side and on the other.
            k = min(j + 1, i)
            plus, minus, next_plus, next_minus = 0.0, 0.0, 0.0, 0.0
            for s in range(1, n + 1):
                left, right = moved[s, i], moved[n + s, i]
                plus += left * moved[s, j]
                minus += right * moved[n + s, j]
                next_plus += left * moved[s, k]
                next_minus += right * moved[n + s, k]
            covariance[i, k] = w * (next_plus + next_minus) + w0 * shift[i] * shift[k]
            covariance[k, i] = covariance[i, k]
            covariance[i, j] = w * (plus + minus) + w0 * shift[i] * shift[j]
            covariance[j, i] = covariance[i, j]
        covariance[i, i] += process_variance[i] * (end - start)
    return _REPAIRED if repaired else _DONE


@njit(
    _i8(OBSERVE, _f1, _f2, _i8, _i8, _i8, _i8, _f8, _f8, _f1, _f8, _f8, _f8, _f2, _f2, _f1, _f1, _f1, _f1, _f1),
    cache=True, nogil=True, error_model="numpy",
)
def _assimilate(
    observe: Any, mean: Array, covariance: Array, n: int, operation: int, operator: int, target: int, value: float,
    upper: float, constants: Array, alpha: float, beta: float, kappa: float, factor: Array, points: Array,
    expected: Array, cross: Array, pair: Array, moments: Array, out: Array,
) -> int:
    """Predict an observation of one twin and condition its moments on it in place.

    Writes predicted mean, its variance with noise, and log-likelihood to ``out``; returns a `StepStatus`.
    """
    out[0] = out[1] = math.nan
    out[2] = 0.0
    spread = alpha * alpha * (n + kappa)
    w = 0.5 / spread
    w0 = 1.0 - n / spread + 1.0 - alpha * alpha + beta
    repaired = sigma_points(mean, covariance, n, math.sqrt(spread), factor, points)
    noise = 0.0
    first_noise = 0.0
    shift = 0.0
    first = 1 if n == spread and w0 == 0.0 else 0
    for s in range(first, 2 * n + 1):
        observe(points[s, :n], operator, target, constants, pair)
        if not (math.isfinite(pair[0]) and pair[1] >= 0.0 and math.isfinite(pair[1])):
            return _REFUSED
        expected[s] = pair[0]
        if s == first:
            first_noise = pair[1]
        else:
            noise += pair[1] - first_noise
            shift += pair[0] - expected[first]
    noise = max(first_noise + w * noise, 1e-12)
    shift *= w
    h = expected[first] + shift
    explained = 0.0
    for s in range(1, 2 * n + 1):
        explained += (expected[s] - h) * (expected[s] - h)
    total = max(w * explained + w0 * shift * shift, 0.0) + noise
    out[0] = h
    out[1] = total
    done = _REPAIRED if repaired else _DONE
    if operation == _PREDICT:
        return done
    if math.isnan(value):
        return _MISSING
    if operation == _OBSERVE:
        innovation = value - h
        out[2] = -0.5 * (math.log(2.0 * math.pi * total) + innovation * innovation / total)
        shrink = 1.0 / total
    else:
        truncated_moments(operation, value, upper, h, total, moments)
        out[2] = moments[0]
        innovation = moments[1] - h
        shrink = (total - moments[2]) / (total * total)
    if not (math.isfinite(out[2]) and math.isfinite(innovation) and math.isfinite(shrink)):
        out[2] = 0.0
        return _REFUSED
    for i in range(n):
        cross[i] = 0.0
    for s in range(1, 2 * n + 1):
        d = w * (expected[s] - h)
        for i in range(n):
            cross[i] += d * (points[s, i] - mean[i])
    for i in range(n):
        mean[i] += cross[i] * innovation / total
        for j in range(i + 1):
            covariance[i, j] -= cross[i] * cross[j] * shrink
            covariance[j, i] = covariance[i, j]
    return done


@njit(_i8(_f1, _f2, _i8, _f2), cache=True, nogil=True, error_model="numpy")
def _reset(mean: Array, covariance: Array, n: int, fresh: Array) -> int:
    """Give components fresh independent priors in place; returns the new number of active components."""
    for i in range(mean.shape[0]):
        if not math.isnan(fresh[i, 0]):
            n = max(n, i + 1)
            for j in range(mean.shape[0]):
                covariance[i, j] = 0.0
                covariance[j, i] = 0.0
            mean[i] = fresh[i, 0]
            covariance[i, i] = fresh[i, 1]
    return n


@njit(
    types.void(
        PROPAGATE, PROPAGATE_MANY, _b1, OBSERVE, _f2, _f3, _i1, _f1, _f2, _f2, _f8, _f8, _f8, _i1, _f1, _i1, _i1,
        _i1, _f1, _f1, _f2, _i1,
        _f3, types.boolean, _f1, _f1, _f1, _f2, _f3, _i1, _i1,
    ),
    cache=True, nogil=True, error_model="numpy",
)
def _fold(
    propagate: Any, propagate_many: Any, side_by_side: bool, observe: Any, mean: Array, covariance: Array,
    n_active: IntArray, clock: Array, constants: Array, process_variance: Array, alpha: float, beta: float,
    kappa: float, offsets: IntArray, time: Array,
    operation: IntArray, operator: IntArray, target: IntArray, value: Array, upper: Array, inputs: Array,
    reset: IntArray, resets: Array, record: bool, predicted_mean: Array, predicted_variance: Array,
    log_likelihood: Array, mean_out: Array, covariance_out: Array, n_active_out: IntArray, status: IntArray,
) -> None:
    """Fold every twin of the batch in place (`mean`, `covariance`, `n_active`, `clock` are the caller's copies)."""
    capacity = mean.shape[1]
    points = np.zeros((2 * capacity + 1, capacity))
    moved = np.zeros((2 * capacity + 1, capacity))
    factor = np.zeros((capacity, capacity))
    expected = np.zeros(2 * capacity + 1)
    cross, pair, moments, out = np.zeros(capacity), np.zeros(2), np.zeros(3), np.zeros(3)
    for twin in range(offsets.shape[0] - 1):
        for step in range(offsets[twin], offsets[twin + 1]):
            what = _DONE
            diverged = False
            if time[step] > clock[twin]:
                what = _forecast(
                    propagate, propagate_many, side_by_side, mean[twin], covariance[twin], n_active[twin],
                    clock[twin], time[step], inputs[step],
                    constants[twin], process_variance[twin], alpha, beta, kappa, factor, points, moved,
                )
                diverged = what == _DIVERGED
                if not diverged:
                    clock[twin] = time[step]
            if diverged:
                what = _DIVERGED
            elif operation[step] == _RESET:
                n_active[twin] = _reset(mean[twin], covariance[twin], n_active[twin], resets[reset[step]])
            elif operation[step] >= _PREDICT:
                what = max(what, _assimilate(
                    observe, mean[twin], covariance[twin], n_active[twin], operation[step], operator[step],
                    target[step], value[step], upper[step], constants[twin], alpha, beta, kappa, factor, points,
                    expected, cross, pair, moments, out,
                ))
                predicted_mean[step], predicted_variance[step], log_likelihood[step] = out[0], out[1], out[2]
            status[step] = what
            n_active_out[step] = n_active[twin]
            if record:
                for i in range(capacity):
                    mean_out[step, i] = mean[twin, i]
                    for j in range(capacity):
                        covariance_out[step, i, j] = covariance[twin, i, j]


@dataclass(frozen=True, slots=True)
class GaussianState:
    """Posterior of a batch of twins as mean and covariance.

    Attributes:
        time: (k,) days since 1970-01-01.
        n_active: (k,) active components of each twin.
        mean: (k, n); covariance: (k, n, n); zero beyond ``n_active``.
    """

    time: Array
    n_active: IntArray
    mean: Array
    covariance: Array

    @property
    def capacity(self) -> int:
        """Components that there is room for."""
        return int(self.mean.shape[1])

    def moments(self) -> tuple[Array, Array]:
        """Posterior mean (k, n) and covariance (k, n, n)."""
        return self.mean, self.covariance


@dataclass(frozen=True, slots=True)
class UnscentedFilter(FoldingFilter[GaussianState]):
    """Unscented Kalman filter with scaled sigma points; exact for linear-Gaussian systems.

    It fails where the posterior has several modes or is strongly skewed: it then keeps mean and covariance of one
    bell; the particle filter tells.

    Attributes:
        alpha, beta, kappa: spread and weights of the sigma points (Wan & van der Merwe 2000, equation 15). The
            defaults are the spherical cubature points (Arasaratnam & Haykin 2009, doi:10.1109/TAC.2009.2019800),
            whose weights are never negative.
    """

    alpha: float = 1.0
    beta: float = 0.0
    kappa: float = 0.0
    name: str = "unscented"

    def __post_init__(self) -> None:
        """Refuse weights that have no sigma points."""
        if not (self.alpha > 0.0 and self.kappa >= 0.0):
            raise ConfigurationError(
                f"unscented filter: alpha {self.alpha} must be above 0 and kappa {self.kappa} not below 0; "
                "leave them at their defaults"
            )

    @property
    def n_members(self) -> int:
        """None."""
        return 0

    def init(
        self, mean: Array, covariance: Array, n_active: IntArray, time: Array, keys: KeyArray | None = None
    ) -> GaussianState:
        """Start from Gaussian priors: mean (k, n), covariance (k, n, n), at ``time`` (k,) days; ``keys`` unused."""
        arrays = (
            np.array(time, dtype=np.float64), np.array(n_active, dtype=np.int64),
            np.array(mean, dtype=np.float64, order="C"), np.array(covariance, dtype=np.float64, order="C"),
        )
        read_only(*arrays)
        return GaussianState(*arrays)

    def fold(
        self, state: GaussianState, system: System, steps: StepTable, *, record: bool = True
    ) -> tuple[GaussianState, FoldInfo]:
        """Run each twin through its own steps of the table; inputs unchanged."""
        mean, covariance = state.mean.copy(), state.covariance.copy()
        n_active, clock = state.n_active.copy(), state.time.copy()
        check_shapes(len(clock), mean.shape[1], clock, system, steps)
        info = blank_info(steps, mean.shape[1], record=record)
        _fold(
            *functions_of(system), mean, covariance, n_active, clock, system.constants, system.process_variance,
            self.alpha, self.beta, self.kappa, *steps.columns, record, *info.columns,
        )
        read_only(mean, covariance, n_active, clock)
        return GaussianState(clock, n_active, mean, covariance), info

    def gather(self, parts: Sequence[TwinPosterior], capacity: int) -> GaussianState:
        """One batch of twins that were apart."""
        k = len(parts)
        mean, covariance, n_active = np.zeros((k, capacity)), np.zeros((k, capacity, capacity)), np.zeros(k, np.int64)
        for i, part in enumerate(parts):
            if "mean" not in part.arrays:
                raise ModelError(f"unscented filter: twin {i} has {sorted(part.arrays)}; fold it anew")
            n = part.n_active
            n_active[i], mean[i, :n], covariance[i, :n, :n] = n, part.arrays["mean"], part.arrays["covariance"]
        time = np.array([part.time for part in parts])
        read_only(time, n_active, mean, covariance)
        return GaussianState(time, n_active, mean, covariance)

    def cut(self, state: GaussianState, twin: int) -> TwinPosterior:
        """One twin of a batch on its own."""
        n = int(state.n_active[twin])
        arrays = {"mean": kept(state.mean[twin, :n]), "covariance": kept(state.covariance[twin, :n, :n])}
        return TwinPosterior(float(state.time[twin]), arrays)
