"""What ensembles and particles share: drawing members, moving them, and taking their moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit, types

from oncotwin.domain.errors import ModelError
from oncotwin.filters.base import (
    PROPAGATE,
    PROPAGATE_MANY,
    PROPAGATE_MANY_SIGNATURE,
    Array,
    IntArray,
    KeyArray,
    System,
    TwinPosterior,
)
from oncotwin.filters.linear import all_finite, factorise
from oncotwin.filters.random_stream import (
    FRESH,
    INITIAL,
    PROCESS,
    bits_of,
    fill_normal,
    mix,
    normal_quantile,
    purpose_word,
)
from oncotwin.filters.steps import Operation
from oncotwin.filters.truncated import log_cdf

_f1, _f2, _f3 = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_f8, _i8, _u8 = types.float64, types.int64, types.uint64
_BELOW, _ABOVE, _RESET = int(Operation.BELOW), int(Operation.ABOVE), int(Operation.RESET)


@njit(PROPAGATE_MANY_SIGNATURE, cache=True, nogil=True, error_model="numpy")
def one_by_one(
    members: Array, n: int, t0: float, t1: float, inputs: Array, constants: Array, out: Array
) -> None:
    """Stands in for a `propagate_many` that a system does not have: kernels then call `propagate` for each row."""


def functions_of(system: System) -> tuple[Callable[..., Any], Callable[..., Any], bool, Callable[..., Any]]:
    """The system's compiled functions as every kernel takes them: ways to move, which one, and to observe."""
    many = system.propagate_many
    return system.propagate, many or one_by_one, many is not None, system.observe


@njit(
    types.boolean(PROPAGATE, PROPAGATE_MANY, types.boolean, _f2, _i8, _i8, _f8, _f8, _f1, _f1, _f2),
    cache=True, nogil=True, error_model="numpy",
)
def move(
    propagate: Any, propagate_many: Any, side_by_side: bool, members: Array, n_members: int, n: int, start: float,
    end: float, inputs: Array, constants: Array, moved: Array,
) -> bool:
    """Propagate the first rows, all at once where the system can; returns whether all came out finite."""
    if side_by_side:
        propagate_many(members[:n_members], n, start, end, inputs, constants, moved[:n_members])
    finite = True
    for m in range(n_members):
        if not side_by_side:
            propagate(members[m, :n], start, end, inputs, constants, moved[m, :n])
        for i in range(n):
            finite = finite and math.isfinite(moved[m, i])
    return finite


@njit(
    _i8(PROPAGATE, PROPAGATE_MANY, types.boolean, _f2, _i8, _f8, _f8, _f1, _f1, _f1, _u8, _u8, _f1, _f2),
    cache=True, nogil=True, error_model="numpy",
)
def propagate_members(
    propagate: Any, propagate_many: Any, side_by_side: bool, members: Array, n: int, start: float, end: float,
    inputs: Array, constants: Array, process_variance: Array, twin_key: Any, step_key: Any, draws: Array,
    moved: Array,
) -> int:
    """Move every member (row) and add process noise; returns how many came out not finite (their rows hold NaN)."""
    n_members = members.shape[0]
    n_noisy = 0
    noisy, spread = np.empty(n, dtype=np.int64), np.empty(n)
    for i in range(n):
        if process_variance[i] > 0.0:
            noisy[n_noisy] = i
            spread[n_noisy] = math.sqrt(process_variance[i] * (end - start))
            n_noisy += 1
    if n_noisy:
        fill_normal(
            twin_key, step_key, bits_of(end), purpose_word(PROCESS, 0, 0, 0), draws, n_members * n_noisy
        )
    finite = move(
        propagate, propagate_many, side_by_side, members, n_members, n, start, end, inputs, constants, moved
    )
    n_bad = 0
    if not finite:
        for m in range(n_members):
            if not all_finite(moved[m], n):
                moved[m, 0] = math.nan
                n_bad += 1
    if n_noisy:
        at = 0
        for m in range(n_members):
            for i in range(n_noisy):
                moved[m, noisy[i]] += spread[i] * draws[at]
                at += 1
    return n_bad


