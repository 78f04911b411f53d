"""Nuclei of a block, found alike in every tiling: seeds of a blob filter, grown down its slopes inside a bounded box.

1. smoothing: Gaussians with integer weights; sums of integers have one value in every order;
2. seeds: the maxima of a difference of Gaussians (a Laplacian of the size of a nucleus), ties to the earlier pixel;
3. growth: a pixel belongs to the seed that the steepest way up leads to (a watershed, pixel by pixel), as far as it is
   above half the seed's height over the surroundings, and no further from the seed than the radius of the box.

So a nucleus depends only on pixels within `halo` of its seed, and belongs to the tile whose core holds the seed.

Source:
    Lindeberg 1998, doi:10.1023/A:1008045108935 (blobs as extrema of the Laplacian, scale radius / sqrt 2); Marr &
    Hildreth 1980, doi:10.1098/rspb.1980.0020 (difference of Gaussians, ratio 1.6); Couprie & Bertrand 1997,
    doi:10.1117/12.292778 (watershed as steepest ascent).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.slide_grid import SlideGrid, Window
from oncotwin.spatial.slide_stains import FlagArray, LevelArray, StainedBlock
from oncotwin.spatial.slide_tissue import OD_STEPS, PEN, TISSUE

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Response = NDArray[np.int32]
Taps = NDArray[np.int32]

_TAP_SUM = 4096
_SCALE = 16
"""Steps of the smoothed images in one step of OD."""
_RATIO = 1.6
_EDGE_UM = 0.5
_SUMMIT, _LOW = 5, 15
"""Ways up of a pixel that is the highest around, and of one that is not above nil."""
_WIDTH = 2.5
"""Half width of a Gaussian's taps in standard deviations."""

_i8, _f4 = types.int64, types.int32[:, ::1]
_h2, _b2, _t1 = types.uint16[:, ::1], types.uint8[:, ::1], types.int32[::1]


@dataclass(frozen=True)
class NucleiRule:
    """What counts as a nucleus.

    Args:
        sigma_um: scale of the blob filter; a disc of radius r answers most at r / sqrt 2.
        least_response_od: least answer of the filter at a seed, in OD of haematoxylin.
        largest_radius_um: half side of the box that a nucleus may fill around its seed.
        least_area_um2, largest_area_um2: areas outside are no nuclei.
    """

    sigma_um: float = 1.9
    least_response_od: float = 0.03
    largest_radius_um: float = 8.0
    least_area_um2: float = 8.0
    largest_area_um2: float = 200.0

    def __post_init__(self) -> None:
        """Refuse rules that no nucleus can satisfy.

        Raises:
            ConfigurationError: a value that is not positive, or areas in the wrong order.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0.0):
                raise ConfigurationError(f"NucleiRule.{field.name} is {value}: it must be positive and finite")
        if self.least_area_um2 >= self.largest_area_um2:
            raise ConfigurationError("NucleiRule: least_area_um2 is not below largest_area_um2; swap or widen them")


@dataclass(frozen=True)
class Nuclei:
    """Nuclei as integers on the working grid, (n,) each, by rows and then columns of their seeds within a tile.

    Args:
        row, column: seed on the slide.
        n_pixels: working pixels.
        sum_row, sum_column, sum_row2, sum_column2, sum_both: sums of the offsets from the seed, of their squares and
            of their product.
        sum_stain: sum of haematoxylin in steps of OD.
    """

    row: IntArray
    column: IntArray
    n_pixels: IntArray
    sum_row: IntArray
    sum_column: IntArray
    sum_row2: IntArray
    sum_column2: IntArray
    sum_both: IntArray
    sum_stain: IntArray


@dataclass(frozen=True)
class Morphometrics:
    """Nuclei in units: (n,) centre x and y in um from the slide's corner, area in um2, eccentricity, OD."""

    x_um: FloatArray
    y_um: FloatArray
    area_um2: FloatArray
    eccentricity: FloatArray
    intensity: FloatArray


def gaussian_taps(sigma: float) -> Taps:
    """Half of a symmetric Gaussian in integers that sum to 4,096 over the whole.

    Args:
        sigma: standard deviation in pixels.
    Returns:
        (radius + 1,) from the centre outwards.
    """
    radius = max(1, math.ceil(_WIDTH * sigma))
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    taps: Taps = np.rint(weights / (2.0 * weights.sum() - weights[0]) * _TAP_SUM).astype(np.int32)
    taps[0] += _TAP_SUM - (2 * taps.sum() - taps[0])
    return taps


