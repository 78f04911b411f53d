"""The bootstrap particle filter over a batch of twins, with adaptive resampling and optional regularisation.

Source:
    Gordon, Salmond & Smith 1993, doi:10.1049/ip-f-2.1993.0015; adaptive resampling: Liu & Chen 1995,
    doi:10.1080/01621459.1995.10476549; kernel smoothing that keeps mean and covariance: Liu & West 2001,
    doi:10.1007/978-1-4757-3437-9_10; regularisation by a plain kernel: Musso, Oudjane & Le Gland 2001,
    doi:10.1007/978-1-4757-3437-9_12.
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
from oncotwin.filters.linear import factorise
from oncotwin.filters.members import (
    draw_members,
    functions_of,
    gather_members,
    normalise,
    propagate_members,
    reset_members,
    weighted_moments,
)
from oncotwin.filters.random_stream import JITTER, RESAMPLING, bits_of, fill_normal, fill_uniform, purpose_word
from oncotwin.filters.resampling import effective_size, systematic
from oncotwin.filters.steps import Operation, StepTable
from oncotwin.filters.truncated import truncated_moments

_PREDICT, _OBSERVE, _RESET = int(Operation.PREDICT), int(Operation.OBSERVE), int(Operation.RESET)
_DONE, _MISSING, _REPAIRED, _REFUSED, _DIVERGED = (int(status) for status in StepStatus)

_f1, _f2, _f3 = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_i1, _u1 = types.int64[::1], types.uint64[::1]
_f8, _i8, _u8, _b1 = types.float64, types.int64, types.uint64, types.boolean


@njit(
    _i8(OBSERVE, _f2, _f1, _i8, _i8, _i8, _i8, _f8, _f8, _f1, _f1, _f1, _f1, _f1, _f1, _f1),
    cache=True, nogil=True, error_model="numpy",
)
def _assimilate(
    observe: Any, particles: Array, log_weights: Array, n: int, operation: int, operator: int, target: int,
    value: float, upper: float, constants: Array, expected: Array, noise: Array, weights: Array, pair: Array,
    moments: Array, out: Array,
) -> int:
    """Predict an observation with every particle and multiply its weight by the likelihood, in place.

    Writes predicted mean, its variance with noise, and log-likelihood to ``out``, and the normalised weights after
    the step to ``weights``; returns a `StepStatus`.
    """
    n_particles = particles.shape[0]
    out[0] = out[1] = math.nan
    out[2] = 0.0
    normalise(log_weights, weights)
    h, r = 0.0, 0.0
    for m in range(n_particles):
        expected[m], noise[m] = 0.0, 0.0
        if weights[m] == 0.0:
            continue
        observe(particles[m, :n], operator, target, constants, pair)
        if not (math.isfinite(pair[0]) and pair[1] >= 0.0 and math.isfinite(pair[1])):
            return _REFUSED
        expected[m], noise[m] = pair[0], max(pair[1], 1e-12)
        h += weights[m] * pair[0]
        r += weights[m] * noise[m]
    for m in range(n_particles):
        r += weights[m] * (expected[m] - h) * (expected[m] - h)
    out[0] = h
    out[1] = r
    if operation == _PREDICT:
        return _DONE
    if math.isnan(value):
        return _MISSING
    largest = -math.inf
    for m in range(n_particles):
        if weights[m] == 0.0:
            moments[0] = -math.inf
        elif operation == _OBSERVE:
            d = value - expected[m]
            moments[0] = -0.5 * (math.log(2.0 * math.pi * noise[m]) + d * d / noise[m])
        else:
            truncated_moments(operation, value, upper, expected[m], noise[m], moments)
        expected[m] = log_weights[m] + moments[0]
        largest = max(largest, expected[m])
    if not math.isfinite(largest):
        return _REFUSED
    acc = 0.0
    for m in range(n_particles):
        weights[m] = math.exp(expected[m] - largest)
        acc += weights[m]
    out[2] = largest + math.log(acc)
    for m in range(n_particles):
        weights[m] /= acc
        log_weights[m] = expected[m] - out[2]
    return _DONE


@njit(
    types.void(_f2, _f1, _i8, _f1, _f8, _b1, _u8, _u8, _f8, _u8, _i1, _f1, _f1, _f2, _f2, _f2),
    cache=True, nogil=True, error_model="numpy",
)
def _resample(
    particles: Array, log_weights: Array, n: int, weights: Array, jitter: float, shrink: bool, twin_key: Any,
    step_key: Any, time: float, what: Any, ancestors: IntArray, draws: Array, mean: Array, covariance: Array,
    factor: Array, chosen: Array,
) -> None:
    """Replace weighted by equal particles in place, and spread them by a kernel of width ``jitter`` bandwidths."""
    n_particles = particles.shape[0]
    fill_uniform(twin_key, step_key, bits_of(time), what | np.uint64(RESAMPLING), draws, 1)
    systematic(weights, draws[0], ancestors)
    centre = np.zeros(n)
    for m in range(n_particles):
        for i in range(n):
            chosen[m, i] = particles[ancestors[m], i]
            centre[i] += chosen[m, i] / n_particles
    if jitter > 0.0:
        lost = 1.0 / effective_size(weights)
        if lost * (n + 1.0) > 1.0:
            # Fewer effective particles than n + 1 span no kernel; the spread before the observation is the next best.
            lost = 1.0 / n_particles
            for m in range(n_particles):
                weights[m] = lost
        weighted_moments(particles, weights, n, 1.0 - lost, mean, covariance)
        factorise(covariance, n, factor)
        # Scott's rule (1992, equation 6.42) for the bandwidth in n dimensions.
        width = jitter * n_particles ** (-1.0 / (n + 4.0))
        keep = math.sqrt(max(1.0 - width * width, 0.0)) if shrink else 1.0
        fill_normal(twin_key, step_key, bits_of(time), what | np.uint64(JITTER), draws, n_particles * n)
        for m in range(n_particles):
            # A plain kernel moves only the copies of an ancestor that was chosen more than once.
            alone = (m == 0 or ancestors[m] != ancestors[m - 1]) and (
                m == n_particles - 1 or ancestors[m] != ancestors[m + 1]
            )
            if not shrink and alone:
                continue
            for i in range(n):
                acc = 0.0
                for j in range(i + 1):
                    acc += factor[i, j] * draws[m * n + j]
                chosen[m, i] = centre[i] + keep * (chosen[m, i] - centre[i]) + width * acc
    for m in range(n_particles):
        log_weights[m] = -math.log(n_particles)
        for i in range(n):
            particles[m, i] = chosen[m, i]


@njit(
    types.void(
        PROPAGATE, PROPAGATE_MANY, _b1, OBSERVE, _f3, _f2, _i1, _f1, _u1, _f2, _f2, _f8, _f8, _b1, _i1, _f1, _i1,
        _i1, _i1, _f1, _f1, _f2,
        _i1, _f3, _u1, _b1, _f1, _f1, _f1, _f2, _f3, _i1, _i1, _f2, _f2, _f2,
    ),
    cache=True, nogil=True, error_model="numpy",
)
def _fold(
    propagate: Any, propagate_many: Any, side_by_side: bool, observe: Any, particles: Array, log_weights: Array,
    n_active: IntArray, clock: Array, keys: KeyArray, constants: Array, process_variance: Array, threshold: float,
    jitter: float, shrink: bool,
    offsets: IntArray, time: Array, operation: IntArray, operator: IntArray, target: IntArray, value: Array,
    upper: Array, inputs: Array, reset: IntArray, resets: Array, step_keys: KeyArray, record: bool,
    predicted_mean: Array, predicted_variance: Array, log_likelihood: Array, mean_out: Array, covariance_out: Array,
    n_active_out: IntArray, status: IntArray, member_mean: Array, member_variance: Array, member_weight: Array,
) -> None:
    """Fold every twin of the batch in place (the first arrays are the caller's copies)."""
    n_particles, capacity = particles.shape[1], particles.shape[2]
    moved = np.zeros((n_particles, capacity))
    expected, noise, weights = np.zeros(n_particles), np.zeros(n_particles), np.zeros(n_particles)
    draws, ancestors = np.zeros(n_particles * capacity), np.zeros(n_particles, dtype=np.int64)
    mean, covariance, factor = np.zeros(capacity), np.zeros((capacity, capacity)), np.zeros((capacity, capacity))
    pair, moments, out = np.zeros(2), np.zeros(3), np.zeros(3)
    keep = member_mean.shape[0] > 0
    row = 0
    for twin in range(offsets.shape[0] - 1):
        for step in range(offsets[twin], offsets[twin + 1]):
            what = _DONE
            diverged = False
            n = n_active[twin]
            if time[step] > clock[twin]:
                n_bad = propagate_members(
                    propagate, propagate_many, side_by_side, particles[twin], n, clock[twin], time[step],
                    inputs[step], constants[twin], process_variance[twin], keys[twin], step_keys[step], draws, moved,
                )
                if n_bad:
                    # A particle that left the numbers is one the model rules out: it loses its weight.
                    diverged = True
                    for m in range(n_particles):
                        if not math.isnan(moved[m, 0]) and log_weights[twin, m] > -math.inf:
                            diverged = False
                if not diverged:
                    for m in range(n_particles):
                        if math.isnan(moved[m, 0]):
                            log_weights[twin, m] = -math.inf
                        else:
                            for i in range(n):
                                particles[twin, m, i] = moved[m, i]
                    if n_bad:
                        normalise(log_weights[twin], weights)
                        for m in range(n_particles):
                            log_weights[twin, m] = math.log(weights[m]) if weights[m] > 0.0 else -math.inf
                    clock[twin] = time[step]
            if diverged:
                what = _DIVERGED
            elif operation[step] == _RESET:
                n_active[twin] = reset_members(
                    particles[twin], n, resets[reset[step]], False, keys[twin], step_keys[step], time[step], draws
                )
            elif operation[step] >= _PREDICT:
                what = _assimilate(
                    observe, particles[twin], log_weights[twin], n, operation[step], operator[step], target[step],
                    value[step], upper[step], constants[twin], expected, noise, weights, pair, moments, out,
                )
                predicted_mean[step], predicted_variance[step], log_likelihood[step] = out[0], out[1], out[2]
            if keep and operation[step] == _PREDICT:
                bad = what != _DONE
                for m in range(n_particles):
                    member_mean[row, m] = math.nan if bad else expected[m]
                    member_variance[row, m] = math.nan if bad else noise[m]
                    member_weight[row, m] = math.nan if bad else weights[m]
                row += 1
            status[step] = what
            n_active_out[step] = n_active[twin]
            if record:
                normalise(log_weights[twin], weights)
                weighted_moments(
                    particles[twin], weights, n_active[twin], 1.0, mean_out[step], covariance_out[step]
                )
            learned = operation[step] >= _OBSERVE and operation[step] != _RESET and what == _DONE
            if learned and effective_size(weights) < threshold * n_particles:
                _resample(
                    particles[twin], log_weights[twin], n, weights, jitter, shrink, keys[twin], step_keys[step],
                    time[step], purpose_word(0, operation[step], operator[step], target[step]), ancestors, draws,
                    mean, covariance, factor, moved,
                )


@dataclass(frozen=True, slots=True)
class ParticleState:
    """Posterior of a batch of twins as weighted particles.

    Attributes:
        time: (k,) days since 1970-01-01.
        n_active: (k,) active components of each twin.
        particles: (k, n_particles, n); zero beyond ``n_active``.
        log_weights: (k, n_particles); the weights of a twin sum to one.
        keys: (k,) uint64, the twins' names to the random generator, the filter's seed mixed in.
    """

    time: Array
    n_active: IntArray
    particles: Array
    log_weights: Array
    keys: KeyArray

    @property
    def capacity(self) -> int:
        """Components that there is room for."""
        return int(self.particles.shape[2])

    def moments(self) -> tuple[Array, Array]:
        """Posterior mean (k, n) and covariance (k, n, n)."""
        k, n_particles, n = self.particles.shape
        mean, covariance, weights = np.zeros((k, n)), np.zeros((k, n, n)), np.zeros(n_particles)
        for twin in range(k):
            normalise(self.log_weights[twin].copy(), weights)
            weighted_moments(self.particles[twin].copy(), weights, n, 1.0, mean[twin], covariance[twin])
        return mean, covariance


@dataclass(frozen=True, slots=True)
class ParticleFilter(FoldingFilter[ParticleState]):
    """Bootstrap particle filter: right for any posterior, given particles enough.

    It needs many: with a thousand in ten dimensions its means are off by half a posterior standard deviation.

    Attributes:
        n_particles: of each twin.
        threshold: resample when the effective size falls below this part of them; 0 never, 1 always.
        jitter: kernel width after resampling, in bandwidths of Scott's rule; 0 for none.
        shrink: draw the particles towards their mean before the kernel, so that their covariance stays as it was.
        seed: another seed gives an independent run.
        keep_members: write every particle's prediction at PREDICT steps to the diagnostics.
    """

    n_particles: int = 10_000
    threshold: float = 0.5
    jitter: float = 0.0
    shrink: bool = True
    seed: int = 0
    keep_members: bool = False
    name: str = field(default="particle")

    def __post_init__(self) -> None:
        """Refuse settings without particles or with a kernel of negative width."""
        if self.n_particles < 2 or self.jitter < 0.0 or not 0.0 <= self.threshold <= 1.0:
            raise ConfigurationError(
                f"particle filter: {self.n_particles} particles (at least 2), jitter {self.jitter} (not below 0), "
                f"threshold {self.threshold} (0 to 1)"
            )

    @property
    def n_members(self) -> int:
        """Particles of each twin."""
        return self.n_particles

    def init(
        self, mean: Array, covariance: Array, n_active: IntArray, time: Array, keys: KeyArray | None = None
    ) -> ParticleState:
        """Draw particles of Gaussian priors. ``keys`` default to 0, 1, 2, ..."""
        particles, seeded = draw_members(
            mean, covariance, n_active, time, keys, self.seed, self.n_particles, centred=False
        )
        arrays = (
            np.array(time, dtype=np.float64), np.array(n_active, dtype=np.int64), particles,
            np.full(particles.shape[:2], -math.log(self.n_particles)), seeded,
        )
        read_only(*arrays)
        return ParticleState(*arrays)

    def fold(
        self, state: ParticleState, system: System, steps: StepTable, *, record: bool = True
    ) -> tuple[ParticleState, FoldInfo]:
        """Run each twin through its own steps of the table; inputs unchanged."""
        particles, log_weights, n_active = state.particles.copy(), state.log_weights.copy(), state.n_active.copy()
        clock, keys = state.time.copy(), state.keys.copy()
        n = particles.shape[2]
        check_shapes(len(clock), n, clock, system, steps)
        info = blank_info(steps, n, record=record, n_members=particles.shape[1] if self.keep_members else 0)
        _fold(
            *functions_of(system), particles, log_weights, n_active, clock, keys, system.constants,
            system.process_variance, self.threshold, self.jitter, self.shrink, *steps.columns, steps.keys, record,
            *info.columns, *info.member_columns,
        )
        read_only(particles, log_weights, n_active, clock, keys)
        return ParticleState(clock, n_active, particles, log_weights, keys), info

    def gather(self, parts: Sequence[TwinPosterior], capacity: int) -> ParticleState:
        """One batch of twins that were apart."""
        time, n_active, particles, keys = gather_members(parts, self.n_particles, capacity, weighted=True)
        log_weights = np.array([part.arrays["log_weights"] for part in parts]).reshape(len(parts), self.n_particles)
        read_only(time, n_active, particles, log_weights, keys)
        return ParticleState(time, n_active, particles, log_weights, keys)

    def cut(self, state: ParticleState, twin: int) -> TwinPosterior:
        """One twin of a batch on its own."""
        arrays = {
            "members": kept(state.particles[twin, :, : state.n_active[twin]]),
            "log_weights": kept(state.log_weights[twin]),
        }
        return TwinPosterior(float(state.time[twin]), arrays, int(state.keys[twin]))
