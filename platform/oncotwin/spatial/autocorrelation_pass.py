"""The one pass over a matrix that spatial autocorrelation takes: up to seven sums of each gene and chunk.

A few genes of a few rows are worked on at a time, so that the running sums stay in registers and neighbours' values in
the first-level cache; every row is read from memory once. Eight genes make one vector, and multiply-adds are explicit,
so a compiler has nothing to decide: the bits are the same for any split of the rows into blocks. Rows go from the last
to the first, as partners of a pair stand at its smaller cell: they have then just been read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

from oncotwin.spatial.blocks import Run
from oncotwin.spatial.pairs import CHUNK, PairBlock

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
IndexArray = NDArray[np.int32]

N_MORAN = 4
"""Sums of y, y^2, r y and of w_ij y_i y_j, where r are `PairBlock.ends`."""
N_SUMS = 7
"""And those of y^3, y^4 and r y^2."""

_LANES = 8
_ROWS = 16
"""Rows that are worked on together; a chunk holds a whole number of them."""
_AHEAD = _ROWS
"""How many rows before they are needed numbers are asked for."""
_CHUNKS_AT_ONCE = 8

_f1, _f2 = types.float64[::1], types.float64[:, ::1]
_i8, _i1, _n1, _b8 = types.int64, types.int64[::1], types.int32[::1], types.boolean
_VECTOR = ir.VectorType(ir.DoubleType(), _LANES)


class _Lanes(types.Type):  # type: ignore[misc, unused-ignore]
    """Eight genes' numbers in one register; numba has no such type of its own."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc, unused-ignore]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Address of an element of an array."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), _VECTOR.as_pointer())


@intrinsic  # type: ignore[misc, unused-ignore]
def _load(_context: Any, array: Any, at: Any) -> Any:
    """``array[at:at + 8]``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_place(context, builder, signature, arguments), align=8, typ=_VECTOR)

    return _lanes(array, types.int64), build


@intrinsic  # type: ignore[misc, unused-ignore]
def _store(_context: Any, array: Any, at: Any, value: Any) -> Any:
    """``array[at:at + 8] = value``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _place(context, builder, signature, arguments), align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, value), build


@intrinsic  # type: ignore[misc, unused-ignore]
def _all(_context: Any, value: Any) -> Any:
    """One number in every lane."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        empty = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(empty, arguments[0], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
        return builder.shuffle_vector(first, empty, zeros)

    return _lanes(types.float64), build


@intrinsic  # type: ignore[misc, unused-ignore]
def _fma(_context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        name = f"llvm.fma.v{_LANES}f64"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    return _lanes(a, b, c), build


@intrinsic  # type: ignore[misc, unused-ignore]
def _plus(_context: Any, a: Any, b: Any) -> Any:
    """``a + b``."""
    return _lanes(a, b), lambda _context, builder, _signature, arguments: builder.fadd(*arguments)


@intrinsic  # type: ignore[misc, unused-ignore]
def _minus(_context: Any, a: Any, b: Any) -> Any:
    """``a - b``."""
    return _lanes(a, b), lambda _context, builder, _signature, arguments: builder.fsub(*arguments)


@intrinsic  # type: ignore[misc, unused-ignore]
def _times(_context: Any, a: Any, b: Any) -> Any:
    """``a * b``."""
    return _lanes(a, b), lambda _context, builder, _signature, arguments: builder.fmul(*arguments)


@intrinsic  # type: ignore[misc, unused-ignore]
def _fetch(_context: Any, array: Any, at: Any) -> Any:
    """Ask for ``array[at]`` to be brought near; an address that is not there does no harm."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        pointer = builder.bitcast(_place(context, builder, signature, arguments), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
        to_read, near, of_data = ir.Constant(word, 0), ir.Constant(word, 2), ir.Constant(word, 1)
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, to_read, near, of_data])
        return context.get_dummy_value()

    return types.void(array, types.int64), build


