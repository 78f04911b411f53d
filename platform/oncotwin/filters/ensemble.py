"""Ensemble Kalman filters over a batch of twins: stochastic, and deterministic (square-root).

Source:
    Stochastic: Burgers, van Leeuwen & Evensen 1998, doi:10.1175/1520-0493(1998)126<1719:ASITEK>2.0.CO;2.
    Square-root: serial, Whitaker & Hamill 2002, doi:10.1175/1520-0493(2002)130<1913:EDAWPO>2.0.CO;2, equation 13.
    Mean-preserving random rotation: Sakov & Oke 2008, doi:10.1175/2007MWR2021.1; a uniformly distributed rotation
    from reflections: Stewart 1980, doi:10.1137/0717034.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit, types

from oncotwin.domain.errors import ConfigurationError
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
from oncotwin.filters.ensemble_state import EnsembleState
from oncotwin.filters.members import (
    draw_members,
    functions_of,
    gather_members,
    propagate_members,
    reset_members,
    truncated_quantile,
    weighted_moments,
)
from oncotwin.filters.random_stream import (
    PERTURBATION,
    RESAMPLING,
    ROTATION,
    bits_of,
    fill_normal,
    fill_uniform,
    purpose_word,
)
from oncotwin.filters.steps import Operation, StepTable
from oncotwin.filters.truncated import truncated_moments

_PREDICT, _OBSERVE, _RESET = int(Operation.PREDICT), int(Operation.OBSERVE), int(Operation.RESET)
_DONE, _MISSING, _REPAIRED, _REFUSED, _DIVERGED = (int(status) for status in StepStatus)

_f1, _f2, _f3 = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_i1, _u1 = types.int64[::1], types.uint64[::1]
_f8, _i8, _u8, _b1 = types.float64, types.int64, types.uint64, types.boolean


@njit(types.void(_f2, _f1, _i8), cache=True, nogil=True, error_model="numpy")
def _reflect(rows: Array, normal: Array, first: int) -> None:
    """Apply I - 2 v v' / (v'v) to the rows from ``first`` on, v being ``normal`` from there on."""
    n_rows, n = rows.shape
    length = 0.0
    for m in range(first, n_rows):
        length += normal[m] * normal[m]
    if length == 0.0:
        return
    for i in range(n):
        acc = 0.0
        for m in range(first, n_rows):
            acc += normal[m] * rows[m, i]
        acc *= 2.0 / length
        for m in range(first, n_rows):
            rows[m, i] -= acc * normal[m]


@njit(types.void(_f2, _u8, _u8, _f8, _f1, _f1), cache=True, nogil=True, error_model="numpy")
def rotate(anomalies: Array, twin_key: Any, step_key: Any, time: float, draws: Array, normal: Array) -> None:
    """Rotate centred anomalies (n_members, n) at random in place, keeping their mean zero and their covariance.

    In the basis whose first axis is the vector of ones the anomalies fill rows 1 and up; a product of reflections with
    random normals in 2, 3, ... n_members - 1 dimensions (and a random sign) is uniform over their rotations.
    """
    n_members = anomalies.shape[0]
    n_draws = (n_members - 1) * n_members // 2
    fill_normal(twin_key, step_key, bits_of(time), purpose_word(ROTATION, 0, 0, 0), draws, n_draws)
    normal[0] = 1.0 + 1.0 / math.sqrt(n_members)
    for m in range(1, n_members):
        normal[m] = 1.0 / math.sqrt(n_members)
    _reflect(anomalies, normal, 0)
    at = 0
    for first in range(n_members - 1, 0, -1):
        length = 0.0
        for m in range(first, n_members):
            normal[m] = draws[at]
            length += draws[at] * draws[at]
            at += 1
        if normal[first] < 0.0:
            for i in range(anomalies.shape[1]):
                anomalies[first, i] = -anomalies[first, i]
        normal[first] += math.copysign(math.sqrt(length), normal[first])
        _reflect(anomalies, normal, first)
    normal[0] = 1.0 + 1.0 / math.sqrt(n_members)
    for m in range(1, n_members):
        normal[m] = 1.0 / math.sqrt(n_members)
    _reflect(anomalies, normal, 0)


@njit(types.void(_f2, _i8, _f8, _b1, _u8, _f8, _f1, _f1, _f2), cache=True, nogil=True, error_model="numpy")
def _loosen(
    members: Array, n: int, inflation: float, rotated: bool, twin_key: Any, time: float, draws: Array, normal: Array,
    loosened: Array,
) -> None:
    """Write the analysis ensemble inflated (and rotated): what is due once for each moment of observation."""
    n_members, capacity = members.shape
    means = np.zeros(capacity)
    for i in range(capacity):
        for m in range(n_members):
            means[i] += members[m, i]
        means[i] /= n_members
        for m in range(n_members):
            loosened[m, i] = inflation * (members[m, i] - means[i]) if i < n else 0.0
    if rotated:
        rotate(loosened, twin_key, np.uint64(0), time, draws, normal)
    for m in range(n_members):
        for i in range(n):
            loosened[m, i] += means[i]


@njit(
    _i8(OBSERVE, _f2, _i8, _i8, _i8, _i8, _f8, _f8, _f1, _b1, _u8, _u8, _f8, _f1, _f1, _f1, _f1, _f1, _f1),
    cache=True, nogil=True, error_model="numpy",
)
def _assimilate(
    observe: Any, members: Array, n: int, operation: int, operator: int, target: int, value: float, upper: float,
    constants: Array, deterministic: bool, twin_key: Any, step_key: Any, time: float, expected: Array, noise: Array,
    draws: Array, pair: Array, moments: Array, out: Array,
) -> int:
    """Predict an observation with every member and condition the ensemble on it in place.

    Writes predicted mean, its variance with noise, and log-likelihood to ``out``; returns a `StepStatus`.
    """
    n_members = members.shape[0]
    out[0] = out[1] = math.nan
    out[2] = 0.0
    h, r = 0.0, 0.0
    for m in range(n_members):
        observe(members[m, :n], operator, target, constants, pair)
        if not (math.isfinite(pair[0]) and pair[1] >= 0.0 and math.isfinite(pair[1])):
            return _REFUSED
        expected[m], noise[m] = pair[0], pair[1]
        h += pair[0]
        r += pair[1]
    h /= n_members
    r = max(r / n_members, 1e-12)
    explained = 0.0
    for m in range(n_members):
        explained += (expected[m] - h) * (expected[m] - h)
    explained /= n_members - 1
    total = explained + r
    out[0] = h
    out[1] = total
    if operation == _PREDICT:
        return _DONE
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
    if explained <= 0.0:
        return _DONE
    if deterministic:
        # The factor that takes the sample covariance P to P - cc' shrink exactly; for an exact observation it is the
        # one of Whitaker & Hamill.
        gain = (1.0 - math.sqrt(max(1.0 - shrink * explained, 0.0))) / explained
        for m in range(n_members):
            draws[m] = -gain * (expected[m] - h)
        step = innovation / total
    else:
        what = purpose_word(PERTURBATION, operation, operator, target)
        fill_normal(twin_key, step_key, bits_of(time), what, draws, n_members)
        centre = 0.0
        for m in range(n_members):
            centre += draws[m]
        centre /= n_members
        sd = math.sqrt(r * n_members / (n_members - 1))
        for m in range(n_members):
            draws[m] = (sd * (draws[m] - centre) - (expected[m] - h)) / total
        step = innovation / total
        if operation != _OBSERVE:
            # One virtual observation for each member, from the predictive distribution given the censoring event.
            what = purpose_word(RESAMPLING, operation, operator, target)
            fill_uniform(twin_key, step_key, bits_of(time), what, noise, n_members)
            for m in range(n_members):
                virtual = truncated_quantile(operation, value - h, upper - h, math.sqrt(total), noise[m])
                draws[m] += virtual / total
            step = 0.0
    cross = np.zeros(n)
    for m in range(n_members):
        d = (expected[m] - h) / (n_members - 1)
        for i in range(n):
            cross[i] += d * members[m, i]
    for m in range(n_members):
        for i in range(n):
            members[m, i] += cross[i] * (step + draws[m])
    return _DONE


@njit(
    types.void(
        PROPAGATE, PROPAGATE_MANY, _b1, OBSERVE, _f3, _i1, _f1, _u1, _i1, _f2, _f2, _f8, _b1, _b1, _i1, _f1, _i1,
        _i1, _i1, _f1, _f1, _f2,
        _i1, _f3, _u1, _b1, _f1, _f1, _f1, _f2, _f3, _i1, _i1, _f2, _f2, _f2,
    ),
    cache=True, nogil=True, error_model="numpy",
)
def _fold(
    propagate: Any, propagate_many: Any, side_by_side: bool, observe: Any, members: Array, n_active: IntArray,
    clock: Array, keys: KeyArray,
    n_conditioned: IntArray, constants: Array, process_variance: Array, inflation: float, rotated: bool,
    deterministic: bool, offsets: IntArray, time: Array, operation: IntArray, operator: IntArray, target: IntArray,
    value: Array, upper: Array, inputs: Array, reset: IntArray, resets: Array, step_keys: KeyArray, record: bool,
    predicted_mean: Array, predicted_variance: Array, log_likelihood: Array, mean_out: Array, covariance_out: Array,
    n_active_out: IntArray, status: IntArray, member_mean: Array, member_variance: Array, member_weight: Array,
) -> None:
    """Fold every twin of the batch in place (the first arrays are the caller's copies)."""
    n_members, capacity = members.shape[1], members.shape[2]
    moved, loosened = np.zeros((n_members, capacity)), np.zeros((n_members, capacity))
    expected, noise, normal = np.zeros(n_members), np.zeros(n_members), np.zeros(n_members)
    n_draws = n_members * capacity
    if rotated:
        n_draws = max(n_draws, n_members * n_members // 2)
    draws = np.zeros(n_draws)
    weights = np.full(n_members, 1.0 / n_members)
    pair, moments, out = np.zeros(2), np.zeros(3), np.zeros(3)
    divisor = (n_members - 1.0) / n_members
    keep = member_mean.shape[0] > 0
    row = 0
    for twin in range(offsets.shape[0] - 1):
        for step in range(offsets[twin], offsets[twin + 1]):
            what = _DONE
            diverged = False
            n = n_active[twin]
            if time[step] > clock[twin]:
                start = members[twin]
                if n_conditioned[twin] > 0 and (inflation != 1.0 or rotated):
                    start = loosened
                    _loosen(members[twin], n, inflation, rotated, keys[twin], clock[twin], draws, normal, loosened)
                diverged = propagate_members(
                    propagate, propagate_many, side_by_side, start, n, clock[twin], time[step], inputs[step],
                    constants[twin],
                    process_variance[twin], keys[twin], step_keys[step], draws, moved,
                ) > 0
                if not diverged:
                    for m in range(n_members):
                        for i in range(n):
                            members[twin, m, i] = moved[m, i]
                    clock[twin] = time[step]
                    n_conditioned[twin] = 0
            if diverged:
                what = _DIVERGED
            elif operation[step] == _RESET:
                n_active[twin] = reset_members(
                    members[twin], n, resets[reset[step]], True, keys[twin], step_keys[step], time[step], draws
                )
            elif operation[step] >= _PREDICT:
                what = _assimilate(
                    observe, members[twin], n, operation[step], operator[step], target[step], value[step],
                    upper[step], constants[twin], deterministic, keys[twin], step_keys[step], time[step], expected,
                    noise, draws, pair, moments, out,
                )
                predicted_mean[step], predicted_variance[step], log_likelihood[step] = out[0], out[1], out[2]
                if operation[step] != _PREDICT and what == _DONE:
                    n_conditioned[twin] += 1
            if keep and operation[step] == _PREDICT:
                bad = what != _DONE
                for m in range(n_members):
                    member_mean[row, m] = math.nan if bad else expected[m]
                    member_variance[row, m] = math.nan if bad else noise[m]
                    member_weight[row, m] = 1.0 / n_members
                row += 1
            status[step] = what
            n_active_out[step] = n_active[twin]
            if record:
                weighted_moments(
                    members[twin], weights, n_active[twin], divisor, mean_out[step], covariance_out[step]
                )


@dataclass(frozen=True, slots=True)
class EnsembleFilter(FoldingFilter[EnsembleState]):
    """Ensemble Kalman filter, one observation at a time.

    It keeps skew and curvature that a mean and a covariance lose, but its update is still linear in the observation:
    where a likelihood makes two modes, use the particle filter. Below some 50 members it needs inflation.

    Attributes:
        n_members: of the ensemble.
        deterministic: square-root update without perturbed observations.
        inflation: factor on the anomalies, once for each moment at which something was observed.
        rotated: rotate the anomalies at random at the same moments (for small deterministic ensembles).
        seed: another seed gives an independent run.
        keep_members: write every member's prediction at PREDICT steps to the diagnostics.
    """

    n_members: int = 256
    deterministic: bool = False
    inflation: float = 1.0
    rotated: bool = False
    seed: int = 0
    keep_members: bool = False
    name: str = field(default="ensemble")

    def __post_init__(self) -> None:
        """Refuse ensembles without a spread."""
        if self.n_members < 2 or not self.inflation > 0.0:
            raise ConfigurationError(
                f"ensemble filter: {self.n_members} members (at least 2) with inflation {self.inflation} (above 0)"
            )

    def init(
        self, mean: Array, covariance: Array, n_active: IntArray, time: Array, keys: KeyArray | None = None
    ) -> EnsembleState:
        """Draw members of Gaussian priors; the sample means are the priors' own. ``keys`` default to 0, 1, 2, ..."""
        members, seeded = draw_members(
            mean, covariance, n_active, time, keys, self.seed, self.n_members, centred=True
        )
        arrays = (
            np.array(time, dtype=np.float64), np.array(n_active, dtype=np.int64), members, seeded,
            np.zeros(len(members), dtype=np.int64),
        )
        read_only(*arrays)
        return EnsembleState(*arrays)

    def fold(
        self, state: EnsembleState, system: System, steps: StepTable, *, record: bool = True
    ) -> tuple[EnsembleState, FoldInfo]:
        """Run each twin through its own steps of the table; inputs unchanged."""
        members, n_active, clock = state.members.copy(), state.n_active.copy(), state.time.copy()
        keys, n_conditioned = state.keys.copy(), state.n_conditioned.copy()
        n = members.shape[2]
        check_shapes(len(clock), n, clock, system, steps)
        info = blank_info(steps, n, record=record, n_members=members.shape[1] if self.keep_members else 0)
        _fold(
            *functions_of(system), members, n_active, clock, keys, n_conditioned, system.constants,
            system.process_variance, self.inflation, self.rotated, self.deterministic, *steps.columns, steps.keys,
            record, *info.columns, *info.member_columns,
        )
        read_only(members, n_active, clock, keys, n_conditioned)
        return EnsembleState(clock, n_active, members, keys, n_conditioned), info

    def gather(self, parts: Sequence[TwinPosterior], capacity: int) -> EnsembleState:
        """One batch of twins that were apart."""
        time, n_active, members, keys = gather_members(parts, self.n_members, capacity, weighted=False)
        n_conditioned = np.array([part.n_conditioned for part in parts], dtype=np.int64)
        read_only(time, n_active, members, keys, n_conditioned)
        return EnsembleState(time, n_active, members, keys, n_conditioned)

    def cut(self, state: EnsembleState, twin: int) -> TwinPosterior:
        """One twin of a batch on its own."""
        arrays = {"members": kept(state.members[twin, :, : state.n_active[twin]])}
        return TwinPosterior(
            float(state.time[twin]), arrays, int(state.keys[twin]), int(state.n_conditioned[twin])
        )
