"""Sums of float64 numbers without rounding, so that how they were split and in what order they came changes nothing.

A sum is a row of integer digits of 32 bits that spans the whole range of float64. Adding is exact; sums of blocks are
merged by adding their digits; rounding happens once, at the end.

Source:
    The small superaccumulator: Neal 2015, "Fast exact summation using small and large superaccumulators",
    arXiv:1505.05571, section 3.
"""

from __future__ import annotations

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


def rounded(digits: IntArray) -> Array:
    """The float64 (n,) nearest to each sum (n, N_DIGITS).

    Raises:
        OverflowError: a sum is beyond the range of float64.
    """
    used = np.flatnonzero(digits.any(axis=0))
    if len(used) == 0:
        return np.zeros(len(digits))
    scales = [1 << (_DIGIT_BITS * int(place)) for place in used]
    unit = 1 << _SMALLEST_EXPONENT
    return np.array([
        sum(digit * scale for digit, scale in zip(row, scales, strict=True) if digit) / unit
        for row in digits[:, used].tolist()
    ])
