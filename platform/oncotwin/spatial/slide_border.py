"""The border of tumour-like tissue on a slide: length, mixing, bends, and who is where on either side of it.

Cells of the map take the place of the cells of a section. Their classes are read off sums over three by three cells:
single cells are too noisy to draw a border through.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oncotwin.spatial.distance import INSIDE, NOT_TISSUE, OUTSIDE, signed_distance_spots
from oncotwin.spatial.gradients import layer_signatures
from oncotwin.spatial.interface import neighbours_by_class
from oncotwin.spatial.interface_estimates import border_ratios, shape_signatures
from oncotwin.spatial.section_cut import SectionScale
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.slide_estimates import SQUARE_UM
from oncotwin.spatial.slide_grid import SlideGrid
from oncotwin.spatial.slide_maps import (
    GLASS,
    IMMUNE,
    TUMOUR,
    UNUSABLE,
    USABLE,
    CellRule,
    cell_quality,
    classify_cells,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LEAST_CELLS = 20
"""Cells on either side from which on there is a border."""


def border_signatures(
    values: IntArray, grid: SlideGrid, cell: int, rule: CellRule, seed: int
) -> tuple[list[Signature], str]:
    """Signatures of the border, or why there are none.

    Args:
        values: (rows, columns, n_fields) map of the whole slide.
        grid: of the slide.
        cell: side of a map's cell in working pixels.
        rule: by which cells are judged.
        seed: of the draws.
    Returns:
        the signatures and "", or none and a reason.
    """
    held = values.copy()
    held[cell_quality(values, rule) != USABLE] = 0
    glass = classify_cells(held, grid, rule) == GLASS
    _add_around(held)
    found = classify_cells(held, grid, rule)
    del held
    regions = np.full(found.shape, OUTSIDE, np.int8)
    regions[found == TUMOUR] = INSIDE
    # A cell belongs to the tissue if it holds some itself: sums around reach over the tissue's edge.
    regions[glass | (found == GLASS) | (found == UNUSABLE)] = NOT_TISSUE
    sizes = [int(np.count_nonzero(regions == one)) for one in (INSIDE, OUTSIDE)]
    if min(sizes) < LEAST_CELLS:
        return [], (
            f"{sizes[0]} map cells of tumour-like tissue and {sizes[1]} of other tissue: at least {LEAST_CELLS} of "
            "each are needed for a border"
        )
    side_um = cell * grid.pixel_um
    row, column = np.nonzero(regions != NOT_TISSUE)
    places = ((np.column_stack([column, row]) + 0.5) * side_um).astype(np.float64)
    classes = regions[row, column]
    scale = SectionScale(side_um, side_um**2, SQUARE_UM)
    distance = signed_distance_spots(places, classes, places, classes, side_um)
    near = neighbours_by_class(places, classes, len(places), side_um)
    immune = (found[row, column] == IMMUNE).astype(np.float64)[:, None]
    made = border_ratios(classes, near, places, scale, seed)
    made += shape_signatures(regions, side_um, max(8, round(SQUARE_UM / side_um)), seed)
    return made + layer_signatures(["immune_like"], immune, distance, places, scale, seed), ""


def _add_around(values: IntArray) -> None:
    """Add to each cell its eight neighbours, in place; beyond the edge there is nothing."""
    for row in values:
        own = row.copy()
        row[1:] += own[:-1]
        row[:-1] += own[1:]
    above = np.zeros_like(values[0])
    for at in range(len(values)):
        own = values[at].copy()
        values[at] += above
        if at + 1 < len(values):
            values[at] += values[at + 1]
        above = own