def _cascade(grid: SlideGrid, rule: NucleiRule) -> tuple[Taps, Taps, Taps]:
    """Taps of the edge's scale, from there to the blob's, and from there to the surroundings'."""
    edge, blob = _EDGE_UM / grid.pixel_um, rule.sigma_um / grid.pixel_um
    onward = math.sqrt(max(blob**2 - edge**2, 0.25))
    around = blob * math.sqrt(_RATIO**2 - 1.0)
    return gaussian_taps(edge), gaussian_taps(onward), gaussian_taps(around)


def halo(grid: SlideGrid, rule: NucleiRule) -> int:
    """Working pixels around a tile that its nuclei may depend on."""
    return sum(len(taps) - 1 for taps in _cascade(grid, rule)) + 1 + _box(grid, rule)


def _box(grid: SlideGrid, rule: NucleiRule) -> int:
    return max(1, round(rule.largest_radius_um / grid.pixel_um))


def find_nuclei(block: StainedBlock, window: Window, grid: SlideGrid, rule: NucleiRule) -> Nuclei:
    """Nuclei whose seed lies in the window's core.

    Args:
        block: of ``window.block``, which must reach `halo` beyond the core or to the slide's edge.
    Raises:
        ConfigurationError: the block is of another size than the window, or its halo is too narrow.
    """
    _check(block, window, grid, halo(grid, rule))
    edge_taps, blob_taps, around_taps = _cascade(grid, rule)
    edge = np.empty(block.haematoxylin.shape, np.int32)
    blob, answer = np.empty_like(edge), np.empty_like(edge)
    ways = np.empty(edge.shape, np.uint8)
    _smooth(block.haematoxylin, _SCALE * edge_taps, edge_taps, edge)
    _smooth(edge, blob_taps, blob_taps, blob)
    _subtract_smooth(blob, around_taps, answer)
    _ways_up(answer, ways)
    threshold = max(1, round(rule.least_response_od * OD_STEPS * _SCALE))
    seeds = _seeds(answer, ways, block.flags, window.inner, threshold)
    least, largest = (round(area / grid.pixel_um**2) for area in (rule.least_area_um2, rule.largest_area_um2))
    sums = _grow(edge, blob, answer, ways, block.haematoxylin, seeds, _box(grid, rule))
    kept = (sums[:, 2] >= least) & (sums[:, 2] <= largest)
    sums = sums[kept] + np.array([window.block[0], window.block[2], 0, 0, 0, 0, 0, 0, 0])
    return Nuclei(*(np.ascontiguousarray(column) for column in sums.T))


def _check(block: StainedBlock, window: Window, grid: SlideGrid, needed: int) -> None:
    top, bottom, left, right = window.block
    if block.haematoxylin.shape != (bottom - top, right - left):
        raise ConfigurationError(
            f"block of {block.haematoxylin.shape} working pixels for a window of {(bottom - top, right - left)}; "
            "separate what window.raw reads"
        )
    ends = (0, grid.working_shape[0], 0, grid.working_shape[1])
    for core, edge, end in zip(window.core, window.block, ends, strict=True):
        if abs(core - edge) < needed and edge != end:
            raise ConfigurationError(
                f"halo of {abs(core - edge)} working pixels: nuclei need {needed}; cut tiles with halo(grid, rule)"
            )


def merge_nuclei(parts: Iterable[Nuclei]) -> Nuclei:
    """Nuclei of disjoint tiles as one table by row and column of the seed, whatever the tiles and their order."""
    tables = list(parts)
    if not tables:
        return Nuclei(*(np.zeros(0, np.int64) for _ in fields(Nuclei)))
    joined = [np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(Nuclei)]
    order = np.lexsort((joined[1], joined[0]))
    return Nuclei(*(column[order] for column in joined))


def measure(nuclei: Nuclei, grid: SlideGrid) -> Morphometrics:
    """Centre, size, shape and stain of each nucleus, from its integer sums; the intensity is the mean haematoxylin."""
    n = nuclei.n_pixels.astype(np.float64)
    return Morphometrics(
        x_um=(nuclei.column + nuclei.sum_column / n + 0.5) * grid.pixel_um,
        y_um=(nuclei.row + nuclei.sum_row / n + 0.5) * grid.pixel_um,
        area_um2=n * grid.pixel_um**2,
        eccentricity=eccentricity(nuclei),
        intensity=nuclei.sum_stain / n / OD_STEPS,
    )


