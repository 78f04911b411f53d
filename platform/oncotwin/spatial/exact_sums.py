"""Sums of float64 numbers without rounding, so that how they were split and in what order they came changes nothing.

A sum is a row of integer digits of 32 bits that spans the whole range of float64. Adding is exact; sums of blocks are
merged by adding their digits; rounding happens once, at the end.

Source:
    The small superaccumulator: Neal 2015, "Fast exact summation using small and large superaccumulators",
    arXiv:1505.05571, section 3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

N_DIGITS = 67
_DIGIT_BITS = 32
_SMALLEST_EXPONENT = 1074
_f2, _i2 = types.float64[:, ::1], types.int64[:, ::1]


@intrinsic  # type: ignore[misc, unused-ignore]
def _bits_of(_context: Any, value: Any) -> Any:
    """The 64 bits of a float64 as int64."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), build


@njit(types.void(_f2, _i2), cache=True, nogil=True, error_model="numpy")
def _add(values: Array, digits: IntArray) -> None:
    low = (np.int64(1) << 32) - 1
    for m in range(values.shape[0]):
        for i in range(values.shape[1]):
            bits = _bits_of(values[m, i])
            exponent = (bits >> 52) & 2047
            mantissa = bits & ((np.int64(1) << 52) - 1)
            if exponent == 0:
                exponent = np.int64(1)
            else:
                mantissa |= np.int64(1) << 52
            place, shift = (exponent - 1) >> 5, (exponent - 1) & 31
            first = (mantissa & low) << shift
            second = ((mantissa >> 32) << shift) + (first >> 32)
            if bits < 0:
                digits[i, place] -= first & low
                digits[i, place + 1] -= second & low
                digits[i, place + 2] -= second >> 32
            else:
                digits[i, place] += first & low
                digits[i, place + 1] += second & low
                digits[i, place + 2] += second >> 32


def exact_sums(values: Array) -> IntArray:
    """Exact sums over rows.

    Args:
        values: (m, n), finite; all that is ever merged may have up to 2 ** 31 rows in total.
    Returns:
        (n, N_DIGITS) digits; sums of blocks merge by ``+``.
    """
    digits = np.zeros((values.shape[1], N_DIGITS), dtype=np.int64)
    _add(np.ascontiguousarray(values, dtype=np.float64), digits)
    return digits


@njit(types.void(_i2, types.float64[::1]), cache=True, nogil=True, error_model="numpy")
def _round(digits: IntArray, values: Array) -> None:
    """Carry, take the sign off, and round the leading 64 bits to 53, ties to even."""
    low = (np.int64(1) << 32) - 1
    row = np.empty(N_DIGITS + 2, dtype=np.int64)
    for i in range(len(values)):
        sign = 1.0
        for attempt in range(2):
            carry = np.int64(0)
            for place in range(N_DIGITS + 2):
                digit = (digits[i, place] if place < N_DIGITS else np.int64(0)) * np.int64(sign) + carry
                row[place], carry = digit & low, digit >> 32
            if carry == 0 or attempt == 1:
                break
            sign = -1.0
        top = N_DIGITS + 1
        while top > 0 and row[top] == 0:
            top -= 1
        if row[top] == 0:
            values[i] = 0.0
            continue
        second, third = row[top - 1] if top > 0 else np.int64(0), row[top - 2] if top > 1 else np.int64(0)
        shift = 0
        while row[top] << shift < np.int64(1) << 31:
            shift += 1
        first = row[top] << shift | second >> (32 - shift)
        second = (second << shift & low) | third >> (32 - shift)
        is_more = third << shift & low != 0
        for place in range(top - 2):
            is_more = is_more or row[place] != 0
        mantissa, rest = first << 21 | second >> 11, second & 2047
        if rest > 1024 or (rest == 1024 and (is_more or mantissa & 1 == 1)):
            mantissa += 1
        exponent = _DIGIT_BITS * (top - 1) - _SMALLEST_EXPONENT - shift + 11
        values[i] = sign * math.ldexp(float(mantissa), exponent)


def rounded(digits: IntArray) -> Array:
    """The float64 (n,) nearest to each sum (n, N_DIGITS).

    Raises:
        OverflowError: a sum is beyond the range of float64.
    """
    values = np.empty(len(digits))
    _round(np.ascontiguousarray(digits), values)
    if not np.isfinite(values).all():
        raise OverflowError(f"sum {int(np.argmin(np.isfinite(values)))} is beyond the range of float64")
    return values
