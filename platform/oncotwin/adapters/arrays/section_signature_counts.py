"""Signatures of a section that has counts of genes: quality, states, niches, region, gradients."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.section_signature_panel import Panel
from oncotwin.adapters.arrays.section_signature_parts import (
    ALPHA,
    FloatArray,
    IntArray,
    SectionChoices,
    SectionFindings,
    Steps,
    attempt,
    begin,
)
from oncotwin.adapters.arrays.section_signature_passes import (
    CELLS_AT_ONCE,
    RowScores,
    fractions,
    gene_autocorrelation,
    grouped,
    neighbour_graph,
    score_rows,
)
from oncotwin.adapters.arrays.section_signature_region import add_region_of_counts
from oncotwin.adapters.arrays.section_signature_store import (
    DENSE_COUNTS,
    SortedBlocks,
    StoredRows,
    open_sorted,
    write_sorted,
)
from oncotwin.spatial.augmented import reach
from oncotwin.spatial.graphs import SpatialGraph
from oncotwin.spatial.nearest import hilbert_order
from oncotwin.spatial.niches import NicheSettings, find_niches
from oncotwin.spatial.pairs import PairWeights, pair_weights
from oncotwin.spatial.quality import join_measures, mitochondrial_genes, refusals, section_limits
from oncotwin.spatial.section_cut import measure_scale
from oncotwin.spatial.section_labels import neighbour_signatures, share_signatures
from oncotwin.spatial.section_states import hotspot_signatures, order_signatures, set_levels
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.significance import adjusted

_MOST_GENES = 25
_LEAST_CELLS = 10
_NICHES = "Singhal et al. 2024, doi:10.1038/s41588-024-01664-3; Caliński & Harabasz 1974, doi:10.1080/03610927408827101"
_QUALITY = "Leys et al. 2013, doi:10.1016/j.jesp.2013.03.013"


@dataclass(frozen=True, slots=True)
class RowQuality:
    """Every row of the input: its measures and scores, and why it is kept out ("" where it is not)."""

    scores: RowScores
    reasons: list[str]

    @property
    def refused(self) -> dict[str, int]:
        """How many rows are kept out, by reason; the rows' own numbers are left out of it."""
        plain = (re.sub(r"^[\d.]+ |(?<=share )[\d.]+", "", reason) for reason in self.reasons if reason)
        return dict(sorted(Counter(plain).items()))


def measure_rows(panel: Panel, rows: list[StoredRows], steps: Steps) -> RowQuality:
    """One pass over the stored section: quality, counts of each set and AUCell of each set, for every row."""
    columns = tuple(panel.coverage[name].columns for name in panel.covered)
    what = partial(score_rows, mitochondrial=mitochondrial_genes(panel.names), columns=columns)
    parts = list(steps.run("quality and ranks")(what, rows))
    measures = join_measures([part.measures for part in parts])
    scores = RowScores(
        measures, np.concatenate([part.set_counts for part in parts]), np.concatenate([part.aucell for part in parts])
    )
    return RowQuality(scores, refusals(measures, section_limits(measures)))


def section_with_counts(
    section: StoredSection, panel: Panel, quality: RowQuality, points_um: FloatArray, rows: list[StoredRows],
    scratch: Path, steps: Steps, choices: SectionChoices,
) -> tuple[SectionFindings, list[dict[str, object]]]:
    """All signatures of a section with counts.

    Args:
        section: stored.
        panel, quality, rows: of it.
        points_um: (n_rows, 2).
        scratch: folder for the cells along the curve.
        steps: how functions are applied to blocks.
        choices: of the caller.
    Returns:
        what was found, and the genes whose counts are most ordered in space.
    """
    kept = np.flatnonzero([not reason for reason in quality.reasons])
    order = kept[hilbert_order(points_um[kept])]
    found = begin(order, points_um[order], measure_scale(points_um[np.isfinite(points_um).all(axis=1)]), choices)
    measures = quality.scores.measures
    set_counts, totals = quality.scores.set_counts[order], measures.n_counts[order]
    _add_quality(found, quality)
    write_sorted(
        scratch, rows, order, measures.n_genes,
        {
            "points_um": found.points_um, "totals": totals, "genes_seen": measures.n_genes[order],
            "set_counts": set_counts,
        }, len(panel.names),
    )
    n, pitch = len(order), found.scale.pitch_um
    at_once = min(CELLS_AT_ONCE, choices.most_rows)
    graph = neighbour_graph(str(scratch), n, pitch, found.scale.radius_um, steps.run("neighbours"), at_once)
    pairs = pair_weights(graph)
    depth = float(np.median(totals))
    genes = _add_order(found, panel, str(scratch), depth, pairs, steps)
    shares = np.zeros((n, 0))
    if panel.covered:
        shares = _add_states(found, panel, quality, set_counts, totals, graph, pairs, str(scratch), steps)
    labels = _add_niches(found, str(scratch), panel, graph, steps)
    add_region_of_counts(found, section, panel, shares, set_counts, totals, labels, str(scratch), steps)
    return found, genes