def eccentricity(nuclei: Nuclei) -> FloatArray:
    """Of the ellipse (n,) with the same second moments, each pixel being a square (1/12 on each axis)."""
    n = nuclei.n_pixels.astype(np.float64)
    row, column = nuclei.sum_row / n, nuclei.sum_column / n
    var_row = nuclei.sum_row2 / n - row**2 + 1.0 / 12.0
    var_column = nuclei.sum_column2 / n - column**2 + 1.0 / 12.0
    both = nuclei.sum_both / n - row * column
    half = 0.5 * (var_row + var_column)
    spread = np.sqrt((0.5 * (var_row - var_column)) ** 2 + both**2)
    found: FloatArray = np.sqrt(np.clip(2.0 * spread / (half + spread), 0.0, 1.0))
    return found


_r1 = types.Array(types.int32, 1, "C"), types.Array(types.uint16, 1, "C")


@njit([types.void(_t1, types.int32, one, one, types.int32, one, one) for one in _r1], cache=True, nogil=True)
def _add_two(
    out: Taps, weight: int, above: NDArray[Any], below: NDArray[Any], weight2: int, above2: NDArray[Any],
    below2: NDArray[Any],
) -> None:
    """Add two taps on either side to a row: together, as a row is read and written in no less time than it is summed.

    Weights are of 32 bits by declaration: otherwise the products are made in 64, three times as slowly.
    """
    for j in range(len(out)):
        near = np.int32(np.int32(above[j]) + np.int32(below[j]))
        far = np.int32(np.int32(above2[j]) + np.int32(below2[j]))
        out[j] = np.int32(out[j] + np.int32(weight * near) + np.int32(weight2 * far))


@njit([types.void(one, _i8, _t1, _t1, _t1, _t1) for one in (_f4, _h2)], cache=True, nogil=True)
def _smooth_row(image: NDArray[Any], i: int, down: Taps, across: Taps, line: Taps, out: Taps) -> None:
    """Smooth one row of an image down and across; the outermost pixels go on beyond the image's edge.

    ``line`` has room for a row and the taps' radius on both sides.
    """
    rows, columns = image.shape
    radius = len(down) - 1
    middle = line[radius : radius + columns]
    row, weight = image[i], down[0]
    for j in range(columns):
        middle[j] = weight * np.int32(row[j])
    # With an odd number of taps the last is paired with one of no weight.
    for k in range(1, radius + 1, 2):
        above, below = image[max(i - k, 0)], image[min(i + k, rows - 1)]
        above2, below2 = image[max(i - k - 1, 0)], image[min(i + k + 1, rows - 1)]
        _add_two(middle, down[k], above, below, down[k + 1] if k < radius else np.int32(0), above2, below2)
    for j in range(columns):
        middle[j] = np.int32(middle[j] + 2048) >> 12
    line[:radius] = middle[0]
    line[radius + columns :] = middle[columns - 1]
    weight = across[0]
    for j in range(columns):
        out[j] = weight * middle[j]
    for k in range(1, radius + 1, 2):
        far = k + 1 if k < radius else k
        before, after = line[radius - k : radius - k + columns], line[radius + k : radius + k + columns]
        before2, after2 = line[radius - far : radius - far + columns], line[radius + far : radius + far + columns]
        _add_two(out, across[k], before, after, across[far] if far > k else np.int32(0), before2, after2)
    for j in range(columns):
        out[j] = np.int32(out[j] + 2048) >> 12


@njit([types.void(one, _t1, _t1, _f4) for one in (_f4, _h2)], cache=True, nogil=True)
def _smooth(image: NDArray[Any], down: Taps, across: Taps, out: Response) -> None:
    line = np.empty(image.shape[1] + 2 * len(down), np.int32)[: image.shape[1] + 2 * len(down) - 2]
    for i in range(image.shape[0]):
        _smooth_row(image, i, down, across, line, out[i])


@njit(types.void(_f4, _t1, _f4), cache=True, nogil=True)
def _subtract_smooth(image: Response, taps: Taps, out: Response) -> None:
    """The image less its smoothed self."""
    _smooth(image, taps, taps, out)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            out[i, j] = image[i, j] - out[i, j]


