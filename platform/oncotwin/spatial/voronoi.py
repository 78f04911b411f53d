"""Neighbours of a cell by its own Voronoi polygon, limited to a disc: each row is found by itself.

A square around the cell is cut at the bisectors of its neighbours, nearest first, until no farther cell can reach the
polygon. Differences of coordinates are the only input, so a row is the same in every block that holds those cells.

Source:
    Rycroft 2009, doi:10.1063/1.3215722; the limit in reach: Edelsbrunner & Muecke 1994, doi:10.1145/174462.156635.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.spatial.nearest import Array, IndexArray, IntArray, nearest, reach_of, sort_row

_SHORTEST_SIDE = 1e-9
"""Two polygons that share less than this part of their cells' distance touch in a point (a square lattice's diagonals);
rounding of coordinates of 1e4 um at a pitch of 1 um stays below it."""
_FIRST_NEIGHBOURS = 24

_f8, _i8, _b1 = types.float64, types.int64, types.boolean[::1]
_f1, _f2, _i1, _n1 = types.float64[::1], types.float64[:, ::1], types.int64[::1], types.int32[::1]


@njit(_i8(_f2, _i1, _i8, _f8, _f8, _i8), cache=True, nogil=True, error_model="numpy")
def _clip(polygon: Array, owners: IntArray, n: int, qx: float, qy: float, owner: int) -> int:
    """Cut a convex polygon around the origin at the bisector of the origin and (qx, qy); its new vertex count.

    Vertex t and the next one bound the side that belongs to ``owners[t]``.
    """
    half = 0.5 * (qx * qx + qy * qy)
    first = -1
    for t in range(n):
        before = t - 1 if t > 0 else n - 1
        if (polygon[t, 0] * qx + polygon[t, 1] * qy > half
                and not polygon[before, 0] * qx + polygon[before, 1] * qy > half):
            first = t
            break
    if first < 0:
        return n
    last = first
    while True:
        after = last + 1 if last + 1 < n else 0
        if not polygon[after, 0] * qx + polygon[after, 1] * qy > half:
            break
        last = after
    # Turned so that the vertices cut off come last: then two new ones take their place.
    turned, turned_owners = np.empty((n + 1, 2)), np.empty(n + 1, dtype=np.int64)
    n_kept = 0
    t = last + 1 if last + 1 < n else 0
    while t != first:
        turned[n_kept], turned_owners[n_kept] = polygon[t], owners[t]
        n_kept += 1
        t = t + 1 if t + 1 < n else 0
    for side in range(2):
        inner = n_kept - 1 if side == 0 else 0
        outer = first if side == 0 else last
        inside = half - (turned[inner, 0] * qx + turned[inner, 1] * qy)
        outside = polygon[outer, 0] * qx + polygon[outer, 1] * qy - half
        share = inside / (inside + outside)
        for axis in range(2):
            turned[n_kept + side, axis] = turned[inner, axis] + share * (polygon[outer, axis] - turned[inner, axis])
    turned_owners[n_kept], turned_owners[n_kept + 1] = owner, owners[last]
    for t in range(n_kept + 2):
        polygon[t], owners[t] = turned[t], turned_owners[t]
    return n_kept + 2


@njit(types.boolean(_f8, _f8, _f8, _f8, _f8), cache=True, nogil=True, error_model="numpy")
def _is_shared(ax: float, ay: float, bx: float, by: float, disc: float) -> bool:
    """Whether more than a point of the side from a to b lies within ``disc`` of the origin."""
    sx, sy = bx - ax, by - ay
    square = sx * sx + sy * sy
    if square == 0.0:
        return False
    along = min(1.0, max(0.0, -(ax * sx + ay * sy) / square))
    px, py = ax + along * sx, ay + along * sy
    # The cells are twice as far apart as their bisector is; the nearest point of the side bounds that from above.
    nearest_square = px * px + py * py
    return square > _SHORTEST_SIDE * _SHORTEST_SIDE * 4.0 * nearest_square and nearest_square < disc * disc


@njit(types.Tuple((_n1, _i8))(_f2, _i1, _f2, _i1, _f8, _f1, _i1, _i1, _b1), cache=True, nogil=True, error_model="numpy")
def voronoi_rows(
    points: Array, ids: IntArray, boxes: Array, own: IntArray, disc: float, window: Array, starts: IntArray,
    counts: IntArray, certain: NDArray[np.bool_],
) -> tuple[IndexArray, int]:
    """Neighbours whose polygons, limited to ``disc``, share a side with the cell's.

    Args:
        points, ids, boxes: cells as `nearest` takes them.
        own: (n,) row of each cell, -1 where none is asked for.
        disc: radius of the largest polygon, micrometres.
        window: (4,) in which no cell is missing.
        starts, counts, certain: (n_rows,) out: where each row lies in the buffer, its length, whether it is certain.
    Returns:
        (buffer of the rows, id of a cell that shares its place with another or -1).
    """
    buffer = np.empty(8 * len(starts) + 8, dtype=np.int32)
    used = 0
    k = _FIRST_NEIGHBOURS
    squares, found, places = np.empty(k), np.empty(k, dtype=np.int64), np.empty(k, dtype=np.int64)
    polygon, owners = np.empty((k + 8, 2)), np.empty(k + 8, dtype=np.int64)
    for me in range(points.shape[0]):
        row = own[me]
        if row < 0:
            continue
        while True:
            n_found = nearest(points, ids, boxes, me, k, 4.0 * disc * disc, squares, found, places)
            polygon[0, 0], polygon[1, 0], polygon[2, 0], polygon[3, 0] = -disc, disc, disc, -disc
            polygon[0, 1], polygon[1, 1], polygon[2, 1], polygon[3, 1] = -disc, -disc, disc, disc
            owners[:4] = -1
            n_sides = 4
            farthest = 2.0 * disc * disc
            closed = False
            for j in range(n_found):
                if squares[j] == 0.0:
                    return buffer, ids[me]
                if squares[j] > 4.0 * farthest:
                    closed = True
                    break
                n_sides = _clip(
                    polygon, owners, n_sides, points[places[j], 0] - points[me, 0],
                    points[places[j], 1] - points[me, 1], found[j],
                )
                farthest = 0.0
                for t in range(n_sides):
                    farthest = max(farthest, polygon[t, 0] * polygon[t, 0] + polygon[t, 1] * polygon[t, 1])
            if closed or n_found < k:
                break
            k *= 2
            squares, found, places = np.empty(k), np.empty(k, dtype=np.int64), np.empty(k, dtype=np.int64)
            polygon, owners = np.empty((k + 8, 2)), np.empty(k + 8, dtype=np.int64)
        if used + n_sides > len(buffer):
            longer = np.empty(2 * len(buffer) + n_sides, dtype=np.int32)
            longer[:used] = buffer[:used]
            buffer = longer
        starts[row] = used
        for t in range(n_sides):
            after = t + 1 if t + 1 < n_sides else 0
            if owners[t] >= 0 and _is_shared(
                polygon[t, 0], polygon[t, 1], polygon[after, 0], polygon[after, 1], disc
            ):
                buffer[used] = owners[t]
                used += 1
        counts[row] = used - starts[row]
        sort_row(buffer, starts[row], used)
        reach = reach_of(points[me, 0], points[me, 1], window)
        certain[row] = reach > 0.0 and reach * reach > 4.0 * min(farthest, disc * disc)
    return buffer, -1
