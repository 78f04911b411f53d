"""Exact signed distances: of a mask on a regular grid, block by block, and of irregular spots or cells.

On a grid all work is done in integers, so the field is the same to the bit for every block size and order:

1. column pass: a block says where each of its columns has its first and last site (`column_ends`); the nearest site
   above and below the block follows from the other blocks' ends (`carry_columns`), and gives every pixel its gap to
   the nearest site of its own column (`column_gaps`);
2. row pass: a block reduces the parabolas of a row to their lower envelope (`row_envelope`); a parabola that another
   of its own block hides everywhere cannot show in the whole row either, so the envelopes of a row of blocks are
   joined (`join_envelopes`) and read at each block's own pixels (`squared_from_envelope`).

Source:
    Meijster, Roerdink & Hesselink 2000, doi:10.1007/0-306-47025-X_36 (integer lower envelope); Felzenszwalb &
    Huttenlocher 2012, doi:10.4086/toc.2012.v008a019 (distance transforms by parabolas, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numba import njit, types
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from oncotwin.domain.errors import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

NONE = -1
"""In place of a row, a gap or a squared distance: there is no site."""
INSIDE, OUTSIDE, NOT_TISSUE = 1, 0, -1
"""Classes of a pixel or spot: of the region, of the tissue around it, or no part of the question."""

_LARGEST_RATIO = 100_000
_RATIO_ERROR = 1e-9
_LARGEST_SQUARE = 1 << 61

_i8, _i1, _i2, _b2 = types.int64, types.int64[::1], types.int64[:, ::1], types.boolean[:, ::1]


@dataclass(frozen=True)
class Grid:
    """A whole grid in integers: a pixel is ``row_weight`` by ``column_weight`` steps of ``step_um`` each.

    The weights are the squared height and width of a pixel, in steps; the shape is (rows, columns).
    """

    shape: tuple[int, int]
    row_weight: int
    column_weight: int
    step_um: float


@dataclass(frozen=True)
class Envelope:
    """What shows of the parabolas of each row.

    Args:
        offsets: (n_rows + 1,) where each row's parabolas begin.
        columns: (n,) column of each parabola's vertex on the whole grid, increasing within a row.
        heights: (n,) its squared distance at the vertex, in steps squared.
    """

    offsets: IntArray
    columns: IntArray
    heights: IntArray


def make_grid(shape: tuple[int, int], pixel_um: tuple[float, float]) -> Grid:
    """Write a grid's pixel size as a ratio of small integers, so that squared distances are integers.

    Args:
        shape: rows and columns.
        pixel_um: height and width of a pixel in micrometres.
    Raises:
        ConfigurationError: a size is not positive, the two have no ratio of integers up to 100,000 (to 1e-9), or the
            grid is so large that its squared diagonal does not fit 61 bits.
    """
    height, width = float(pixel_um[0]), float(pixel_um[1])
    if not (0.0 < height < math.inf and 0.0 < width < math.inf):
        raise ConfigurationError(f"pixel size {pixel_um} um: both sides must be positive and finite; give um per pixel")
    ratio = Fraction(height / width).limit_denominator(_LARGEST_RATIO)
    if ratio == 0 or abs(float(ratio) * width / height - 1.0) > _RATIO_ERROR or ratio.numerator > _LARGEST_RATIO:
        raise ConfigurationError(
            f"pixel size {pixel_um} um: height over width is no ratio of integers up to {_LARGEST_RATIO:,}; "
            "round both to five digits, or resample the mask to square pixels"
        )
    rows, columns = ratio.numerator**2, ratio.denominator**2
    if rows * shape[0] ** 2 + columns * shape[1] ** 2 > _LARGEST_SQUARE:
        raise ConfigurationError(
            f"grid of {shape[0]} x {shape[1]} pixels of {pixel_um} um: squared distances do not fit 61 bits; "
            "round the pixel size to fewer digits, or resample the mask to square pixels"
        )
    return Grid(shape, rows, columns, width / ratio.denominator)


@njit(_i2(_b2, _i8), cache=True, nogil=True)
def column_ends(sites: BoolArray, first_row: int) -> IntArray:
    """First and last row with a site in each column of a block, counted on the whole grid; NONE where there is none.

    Args:
        sites: (rows, columns) of the block, whose first row on the whole grid is ``first_row``.
    Returns:
        (2, columns).
    """
    rows, columns = sites.shape
    ends = np.full((2, columns), NONE)
    for i in range(rows):
        for j in range(columns):
            if sites[i, j]:
                if ends[0, j] == NONE:
                    ends[0, j] = first_row + i
                ends[1, j] = first_row + i
    return ends


def carry_columns(ends: Sequence[IntArray]) -> list[tuple[IntArray, IntArray]]:
    """Nearest site above and below each block of a column of blocks.

    Args:
        ends: (2, columns) of each block from the top to the bottom, by `column_ends`.
    Returns:
        for each block the row (columns,) of the last site above it and of the first site below it; NONE without one.
    """
    above = [np.full(ends[0].shape[1], NONE)]
    for own in ends[:-1]:
        above.append(np.where(own[1] == NONE, above[-1], own[1]))
    below = [np.full(ends[0].shape[1], NONE)]
    for own in reversed(ends[1:]):
        below.append(np.where(own[0] == NONE, below[-1], own[0]))
    return list(zip(above, reversed(below), strict=True))


@njit(_i2(_b2, _i8, _i1, _i1), cache=True, nogil=True)
def column_gaps(sites: BoolArray, first_row: int, above: IntArray, below: IntArray) -> IntArray:
    """Rows from each pixel of a block to the nearest site of its column, wherever that lies; NONE without a site.

    Args:
        sites: (rows, columns) of the block, whose first row on the whole grid is ``first_row``.
        above, below: (columns,) by `carry_columns`.
    """
    rows, columns = sites.shape
    gaps = np.full((rows, columns), NONE)
    nearest = above.copy()
    for i in range(rows):
        for j in range(columns):
            if sites[i, j]:
                nearest[j] = first_row + i
            if nearest[j] != NONE:
                gaps[i, j] = first_row + i - nearest[j]
    nearest[:] = below
    for i in range(rows - 1, -1, -1):
        for j in range(columns):
            if sites[i, j]:
                nearest[j] = first_row + i
            if nearest[j] != NONE:
                gap = nearest[j] - first_row - i
                if gaps[i, j] == NONE or gap < gaps[i, j]:
                    gaps[i, j] = gap
    return gaps


@njit(types.UniTuple(_i1, 2)(_i1, _i1, _i1, _i8, _i8, _i1, _i1, _i1), cache=True, nogil=True)
def _reduce(
    offsets: IntArray, columns: IntArray, heights: IntArray, weight: int, width: int, kept: IntArray, starts: IntArray,
    kept_offsets: IntArray,
) -> tuple[IntArray, IntArray]:
    """Keep the parabolas that are lowest at some column of [0, width); ``starts`` says from which column on.

    ``kept`` receives their places, row after row, ``kept_offsets`` where each row begins.
    """
    n = 0
    kept_offsets[0] = 0
    for row in range(offsets.size - 1):
        base = n
        for k in range(offsets[row], offsets[row + 1]):
            u, h = columns[k], heights[k]
            while n > base:
                top, t = kept[n - 1], starts[n - 1]
                if weight * (t - columns[top]) ** 2 + heights[top] > weight * (t - u) ** 2 + h:
                    n -= 1
                else:
                    break
            if n == base:
                kept[n], starts[n] = k, 0
                n += 1
            else:
                v, g = columns[kept[n - 1]], heights[kept[n - 1]]
                start = 1 + (weight * (u * u - v * v) + h - g) // (2 * weight * (u - v))
                if start < width:
                    kept[n], starts[n] = k, start
                    n += 1
        kept_offsets[row + 1] = n
    return kept[:n], starts[:n]


def row_envelope(gaps: IntArray, first_column: int, grid: Grid) -> Envelope:
    """Reduce each row of a block to the parabolas that show.

    Args:
        gaps: (rows, columns) by `column_gaps`.
        first_column: the block's first column on the whole grid.
    """
    found = gaps != NONE
    offsets = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
    columns = np.nonzero(found)[1] + first_column
    return _envelope(offsets, columns, grid.row_weight * gaps[found] ** 2, grid)[0]


def join_envelopes(envelopes: Sequence[Envelope], grid: Grid) -> Envelope:
    """Join the envelopes of a row of blocks, from left to right, into those of the whole rows."""
    n_rows = envelopes[0].offsets.size - 1
    rows = np.concatenate([np.repeat(np.arange(n_rows), np.diff(e.offsets)) for e in envelopes])
    order = np.argsort(rows, kind="stable")
    columns = np.concatenate([e.columns for e in envelopes])[order]
    heights = np.concatenate([e.heights for e in envelopes])[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    return _envelope(offsets, columns, heights, grid)[0]


def _envelope(offsets: IntArray, columns: IntArray, heights: IntArray, grid: Grid) -> tuple[Envelope, IntArray]:
    kept_offsets, room = np.empty_like(offsets), np.empty((2, columns.size), dtype=np.int64)
    kept, starts = _reduce(
        offsets, columns, heights, grid.column_weight, grid.shape[1], room[0], room[1], kept_offsets
    )
    return Envelope(kept_offsets, columns[kept], heights[kept]), starts


@njit(_i2(_i1, _i1, _i1, _i1, _i8, _i8, _i8), cache=True, nogil=True)
def _read(
    offsets: IntArray, columns: IntArray, heights: IntArray, starts: IntArray, weight: int, first_column: int,
    n_columns: int,
) -> IntArray:
    squared = np.full((offsets.size - 1, n_columns), NONE)
    for row in range(offsets.size - 1):
        k, end = offsets[row], offsets[row + 1]
        if k == end:
            continue
        for j in range(n_columns):
            column = first_column + j
            while k + 1 < end and starts[k + 1] <= column:
                k += 1
            squared[row, j] = weight * (column - columns[k]) ** 2 + heights[k]
    return squared


def squared_from_envelope(envelope: Envelope, first_column: int, n_columns: int, grid: Grid) -> IntArray:
    """Squared distance in steps of each pixel of a block to the nearest site; NONE where the grid has no site.

    Args:
        envelope: of the whole rows, by `join_envelopes`.
        first_column, n_columns: the block's columns on the whole grid.
    Returns:
        (rows, n_columns).
    """
    whole, starts = _envelope(envelope.offsets, envelope.columns, envelope.heights, grid)
    squared: IntArray = _read(
        whole.offsets, whole.columns, whole.heights, starts, grid.column_weight, first_column, n_columns
    )
    return squared


def squared_distances(sites: BoolArray, grid: Grid, block: tuple[int, int]) -> IntArray:
    """Squared distance in steps of every pixel to the nearest site, block by block.

    Args:
        sites: (rows, columns) of the grid, true where a site is.
        block: rows and columns of a block; the result does not depend on it.
    Returns:
        (rows, columns); NONE everywhere if there is no site.
    """
    rows, columns = grid.shape
    if sites.shape != grid.shape or min(block) < 1 or min(grid.shape) < 1:
        raise ConfigurationError(
            f"sites of shape {sites.shape}, grid of {grid.shape}, block of {block}: "
            "shapes must agree, and no side may be empty"
        )
    tops, lefts = range(0, rows, block[0]), range(0, columns, block[1])
    cut = [
        [np.ascontiguousarray(sites[i : i + block[0], j : j + block[1]], dtype=np.bool_) for j in lefts] for i in tops
    ]
    carries = [
        carry_columns([column_ends(row[k], i) for i, row in zip(tops, cut, strict=True)]) for k in range(len(lefts))
    ]
    squared = np.empty(grid.shape, dtype=np.int64)
    for b, (i, row) in enumerate(zip(tops, cut, strict=True)):
        envelope = join_envelopes(
            [
                row_envelope(column_gaps(own, i, *carries[k][b]), j, grid)
                for k, (j, own) in enumerate(zip(lefts, row, strict=True))
            ],
            grid,
        )
        for j, own in zip(lefts, row, strict=True):
            squared[i : i + block[0], j : j + block[1]] = squared_from_envelope(envelope, j, own.shape[1], grid)
    return squared


def signed_from_squared(
    classes: NDArray[np.int8], to_inside: IntArray, to_outside: IntArray, grid: Grid
) -> FloatArray:
    """Signed distance of a block's pixels to the interface, in micrometres.

    The interface runs between pixels: half the shorter side of a pixel is taken off the distance to the centre of
    the nearest pixel of the other class. Glass is no class: the edge of the tissue is no interface.

    Args:
        classes: (rows, columns), with the squared distances in steps to the nearest pixel of either class.
    Returns:
        (rows, columns), negative inside, NaN where there is no tissue, infinite where the grid lacks the other class.
    """
    half = 0.5 * grid.step_um * math.sqrt(min(grid.row_weight, grid.column_weight))
    inside = classes == INSIDE
    squared = np.where(inside, to_outside, to_inside)
    distance = np.where(squared == NONE, math.inf, np.sqrt(np.maximum(squared, 0).astype(np.float64)) * grid.step_um)
    return np.where(classes == NOT_TISSUE, math.nan, np.where(inside, half - distance, distance - half))


def signed_distance(
    classes: NDArray[np.int8], pixel_um: tuple[float, float], block: tuple[int, int] = (512, 512)
) -> FloatArray:
    """Signed distance field of a whole grid of classes; see `signed_from_squared`.

    Raises:
        ConfigurationError: a class other than INSIDE, OUTSIDE and NOT_TISSUE, or as in `make_grid`.
    """
    check_classes(classes)
    grid = make_grid((classes.shape[0], classes.shape[1]), pixel_um)
    to_inside = squared_distances(classes == INSIDE, grid, block)
    to_outside = squared_distances(classes == OUTSIDE, grid, block)
    return signed_from_squared(classes, to_inside, to_outside, grid)


def check_classes(classes: NDArray[np.int8]) -> None:
    """Refuse what is no class.

    Raises:
        ConfigurationError: a value other than INSIDE, OUTSIDE and NOT_TISSUE.
    """
    unknown = np.setdiff1d(classes, (INSIDE, OUTSIDE, NOT_TISSUE))
    if unknown.size:
        raise ConfigurationError(
            f"class {unknown[0]} is none of {INSIDE} (inside), {OUTSIDE} (outside) and {NOT_TISSUE} (not tissue); "
            "map the labels to these three first"
        )


def nearest_distance(points_um: FloatArray, targets_um: FloatArray) -> FloatArray:
    """Distance of each point of a block to the nearest of all targets, such as vessels.

    Args:
        points_um: (n, 2) of the block.
        targets_um: (n_targets, 2) of the whole section, in any order: 16 bytes each are held, nothing else.
    Returns:
        (n,) in micrometres; infinite without targets.
    """
    for what, values in (("points", points_um), ("targets", targets_um)):
        if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
            raise ConfigurationError(
                f"{what} of shape {values.shape}: give finite coordinates (n, 2) in um; leave out rows without a place"
            )
    if not targets_um.shape[0] or not points_um.shape[0]:
        return np.full(points_um.shape[0], math.inf)
    nearest = cKDTree(targets_um).query(points_um)[1]
    # The same two points give the same bits, whichever tree found them.
    away: FloatArray = np.hypot(*(points_um - targets_um[nearest]).T)
    return away


def signed_distance_spots(
    points_um: FloatArray, classes: NDArray[np.int8], all_points_um: FloatArray, all_classes: NDArray[np.int8],
    pitch_um: float,
) -> FloatArray:
    """Signed distance of a block's spots or cells to the interface, in micrometres.

    The interface is taken to run half way between neighbours: half a pitch is taken off the distance to the nearest
    spot of the other class. Cells lie closer than their typical distance at places: their distance ends at zero.

    Args:
        points_um, classes: (n, 2) and (n,) of the block.
        all_points_um, all_classes: of the whole section: only the coordinates and one byte per spot are held.
        pitch_um: distance of neighbours: the pitch of the array, or the median distance to the nearest cell.
    Returns:
        (n,) negative inside, NaN for NOT_TISSUE, infinite where the section lacks the other class.
    """
    check_classes(classes)
    if not 0.0 < pitch_um < math.inf:
        raise ConfigurationError(f"pitch {pitch_um} um must be positive; take it from the coordinates or the platform")
    signed = np.full(classes.shape[0], math.nan)
    for own, other, sign in ((INSIDE, OUTSIDE, -1.0), (OUTSIDE, INSIDE, 1.0)):
        here = classes == own
        away = nearest_distance(points_um[here], all_points_um[all_classes == other])
        signed[here] = sign * np.maximum(away - 0.5 * pitch_um, 0.0)
    return signed
