"""What is gathered on a section while its signatures are made, and the parts that all sections share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.section_signature_maps import SectionMap, make_map
from oncotwin.adapters.arrays.section_signature_store import MOST_ROWS
from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.distance import INSIDE, NOT_TISSUE, OUTSIDE, nearest_distance, signed_distance_spots
from oncotwin.spatial.gradients import (
    border_signatures,
    layer_signatures,
    penetration_signatures,
    slope_signatures,
    vessel_signatures,
)
from oncotwin.spatial.interface import neighbours_by_class
from oncotwin.spatial.interface_estimates import border_ratios, shape_signatures
from oncotwin.spatial.section_cut import SectionScale
from oncotwin.spatial.signature import Signature

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

ALPHA = 0.05
"""Rate of false discoveries."""
_LEAST_OF_A_REGION = 5


@dataclass(frozen=True, slots=True)
class SectionChoices:
    """What a caller may choose; one configuration serves every section.

    Attributes:
        n_niches: None for the number with the largest Calinski-Harabasz ratio.
        seed: of all draws.
        class_column: text column of the section with the cells' classes; None for none.
        tumour_classes, vessel_classes, immune_classes: of that column.
        most_rows: of a block; nothing but memory depends on it.
    """

    n_niches: int | None = None
    seed: int = 0
    class_column: str | None = None
    tumour_classes: tuple[str, ...] = ()
    vessel_classes: tuple[str, ...] = ()
    immune_classes: tuple[str, ...] = ()
    most_rows: int = MOST_ROWS


class Steps:
    """Gives each pass over the blocks a name of its own, the same in every run: results may be kept under it."""

    def __init__(self, engine_run: Callable[[str], Run] | None) -> None:
        self._engine_run = engine_run
        self._n_passes: dict[str, int] = {}

    def run(self, name: str) -> Run:
        """How to apply a function to all blocks, once."""
        if self._engine_run is None:
            return map
        n = self._n_passes[name] = self._n_passes.get(name, 0) + 1
        return self._engine_run(name if n == 1 else f"{name}, pass {n}")

    def each(self, name: str) -> Run:
        """How to apply functions to all blocks, one after the other."""
        return lambda function, blocks: self.run(name)(function, blocks)


@dataclass
class SectionFindings:
    """What has been found so far; cells are those kept, along the Hilbert curve.

    Attributes:
        order: (n_cells,) row of the input of each cell.
        points_um: (n_cells, 2).
        scale: of the section.
        grid: of the maps.
        choices: of the caller.
        signatures: all of them.
        columns: of the table of cells, (n_cells,) each.
        texts: columns of the table of cells that are text, (n_cells,) each.
        maps: what is drawn, with its unit.
        abstained: what is not said, and why.
        settings: that were read off the section.
    """

    order: IntArray
    points_um: FloatArray
    scale: SectionScale
    grid: SectionMap
    choices: SectionChoices
    signatures: list[Signature] = field(default_factory=list)
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    maps: dict[str, tuple[NDArray[Any], str]] = field(default_factory=dict)
    abstained: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def begin(order: IntArray, points_um: FloatArray, scale: SectionScale, choices: SectionChoices) -> SectionFindings:
    """Nothing found yet."""
    found = SectionFindings(order, points_um, scale, make_map(points_um, scale.pitch_um), choices)
    found.settings |= {
        "seed": choices.seed, "false_discovery_rate": ALPHA, "pitch_um": scale.pitch_um, "cell_um2": scale.cell_um2,
        "square_um": scale.square_um, "neighbours_within_um": scale.radius_um, "map_pixel_um": found.grid.pixel_um,
    }
    return found


def add_region(
    found: SectionFindings, classes: NDArray[np.int8], names: Sequence[str], scores: FloatArray, labels: IntArray,
    tumour_score: FloatArray | None,
) -> FloatArray | None:
    """Everything that rests on where the tumour is.

    Args:
        found: is added to.
        classes: (n_cells,) INSIDE, OUTSIDE or NOT_TISSUE.
        names: of the scores.
        scores: (n_cells, n_scores) finite.
        labels: (n_cells,) niche or class; empty for none.
        tumour_score: (n_cells,) whose transition tells the border's width; None for none.
    Returns:
        signed distance (n_cells,); None where a region is missing, and so is all that rests on it.
    """
    sizes = [int(np.count_nonzero(classes == one)) for one in (INSIDE, OUTSIDE)]
    if min(sizes) < _LEAST_OF_A_REGION:
        found.abstained["interface"] = (
            f"{sizes[0]} cells of tumour and {sizes[1]} of the tissue around it: at least {_LEAST_OF_A_REGION} of each "
            "are needed for a border"
        )
        return None
    points, scale, seed = found.points_um, found.scale, found.choices.seed
    distance = signed_distance_spots(points, classes, points, classes, scale.pitch_um)
    near = neighbours_by_class(points, classes, len(points), math.sqrt(scale.cell_um2))
    drawn = found.grid.draw(classes, np.int8(NOT_TISSUE))
    tile = max(8, round(scale.square_um / found.grid.pixel_um))
    found.signatures += border_ratios(classes, near, points, scale, seed)
    found.signatures += shape_signatures(drawn, found.grid.pixel_um, tile, seed)
    found.signatures += border_signatures(tumour_score, labels, distance, points, scale, seed)
    for made in (layer_signatures, slope_signatures):
        found.signatures += made(names, scores, distance, points, scale, seed)
    found.texts["region"] = [{INSIDE: "tumour", OUTSIDE: "stroma"}.get(one, "") for one in classes.tolist()]
    found.columns["signed_distance_um"] = distance
    found.maps["tumour"] = classes, "1"
    found.maps["signed_distance_um"] = distance, "um"
    return distance


def add_penetration(
    found: SectionFindings, distance_um: FloatArray, names: Sequence[str], scores: FloatArray
) -> None:
    """How deep the immune scores reach into the tumour. Arguments as of `add_region`."""
    found.signatures += penetration_signatures(
        names, scores, distance_um, found.points_um, found.scale, found.choices.seed
    )


def add_vessels(
    found: SectionFindings, vessels: NDArray[np.bool_], names: Sequence[str], scores: FloatArray, which: str
) -> None:
    """Gradients from vessels on.

    Args:
        vessels: (n_cells,) which cells are vessels.
        which: what they are, for whom reads that there are too few.
        found, names, scores: as of `add_region`.
    """
    n = int(np.count_nonzero(vessels))
    if n < _LEAST_OF_A_REGION:
        found.abstained["vessels"] = f"{n} cells are {which}; at least {_LEAST_OF_A_REGION} are needed"
        return
    away = nearest_distance(found.points_um, found.points_um[vessels])
    found.columns["vessel_distance_um"] = away
    found.signatures += vessel_signatures(names, scores, away, found.points_um, found.scale, found.choices.seed)


def attempt(found: SectionFindings, what: str, step: Callable[[], None]) -> None:
    """Do a step, or note why it cannot be done."""
    try:
        step()
    except ConfigurationError as error:
        found.abstained[what] = str(error)
