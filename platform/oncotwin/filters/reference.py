"""Each filter once more in plain NumPy, as the textbook has it: the oracle that the kernels are held to in tests.

Slow, one twin at a time, with library routines where the kernels have loops of their own: `numpy.linalg`,
`scipy.special` and NumPy's generator Philox. Both read the same random stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri

from oncotwin.filters.base import Array, System
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.ensemble_state import EnsembleState
from oncotwin.filters.particle import ParticleFilter, ParticleState
from oncotwin.filters.random_stream import FRESH, JITTER, PERTURBATION, PROCESS, RESAMPLING
from oncotwin.filters.steps import Operation, StepTable
from oncotwin.filters.unscented import GaussianState, UnscentedFilter

Answer = list[tuple[Array, Array, float, float, float]]
"""For each step: analysis mean and covariance, predicted mean and variance, log-likelihood."""


def uniforms(twin_key: int, step_key: int, time: float, purpose: int, n: int) -> Array:
    """The stream of `random_stream.fill_uniform` from NumPy's own generator."""
    counter = np.array([0, np.float64(time).view(np.uint64), purpose, 0], dtype=np.uint64)
    generator = np.random.Philox(counter=counter, key=np.array([twin_key, step_key], dtype=np.uint64))
    raw = np.asarray(generator.random_raw(n), dtype=np.uint64)
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _normals(twin_key: int, step_key: int, time: float, purpose: int, n: int) -> Array:
    return np.asarray(ndtri(uniforms(twin_key, step_key, time, purpose, n)))


def _purpose(purpose: int, table: StepTable, step: int) -> int:
    what, where, which = (int(a[step]) for a in (table.operation, table.operator, table.target))
    return purpose | what << 8 | where << 16 | which << 32


def truncated(operation: int, low: float, high: float, mean: float, variance: float) -> tuple[float, float, float]:
    """Log-probability, mean and variance of a Gaussian given the censoring event, by quadrature.

    The weight is integrated on ten thousand equal pieces of the part of the line that holds it.
    """
    sd = math.sqrt(variance)
    a = {Operation.BELOW: -math.inf, Operation.ABOVE: low, Operation.BETWEEN: low}[Operation(operation)]
    b = {Operation.BELOW: low, Operation.ABOVE: math.inf, Operation.BETWEEN: high}[Operation(operation)]
    za, zb = (a - mean) / sd, (b - mean) / sd
    if za > 0.0:
        below, above = float(log_ndtr(-zb)), float(log_ndtr(-za))
    else:
        below, above = float(log_ndtr(za)), float(log_ndtr(zb))
    log_probability = above + math.log1p(-math.exp(below - above))
    peak = min(max(0.0, za), zb)
    edges = np.linspace(max(za, peak - 12.0), min(zb, peak + 12.0), 200_001)
    z = 0.5 * (edges[1:] + edges[:-1])
    weight = np.exp(-0.5 * (z * z - peak * peak))
    weight /= weight.sum()
    centre = float(weight @ z)
    return log_probability, mean + sd * centre, variance * float(weight @ (z - centre) ** 2)


def _move(system: System, twin: int, rows: Array, start: float, table: StepTable, step: int) -> Array:
    out = np.zeros(rows.shape)
    for row, to in zip(np.ascontiguousarray(rows), out, strict=True):
        system.propagate(row, start, float(table.time[step]), table.inputs[step], system.constants[twin], to)
    return out


def _expect(system: System, twin: int, rows: Array, table: StepTable, step: int) -> tuple[Array, Array]:
    pair = np.zeros(2)
    out = np.zeros((len(rows), 2))
    for i, row in enumerate(np.ascontiguousarray(rows)):
        system.observe(row, int(table.operator[step]), int(table.target[step]), system.constants[twin], pair)
        out[i] = pair
    return out[:, 0], np.maximum(out[:, 1], 1e-12)


