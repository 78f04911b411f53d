"""Signatures of cells that carry classes instead of counts, as of imaging mass cytometry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.section_signature_immune import add_immune
from oncotwin.adapters.arrays.section_signature_parts import (
    FloatArray,
    IntArray,
    SectionChoices,
    SectionFindings,
    Steps,
    add_region,
    add_vessels,
    attempt,
    begin,
)
from oncotwin.domain.claim import ArrayError
from oncotwin.spatial.composition_niches import REACH_PITCHES, composition_niches, composition_points
from oncotwin.spatial.graphs import join_rows, radius_rows, whole_section
from oncotwin.spatial.immune import HOT_CELLS
from oncotwin.spatial.nearest import hilbert_order
from oncotwin.spatial.section_cut import measure_scale
from oncotwin.spatial.section_labels import neighbour_signatures, share_signatures
from oncotwin.spatial.tumour_mask import tumour_from_names

CLASS_COLUMNS = ("cell_type", "cluster", "phenotype", "type", "label")
"""Names under which a class is looked for, in this order, where the caller names none."""
MOST_CLASSES = 127
"""One more is that of the cells without a class; k-means serves 128 coordinates."""
_NICHES = "Schürch et al. 2020, doi:10.1016/j.cell.2020.07.005; Caliński & Harabasz 1974, doi:10.1080/03610927408827101"


def class_column(section: StoredSection, choices: SectionChoices) -> str:
    """Column of the classes.

    Raises:
        ArrayError: `no_classes`.
    """
    held = section.text_columns()
    wanted = (choices.class_column,) if choices.class_column is not None else CLASS_COLUMNS
    for name in wanted:
        if name in held:
            return name
    raise ArrayError(
        "no_classes", f"the section has neither counts nor a text column {' or '.join(map(str, wanted))}", "obs",
        f"name the column of the classes; it has {held[:20]}",
    )


def section_with_classes(
    section: StoredSection, kept: IntArray, points_um: FloatArray, steps: Steps, choices: SectionChoices
) -> SectionFindings:
    """All signatures of a section of classified cells; what needs counts is abstained from.

    Args:
        section: stored.
        kept: rows that are used.
        points_um: (n_rows, 2).
        steps: how functions are applied to blocks.
        choices: of the caller.
    Raises:
        ArrayError: `no_classes`, or more than 127 classes.
    """
    column = class_column(section, choices)
    order = kept[hilbert_order(points_um[kept])]
    found = begin(order, points_um[order], measure_scale(points_um[np.isfinite(points_um).all(axis=1)]), choices)
    values = section.column(column)
    of_cell = [str(values[row]) for row in order.tolist()]
    known = sorted(set(of_cell) - {""})
    if not 0 < len(known) <= MOST_CLASSES:
        raise ArrayError(
            "no_classes", f"column {column} has {len(known)} classes, from 1 to {MOST_CLASSES} are served", column,
            "name a column of cell classes",
        )
    names = [f"class_{name}" for name in known]
    place = {name: at for at, name in enumerate(known)}
    labels = np.array([place.get(name, -1) for name in of_cell], dtype=np.int64)
    found.settings["class_column"] = column
    found.texts["class"] = of_cell
    found.maps["class"] = labels.astype(np.int16), "1"
    found.signatures += share_signatures(
        names, labels, found.points_um, found.scale, choices.seed, "classes of the input"
    )
    graph = join_rows([radius_rows(whole_section(found.points_um), found.scale.radius_um)], len(order))
    # A cell without a class is a class of its own here: permutation leaves nobody out.
    all_names = [*names, "class_unknown"] if (labels < 0).any() else names
    every = np.where(labels < 0, len(names), labels)
    found.signatures += neighbour_signatures(all_names, every, graph)
    _add_niches(found, every, len(all_names))
    one_hot = (labels[:, None] == np.arange(len(names))).astype(np.float64)
    reason = "the section has classes and no counts of genes"
    found.abstained |= dict.fromkeys(("gene sets", "hotspots", "hypoxia"), reason)
    if choices.tumour_classes:
        classes = tumour_from_names(of_cell, choices.tumour_classes)
        found.settings["tumour_from"] = f"{column} in {list(choices.tumour_classes)}"
        distance = add_region(found, classes, names, one_hot, every, None)
        _add_immune(found, classes, distance, of_cell, steps)
    else:
        found.abstained["interface"] = f"no class of {column} was named as tumour; it has {known[:30]}"
        found.abstained["immune class"] = found.abstained["interface"]
    if choices.vessel_classes:
        vessels = np.isin(of_cell, choices.vessel_classes)
        add_vessels(found, vessels, names, one_hot, f"of class {', '.join(choices.vessel_classes)}")
    else:
        found.abstained["vessels"] = f"no class of {column} was named as vessel"
    return found


def _add_niches(found: SectionFindings, labels: IntArray, n_classes: int) -> None:
    """Niches by the mixture of classes around each cell, and their shares."""
    rows = radius_rows(whole_section(found.points_um), REACH_PITCHES * found.scale.pitch_um)
    points = composition_points(rows, labels.astype(np.uint8), n_classes)
    choices = found.choices

    def search() -> None:
        niches = composition_niches(points, choices.n_niches, choices.seed)
        found.columns["niche"], found.maps["niche"] = niches.labels, (niches.labels.astype(np.int16), "1")
        found.settings["niche_ratios"] = {str(k): ratio for k, ratio in niches.ratios.items()}
        names = [f"niche_{at}" for at in range(int(niches.labels.max()) + 1)]
        found.signatures.extend(
            share_signatures(names, niches.labels, found.points_um, found.scale, choices.seed, _NICHES)
        )

    if choices.n_niches is None:
        attempt(found, "niches", search)
    else:
        search()


def _add_immune(
    found: SectionFindings, classes: NDArray[np.int8], distance: FloatArray | None, of_cell: list[str], steps: Steps
) -> None:
    """Immune class, where the caller named the classes that are immune cells."""
    if distance is None or not found.choices.immune_classes:
        found.abstained["immune class"] = found.abstained.get("interface", "no class was named as immune")
        return
    immune = np.isin(of_cell, found.choices.immune_classes).astype(np.int64)
    every, run = np.ones(len(immune), dtype=np.int64), steps.run("immune class")
    attempt(found, "immune class", lambda: add_immune(found, distance, classes, immune, every, HOT_CELLS, run))
