"""Where the tumour of a section with counts is, and all that rests on it."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.section_signature_immune import add_immune
from oncotwin.adapters.arrays.section_signature_panel import Panel
from oncotwin.adapters.arrays.section_signature_parts import (
    FloatArray,
    IntArray,
    SectionFindings,
    Steps,
    add_penetration,
    add_region,
    add_vessels,
    attempt,
)
from oncotwin.adapters.arrays.section_signature_passes import CELLS_AT_ONCE
from oncotwin.adapters.arrays.section_signature_store import SortedBlock, SortedBlocks
from oncotwin.spatial.immune import HOT_SHARE
from oncotwin.spatial.set_fractions import REACH
from oncotwin.spatial.tumour_class import (
    SETS,
    WIDEST_BANDWIDTH,
    FeatureSums,
    TumourModel,
    feature_sums,
    merge_feature_sums,
    shipped_model,
    spot_features,
    tumour_probability,
)
from oncotwin.spatial.tumour_mask import odds, tumour_from_names, tumour_from_score

TUMOUR_SET = "tumour_epithelium"
VESSEL_SET = "endothelium"
PENETRATING = ("immune", "cytotoxicity")


def add_region_of_counts(
    found: SectionFindings, section: StoredSection, panel: Panel, shares: FloatArray, set_counts: IntArray,
    totals: IntArray, labels: IntArray, scratch: str, steps: Steps,
) -> None:
    """Tumour and the tissue around it, gradients, immune class and vessels.

    Args:
        found: is added to.
        section: stored; holds the classes where the caller named some as tumour.
        panel: of it.
        shares: (n_cells, n_sets) smoothed.
        set_counts, totals: (n_cells, n_sets) and (n_cells,) counts.
        labels: (n_cells,) niche; empty for none.
        scratch: folder of the cells along the curve.
        steps: how functions are applied to blocks.
    """
    names = list(panel.covered)
    tumour = shares[:, names.index(TUMOUR_SET)] if TUMOUR_SET in names else None
    classes = _tumour_classes(found, section, panel, tumour, scratch, steps)
    distance = None if classes is None else add_region(found, classes, names, shares, labels, tumour)
    if classes is None or distance is None:
        found.abstained["immune class"] = "it rests on where the tumour is: see interface"
    else:
        own = [name for name in PENETRATING if name in names]
        add_penetration(found, distance, own, shares[:, [names.index(name) for name in own]])
        if "immune" in names:
            counts = set_counts[:, names.index("immune")]
            run = steps.run("immune class")
            attempt(
                found, "immune class",
                lambda: add_immune(found, distance, classes, counts, totals, HOT_SHARE, run),
            )  # fmt: skip
        else:
            found.abstained["immune class"] = panel.coverage["immune"].reason
    if VESSEL_SET not in names:
        found.abstained["vessels"] = "no set of genes of vessels is scored on this panel"
    elif "hypoxia" in names:
        hot, which = found.columns[f"hotspot_{VESSEL_SET}"], f"hotspots of {VESSEL_SET}"
        add_vessels(found, hot, ["hypoxia"], shares[:, [names.index("hypoxia")]], which)


def _tumour_classes(
    found: SectionFindings, section: StoredSection, panel: Panel, tumour: FloatArray | None, scratch: str, steps: Steps
) -> NDArray[np.int8] | None:
    """By the classes that were named; else by that score of tumour whose two groups are furthest apart (`_scores`)."""
    choices = found.choices
    if choices.class_column is not None and choices.tumour_classes:
        column = section.column(choices.class_column)
        found.settings["tumour_from"] = f"{choices.class_column} in {list(choices.tumour_classes)}"
        return tumour_from_names([str(column[row]) for row in found.order.tolist()], choices.tumour_classes)
    if tumour is None:
        found.abstained["interface"] = panel.coverage[TUMOUR_SET].reason
        return None
    kept: list[NDArray[np.int8]] = []
    scores = _scores(found, panel, tumour, scratch, steps)

    def by_threshold() -> None:
        divided = {said: tumour_from_score(score) for said, score in scores.items()}
        said = max(divided, key=lambda one: divided[one][1].separability)
        classes, threshold = divided[said]
        kept.append(classes)
        found.settings["tumour_from"] = f"{said}, divided at the section's own threshold"
        found.settings["tumour_threshold"] = threshold.value
        found.settings["tumour_separability"] = {one: round(divided[one][1].separability, 4) for one in divided}

    attempt(found, "interface", by_threshold)
    return kept[0] if kept else None


def _scores(
    found: SectionFindings, panel: Panel, tumour: FloatArray, scratch: str, steps: Steps
) -> dict[str, FloatArray]:
    """Scores that may tell tumour from the tissue around it, by what is said of each.

    None serves every section: the model knows breast at 200 um and is blurred by its windows; the rank of the tumour
    set's genes in the spot alone is sharp where counts are many, and noise where they are few; its smoothed share lies
    between. How far a score's two groups are apart is seen without any label.
    """
    scores: dict[str, FloatArray] = {}
    if set(SETS) <= set(panel.covered):
        model = shipped_model()
        probability = _probability(found, panel, model, scratch, steps)
        found.columns["tumour_probability"] = probability
        scores[f"odds by a model that was taught on {model.taught_on}"] = odds(probability)
    scores[f"smoothed share of {TUMOUR_SET}"] = tumour
    scores[f"AUCell of {TUMOUR_SET}"] = np.asarray(found.columns[f"aucell_{TUMOUR_SET}"], dtype=np.float64)
    return scores


def _probability(
    found: SectionFindings, panel: Panel, model: TumourModel, scratch: str, steps: Steps
) -> FloatArray:
    """Probability (n_cells,) of tumour, in two passes: the section's own scale of each feature, then the model."""
    pitch, names = found.scale.pitch_um, list(panel.covered)
    at_once = min(CELLS_AT_ONCE, found.choices.most_rows)
    blocks = SortedBlocks(scratch, len(found.order), at_once, REACH * WIDEST_BANDWIDTH * pitch, pitch)
    columns = {name: names.index(name) for name in SETS}
    run = steps.each("probability of tumour")
    sums = reduce(_merged, run(partial(_block_sums, columns=columns), blocks))
    what = partial(_block_probability, columns=columns, sums=sums, model=model)
    return np.concatenate(list(run(what, blocks)))


def _merged(one: FeatureSums, other: FeatureSums) -> FeatureSums:
    return merge_feature_sums([one, other])


def _features(block: SortedBlock, columns: dict[str, int]) -> FloatArray:
    cells, held = block.cells, block.held
    own = np.searchsorted(held, np.arange(block.first, block.end))
    counts = cells.set_counts[held]
    return spot_features(
        held, cells.points_um[held] / block.pitch_um, own, {name: counts[:, at] for name, at in columns.items()},
        cells.totals[held], cells.genes_seen[held],
    )


def _block_sums(block: SortedBlock, columns: dict[str, int]) -> FeatureSums:
    return feature_sums(_features(block, columns))


def _block_probability(
    block: SortedBlock, columns: dict[str, int], sums: FeatureSums, model: TumourModel
) -> FloatArray:
    return tumour_probability(_features(block, columns), sums, model)
