"""Labels of cells (niches, or classes of the input) as signatures: how many there are, and who lives beside whom.

Source:
    Enrichment of neighbours with exact moments: `oncotwin.spatial.enrichment` (Moran 1948; Cliff & Ord 1981, section
    2.2). Benjamini & Yekutieli 2001, doi:10.1214/aos/1013699998 (rate of false discoveries over the pairs of labels,
    which depend on each other in any way).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from oncotwin.spatial.enrichment import Enrichment, edge_counts, enrichment, graph_moments, tally_edges
from oncotwin.spatial.graphs import SpatialGraph
from oncotwin.spatial.section_cut import SectionScale
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.significance import Dependence, adjusted
from oncotwin.spatial.square_draws import Ratio, ratio_signatures

FloatArray = NDArray[np.float64]
LabelArray = NDArray[np.int64]

_ENRICHMENT = "Cliff & Ord 1981, Spatial Processes, section 2.2 (exact moments under permutation)"


def share_signatures(
    names: Sequence[str], labels: LabelArray, places_um: FloatArray, scale: SectionScale, seed: int, source: str
) -> list[Signature]:
    """Share of the cells that carry each label.

    Args:
        names: of the labels; label i has the i-th.
        labels: (n_cells,) from nil on; -1 is no label, and counts as a cell.
        places_um: (n_cells, 2).
        scale: of the section.
        seed: of the draws.
        source: of the labels.
    """
    every = np.ones(len(labels))
    return ratio_signatures(
        [
            Ratio(f"{name}.share", (labels == at).astype(np.float64), every, "1", source)
            for at, name in enumerate(names)
        ],
        places_um, scale.square_um, seed,
    )


def neighbour_signatures(names: Sequence[str], labels: LabelArray, graph: SpatialGraph) -> list[Signature]:
    """z of the edges between each pair of labels against all assignments of the labels to the cells.

    A z is a statement on chance, so it carries no interval; its note says the rate of false discoveries.

    Args:
        names: of the labels, at most 255.
        labels: (n_cells,) from nil on, of every cell of the graph.
        graph: of the section, at least four cells.
    """
    found = label_enrichment(labels, len(names), graph)
    pairs = [(a, b) for a in range(len(names)) for b in range(a, len(names))]
    z = np.array([found.z[pair] for pair in pairs])
    q = adjusted(2.0 * ndtr(-np.abs(z)), Dependence.ANY)
    return [
        Signature(
            f"{names[a]}.beside.{names[b]}", float(z[at]), "1", math.nan, math.nan, _ENRICHMENT,
            f"z; {found.counts[a, b]} edges, {found.expected[a, b]:.1f} expected, q {q[at]:.2g}",
        )
        for at, (a, b) in enumerate(pairs)
    ]


def label_enrichment(labels: LabelArray, n_labels: int, graph: SpatialGraph) -> Enrichment:
    """Edges between labels of a whole section, and their moments."""
    rows, small = graph.rows(0, graph.n_cells), labels.astype(np.uint8)
    counts = edge_counts(rows, small, n_labels)
    sizes = np.bincount(labels, minlength=n_labels)
    return enrichment(counts, sizes, graph_moments([tally_edges(rows)], graph.n_cells))
