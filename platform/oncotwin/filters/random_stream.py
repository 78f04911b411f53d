"""Counter-based random numbers: a draw depends on what it is for, never on what was drawn before it.

The stream of a draw is named by (twin, event) as the key and (time of the step, what the step does, purpose) as the
upper words of the counter, so a replay, another grouping of twins, or a fold cut in two gives the same bits.

Source:
    Philox 4x64-10: Salmon, Moraes, Dror & Shaw 2011, doi:10.1145/2063384.2063405, section 3.3. Normals by the inverse
    distribution function, algorithm AS 241 (PPND16): Wichura 1988, doi:10.2307/2347330.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from oncotwin.filters.base import Array, KeyArray

PROCESS, PERTURBATION, RESAMPLING, JITTER, FRESH, ROTATION, INITIAL = range(7)
"""Purposes: process noise, virtual observations, resampling, regularisation, reset priors, rotation, first draw."""

_f1, _u1 = types.float64[::1], types.uint64[::1]
_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_11, _8, _16, _32, _1 = np.uint64(11), np.uint64(8), np.uint64(16), np.uint64(32), np.uint64(1)
_TO_UNIT = 2.0**-53
_BLOCK = 64


@intrinsic  # type: ignore[misc, unused-ignore]
def _high_product(_context: Any, a: Any, b: Any) -> Any:
    """Upper 64 bits of the 128-bit product of two uint64; numba has no such function of its own."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), build


@intrinsic  # type: ignore[misc, unused-ignore]
def bits_of(_context: Any, value: Any) -> Any:
    """The 64 bits of a float64 as uint64."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.uint64(types.float64), build


@njit(types.uint64(types.int64, types.int64, types.int64, types.int64), cache=True, nogil=True, error_model="numpy")
def purpose_word(purpose: int, operation: int, operator: int, target: int) -> Any:
    """What a draw is for, as one word of the counter."""
    return (
        np.uint64(purpose) | (np.uint64(operation) << _8) | (np.uint64(operator) << _16) | (np.uint64(target) << _32)
    )


@njit(
    types.void(types.uint64, types.uint64, types.uint64, types.uint64, types.float64[::1], types.int64),
    cache=True, nogil=True, error_model="numpy",
)
def fill_uniform(twin_key: Any, step_key: Any, time_bits: Any, purpose: Any, out: Array, n: int) -> None:
    """Write ``n`` uniform numbers of the open unit interval, multiples of 2**-53 shifted by half a unit."""
    block = np.uint64(0)
    i = 0
    while i < n:
        block += _1
        c0, c1, c2, c3 = block, time_bits, purpose, np.uint64(0)
        k0, k1 = twin_key, step_key
        for _ in range(10):
            h0, l0 = _high_product(_M0, c0), _M0 * c0
            h1, l1 = _high_product(_M1, c2), _M1 * c2
            c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
            k0 += _W0
            k1 += _W1
        # By way of int64, whose conversion is one instruction; the value has 53 bits.
        out[i] = (np.float64(np.int64(c0 >> _11)) + 0.5) * _TO_UNIT
        if i + 1 < n:
            out[i + 1] = (np.float64(np.int64(c1 >> _11)) + 0.5) * _TO_UNIT
        if i + 2 < n:
            out[i + 2] = (np.float64(np.int64(c2 >> _11)) + 0.5) * _TO_UNIT
        if i + 3 < n:
            out[i + 3] = (np.float64(np.int64(c3 >> _11)) + 0.5) * _TO_UNIT
        i += 4


@njit(inline="always", error_model="numpy")
def _middle_quantile(q: float) -> float:
    """Quantile of 0.5 + q for abs(q) up to 0.425."""
    r = 0.180625 - q * q
    upper = ((((((2.5090809287301226727e3 * r + 3.3430575583588128105e4) * r + 6.7265770927008700853e4) * r
                + 4.5921953931549871457e4) * r + 1.3731693765509461125e4) * r + 1.9715909503065514427e3) * r
             + 1.3314166789178437745e2) * r + 3.3871328727963666080
    lower = ((((((5.2264952788528545610e3 * r + 2.8729085735721942674e4) * r + 3.9307895800092710610e4) * r
                + 2.1213794301586595867e4) * r + 5.3941960214247511077e3) * r + 6.8718700749205790830e2) * r
             + 4.2313330701600911252e1) * r + 1.0
    return q * upper / lower


@njit(types.float64(types.float64), cache=True, nogil=True, error_model="numpy")
def normal_quantile(p: float) -> float:
    """Quantile of the standard normal distribution for p in (0, 1), to about 1e-16 relative."""
    q = p - 0.5
    if abs(q) <= 0.425:
        middle: float = _middle_quantile(q)
        return middle
    r = math.sqrt(-math.log(p if q < 0.0 else 1.0 - p))
    if r <= 5.0:
        r -= 1.6
        upper = ((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r
                    + 1.27045825245236838258) * r + 3.64784832476320460504) * r + 5.76949722146069140550) * r
                 + 4.63033784615654529590) * r + 1.42343711074968357734
        lower = ((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r
                    + 1.48103976427480074590e-1) * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940) * r
                 + 2.05319162663775882187) * r + 1.0
    else:
        r -= 5.0
        upper = ((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r
                    + 2.65321895265761230930e-2) * r + 2.96560571828504891230e-1) * r + 1.78482653991729133580) * r
                 + 5.46378491116411436990) * r + 6.65790464350110377720
        lower = ((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r
                    + 7.86869131145613259100e-4) * r + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r
                 + 5.99832206555887937690e-1) * r + 1.0
    z = upper / lower
    return -z if q < 0.0 else z


@njit(
    types.void(types.uint64, types.uint64, types.uint64, types.uint64, types.float64[::1], types.int64),
    cache=True, nogil=True, error_model="numpy",
)
def fill_normal(twin_key: Any, step_key: Any, time_bits: Any, purpose: Any, out: Array, n: int) -> None:
    """Write ``n`` independent standard normal numbers; number ``i`` is the quantile of uniform number ``i``."""
    fill_uniform(twin_key, step_key, time_bits, purpose, out, n)
    uniform = np.empty(_BLOCK)
    for first in range(0, n, _BLOCK):
        part = out[first : min(first + _BLOCK, n)]
        # The middle branch for all at once fills vector registers; the tails, one in seven, are then done over.
        for j in range(part.shape[0]):
            uniform[j] = part[j]
        for j in range(part.shape[0]):
            part[j] = _middle_quantile(uniform[j] - 0.5)
        for j in range(part.shape[0]):
            if abs(uniform[j] - 0.5) > 0.425:
                part[j] = normal_quantile(uniform[j])


def mix(words: KeyArray, seed: int) -> KeyArray:
    """Spread keys and a filter's seed over 64 bits (the finaliser of splitmix64), so that near keys lie far apart.

    Source:
        Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195.
    """
    with np.errstate(over="ignore"):
        z = words + np.uint64(seed) * _W1 + _W0
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)
