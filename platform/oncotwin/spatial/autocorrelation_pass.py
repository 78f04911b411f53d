"""The one pass over a matrix that spatial autocorrelation takes: seven sums of each gene and chunk.

Rows are shifted into a small aligned buffer that stays in the second-level cache, a group at a time, and the products
of neighbours read that buffer. Multiply-adds are explicit, so a compiler has nothing to decide: the bits are the same
for any split of the rows into blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from oncotwin.spatial.pairs import CHUNK, PairBlock

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
IndexArray = NDArray[np.int32]

N_SUMS = 7
"""Sums of y, y^2, y^3, y^4, r y, r y^2 and of w_ij y_i y_j, where r are `PairBlock.ends`."""

_GROUP = 64
_TILE = 512
_STRIDE = _TILE + 8
"""Rows of the buffer begin at cache lines and at different places of a page: a stride of 4,096 bytes would map all rows
to one set of the first-level cache. A constant lets the compiler see that the running sums do not overlap."""
_N_SPARE = 4

_f8, _f1, _f2, _f3 = types.float64, types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_i8, _i1, _n1 = types.int64, types.int64[::1], types.int32[::1]


@intrinsic  # type: ignore[misc, unused-ignore]
def _fma(_context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), build


@njit(types.void(_f1, _f1, _f1, _f1, _f8, _f8, _f1), cache=True, nogil=True, error_model="numpy")
def _moments_of_two(
    first: Array, second: Array, shift: Array, shifted: Array, end: float, next_end: float, sums: Array
) -> None:
    """Shift two rows into the buffer and add their powers to six running sums, which are so loaded half as often."""
    for g in range(shift.shape[0]):
        y, z = first[g] - shift[g], second[g] - shift[g]
        y_square, z_square = y * y, z * z
        y_end, z_end = end * y, next_end * z
        shifted[g] = y
        shifted[_STRIDE + g] = z
        sums[g] += y + z
        sums[_STRIDE + g] += y_square + z_square
        sums[2 * _STRIDE + g] = _fma(z_square, z, _fma(y_square, y, sums[2 * _STRIDE + g]))
        sums[3 * _STRIDE + g] = _fma(z_square, z_square, _fma(y_square, y_square, sums[3 * _STRIDE + g]))
        sums[4 * _STRIDE + g] += y_end + z_end
        sums[5 * _STRIDE + g] = _fma(z_end, z, _fma(y_end, y, sums[5 * _STRIDE + g]))


@njit(types.void(_f1, _f1, _f1), cache=True, nogil=True, error_model="numpy")
def _shift_row(row: Array, shift: Array, shifted: Array) -> None:
    for g in range(shift.shape[0]):
        shifted[g] = row[g] - shift[g]


@njit(types.void(_f1, _f1, _f1, _f1, _f1, _f8, _f8, _f8, _f8, _f1), cache=True, nogil=True, error_model="numpy")
def _products_of_four(
    own: Array, a: Array, b: Array, c: Array, d: Array, wa: float, wb: float, wc: float, wd: float, cross: Array
) -> None:
    for g in range(own.shape[0]):
        cross[g] = _fma(own[g], _fma(wd, d[g], _fma(wc, c[g], _fma(wb, b[g], wa * a[g]))), cross[g])


@njit(types.void(_f1, _f1, _f1, _f8, _f8, _f1), cache=True, nogil=True, error_model="numpy")
def _products_of_two(own: Array, a: Array, b: Array, wa: float, wb: float, cross: Array) -> None:
    for g in range(own.shape[0]):
        cross[g] = _fma(own[g], _fma(wb, b[g], wa * a[g]), cross[g])


@njit(types.void(_f2, _i1, _n1, _f1, _f1, _f1, _i8, _i8, _f1, _f1), cache=True, nogil=True, error_model="numpy")
def _add_group(
    matrix: Array, offsets: IntArray, neighbours: IndexArray, weights: Array, ends: Array, shift: Array, gene: int,
    start: int, buffer: Array, sums: Array,
) -> None:
    """Add the rows ``start`` to ``start + _GROUP`` and the genes from ``gene`` on to the running sums."""
    n_genes = shift.shape[0]
    end = min(start + _GROUP, offsets.shape[0] - 1)
    rows, spare = buffer[:_GROUP * _STRIDE], _GROUP * _STRIDE
    for i in range(start, end, 2):
        at = (i - start) * _STRIDE
        # The last row of an odd number stands beside the shift itself: a row of zeros.
        second = matrix[i + 1, gene:gene + n_genes] if i + 1 < end else shift
        _moments_of_two(
            matrix[i, gene:gene + n_genes], second, shift, rows[at:at + 2 * _STRIDE], ends[i],
            ends[i + 1] if i + 1 < end else 0.0, sums,
        )
    places = np.empty(_N_SPARE, dtype=np.int64)
    factors = np.empty(_N_SPARE)
    cross = sums[6 * _STRIDE:6 * _STRIDE + n_genes]
    for i in range(start, end):
        own = buffer[(i - start) * _STRIDE:(i - start) * _STRIDE + n_genes]
        for pair in range(offsets[i], offsets[i + 1], _N_SPARE):
            n_here = min(_N_SPARE, offsets[i + 1] - pair)
            for s in range(_N_SPARE):
                j = neighbours[pair + s] if s < n_here else np.int32(i)
                factors[s] = weights[pair + s] if s < n_here else 0.0
                places[s] = (j - start) * _STRIDE
                if not start <= j < end:
                    places[s] = spare + s * _STRIDE
                    _shift_row(matrix[j, gene:gene + n_genes], shift, buffer[places[s]:places[s] + n_genes])
            a, b = buffer[places[0]:places[0] + n_genes], buffer[places[1]:places[1] + n_genes]
            if n_here <= 2:
                _products_of_two(own, a, b, factors[0], factors[1], cross)
            else:
                c, d = buffer[places[2]:places[2] + n_genes], buffer[places[3]:places[3] + n_genes]
                _products_of_four(own, a, b, c, d, factors[0], factors[1], factors[2], factors[3], cross)


@njit(types.void(_f2, _i1, _n1, _f1, _f1, _f1, _f1, _f3), cache=True, nogil=True, error_model="numpy")
def _pass(
    matrix: Array, offsets: IntArray, neighbours: IndexArray, weights: Array, ends: Array, shift: Array,
    buffer: Array, chunks: Array,
) -> None:
    n_genes = shift.shape[0]
    sums = buffer[(_GROUP + _N_SPARE) * _STRIDE:]
    for chunk in range(chunks.shape[0]):
        for gene in range(0, n_genes, _TILE):
            last = min(gene + _TILE, n_genes)
            sums[:] = 0.0
            for start in range(chunk * CHUNK, min((chunk + 1) * CHUNK, offsets.shape[0] - 1), _GROUP):
                _add_group(matrix, offsets, neighbours, weights, ends, shift[gene:last], gene, start, buffer, sums)
            for s in range(N_SUMS):
                for g in range(gene, last):
                    chunks[chunk, s, g] = sums[s * _STRIDE + g - gene]


def sum_chunks(matrix: Array, pairs: PairBlock, shift: Array) -> Array:
    """Sums (n_chunks, N_SUMS * n_genes) of a block.

    Args:
        matrix: (n_own + n_halo, n_genes) float64 in C order, own rows first.
        pairs: of the block.
        shift: (n_genes,) subtracted from every row.
    """
    n_chunks = -(-len(pairs.ends) // CHUNK)
    chunks = np.empty((n_chunks, N_SUMS, len(shift)))
    _pass(
        matrix, pairs.offsets, pairs.neighbours, pairs.weights, pairs.ends, shift,
        _aligned((_GROUP + _N_SPARE + N_SUMS) * _STRIDE), chunks,
    )
    return chunks.reshape(n_chunks, -1)


def _aligned(n: int) -> Array:
    """n zeros that begin at a cache line, so that no vector of the buffer spans two."""
    room = np.zeros(n + 8)
    skipped = -room.ctypes.data % 64 // 8
    return room[skipped:skipped + n]