@njit(_i8(_f2, _i8, _f2, types.boolean, _u8, _u8, _f8, _f1), cache=True, nogil=True, error_model="numpy")
def reset_members(
    members: Array, n: int, fresh: Array, exact: bool, twin_key: Any, step_key: Any, time: float, draws: Array
) -> int:
    """Draw components anew from independent priors in place; returns the new number of active components.

    ``exact`` shifts and scales the draws so that sample mean and variance are the prior's own.
    """
    n_members = members.shape[0]
    for i in range(members.shape[1]):
        if math.isnan(fresh[i, 0]):
            continue
        n = max(n, i + 1)
        fill_normal(twin_key, step_key, bits_of(time), purpose_word(FRESH, _RESET, 0, i), draws, n_members)
        centre, spread = 0.0, 1.0
        if exact and n_members > 1:
            for m in range(n_members):
                centre += draws[m]
            centre /= n_members
            squares = 0.0
            for m in range(n_members):
                squares += (draws[m] - centre) * (draws[m] - centre)
            spread = math.sqrt((n_members - 1) / squares)
        sd = math.sqrt(fresh[i, 1])
        for m in range(n_members):
            members[m, i] = fresh[i, 0] + sd * spread * (draws[m] - centre)
    return n


@njit(types.void(_f1, _f1), cache=True, nogil=True, error_model="numpy")
def normalise(log_weights: Array, weights: Array) -> None:
    """Write weights that sum to one; at least one log-weight is finite."""
    largest = -math.inf
    for m in range(log_weights.shape[0]):
        largest = max(largest, log_weights[m])
    acc = 0.0
    for m in range(log_weights.shape[0]):
        weights[m] = math.exp(log_weights[m] - largest)
        acc += weights[m]
    for m in range(log_weights.shape[0]):
        weights[m] /= acc


@njit(types.void(_f2, _f1, _i8, _f8, _f1, _f2), cache=True, nogil=True, error_model="numpy")
def weighted_moments(members: Array, weights: Array, n: int, divisor: float, mean: Array, covariance: Array) -> None:
    """Mean and covariance of the leading ``n`` components; weights sum to one, squares are divided by ``divisor``."""
    n_members = members.shape[0]
    for i in range(n):
        mean[i] = 0.0
    for m in range(n_members):
        for i in range(n):
            mean[i] += weights[m] * members[m, i]
    deviation = np.empty(n)
    for i in range(n):
        for j in range(n):
            covariance[i, j] = 0.0
    for m in range(n_members):
        for i in range(n):
            deviation[i] = members[m, i] - mean[i]
        for i in range(n):
            d = weights[m] * deviation[i]
            for j in range(n):
                covariance[i, j] += d * deviation[j]
    for i in range(n):
        for j in range(i + 1):
            covariance[i, j] /= divisor
            covariance[j, i] = covariance[i, j]


@njit(
    types.void(_f3, _f2, _f3, types.int64[::1], _f1, types.uint64[::1], types.boolean), cache=True, nogil=True,
    error_model="numpy",
)
def _draw(
    members: Array, mean: Array, covariance: Array, n_active: IntArray, time: Array, keys: KeyArray, centred: bool
) -> None:
    n_members, capacity = members.shape[1], members.shape[2]
    draws = np.empty(n_members * capacity)
    factor = np.empty((capacity, capacity))
    for twin in range(members.shape[0]):
        n = n_active[twin]
        fill_normal(
            keys[twin], np.uint64(0), bits_of(time[twin]), purpose_word(INITIAL, 0, 0, 0), draws, n_members * n
        )
        if centred:
            for i in range(n):
                acc = 0.0
                for m in range(n_members):
                    acc += draws[m * n + i]
                for m in range(n_members):
                    draws[m * n + i] -= acc / n_members
        factorise(covariance[twin].copy(), n, factor)
        for m in range(n_members):
            for i in range(n):
                acc = mean[twin, i]
                for j in range(i + 1):
                    acc += factor[i, j] * draws[m * n + j]
                members[twin, m, i] = acc