def _grown(mean: Array, size: int) -> Array:
    return np.concatenate([mean, np.zeros((size - len(mean), *mean.shape[1:]))])


def fold_unscented(
    chosen: UnscentedFilter, state: GaussianState, system: System, table: StepTable, twin: int
) -> Answer:
    """One twin of the unscented filter, in matrix form with explicit weights."""
    answer: Answer = []
    n = int(state.n_active[twin])
    m, p, clock = state.mean[twin, :n].copy(), state.covariance[twin, :n, :n].copy(), float(state.time[twin])
    for step in range(table.offsets[twin], table.offsets[twin + 1]):
        until = float(table.time[step])
        predicted, variance, log_likelihood = math.nan, math.nan, 0.0
        if until > clock:
            points, w, wc = _sigma(chosen, m, p)
            moved = _move(system, twin, points, clock, table, step)
            m = w @ moved
            p = (moved - m).T @ (wc[:, None] * (moved - m))
            p += np.diag(system.process_variance[twin, : len(m)]) * (until - clock)
            clock = until
        what = int(table.operation[step])
        if what == Operation.RESET:
            fresh = table.resets[table.reset[step]]
            named = np.flatnonzero(~np.isnan(fresh[:, 0]))
            size = max(len(m), int(named.max()) + 1)
            m = _grown(m, size)
            p = _grown(_grown(p, size).T, size).T
            m[named] = fresh[named, 0]
            p[named, :] = 0.0
            p[:, named] = 0.0
            p[named, named] = fresh[named, 1]
        elif what >= Operation.PREDICT:
            points, w, wc = _sigma(chosen, m, p)
            h, r = _expect(system, twin, points, table, step)
            predicted = float(w @ h)
            variance = float(wc @ (h - predicted) ** 2 + w @ r)
            if what != Operation.PREDICT:
                cross = (points - m).T @ (wc * (h - predicted))
                value = float(table.value[step])
                if what == Operation.OBSERVE:
                    after, left = value, 0.0
                    log_likelihood = -0.5 * (math.log(2 * math.pi * variance) + (value - predicted) ** 2 / variance)
                else:
                    log_likelihood, after, left = truncated(what, value, float(table.upper[step]), predicted, variance)
                gain = cross / variance
                m = m + gain * (after - predicted)
                p = p - np.outer(gain, gain) * (variance - left)
        answer.append((m, p, predicted, variance, log_likelihood))
    return answer


def _sigma(chosen: UnscentedFilter, m: Array, p: Array) -> tuple[Array, Array, Array]:
    n = len(m)
    spread = chosen.alpha**2 * (n + chosen.kappa)
    root = np.linalg.cholesky(p) * math.sqrt(spread)
    points = np.vstack([m, m + root.T, m - root.T])
    w = np.full(2 * n + 1, 0.5 / spread)
    w[0] = 1.0 - n / spread
    wc = w.copy()
    wc[0] += 1.0 - chosen.alpha**2 + chosen.beta
    return points, w, wc


def _members_before(
    system: System, twin: int, rows: Array, clock: float, table: StepTable, step: int, key: int
) -> Array:
    """Members (m, n) moved to a step, process noise included."""
    until = float(table.time[step])
    moved = _move(system, twin, rows, clock, table, step)
    q = system.process_variance[twin, : rows.shape[1]]
    noisy = np.flatnonzero(q > 0.0)
    if noisy.size:
        draws = _normals(key, int(table.keys[step]), until, PROCESS, len(rows) * noisy.size)
        moved[:, noisy] += np.sqrt(q[noisy] * (until - clock)) * draws.reshape(len(rows), noisy.size)
    return moved


