"""Exact nearest cells by a packed Hilbert tree: one order of the cells serves the search and the cache.

Cells are sorted along a Hilbert curve, runs of eight are the leaves, and boxes around pairs of runs make the tree. The
tree only prunes: which cells are found depends on coordinates and ids alone. Distances are compared as the squares
``dx * dx + dy * dy`` of float64 differences; rounding is monotonic, so a box is never farther than a cell in it, and
ties are exact ties, which the smaller id wins.

Source:
    Hilbert curve: Hilbert 1891, doi:10.1007/BF01199431; its index by quadrants as in Lam & Shapiro 1994,
    doi:10.1109/ICIP.1994.413369. Tree: Kamel & Faloutsos 1993, "On packing R-trees", doi:10.1145/170088.170403.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
IndexArray = NDArray[np.int32]

_LEAF = 8
_SIDE_BITS = 31
_f1, _f2, _i1 = types.float64[::1], types.float64[:, ::1], types.int64[::1]
_f8, _i8, _n1 = types.float64, types.int64, types.int32[::1]


@njit(types.void(_f2, _f8, _f8, _f8, _i1), cache=True, nogil=True, error_model="numpy")
def _hilbert(points: Array, x0: float, y0: float, per_um: float, keys: IntArray) -> None:
    for i in range(points.shape[0]):
        x = np.int64((points[i, 0] - x0) * per_um)
        y = np.int64((points[i, 1] - y0) * per_um)
        key = np.int64(0)
        s = np.int64(1) << (_SIDE_BITS - 1)
        while s > 0:
            right, upper = np.int64((x & s) > 0), np.int64((y & s) > 0)
            key += s * s * ((3 * right) ^ upper)
            if upper == 0:
                if right == 1:
                    x, y = (s << 1) - 1 - (x & ((s << 1) - 1)), (s << 1) - 1 - (y & ((s << 1) - 1))
                x, y = y, x
            s >>= 1
        keys[i] = key


def hilbert_keys(points_um: Array, lower_um: tuple[float, float], side_um: float) -> IntArray:
    """Place of each cell on a Hilbert curve that fills a square.

    Args:
        points_um: (n, 2) x and y.
        lower_um: lower corner of the square; the same for all blocks of a section.
        side_um: its side; cells must lie inside.
    Returns:
        (n,) between 0 and 2 ** 62 - 1; near keys are near cells.
    """
    keys = np.empty(len(points_um), dtype=np.int64)
    per_um = (2**_SIDE_BITS - 1) / side_um if side_um > 0.0 else 0.0
    _hilbert(np.ascontiguousarray(points_um, dtype=np.float64), lower_um[0], lower_um[1], per_um, keys)
    return keys


def hilbert_order(points_um: Array) -> IntArray:
    """Permutation (n,) that sorts cells (n, 2) along a Hilbert curve over their bounding square; ties by index.

    In this order a cell's neighbours lie in rows near its own, so that a pass over a (n_cells, n_genes) matrix finds
    most of them in the cache.
    """
    if len(points_um) == 0:
        return np.empty(0, dtype=np.int64)
    lower = points_um.min(axis=0)
    side = float((points_um.max(axis=0) - lower).max())
    return np.argsort(hilbert_keys(points_um, (float(lower[0]), float(lower[1])), side), kind="stable")


@njit(types.void(_f2, _f2), cache=True, nogil=True, error_model="numpy")
def _fill_boxes(points: Array, boxes: Array) -> None:
    n_leaves = boxes.shape[0] // 2
    for node in range(boxes.shape[0]):
        boxes[node, 0] = boxes[node, 1] = np.inf
        boxes[node, 2] = boxes[node, 3] = -np.inf
    for i in range(points.shape[0]):
        node = n_leaves + i // _LEAF
        for axis in range(2):
            boxes[node, axis] = min(boxes[node, axis], points[i, axis])
            boxes[node, 2 + axis] = max(boxes[node, 2 + axis], points[i, axis])
    for node in range(n_leaves - 1, 0, -1):
        for axis in range(2):
            boxes[node, axis] = min(boxes[2 * node, axis], boxes[2 * node + 1, axis])
            boxes[node, 2 + axis] = max(boxes[2 * node, 2 + axis], boxes[2 * node + 1, 2 + axis])


def boxes_of(points_um: Array) -> Array:
    """Boxes (2 * n_leaves, 4) around runs of cells in Hilbert order; node 1 is the root, node i has 2 i and 2 i + 1."""
    n_leaves = 1
    while n_leaves * _LEAF < len(points_um):
        n_leaves *= 2
    boxes = np.empty((2 * n_leaves, 4))
    _fill_boxes(points_um, boxes)
    return boxes


@njit(_f8(_f2, _i8, _f8, _f8), cache=True, nogil=True, error_model="numpy", inline="always")
def _box_distance(boxes: Array, node: int, x: float, y: float) -> float:
    dx = max(0.0, boxes[node, 0] - x, x - boxes[node, 2])
    dy = max(0.0, boxes[node, 1] - y, y - boxes[node, 3])
    square: float = dx * dx + dy * dy
    return square


@njit(_i8(_f2, _i1, _i8, _i8, _i8, _i8, _f1, _i1, _i1), cache=True, nogil=True, error_model="numpy")
def _scan_leaf(
    points: Array, ids: IntArray, me: int, leaf: int, k: int, n_found: int, squares: Array, found: IntArray,
    places: IntArray,
) -> int:
    """Insert the cells of a leaf into the k best so far, in order of (square of the distance, id)."""
    for j in range(leaf * _LEAF, min(leaf * _LEAF + _LEAF, points.shape[0])):
        if j == me:
            continue
        dx, dy = points[j, 0] - points[me, 0], points[j, 1] - points[me, 1]
        square = dx * dx + dy * dy
        if n_found == k and not (
            square < squares[k - 1] or (square == squares[k - 1] and ids[j] < found[k - 1])
        ):
            continue
        at = n_found if n_found < k else k - 1
        while at > 0 and (squares[at - 1] > square or (squares[at - 1] == square and found[at - 1] > ids[j])):
            squares[at], found[at], places[at] = squares[at - 1], found[at - 1], places[at - 1]
            at -= 1
        squares[at], found[at], places[at] = square, ids[j], j
        if n_found < k:
            n_found += 1
    return n_found


@njit(_i8(_f2, _i1, _f2, _i8, _i8, _f8, _f1, _i1, _i1), cache=True, nogil=True, error_model="numpy")
def nearest(
    points: Array, ids: IntArray, boxes: Array, me: int, k: int, farthest: float, squares: Array, found: IntArray,
    places: IntArray,
) -> int:
    """The k cells nearest to cell ``me``, itself left out, in order of distance and then of id.

    Args:
        points: (n, 2) in Hilbert order; ids: (n,) theirs; boxes: from `boxes_of`.
        me: place of the cell in that order.
        k: at most so many.
        farthest: square of the largest distance to look at; inf for all.
        squares, found, places: (k,) out: squared distances, ids, places in the order.
    Returns:
        How many were found.
    """
    stack = np.empty(128, dtype=np.int64)
    x, y = points[me, 0], points[me, 1]
    node = boxes.shape[0] // 2 + me // _LEAF
    n_found: int = _scan_leaf(points, ids, me, me // _LEAF, k, 0, squares, found, places)
    while node > 1:
        stack[0] = node ^ 1
        depth = 1
        while depth > 0:
            depth -= 1
            at = stack[depth]
            bound = squares[k - 1] if n_found == k else farthest
            if not _box_distance(boxes, at, x, y) <= min(bound, farthest):
                continue
            if at >= boxes.shape[0] // 2:
                n_found = _scan_leaf(
                    points, ids, me, at - boxes.shape[0] // 2, k, n_found, squares, found, places
                )
            else:
                left, right = _box_distance(boxes, 2 * at, x, y), _box_distance(boxes, 2 * at + 1, x, y)
                stack[depth] = 2 * at + 1 if left <= right else 2 * at
                stack[depth + 1] = 2 * at if left <= right else 2 * at + 1
                depth += 2
        node //= 2
    while n_found > 0 and squares[n_found - 1] > farthest:
        n_found -= 1
    return n_found


@njit(_i8(_f2, _i1, _f2, _i8, _f8, _i8, _i1), cache=True, nogil=True, error_model="numpy")
def within(points: Array, ids: IntArray, boxes: Array, me: int, square: float, room: int, found: IntArray) -> int:
    """Number of cells at a squared distance of at most ``square`` from cell ``me``; the first ``room`` ids are kept."""
    stack = np.empty(128, dtype=np.int64)
    x, y = points[me, 0], points[me, 1]
    stack[0] = 1
    depth = 1
    n_found = 0
    while depth > 0:
        depth -= 1
        at = stack[depth]
        if not _box_distance(boxes, at, x, y) <= square:
            continue
        if at < boxes.shape[0] // 2:
            stack[depth], stack[depth + 1] = 2 * at, 2 * at + 1
            depth += 2
            continue
        leaf = at - boxes.shape[0] // 2
        for j in range(leaf * _LEAF, min(leaf * _LEAF + _LEAF, points.shape[0])):
            dx, dy = points[j, 0] - x, points[j, 1] - y
            if j != me and dx * dx + dy * dy <= square:
                if n_found < room:
                    found[n_found] = ids[j]
                n_found += 1
    return n_found


@njit(_f8(_f8, _f8, _f1), cache=True, nogil=True, error_model="numpy")
def reach_of(x: float, y: float, window: Array) -> float:
    """Distance of a place to the border of the window; negative outside."""
    reach: float = min(x - window[0], y - window[1], window[2] - x, window[3] - y)
    return reach


@njit(types.void(_n1, _i8, _i8), cache=True, nogil=True, error_model="numpy")
def sort_row(row: IndexArray, first: int, end: int) -> None:
    """Sort ``row[first:end]`` in place; for the few neighbours of a cell."""
    for i in range(first + 1, end):
        value = row[i]
        at = i
        while at > first and row[at - 1] > value:
            row[at] = row[at - 1]
            at -= 1
        row[at] = value
