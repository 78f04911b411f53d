"""Maps of a slide on a coarse grid: integer sums of each cell, which blocks add to, and the classes that follow.

Every sum is an integer over the cell's own pixels or nuclei, so the maps of two tiles add up to the map of both, and no
tile size or order changes a bit. Focus is the variance of the Laplacian over the variance of grey: contrast cancels.

Source:
    Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548 (variance of the Laplacian as a measure of focus).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.slide_grid import SlideGrid, Window
from oncotwin.spatial.slide_nuclei import Nuclei, eccentricity
from oncotwin.spatial.slide_stains import FlagArray, LevelArray, StainedBlock
from oncotwin.spatial.slide_tissue import OD_STEPS, PEN, TISSUE

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

FIELDS = (
    "n_pixels", "n_tissue", "n_pen", "sum_haematoxylin", "sum_eosin", "sum_grey", "sum_grey2", "sum_laplacian",
    "sum_laplacian2", "n_nuclei", "sum_nucleus_pixels", "sum_nucleus_pixels2", "sum_nucleus_stain",
    "sum_nucleus_eccentricity",
)  # fmt: skip
"""What each cell sums: pixels, those of tissue and of ink; over tissue the stains (steps of OD), grey and its Laplacian
with their squares; nuclei by their seed: pixels and the squares of these, haematoxylin, eccentricity."""
ECCENTRICITY_STEPS = 1 << 20
"""Steps of one unit of eccentricity."""
GLASS, ADIPOSE, STROMA, TUMOUR, IMMUNE, UNUSABLE = range(6)
"""Classes of a cell, by the rules of `classify_cells`."""
USABLE, PEN_MARKS, BLURRED, FOLDED = range(4)
"""Whether a cell can be used, by the rules of `cell_quality`."""
LAPLACIAN_HALO = 1
"""Working pixels around a tile that its maps depend on."""

_RUN = 128
"""Pixels that are summed in 32 bits: the largest square of the Laplacian of grey takes 24."""
_I = {name: k for k, name in enumerate(FIELDS)}
_i8 = types.int64
_h2, _b2 = types.uint16[:, ::1], types.uint8[:, ::1]


@dataclass(frozen=True)
class CellSums:
    """Sums of a rectangle of cells.

    Args:
        first_row, first_column: of the rectangle among the slide's cells.
        values: (rows, columns, n_fields) integers in the order of `FIELDS`.
    """

    first_row: int
    first_column: int
    values: IntArray


@dataclass(frozen=True)
class CellRule:
    """Thresholds of `classify_cells`.

    Args:
        least_tissue, least_solid: shares of tissue below which a cell is glass, and below which it is fat.
        largest_pen: share of ink from which a cell is unusable.
        least_focus: variance of the Laplacian over variance of grey, below which a cell of tissue is blurred.
        cellular_mm2: nuclei per mm2 of tissue from which a cell is tumour-like or immune-like.
        large_um2: mean area of nuclei from which such a cell is tumour-like.
        fold: how many times the slide's median of both stains a fold has at least.
    """

    least_tissue: float = 0.03
    least_solid: float = 0.4
    largest_pen: float = 0.1
    least_focus: float = 0.02
    cellular_mm2: float = 3000.0
    large_um2: float = 32.0
    fold: float = 1.75


def cell_pixels(grid: SlideGrid, cell_um: float) -> int:
    """Working pixels along the side of a map's cell; the cell's true side is this times ``grid.pixel_um``.

    Raises:
        ConfigurationError: the cell is smaller than a working pixel.
    """
    if not (math.isfinite(cell_um) and cell_um >= grid.pixel_um):
        raise ConfigurationError(f"map cells of {cell_um} um: give at least a working pixel, {grid.pixel_um} um")
    return round(cell_um / grid.pixel_um)


def empty_map(grid: SlideGrid, cell: int) -> IntArray:
    """Zeros for the whole slide, (rows, columns, n_fields); the last row and column of cells may be cut by the edge."""
    rows, columns = grid.working_shape
    return np.zeros((-(-rows // cell), -(-columns // cell), len(FIELDS)), np.int64)


def sum_cells(block: StainedBlock, window: Window, nuclei: Nuclei, cell: int) -> CellSums:
    """Sums of the window's core and of the nuclei whose seeds it holds.

    Args:
        block: of ``window.block``, with a halo of at least `LAPLACIAN_HALO` except at the slide's edge.
        nuclei: by `find_nuclei` of the same window.
        cell: side of a cell in working pixels.
    """
    top, bottom, left, right = window.core
    first_row, first_column = top // cell, left // cell
    values = np.zeros((-(-bottom // cell) - first_row, -(-right // cell) - first_column, len(FIELDS)), np.int64)
    origin = np.array([window.block[0], window.block[2]], np.int64)
    inner = np.array(window.inner, np.int64)
    _sum_pixels(block.haematoxylin, block.eosin, block.grey, block.flags, inner, origin, cell, values)
    at = nuclei.row // cell - first_row, nuclei.column // cell - first_column
    of_nuclei = {
        "n_nuclei": np.ones_like(nuclei.n_pixels), "sum_nucleus_pixels": nuclei.n_pixels,
        "sum_nucleus_pixels2": nuclei.n_pixels**2, "sum_nucleus_stain": nuclei.sum_stain,
        "sum_nucleus_eccentricity": np.rint(eccentricity(nuclei) * ECCENTRICITY_STEPS).astype(np.int64),
    }  # fmt: skip
    for name, summands in of_nuclei.items():
        np.add.at(values[..., _I[name]], at, summands)
    return CellSums(first_row, first_column, values)


def add_cells(total: IntArray, part: CellSums) -> None:
    """Add a tile's sums to the map of the whole slide, in place: the one who holds the map is its only owner."""
    rows, columns, _ = part.values.shape
    total[part.first_row : part.first_row + rows, part.first_column : part.first_column + columns] += part.values