def _members_reset(rows: Array, table: StepTable, step: int, key: int, *, exact: bool) -> Array:
    fresh = table.resets[table.reset[step]]
    named = np.flatnonzero(~np.isnan(fresh[:, 0]))
    rows = _grown(rows.T, max(rows.shape[1], int(named.max()) + 1)).T.copy()
    for i in named:
        what = FRESH | int(Operation.RESET) << 8 | int(i) << 32
        draws = _normals(key, int(table.keys[step]), float(table.time[step]), what, len(rows))
        if exact:
            draws = (draws - draws.mean()) / draws.std(ddof=1)
        rows[:, i] = fresh[i, 0] + math.sqrt(fresh[i, 1]) * draws
    return rows


def fold_ensemble(chosen: EnsembleFilter, state: EnsembleState, system: System, table: StepTable, twin: int) -> Answer:
    """One twin of the ensemble filter without rotation (whose axes are nobody's but the kernel's)."""
    answer: Answer = []
    rows, clock = state.members[twin, :, : state.n_active[twin]].copy(), float(state.time[twin])
    key, conditioned = int(state.keys[twin]), bool(state.n_conditioned[twin])
    n_members = len(rows)
    for step in range(table.offsets[twin], table.offsets[twin + 1]):
        until, step_key = float(table.time[step]), int(table.keys[step])
        predicted, variance, log_likelihood = math.nan, math.nan, 0.0
        if until > clock:
            if conditioned:
                rows = rows.mean(axis=0) + chosen.inflation * (rows - rows.mean(axis=0))
            rows = _members_before(system, twin, rows, clock, table, step, key)
            clock, conditioned = until, False
        what = int(table.operation[step])
        if what == Operation.RESET:
            rows = _members_reset(rows, table, step, key, exact=True)
        elif what >= Operation.PREDICT:
            h, r = _expect(system, twin, rows, table, step)
            predicted, noise = float(h.mean()), float(r.mean())
            explained = float(h.var(ddof=1))
            variance = explained + noise
            if what != Operation.PREDICT:
                conditioned = True
                value, upper = float(table.value[step]), float(table.upper[step])
                gain = (rows - rows.mean(axis=0)).T @ (h - predicted) / (n_members - 1) / variance
                if what == Operation.OBSERVE:
                    after, left = value, 0.0
                    log_likelihood = -0.5 * (math.log(2 * math.pi * variance) + (value - predicted) ** 2 / variance)
                else:
                    log_likelihood, after, left = truncated(what, value, upper, predicted, variance)
                if chosen.deterministic:
                    kept = (variance - left) / variance * explained / variance
                    factor = (1.0 - math.sqrt(1.0 - kept)) * variance / explained
                    rows = rows + gain * (after - predicted) - np.outer(factor * (h - predicted), gain)
                else:
                    draws = _normals(key, step_key, until, _purpose(PERTURBATION, table, step), n_members)
                    draws = (draws - draws.mean()) * math.sqrt(noise * n_members / (n_members - 1))
                    seen: Any = value
                    if what != Operation.OBSERVE:
                        u = uniforms(key, step_key, until, _purpose(RESAMPLING, table, step), n_members)
                        seen = _virtual(what, value, upper, predicted, math.sqrt(variance), u)
                    rows = rows + np.outer(seen + draws - h, gain)
        answer.append((rows.mean(axis=0), np.atleast_2d(np.cov(rows.T)), predicted, variance, log_likelihood))
    return answer


def _virtual(what: int, value: float, upper: float, mean: float, sd: float, u: Array) -> Array:
    """Virtual observations: quantiles ``u`` of the predictive distribution given the censoring event."""
    if what == Operation.BELOW:
        return np.asarray(mean + sd * ndtri(u * ndtr((value - mean) / sd)))
    if what == Operation.ABOVE:
        return np.asarray(mean - sd * ndtri(u * ndtr(-(value - mean) / sd)))
    a, b = (value - mean) / sd, (upper - mean) / sd
    sign = -1.0 if a > 0.0 else 1.0
    a, b = (a, b) if sign > 0.0 else (-b, -a)
    return np.asarray(mean + sign * sd * ndtri(ndtr(a) + u * (ndtr(b) - ndtr(a))))


