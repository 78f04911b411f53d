"""Immune class of a section's tumour and of each of its cells: hot, excluded or cold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.section_signature_parts import FloatArray, IntArray, SectionFindings
from oncotwin.adapters.arrays.section_signature_passes import CELLS_AT_ONCE
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.distance import INSIDE
from oncotwin.spatial.immune import (
    WINDOW_UM,
    ImmuneClass,
    Share,
    classify,
    immune_signatures,
    region_shares,
    region_sums,
    spot_shares,
)
from oncotwin.spatial.section_cut import make_runs
from oncotwin.spatial.set_fractions import NARROWEST, REACH, WIDEST


@dataclass(frozen=True, slots=True)
class ImmuneBlock:
    """Cells of a run with its halo, as `spot_shares` takes them."""

    held: IntArray
    points: FloatArray
    own: IntArray
    immune: IntArray
    totals: IntArray
    inside: NDArray[np.bool_]


def add_immune(
    found: SectionFindings, distance_um: FloatArray, classes: NDArray[np.int8], immune: IntArray, totals: IntArray,
    threshold: float, run: Run,
) -> None:
    """Probabilities of the three classes, of the tumour and around each of its cells.

    Args:
        found: is added to.
        distance_um: (n_cells,) signed, to the tumour's border.
        classes: (n_cells,) INSIDE, OUTSIDE or NOT_TISSUE.
        immune, totals: (n_cells,) counts of the immune set and of all genes; of classified cells 1 where it is immune,
            and 1.
        threshold: share above which a region counts as rich in immune cells.
        run: how a function is applied to all blocks.
    Raises:
        ConfigurationError: the tumour or its margin lies in fewer than two squares of tissue.
    """
    sums = region_sums(found.points_um, distance_um, immune, totals, found.scale.square_um)
    found.signatures += immune_signatures(sums, threshold)
    margin = region_shares(sums)[1]
    width = min(max(WINDOW_UM / found.scale.pitch_um, NARROWEST), WIDEST)
    found.settings |= {"immune_threshold": threshold, "immune_window_pitches": width}
    blocks = _blocks(found, immune, totals, classes == INSIDE, REACH * width * found.scale.pitch_um)
    parts = list(run(partial(_block_classes, margin=margin, threshold=threshold, bandwidth=width), blocks))
    for name in ("hot", "excluded", "cold"):
        values = np.concatenate([getattr(part, name) for part in parts])
        found.columns[f"immune_{name}"] = values
        found.maps[f"immune_{name}"] = values, "1"


def _blocks(
    found: SectionFindings, immune: IntArray, totals: IntArray, inside: NDArray[np.bool_], reach_um: float
) -> Iterator[ImmuneBlock]:
    runs, n = make_runs(found.points_um), len(found.order)
    size = min(CELLS_AT_ONCE, found.choices.most_rows)
    for first in range(0, n, size):
        end = min(first + size, n)
        held = runs.held(first, end, reach_um)
        yield ImmuneBlock(
            held, found.points_um[held] / found.scale.pitch_um, np.searchsorted(held, np.arange(first, end)),
            immune[held], totals[held], inside[held],
        )


def _block_classes(block: ImmuneBlock, margin: Share, threshold: float, bandwidth: float) -> ImmuneClass:
    shares = spot_shares(
        block.held, block.points, block.own, block.immune, block.totals, block.inside, bandwidth
    )
    return classify(shares, margin, threshold)