def _add_quality(found: SectionFindings, quality: RowQuality) -> None:
    measures, kept = quality.scores.measures, found.order
    said = (
        ("kept_share", len(kept) / len(quality.reasons), "of the rows that were read"),
        ("median_counts", float(np.median(measures.n_counts[kept])), "counts of a kept row"),
        ("median_genes", float(np.median(measures.n_genes[kept])), "genes of a kept row"),
        ("median_mitochondrial_share", float(np.median(measures.mitochondrial_share[kept])), "of a kept row's counts"),
    )
    found.signatures += [
        Signature(f"quality.{name}", value, "1", math.nan, math.nan, _QUALITY, f"{note}; counted, so no interval")
        for name, value, note in said
    ]
    found.columns["n_counts"], found.columns["n_genes"] = measures.n_counts[kept], measures.n_genes[kept]


def _add_order(
    found: SectionFindings, panel: Panel, scratch: str, depth: float, pairs: PairWeights, steps: Steps
) -> list[dict[str, object]]:
    """The genes that are most ordered in space; a gene that hardly a cell shows is not judged."""
    moran, geary = gene_autocorrelation(
        scratch, len(found.order), depth, pairs, lambda: steps.run("order of all genes")
    )
    enough = open_sorted(scratch).cells_by_gene() >= _LEAST_CELLS
    z, p = moran.z(), np.where(enough, moran.p(), math.nan)
    q = adjusted(p)
    best = np.lexsort((np.arange(len(z)), np.where(np.isnan(q), math.inf, -z)))[:_MOST_GENES]
    return [
        {
            "gene": panel.names[at], "moran_i": float(moran.statistic[at]), "geary_c": float(geary.statistic[at]),
            "z": float(z[at]), "q": float(q[at]),
        }
        for at in best.tolist() if q[at] <= ALPHA
    ]


def _add_states(
    found: SectionFindings, panel: Panel, quality: RowQuality, set_counts: IntArray, totals: IntArray,
    graph: SpatialGraph, pairs: PairWeights, scratch: str, steps: Steps,
) -> FloatArray:
    """Scores, order and hotspots of each covered set; returns the smoothed shares (n_cells, n_sets)."""
    names, points, scale, seed = panel.covered, found.points_um, found.scale, found.choices.seed
    at_once = min(CELLS_AT_ONCE, found.choices.most_rows)
    smoothed, widths = fractions(scratch, len(points), scale.pitch_um, steps.run("shares of sets"), at_once)
    found.settings["bandwidth_pitches"] = dict(zip(names, widths.tolist(), strict=True))
    levels = set_levels(set_counts, totals)
    found.signatures += order_signatures(names, levels, graph, pairs, points, scale, seed)
    made, hot = hotspot_signatures(names, levels, graph, points, scale, ALPHA, seed)
    found.signatures += made
    shares = np.ascontiguousarray(smoothed[:, :, 0])
    ranks = quality.scores.aucell[found.order]
    for at, name in enumerate(names):
        found.columns[name] = shares[:, at]
        found.columns[f"{name}_low"], found.columns[f"{name}_high"] = smoothed[:, at, 1], smoothed[:, at, 2]
        found.columns[f"aucell_{name}"] = ranks[:, at]
        found.columns[f"hotspot_{name}"] = hot[:, at]
        found.maps[name] = shares[:, at], "1"
        found.maps[f"hotspot_{name}"] = hot[:, at].astype(np.int8), "1"
    return shares


def _add_niches(
    found: SectionFindings, scratch: str, panel: Panel, graph: SpatialGraph, steps: Steps
) -> IntArray:
    """Niches, their shares and who lies beside whom; returns the labels, empty where there are none."""
    how, pitch, n = NicheSettings(), found.scale.pitch_um, len(found.order)
    size = max(1, min(DENSE_COUNTS // max(len(panel.names), 1), found.choices.most_rows))
    blocks = SortedBlocks(scratch, n, size, reach(how.bandwidth) * pitch, pitch)
    kept: list[IntArray] = []

    def search() -> None:
        niches = find_niches(blocks, found.choices.seed, found.choices.n_niches, how, grouped(steps.each("niches")))
        kept.append(niches.labels.astype(np.int64))
        found.settings["niche_ratios"] = {str(k): ratio for k, ratio in niches.ratios.items()}
        found.settings["niche_genes"] = len(niches.genes)

    if found.choices.n_niches is None:
        attempt(found, "niches", search)
    else:
        search()
    if not kept:
        return np.zeros(0, dtype=np.int64)
    labels = kept[0]
    names = [f"niche_{at}" for at in range(int(labels.max()) + 1)]
    found.columns["niche"] = labels
    found.maps["niche"] = labels.astype(np.int16), "1"
    found.signatures += share_signatures(
        names, labels, found.points_um, found.scale, found.choices.seed, _NICHES
    )
    found.signatures += neighbour_signatures(names, labels, graph)
    return labels
