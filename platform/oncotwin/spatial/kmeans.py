"""k-means over blocks of points in integers: sums, centres and starts do not depend on how the points are cut.

Points are scores in steps of `STEP`, as 32-bit integers; squared distances, sums and centres are integers as well, so
that no sum depends on its order. The starts are drawn by k-means++ without an order of the points: each point runs a
race whose time is exponential with its squared distance as rate, from a hash of (seed, draw, row), and the first one
home is drawn. The winner of all blocks is the winner of the blocks' winners.

Source:
    Lloyd 1982, doi:10.1109/TIT.1982.1056489; Arthur & Vassilvitskii 2007, doi:10.5555/1283383.1283494 (k-means++,
    greedy with 2 + log k candidates); Efraimidis & Spirakis 2006, doi:10.1016/j.ipl.2005.11.003 (weighted sampling by
    keys); Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195 (splitmix64).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PointArray = NDArray[np.int32]

STEP = 2.0**-12
"""What one stands for in a point's coordinates."""
LARGEST = 64.0
"""Scores beyond are set to it, so that no sum can overflow."""
_SAMPLE = 20_000
_MOST_ROWS, _MOST_COORDINATES, _MOST_ROUNDS = 1 << 18, 128, 300

_i8, _u8, _f8 = types.int64, types.uint64, types.float64
_i1, _i2, _p2, _l1, _f1 = types.int64[::1], types.int64[:, ::1], types.int32[:, ::1], types.int32[::1], _f8[::1]


@dataclass(frozen=True)
class PointBlock:
    """Some points of a section.

    Args:
        rows: (n,) number of each point in the whole section: what its luck depends on.
        points: (n, n_coordinates) in steps of `STEP`; at most 262,144 rows and 128 coordinates.
    """

    rows: IntArray
    points: PointArray


@dataclass(frozen=True)
class Clustering:
    """The best of several starts, its clusters in order of size.

    Args:
        centres: (n_clusters, n_coordinates) in steps of `STEP`.
        counts: (n_clusters,) points of each.
        inertia: sum of the squared distances of all points to their centre, in steps squared.
        n_rounds: rounds of the best start.
    """

    centres: IntArray
    counts: IntArray
    inertia: int
    n_rounds: int


def to_points(scores: FloatArray) -> PointArray:
    """Scores (n, n_coordinates) as points: multiples of `STEP`, within plus and minus `LARGEST`.

    Raises:
        ConfigurationError: a score is not finite.
    """
    if not np.isfinite(scores).all():
        row = int(np.nonzero(~np.isfinite(scores).all(axis=1))[0][0])
        raise ConfigurationError(f"score in row {row} of the block is not finite; leave out points without scores")
    return np.ascontiguousarray(np.rint(np.clip(scores, -LARGEST, LARGEST) / STEP), dtype=np.int32)


@njit(types.Tuple((_l1, _i1))(_p2, _i2), cache=True, nogil=True)
def assign(points: PointArray, centres: IntArray) -> tuple[NDArray[np.int32], IntArray]:
    """Nearest centre of each point of a block and the squared distance to it; of equals the first.

    Args:
        points: (n, n_coordinates) in steps.
        centres: (n_clusters, n_coordinates) in steps.
    Returns:
        labels (n,), squared distances (n,) in steps squared.
    """
    n, d = points.shape
    labels, squared = np.zeros(n, dtype=np.int32), np.empty(n, dtype=np.int64)
    for i in range(n):
        best = -1
        for k in range(centres.shape[0]):
            total = 0
            for j in range(d):
                gap = points[i, j] - centres[k, j]
                total += gap * gap
            if best < 0 or total < best:
                best = total
                labels[i] = k
        squared[i] = best
    return labels, squared