@njit(types.void(_f4, _b2), cache=True, nogil=True)
def _ways_up(answer: Response, ways: FlagArray) -> None:
    """Where the steepest way up leads from each pixel: to the highest of itself and its neighbours, the earliest of
    those as high.

    The way ``4 a + b`` leads ``1 - a`` rows down and ``1 - b`` columns on; `_SUMMIT` stays, `_LOW` is not above nil.
    """
    rows, columns = answer.shape
    # Heights carry their own place in their last bits, so that the largest number says which is the highest.
    line = np.full(columns + 2, -(1 << 26), np.int32)
    across = np.full((3, columns), -(1 << 28), np.int32)
    for i in range(-1, rows):
        below = across[(i + 1) % 3]
        if i + 1 < rows:
            for j in range(columns):
                line[j + 1] = answer[i + 1, j] << 2
            for j in range(columns):
                highest = np.int32(max(max(line[j] + 2, line[j + 1] + 1), line[j + 2]))
                below[j] = np.int32((highest & -4) << 2) + (highest & 3)
        else:
            below[:] = -(1 << 28)
        if i >= 0:
            above, own, row = across[(i + 2) % 3], across[i % 3], answer[i]
            for j in range(columns):
                highest = np.int32(max(max(above[j] + 8, own[j] + 4), below[j]))
                ways[i, j] = highest & 15 if row[j] > 0 else _LOW


def _seeds(
    answer: Response, ways: FlagArray, flags: FlagArray, inner: tuple[int, int, int, int], threshold: int
) -> IntArray:
    """Summits of the answer on tissue in the core, (n, 2)."""
    top, bottom, left, right = inner
    # NumPy goes over bytes of which few are true many at a time, which no loop over pixels does.
    found = np.flatnonzero(ways[top:bottom, left:right] == _SUMMIT)
    i, j = found // (right - left) + top, found % (right - left) + left
    kept = (answer[i, j] >= threshold) & (flags[i, j] & (TISSUE | PEN) == TISSUE)
    return np.column_stack([i[kept], j[kept]])


@njit(types.int64[:, ::1](_f4, _f4, _f4, _b2, _h2, types.int64[:, ::1], _i8), cache=True, nogil=True)
def _grow(
    edge: Response,
    blob: Response,
    answer: Response,
    ways: FlagArray,
    stain: LevelArray,
    seeds: IntArray,
    box: int,
) -> IntArray:
    """Sums over the pixels of each seed, (n, 9) in the order of `Nuclei`.

    Every pixel has one way up, so that no two seeds reach the same pixel and no mark is needed of those visited.
    """
    sums = np.zeros((len(seeds), 9), np.int64)
    stack = np.empty((2 * box + 1) ** 2 * 2, np.int64)
    for s in range(len(seeds)):
        i0, j0 = seeds[s, 0], seeds[s, 1]
        top, bottom = max(i0 - box, 0), min(i0 + box, answer.shape[0] - 1)
        left, right = max(j0 - box, 0), min(j0 + box, answer.shape[1] - 1)
        # Half the height of a nucleus over its surroundings is some 1.25 answers below its summit at the blob's scale:
        # fitted on generated tissue, so that areas come out right in the middle.
        level = blob[i0, j0] - 5 * answer[i0, j0] // 4
        stack[0], stack[1] = i0, j0
        n_open = 1
        n = sum_i = sum_j = sum_ii = sum_jj = sum_ij = total = np.int64(0)
        while n_open > 0:
            n_open -= 1
            i, j = stack[2 * n_open], stack[2 * n_open + 1]
            di, dj = i - i0, j - j0
            n += 1
            sum_i += di
            sum_j += dj
            sum_ii += di * di
            sum_jj += dj * dj
            sum_ij += di * dj
            total += stain[i, j]
            for y in range(max(i - 1, top), min(i + 1, bottom) + 1):
                for x in range(max(j - 1, left), min(j + 1, right) + 1):
                    leads_here = ways[y, x] == 4 * (y - i + 1) + x - j + 1 and (y != i or x != j)
                    if leads_here and edge[y, x] >= level:
                        stack[2 * n_open], stack[2 * n_open + 1] = y, x
                        n_open += 1
        sums[s, 0], sums[s, 1], sums[s, 2], sums[s, 3], sums[s, 4] = i0, j0, n, sum_i, sum_j
        sums[s, 5], sums[s, 6], sums[s, 7], sums[s, 8] = sum_ii, sum_jj, sum_ij, total
    return sums