def join_cells(parts: Sequence[CellSums]) -> CellSums:
    """Sums of the smallest rectangle around all parts.

    Args:
        parts: at least one.
    """
    first_row, first_column = min(one.first_row for one in parts), min(one.first_column for one in parts)
    rows = max(one.first_row + one.values.shape[0] for one in parts) - first_row
    columns = max(one.first_column + one.values.shape[1] for one in parts) - first_column
    values = np.zeros((rows, columns, len(FIELDS)), np.int64)
    for one in parts:
        add_cells(values, CellSums(one.first_row - first_row, one.first_column - first_column, one.values))
    return CellSums(first_row, first_column, values)


@njit(
    types.void(_h2, _h2, _h2, _b2, types.int64[::1], types.int64[::1], _i8, types.int64[:, :, ::1]),
    cache=True,
    nogil=True,
)
def _sum_pixels(
    haematoxylin: LevelArray,
    eosin: LevelArray,
    grey: LevelArray,
    flags: FlagArray,
    inner: IntArray,
    origin: IntArray,
    cell: int,
    values: IntArray,
) -> None:
    rows, columns = grey.shape
    first_row, first_column = (inner[0] + origin[0]) // cell, (inner[2] + origin[1]) // cell
    curves = np.empty(columns, np.int32)
    for i in range(inner[0], inner[1]):
        row, up, down = grey[i], grey[max(i - 1, 0)], grey[min(i + 1, rows - 1)]
        for j in range(1, columns - 1):
            around = np.int32(up[j]) + np.int32(down[j]) + np.int32(row[j - 1]) + np.int32(row[j + 1])
            curves[j] = around - 4 * np.int32(row[j])
        for j in range(0, columns, max(columns - 1, 1)):
            beside = np.int32(row[max(j - 1, 0)]) + np.int32(row[min(j + 1, columns - 1)])
            curves[j] = np.int32(up[j]) + np.int32(down[j]) + beside - 4 * np.int32(row[j])
        h_row, e_row, f_row = haematoxylin[i], eosin[i], flags[i]
        out_row = values[(i + origin[0]) // cell - first_row]
        start = inner[2]
        while start < inner[3]:
            number = (start + origin[1]) // cell
            stop = min(inner[3], (number + 1) * cell - origin[1], start + _RUN)
            n_tissue = n_pen = h = e = g = g2 = lap = lap2 = np.int32(0)
            for j in range(start, stop):
                # 0 or all bits: what is no tissue adds nothing. 32 bits, as more of them fit into a register.
                mask = np.int32(-np.int32(f_row[j] == TISSUE))
                own, curve = np.int32(np.int32(row[j]) & mask), np.int32(curves[j] & mask)
                n_pen = np.int32(n_pen + np.int32(f_row[j] == PEN))
                n_tissue = np.int32(n_tissue - mask)
                h = np.int32(h + (np.int32(h_row[j]) & mask))
                e = np.int32(e + (np.int32(e_row[j]) & mask))
                g = np.int32(g + own)
                g2 = np.int32(g2 + own * own)
                lap = np.int32(lap + curve)
                lap2 = np.int32(lap2 + curve * curve)
            out = out_row[number - first_column]
            out[0] += stop - start
            out[1] += n_tissue
            out[2] += n_pen
            out[3] += h
            out[4] += e
            out[5] += g
            out[6] += g2
            out[7] += lap
            out[8] += lap2
            start = stop


def _ratio(one: IntArray, other: IntArray) -> FloatArray:
    """Of two sums; NaN where the second is 0."""
    found: FloatArray = np.divide(one, other, out=np.full(one.shape, np.nan), where=other != 0)
    return found


def _field(values: IntArray, name: str) -> IntArray:
    return values[..., _I[name]]


def tissue_share(values: IntArray) -> FloatArray:
    """Share of each cell's pixels that is tissue."""
    return _ratio(_field(values, "n_tissue"), _field(values, "n_pixels"))


def pen_share(values: IntArray) -> FloatArray:
    """Share of each cell's pixels that is ink."""
    return _ratio(_field(values, "n_pen"), _field(values, "n_pixels"))


def nuclei_per_mm2(values: IntArray, grid: SlideGrid) -> FloatArray:
    """Nuclei per mm2 of tissue; NaN without tissue."""
    return _ratio(_field(values, "n_nuclei"), _field(values, "n_tissue")) / (grid.pixel_um * 1e-3) ** 2


def mean_nucleus_um2(values: IntArray, grid: SlideGrid) -> FloatArray:
    """Mean area of the nuclei of each cell; NaN without nuclei."""
    return _ratio(_field(values, "sum_nucleus_pixels"), _field(values, "n_nuclei")) * grid.pixel_um**2


def mean_stain(values: IntArray, name: str) -> FloatArray:
    """Mean OD of ``haematoxylin`` or ``eosin`` over the tissue of each cell; NaN without tissue."""
    return _ratio(_field(values, f"sum_{name}"), _field(values, "n_tissue")) / OD_STEPS


def focus(values: IntArray) -> FloatArray:
    """Variance of the Laplacian over variance of grey, over tissue; NaN where grey does not vary."""
    n = _field(values, "n_tissue")
    # Integers: n sum(x2) - sum(x)2 keeps all digits where a difference of means would lose them.
    sharp = n * _field(values, "sum_laplacian2") - _field(values, "sum_laplacian") ** 2
    varied = n * _field(values, "sum_grey2") - _field(values, "sum_grey") ** 2
    return _ratio(sharp, varied)


def cell_quality(values: IntArray, rule: CellRule) -> NDArray[np.uint8]:
    """Whether each cell of the whole slide's map can be used, by the first of these that holds.

    1. PEN_MARKS: ink on at least ``largest_pen``;
    2. BLURRED: mostly tissue whose focus is under ``least_focus``;
    3. FOLDED: mostly tissue with at least ``fold`` times the slide's median of both stains, as tissue that lies double
       absorbs twice; a fold much narrower than a cell is not seen.

    Returns:
        (rows, columns) of USABLE, PEN_MARKS, BLURRED or FOLDED.
    Source:
        Folds as places that are darker in all stains: Kothari et al. 2013, doi:10.4103/2153-3539.117448.
    """
    share = tissue_share(values)
    solid = share >= rule.least_solid
    pen = pen_share(values) >= rule.largest_pen
    blurred = solid & (np.nan_to_num(focus(values), nan=np.inf) < rule.least_focus)
    folded = solid.copy()
    for name in ("haematoxylin", "eosin"):
        amount = np.nan_to_num(mean_stain(values, name))
        usual = float(np.median(amount[solid & ~pen])) if (solid & ~pen).any() else math.inf
        folded &= (amount >= rule.fold * usual) & (amount > 0.0)
    quality = np.full(share.shape, USABLE, np.uint8)
    quality[folded] = FOLDED
    quality[blurred] = BLURRED
    quality[pen] = PEN_MARKS
    return quality


def classify_cells(values: IntArray, grid: SlideGrid, rule: CellRule) -> NDArray[np.uint8]:
    """Class of each cell of the whole slide's map, by the first rule that holds.

    1. UNUSABLE: by `cell_quality`;
    2. GLASS: tissue on less than ``least_tissue``; 3. ADIPOSE: on less than ``least_solid`` (thin walls round empty
    fat cells; the torn edge of tissue looks alike);
    4. TUMOUR, IMMUNE: at least ``cellular_mm2`` nuclei per mm2 of tissue, large or small by ``large_um2``;
    5. STROMA: the rest.

    The classes are "like" these tissues by cellularity and nuclear size alone: normal epithelium counts as tumour-like.
    """
    share = tissue_share(values)
    density, area = nuclei_per_mm2(values, grid), mean_nucleus_um2(values, grid)
    cellular = np.nan_to_num(density) >= rule.cellular_mm2
    classes = np.full(share.shape, STROMA, np.uint8)
    classes[cellular & (np.nan_to_num(area) >= rule.large_um2)] = TUMOUR
    classes[cellular & (np.nan_to_num(area) < rule.large_um2)] = IMMUNE
    classes[share < rule.least_solid] = ADIPOSE
    classes[share < rule.least_tissue] = GLASS
    classes[cell_quality(values, rule) != USABLE] = UNUSABLE
    return classes
