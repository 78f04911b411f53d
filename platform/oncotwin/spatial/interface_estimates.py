"""The tumour's border as signatures: length and mixing from the cells themselves, curvature and roughness from a map.

Cells are compared with their surroundings, so that lattices and scattered cells are measured alike; bends are read off
a map of classes, tile by tile. Intervals come from drawing squares, or tiles, of the section anew.

Source: see `oncotwin.spatial.interface`.
"""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from oncotwin.spatial.distance import INSIDE, OUTSIDE
from oncotwin.spatial.interface import (
    ClassArray,
    InterfaceSums,
    cut_with_halo,
    halo_of,
    interface_sums,
    length_from_pairs,
    measure_interface,
)
from oncotwin.spatial.section_cut import SectionScale
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.square_draws import FEW_SQUARES, Ratio, ratio_signatures

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

RADIUS = 4
"""Of the discs for curvature, in pixels of a map: two pitches where a pixel is half a pitch."""
_DRAWS = 200
_QUANTILES = (0.05, 0.95)
_CROFTON = "Santaló 2004, doi:10.1017/CBO9780511617331, chapter 3"
_PAIRS = "expected pairs across a straight line, oncotwin.spatial.interface.length_from_pairs"
_MIXING = "Keren et al. 2018, doi:10.1016/j.cell.2018.08.039"
_CURVATURE = "Pottmann et al. 2009, doi:10.1016/j.cagd.2008.01.002, section 3"


def border_ratios(
    classes: ClassArray, near: IntArray, places_um: FloatArray, scale: SectionScale, seed: int
) -> list[Signature]:
    """Share and area of the tumour, length of its border, and mixing across it.

    Args:
        classes: (n_cells,) INSIDE, OUTSIDE or NOT_TISSUE; both regions are there.
        near: (n_cells, 2) of every cell, from `neighbours_by_class` with the root of `SectionScale.cell_um2`.
        places_um: (n_cells, 2).
        scale: of the section.
        seed: of the draws.
    """
    inside, outside = (classes == INSIDE).astype(np.float64), (classes == OUTSIDE).astype(np.float64)
    tissue, n = inside + outside, float(np.count_nonzero(classes == INSIDE) + np.count_nonzero(classes == OUTSIDE))
    across = inside * near[:, 1] + outside * near[:, 0]
    within = inside * near[:, 0]
    per_pair = length_from_pairs(np.array([0, 1, 0], dtype=np.int64), math.sqrt(scale.cell_um2))
    area = n * scale.cell_um2
    told = "share of spots or cells in the region, which may be mixtures"
    return ratio_signatures(
        [
            Ratio("tumour.share", inside, tissue, "1", "share of cells", note=told),
            Ratio("tumour.area", inside, tissue, "um2", "share of cells times area of all", area),
            Ratio("interface.length", across, tissue, "um", _PAIRS, per_pair * n),
            Ratio("interface.length_per_area", across, tissue, "/um", _PAIRS, per_pair / scale.cell_um2),
            Ratio("interface.mixing", across, within, "1", _MIXING, note="pairs across over pairs inside"),
        ],
        places_um, scale.square_um, seed,
    )


def shape_signatures(classes: ClassArray, pixel_um: float, tile: int, seed: int) -> list[Signature]:
    """Curvature and roughness of the border on a map of classes.

    Args:
        classes: (rows, columns) of the map, NOT_TISSUE where there is none.
        pixel_um: side of a pixel.
        tile: side of the tiles that are drawn anew, in pixels.
        seed: of the draws.
    """
    parts = []
    for i in range(0, classes.shape[0], tile):
        for j in range(0, classes.shape[1], tile):
            own = interface_sums(cut_with_halo(classes, (i, j), (tile, tile), halo_of(RADIUS)), RADIUS)
            if own.pixels.any():
                parts.append(own)
    stacked = [np.stack([getattr(part, field.name) for part in parts]) for field in fields(InterfaceSums)]

    def read(weights: IntArray) -> FloatArray:
        sums = InterfaceSums(*(np.tensordot(weights, one, 1) for one in stacked))
        shape = measure_interface(sums, (pixel_um, pixel_um), RADIUS)
        return np.array([shape.mean_curvature_per_um, shape.absolute_curvature_per_um, shape.roughness])

    n = len(parts)
    values = read(np.ones(n, dtype=np.int64))
    low = high = np.full(3, math.nan)
    if n > 1:
        draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_DRAWS)
        drawn = np.stack([read(weights) for weights in draws])
        # A draw may hold no border at all: the others say what is known.
        known = np.isfinite(drawn).sum(axis=0) > 1
        low, high = np.full(3, math.nan), np.full(3, math.nan)
        low[known], high[known] = np.nanquantile(drawn[:, known], _QUANTILES, axis=0, method="inverted_cdf")
    few = f"interval from {n} tiles only, too narrow" if n < FEW_SQUARES else ""
    notes = (
        "positive where the tumour bulges out", "mean of the absolute value; what a pixel cannot resolve adds to it",
        "length over that of the smoothed border; 1 is smooth",
    )
    names = ("mean_curvature", "absolute_curvature", "roughness")
    return [
        Signature(
            f"interface.{name}", float(values[at]), "1" if name == "roughness" else "/um", float(low[at]),
            float(high[at]), _CROFTON if name == "roughness" else _CURVATURE, "; ".join(filter(None, (notes[at], few))),
        )
        for at, name in enumerate(names)
    ]