@njit(_i2(_p2, _l1, _i8), cache=True, nogil=True)
def _sum_up(points: PointArray, labels: NDArray[np.int32], n_clusters: int) -> IntArray:
    """Number and coordinate sums of each cluster's points in a block: (n_clusters, 1 + n_coordinates)."""
    sums = np.zeros((n_clusters, 1 + points.shape[1]), dtype=np.int64)
    for i in range(points.shape[0]):
        k = labels[i]
        sums[k, 0] += 1
        for j in range(points.shape[1]):
            sums[k, 1 + j] += points[i, j]
    return sums


@njit(_u8(_u8), cache=True, nogil=True)
def _mix(z: np.uint64) -> np.uint64:
    """The finishing steps of splitmix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(types.uint64[::1](_i1, _u8), cache=True, nogil=True)
def _hashes(rows: IntArray, key: np.uint64) -> NDArray[np.uint64]:
    """A number of 64 bits for each row, as good as random, and the same wherever the row is met."""
    hashes = np.empty(rows.size, dtype=np.uint64)
    for i in range(rows.size):
        hashes[i] = _mix(key + np.uint64(rows[i]) * np.uint64(0x9E3779B97F4A7C15))
    return hashes


@njit(types.Tuple((_f8, _i8))(_i1, _i1, _u8), cache=True, nogil=True)
def _race(rows: IntArray, rates: IntArray, key: np.uint64) -> tuple[float, int]:
    """Time and place in the block of the first point home; infinite and -1 where no point runs."""
    first, winner = math.inf, -1
    hashes = _hashes(rows, key)
    for i in range(rows.size):
        if rates[i] > 0:
            time = -math.log((float(hashes[i] >> np.uint64(11)) + 0.5) * 2.0**-53) / rates[i]
            if time < first or (time == first and rows[i] < rows[winner]):
                first, winner = time, i
    return first, winner


def _draw(blocks: Sequence[PointBlock], centres: IntArray, keys: Sequence[int]) -> IntArray | None:
    """Draw a point for each key with odds by its squared distance to the centres (without centres: even odds)."""
    best: list[tuple[float, int, IntArray]] = []
    for block in blocks:
        rates = assign(block.points, centres)[1] if len(centres) else np.ones(len(block.rows), dtype=np.int64)
        for k, key in enumerate(keys):
            time, place = _race(block.rows, rates, np.uint64(key))
            if place >= 0:
                entry = (time, int(block.rows[place]), block.points[place].astype(np.int64))
                if k == len(best):
                    best.append(entry)
                elif entry[:2] < best[k][:2]:
                    best[k] = entry
    return np.stack([point for _, _, point in best]) if best else None


def _inertia(blocks: Sequence[PointBlock], centres: IntArray) -> int:
    return sum(int(assign(block.points, centres)[1].sum()) for block in blocks)


def _start(blocks: Sequence[PointBlock], n_clusters: int, rng: np.random.Generator) -> IntArray:
    """Centres by greedy k-means++: of a few candidates the one that leaves the least squared distance."""
    centres = np.empty((0, blocks[0].points.shape[1]), dtype=np.int64)
    while len(centres) < n_clusters:
        n_candidates = 2 + int(math.log(n_clusters)) if len(centres) else 1
        candidates = _draw(blocks, centres, [int(key) for key in rng.integers(1 << 63, size=n_candidates)])
        if candidates is None:
            raise ConfigurationError(
                f"{n_clusters} clusters asked for, but there are only {len(centres)} different points; ask for fewer"
            )
        extended = [np.vstack([centres, candidate[None]]) for candidate in candidates]
        centres = min(extended, key=lambda tried: _inertia(blocks, tried)) if len(extended) > 1 else extended[0]
    return centres


def _farthest(blocks: Sequence[PointBlock], centres: IntArray) -> IntArray:
    """The point farthest from its centre; of equals that of the lowest row."""
    best: tuple[int, int] | None = None
    point: IntArray = centres[0]
    for block in blocks:
        squared = assign(block.points, centres)[1]
        place = int(np.lexsort((block.rows, -squared))[0])
        entry = (-int(squared[place]), int(block.rows[place]))
        if best is None or entry < best:
            best, point = entry, block.points[place].astype(np.int64)
    return point


def _settle(blocks: Sequence[PointBlock], centres: IntArray) -> Clustering:
    """Lloyd's rounds until no centre moves; an empty cluster restarts at the point farthest from its centre."""
    n_rounds, moving = 0, True
    while moving and n_rounds < _MOST_ROUNDS:
        n_rounds += 1
        inertia, sums = 0, np.zeros((len(centres), 1 + centres.shape[1]), dtype=np.int64)
        for block in blocks:
            labels, squared = assign(block.points, centres)
            inertia += int(squared.sum())
            sums += _sum_up(block.points, labels, len(centres))
        moved, counts = centres.copy(), sums[:, :1]
        full = counts[:, 0] > 0
        # Rounded to the nearest step, halves up: in integers, the same everywhere.
        moved[full] = (2 * sums[full, 1:] + counts[full]) // (2 * counts[full])
        for empty in np.nonzero(~full)[0]:
            moved[empty] = _farthest(blocks, np.vstack([moved[full], moved[:empty][~full[:empty]]]))
        moving = not np.array_equal(moved, centres)
        if moving and n_rounds < _MOST_ROUNDS:
            centres = moved
    order = np.lexsort((*centres.T[::-1], -sums[:, 0]))
    return Clustering(centres[order], sums[order, 0], inertia, n_rounds)