@njit(
    types.void(_f1, _i8, _i8, _i1, _n1, _f1, _f1, _f1, _f1, _i8, _i8, _b8, _f1), cache=True, nogil=True,
    error_model="numpy",
)
def _add_rows(
    matrix: Array, n_genes: int, n_slots: int, offsets: IntArray, neighbours: IndexArray, weights: Array, later: Array,
    ends: Array, shift: Array, first: int, end: int, is_full: bool, sums: Array,
) -> None:
    """Add the rows ``first`` to ``end - 1`` to the running sums, ``sums[s * n_slots + slot]``.

    ``later`` are the sums of each row's pair weights, by which the shift of its partners is taken off at once.
    """
    for slot in range(0, n_slots, 2 * _LANES):
        # Two vectors at a time, as the walk over pairs takes as long as the numbers do; of an odd number of vectors the
        # last is worked on twice. The very last begins early, so that it ends with the row; its first genes are summed
        # twice, apart.
        slot_b = min(slot + _LANES, n_slots - _LANES)
        gene, gene_b = min(slot, n_genes - _LANES), min(slot_b, n_genes - _LANES)
        c, c_b = _load(shift, gene), _load(shift, gene_b)
        y1, y2 = _load(sums, slot), _load(sums, n_slots + slot)
        ry, cross = _load(sums, 2 * n_slots + slot), _load(sums, 3 * n_slots + slot)
        y1_b, y2_b = _load(sums, slot_b), _load(sums, n_slots + slot_b)
        ry_b, cross_b = _load(sums, 2 * n_slots + slot_b), _load(sums, 3 * n_slots + slot_b)
        y3, y4, ry2 = c, c, c
        y3_b, y4_b, ry2_b = c, c, c
        if is_full:
            y3, y4 = _load(sums, 4 * n_slots + slot), _load(sums, 5 * n_slots + slot)
            y3_b, y4_b = _load(sums, 4 * n_slots + slot_b), _load(sums, 5 * n_slots + slot_b)
            ry2, ry2_b = _load(sums, 6 * n_slots + slot), _load(sums, 6 * n_slots + slot_b)
        for i in range(first, end):
            at, at_b = i * n_genes + gene, i * n_genes + gene_b
            _fetch(matrix, at - _AHEAD * n_genes)
            _fetch(matrix, at_b - _AHEAD * n_genes)
            y, y_b = _minus(_load(matrix, at), c), _minus(_load(matrix, at_b), c_b)
            # Unsigned, as numba would otherwise look for indices from the end.
            row = np.uint64(i)
            less = _all(-later[row])
            near, near_b = _times(less, c), _times(less, c_b)
            for pair in range(np.uint64(offsets[row]), np.uint64(offsets[row + np.uint64(1)])):
                weight, begin = _all(weights[pair]), neighbours[pair] * n_genes
                near = _fma(weight, _load(matrix, begin + gene), near)
                near_b = _fma(weight, _load(matrix, begin + gene_b), near_b)
            r = _all(ends[row])
            y1, y2 = _plus(y1, y), _fma(y, y, y2)
            y1_b, y2_b = _plus(y1_b, y_b), _fma(y_b, y_b, y2_b)
            ry, cross = _fma(r, y, ry), _fma(y, near, cross)
            ry_b, cross_b = _fma(r, y_b, ry_b), _fma(y_b, near_b, cross_b)
            if is_full:
                square, square_b = _times(y, y), _times(y_b, y_b)
                y3, y4, ry2 = _fma(square, y, y3), _fma(square, square, y4), _fma(r, square, ry2)
                y3_b, y4_b = _fma(square_b, y_b, y3_b), _fma(square_b, square_b, y4_b)
                ry2_b = _fma(r, square_b, ry2_b)
        _store(sums, slot, y1)
        _store(sums, n_slots + slot, y2)
        _store(sums, 2 * n_slots + slot, ry)
        _store(sums, 3 * n_slots + slot, cross)
        _store(sums, slot_b, y1_b)
        _store(sums, n_slots + slot_b, y2_b)
        _store(sums, 2 * n_slots + slot_b, ry_b)
        _store(sums, 3 * n_slots + slot_b, cross_b)
        if is_full:
            _store(sums, 4 * n_slots + slot, y3)
            _store(sums, 5 * n_slots + slot, y4)
            _store(sums, 6 * n_slots + slot, ry2)
            _store(sums, 4 * n_slots + slot_b, y3_b)
            _store(sums, 5 * n_slots + slot_b, y4_b)
            _store(sums, 6 * n_slots + slot_b, ry2_b)


@njit(
    types.void(_f1, _i8, _i1, _n1, _f1, _f1, _f1, _f1, _i8, _b8, _f2), cache=True, nogil=True, error_model="numpy"
)
def _pass(
    matrix: Array, n_slots: int, offsets: IntArray, neighbours: IndexArray, weights: Array, later: Array, ends: Array,
    shift: Array, first_chunk: int, is_full: bool, chunks: Array,
) -> None:
    for chunk in range(chunks.shape[0] - 1, -1, -1):
        start = (first_chunk + chunk) * CHUNK
        last = min(start + CHUNK, len(ends))
        for first in range(start + (last - start - 1) // _ROWS * _ROWS, start - 1, -_ROWS):
            _add_rows(
                matrix, len(shift), n_slots, offsets, neighbours, weights, later, ends, shift, first,
                min(first + _ROWS, last), is_full, chunks[chunk],
            )


@njit(types.void(_i1, _f1, _f1), cache=True, nogil=True, error_model="numpy")
def _sum_rows(offsets: IntArray, weights: Array, sums: Array) -> None:
    for i in range(len(sums)):
        for pair in range(offsets[i], offsets[i + 1]):
            sums[i] += weights[pair]


def sum_chunks(matrix: Array, pairs: PairBlock, shift: Array, is_full: bool, run: Run) -> Array:
    """Sums (n_chunks, n_sums * n_genes) of a block, in the order in which `N_MORAN` and `N_SUMS` name them.

    Args:
        matrix: (n_own + n_halo, n_genes) float64 in C order, own rows first.
        pairs: of the block.
        shift: (n_genes,) subtracted from every row.
        is_full: all seven sums, not four.
        run: how some chunks at a time are worked on: the built-in `map`, or threads, which share the matrix.
    """
    n_genes, n_sums = len(shift), N_SUMS if is_full else N_MORAN
    short = max(0, _LANES - n_genes)
    if short:
        matrix, shift = np.pad(matrix, ((0, 0), (0, short))), np.pad(shift, (0, short))
    n_slots = -(-len(shift) // _LANES) * _LANES
    later = np.zeros(len(pairs.ends))
    _sum_rows(pairs.offsets, pairs.weights, later)

    def some(first: int) -> Array:
        sums = np.zeros((min(_CHUNKS_AT_ONCE, n_chunks - first), n_sums * n_slots))
        _pass(
            matrix.reshape(-1), n_slots, pairs.offsets, pairs.neighbours, pairs.weights, later, pairs.ends, shift,
            first, is_full, sums,
        )
        return sums

    n_chunks = -(-len(pairs.ends) // CHUNK)
    sums = np.concatenate(list(run(some, range(0, n_chunks, _CHUNKS_AT_ONCE)))).reshape(n_chunks, n_sums, n_slots)
    whole = len(shift) // _LANES * _LANES
    last = sums[:, :, n_slots - (len(shift) - whole):]
    return np.concatenate([sums[:, :, :whole], last], axis=2)[:, :, :n_genes].reshape(n_chunks, -1)