def draw_members(
    mean: Array, covariance: Array, n_active: IntArray, time: Array, keys: KeyArray | None, seed: int, n_members: int,
    *, centred: bool,
) -> tuple[Array, KeyArray]:
    """Members (k, n_members, n) of Gaussian priors and the twins' keys with the filter's seed mixed in."""
    k, n = mean.shape
    words = np.arange(k, dtype=np.uint64) if keys is None else np.asarray(keys, dtype=np.uint64)
    seeded = mix(words, seed)
    members = np.zeros((k, n_members, n))
    _draw(
        members, np.array(mean, dtype=np.float64, order="C"), np.array(covariance, dtype=np.float64, order="C"),
        np.array(n_active, dtype=np.int64), np.array(time, dtype=np.float64), seeded, centred,
    )
    return members, seeded


def gather_members(
    parts: Sequence[TwinPosterior], n_members: int, capacity: int, *, weighted: bool
) -> tuple[Array, IntArray, Array, KeyArray]:
    """Times (k,), active components (k,), members (k, n_members, capacity) and keys (k,) of twins that were apart.

    Raises:
        ModelError: a posterior is of another filter, or of another number of members.
    """
    members, n_active = np.zeros((len(parts), n_members, capacity)), np.zeros(len(parts), dtype=np.int64)
    for i, part in enumerate(parts):
        shapes = {name: array.shape for name, array in part.arrays.items()}
        if shapes.get("members", ())[:1] != (n_members,) or ("log_weights" in shapes) != weighted:
            what = "particles" if weighted else "members"
            raise ModelError(f"filter of {n_members} {what}: twin {i} has {shapes}; fold it anew")
        n_active[i] = part.n_active
        members[i, :, : n_active[i]] = part.arrays["members"]
    time = np.array([part.time for part in parts], dtype=np.float64)
    return time, n_active, members, np.array([part.key for part in parts], dtype=np.uint64)


def posterior_moments(posterior: TwinPosterior) -> tuple[Array, Array]:
    """Mean (n,) and covariance (n, n) of one twin, whatever filter follows it."""
    arrays = posterior.arrays
    if "mean" in arrays:
        return arrays["mean"], arrays["covariance"]
    members = arrays["members"]
    n_members, n = members.shape
    mean, covariance, weights = np.zeros(n), np.zeros((n, n)), np.full(n_members, 1.0 / n_members)
    divisor = (n_members - 1.0) / n_members
    if "log_weights" in arrays:
        normalise(arrays["log_weights"].copy(), weights)
        divisor = 1.0
    # Copies: compiled code takes no read-only arrays.
    weighted_moments(members.copy(), weights, n, divisor, mean, covariance)
    return mean, covariance


@njit(_f8(_i8, _f8, _f8, _f8, _f8), cache=True, nogil=True, error_model="numpy")
def truncated_quantile(operation: int, low: float, high: float, sd: float, u: float) -> float:
    """Quantile ``u`` of N(0, sd^2) given the censoring event (limits relative to the mean).

    Beyond 35 standard deviations the tail is taken as exponential in the square, z^2 - 2 log u: its leading term.
    """
    if operation == _BELOW or operation == _ABOVE:
        sign = 1.0 if operation == _BELOW else -1.0
        limit = sign * low / sd
        if limit < -35.0:
            return -sign * sd * math.sqrt(limit * limit - 2.0 * math.log(u))
        z: float = normal_quantile(max(u * math.exp(log_cdf(limit)), 1e-300))
        return sign * sd * z
    a, b = low / sd, high / sd
    flip = a > 0.0
    if flip:
        a, b = -b, -a
    if b < -35.0:
        # Between two limits of one far tail: invert the same exponential form over [a, b].
        z = -math.sqrt(b * b - 2.0 * math.log(u + (1.0 - u) * math.exp(0.5 * (b * b - a * a))))
    else:
        pa, pb = math.exp(log_cdf(a)), math.exp(log_cdf(b))
        z = normal_quantile(min(max(pa + u * (pb - pa), 1e-300), 1.0 - 2.0**-53))
    z = min(max(z, a), b)
    return -sd * z if flip else sd * z