def kmeans(blocks: Sequence[PointBlock], n_clusters: int, seed: int, n_starts: int = 50) -> Clustering:
    """Cluster the points of all blocks; the best of several starts.

    With more than 20,000 points the starts compete on a sample of about as many, and the winner settles on all points.

    Deterministic for a seed, and the same for every cut of the points into blocks and every order of them.

    Args:
        blocks: all points of the section; the sequence may load each block when it is asked for.
        n_clusters: how many, at least 1.
        seed: of the starts.
        n_starts: how often to begin anew; few starts miss the optimum where clusters overlap.
    Returns:
        the clustering of least inertia, its clusters by size; `assign` labels the points by it.
    Raises:
        ConfigurationError: no points, a block too large, or fewer different points than clusters.
    """
    if n_clusters < 1 or n_starts < 1:
        raise ConfigurationError(f"{n_clusters} clusters from {n_starts} starts: ask for at least 1 of each")
    held = [block for block in blocks if len(block.rows)] if isinstance(blocks, list | tuple) else blocks
    if not len(held):
        raise ConfigurationError(f"no points for {n_clusters} clusters; check that the section has spots left")
    for block in held:
        if block.points.shape[0] > _MOST_ROWS or block.points.shape[1] > _MOST_COORDINATES:
            raise ConfigurationError(
                f"block of shape {block.points.shape}: at most {_MOST_ROWS:,} points of {_MOST_COORDINATES} scores "
                "fit; cut it into smaller blocks"
            )
    rng = np.random.default_rng(seed)
    few = _sample(held, np.uint64(rng.integers(1 << 63)))
    if few is held:
        return min((_settle(held, _start(held, n_clusters, rng)) for _ in range(n_starts)), key=_by_inertia)
    tried = min((_settle(few, _start(few, n_clusters, rng)) for _ in range(n_starts)), key=_by_inertia)
    return _settle(held, tried.centres)


def _by_inertia(found: Clustering) -> int:
    return found.inertia


def _sample(blocks: Sequence[PointBlock], key: np.uint64) -> Sequence[PointBlock]:
    """The points whose hash is low enough that about `_SAMPLE` of all are left; all blocks if there are no more."""
    n = sum(len(block.rows) for block in blocks)
    if n <= _SAMPLE:
        return blocks
    limit = np.uint64(int(_SAMPLE / n * 2.0**63) * 2)
    kept = [(block, _hashes(block.rows, key) < limit) for block in blocks]
    return [PointBlock(block.rows[low], block.points[low]) for block, low in kept if low.any()]