def _log_probability(what: int, value: float, upper: float) -> Callable[[Array, Array], NDArray[np.float64]]:
    """Log-probability of what was seen, given expected observations and noise standard deviations."""
    if what == Operation.OBSERVE:
        return lambda h, sd: -0.5 * ((value - h) / sd) ** 2 - np.log(sd * math.sqrt(2.0 * math.pi))
    if what == Operation.BELOW:
        return lambda h, sd: np.asarray(log_ndtr((value - h) / sd))
    if what == Operation.ABOVE:
        return lambda h, sd: np.asarray(log_ndtr((h - value) / sd))

    def between(h: Array, sd: Array) -> Array:
        sign = np.where(value > h, -1.0, 1.0)
        high = np.where(sign > 0.0, upper - h, h - value) / sd
        low = np.where(sign > 0.0, value - h, h - upper) / sd
        return np.asarray(log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high))))

    return between


def fold_particle(chosen: ParticleFilter, state: ParticleState, system: System, table: StepTable, twin: int) -> Answer:
    """One twin of the particle filter."""
    answer: Answer = []
    rows, clock = state.particles[twin, :, : state.n_active[twin]].copy(), float(state.time[twin])
    key, log_weights = int(state.keys[twin]), state.log_weights[twin].copy()
    n_particles = len(rows)
    for step in range(table.offsets[twin], table.offsets[twin + 1]):
        until, step_key = float(table.time[step]), int(table.keys[step])
        predicted, variance, log_likelihood, resample = math.nan, math.nan, 0.0, False
        if until > clock:
            rows = _members_before(system, twin, rows, clock, table, step, key)
            clock = until
        what = int(table.operation[step])
        if what == Operation.RESET:
            rows = _members_reset(rows, table, step, key, exact=False)
        elif what >= Operation.PREDICT:
            weights = np.exp(log_weights - logsumexp(log_weights))
            h, r = _expect(system, twin, rows, table, step)
            predicted = float(weights @ h)
            variance = float(weights @ (r + (h - predicted) ** 2))
            if what != Operation.PREDICT:
                seen = _log_probability(what, float(table.value[step]), float(table.upper[step]))
                log_weights = log_weights + seen(h, np.sqrt(r))
                log_likelihood = float(logsumexp(log_weights))
                log_weights = log_weights - log_likelihood
                resample = True
        weights = np.exp(log_weights - logsumexp(log_weights))
        m = weights @ rows
        p = (rows - m).T @ (weights[:, None] * (rows - m))
        answer.append((m, p, predicted, variance, log_likelihood))
        if resample and 1.0 / float(weights @ weights) < chosen.threshold * n_particles:
            u = uniforms(key, step_key, until, _purpose(RESAMPLING, table, step), 1)[0]
            comb = (np.arange(n_particles) + u) / n_particles
            ancestors = np.minimum(np.searchsorted(np.cumsum(weights), comb), np.flatnonzero(weights).max())
            rows = rows[ancestors]
            if chosen.jitter > 0.0:
                width = chosen.jitter * n_particles ** (-1.0 / (rows.shape[1] + 4.0))
                draws = _normals(key, step_key, until, _purpose(JITTER, table, step), rows.size).reshape(rows.shape)
                kernel = width * draws @ np.linalg.cholesky(p / (1.0 - float(weights @ weights))).T
                if chosen.shrink:
                    centre = rows.mean(axis=0)
                    rows = centre + math.sqrt(max(1.0 - width**2, 0.0)) * (rows - centre) + kernel
                else:
                    copied = np.bincount(ancestors, minlength=n_particles)[ancestors] > 1
                    rows = np.where(copied[:, None], rows + kernel, rows)
            log_weights = np.full(n_particles, -math.log(n_particles))
    return answer
