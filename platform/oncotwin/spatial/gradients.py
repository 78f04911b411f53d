"""How scores change with the distance to the tumour's border and to vessels: layers, slopes, depths, width, layering.

All are read off sums by square of tissue and layer of distance (`oncotwin.spatial.profiles`), which add up over blocks;
intervals come from drawing the squares anew.

A slope is that of the mean share of counts in a window: where the window is wide against the distance, steps in the
tissue come out as slopes, and steep slopes as flatter ones.

Source:
    The invasive margin, 500 um to either side: Hendry et al. 2017, doi:10.1097/PAP.0000000000000161. Slopes: least
    squares. Fall to a half as measure of penetration: Minchinton & Tannock 2006, doi:10.1038/nrc1893. Layering: the
    uncertainty coefficient, Theil 1970, doi:10.1086/224909.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oncotwin.spatial.interface import layering_index
from oncotwin.spatial.profiles import (
    LAYER_NAMES,
    LAYERS_UM,
    bootstrap,
    centres_of,
    half_depth_over,
    layer_means,
    profile_sums,
    slope_over,
    width_over,
)
from oncotwin.spatial.section_cut import SectionScale
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.square_draws import signature_of

FloatArray = NDArray[np.float64]

FARTHEST_UM = 1000.0
"""Slopes and depths look this far to either side of the border."""
_PER_MILLE = 1000.0
"""Shares are summed in thousandths, so that rare sets keep their digits."""
_WIDTH_DRAWS = 100
_LEAST_CELLS = 10

_LAYERS = "Hendry et al. 2017, doi:10.1097/PAP.0000000000000161 (margin of 500 um)"
_SLOPE = "least squares over cells set to the centre of their layer"
_DEPTH = "Minchinton & Tannock 2006, doi:10.1038/nrc1893"
_WIDTH = "cumulative normal profile between two levels, 10 to 90 % of the way"
_LAYERING = "Theil 1970, doi:10.1086/224909"


def layer_signatures(
    names: Sequence[str], scores: FloatArray, distance_um: FloatArray, places_um: FloatArray, scale: SectionScale,
    seed: int,
) -> list[Signature]:
    """Mean of each score in the five layers from the tumour's core to the far stroma.

    Args:
        names: of the scores.
        scores: (n_cells, n_scores) finite shares, or nil and one for a class.
        distance_um: (n_cells,) signed, negative inside.
        places_um: (n_cells, 2).
        scale: of the section.
        seed: of the draws.
    """
    sums = profile_sums(places_um, distance_um, scores * _PER_MILLE, LAYERS_UM, scale.square_um)
    found, cells = bootstrap(sums, layer_means, seed), sums.counts.sum(axis=0)
    return [
        signature_of(
            f"{name}.layer.{layer.replace(' ', '_')}", found, (at, score), "1", _LAYERS, 1 / _PER_MILLE,
            f"mean over {cells[at]} cells" if cells[at] else "no cell lies there",
        )
        for score, name in enumerate(names) for at, layer in enumerate(LAYER_NAMES)
    ]


def slope_signatures(
    names: Sequence[str], scores: FloatArray, distance_um: FloatArray, places_um: FloatArray, scale: SectionScale,
    seed: int,
) -> list[Signature]:
    """Slope of each score with the signed distance, in the tumour and in the tissue around it.

    Inside, a positive slope means that a score rises towards the border, a negative one that it rises towards the core.
    Arguments as of `layer_signatures`.
    """
    edges = _edges(0.5, scale, -FARTHEST_UM, FARTHEST_UM)
    sums = profile_sums(places_um, distance_um, scores * _PER_MILLE, edges, scale.square_um)
    centres, cells = centres_of(edges), sums.counts.sum(axis=0)
    made = []
    for side, own in (("inside", centres < 0), ("outside", centres > 0)):
        found = bootstrap(sums, slope_over(np.where(own, centres, math.nan)), seed)
        n = int(cells[own].sum())
        note = f"over {n} cells up to {FARTHEST_UM:.0f} um from the border"
        made += [
            _unless_few(signature_of(f"{name}.slope_{side}", found, at, "/um", _SLOPE, 1 / _PER_MILLE, note), n)
            for at, name in enumerate(names)
        ]
    return made


def penetration_signatures(
    names: Sequence[str], scores: FloatArray, distance_um: FloatArray, places_um: FloatArray, scale: SectionScale,
    seed: int,
) -> list[Signature]:
    """Depth inside the tumour at which each score has fallen to half of what it is at the border.

    Infinite where it does not fall so far within `FARTHEST_UM`. Arguments as of `layer_signatures`.
    """
    edges = _edges(1.0, scale, 0.0, FARTHEST_UM)
    # Spots at the border lie half a pitch deep: in the middle of the first layer.
    depth = np.where(distance_um <= 0, -distance_um, math.nan)
    sums = profile_sums(places_um, depth, scores * _PER_MILLE, edges, scale.square_um)
    if not len(sums.squares):
        return []
    found, n = bootstrap(sums, half_depth_over(centres_of(edges)), seed), int(sums.counts.sum())
    made = []
    for at, name in enumerate(names):
        note = f"depth of the fall to a half, over {n} cells inside"
        if math.isinf(float(found.value[at])):
            note += f"; it does not fall so far within {FARTHEST_UM:.0f} um"
        made.append(_unless_few(signature_of(f"{name}.penetration_depth", found, at, "um", _DEPTH, note=note), n))
    return made


def border_signatures(
    tumour_score: FloatArray | None, labels: NDArray[np.int64], distance_um: FloatArray, places_um: FloatArray,
    scale: SectionScale, seed: int,
) -> list[Signature]:
    """Width of the transition of the tumour's score, and how far distance tells the label of a cell (layering).

    Args:
        tumour_score: (n_cells,) finite; None where there is none, as for cells that carry classes only.
        labels: (n_cells,) niche or class from nil on; empty to leave the layering out.
        distance_um, places_um, scale, seed: as of `layer_signatures`.
    """
    made = []
    if tumour_score is not None:
        edges = _edges(0.5, scale, -FARTHEST_UM, FARTHEST_UM)
        sums = profile_sums(places_um, distance_um, tumour_score[:, None] * _PER_MILLE, edges, scale.square_um)
        found = bootstrap(sums, width_over(centres_of(edges)), seed, _WIDTH_DRAWS)
        note = "of the smoothed share of the tumour set; not below the window it is smoothed in"
        made.append(signature_of("interface.width", found, 0, "um", _WIDTH, note=note))
    if len(labels):
        one_hot = (labels[:, None] == np.arange(int(labels.max()) + 1)).astype(np.float64)
        sums = profile_sums(places_um, distance_um, one_hot, LAYERS_UM, scale.square_um)
        found = bootstrap(sums, _layering, seed)
        note = "0: the layer says nothing of the label, 1: it says all"
        made.append(signature_of("interface.layering_index", found, 0, "1", _LAYERING, note=note))
    return made


def vessel_signatures(
    names: Sequence[str], scores: FloatArray, vessel_um: FloatArray, places_um: FloatArray, scale: SectionScale,
    seed: int,
) -> list[Signature]:
    """Slope of each score with the distance to the nearest vessel.

    Args:
        vessel_um: (n_cells,) distance to the nearest vessel, not negative.
        names, scores, places_um, scale, seed: as of `layer_signatures`.
    """
    edges = _edges(1.0, scale, 0.0, FARTHEST_UM)
    sums = profile_sums(places_um, vessel_um, scores * _PER_MILLE, edges, scale.square_um)
    found, n = bootstrap(sums, slope_over(centres_of(edges)), seed), int(sums.counts.sum())
    note = f"over {n} cells up to {FARTHEST_UM:.0f} um from a vessel"
    return [
        _unless_few(signature_of(f"{name}.vessel_slope", found, at, "/um", _SLOPE, 1 / _PER_MILLE, note), n)
        for at, name in enumerate(names)
    ]


def _layering(_: FloatArray, sums: FloatArray) -> FloatArray:
    return np.array([layering_index(np.rint(sums).astype(np.int64))])


def _edges(pitches: float, scale: SectionScale, low: float, high: float) -> FloatArray:
    """Layers of so many pitches, at least 20 um, an even number of them."""
    step = max(20.0, pitches * scale.pitch_um)
    n = max(2, math.ceil((high - low) / step / 2) * 2)
    return np.linspace(low, high, n + 1)


def _unless_few(made: Signature, n_cells: int) -> Signature:
    """A slope over a handful of cells is none."""
    if n_cells >= _LEAST_CELLS:
        return made
    note = f"{n_cells} cells only, at least {_LEAST_CELLS} are needed"
    return Signature(made.name, math.nan, made.unit, math.nan, math.nan, made.source, note)
