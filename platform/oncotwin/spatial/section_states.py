"""Functional states of a section: how each gene set's counts are ordered in space, and where they are hot.

Both are read off each cell's own counts, not off smoothed shares, which are alike among neighbours by construction.

Source:
    Moran 1950, doi:10.1093/biomet/37.1-2.17; Geary 1954, doi:10.2307/2986645; moments under randomisation: Cliff & Ord
    1981, section 2.3. Getis-Ord G*: Ord & Getis 1995, doi:10.1111/j.1538-4632.1995.tb00912.x. False discovery rate:
    Benjamini & Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from oncotwin.spatial.autocorrelation import autocorrelation, shift_of, sums_of_block
from oncotwin.spatial.graphs import SpatialGraph
from oncotwin.spatial.hotspots import at_edge, g_star, hot_links, hotspot_labels, hotspot_mask, summary, value_sums
from oncotwin.spatial.pairs import PairWeights
from oncotwin.spatial.profiles import bootstrap, profile_sums
from oncotwin.spatial.section_cut import SectionScale
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.significance import adjusted
from oncotwin.spatial.square_draws import Ratio, ratio_signatures, signature_of

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_MORAN = "Moran 1950, doi:10.1093/biomet/37.1-2.17"
_GEARY = "Geary 1954, doi:10.2307/2986645"
_HOT = "Ord & Getis 1995, doi:10.1111/j.1538-4632.1995.tb00912.x, equation 14"
_EDGE_SHARE = 0.75


def set_levels(set_counts: NDArray[np.int64], totals: NDArray[np.int64]) -> FloatArray:
    """log(1 + counts of each set, scaled to the section's median depth): (n_cells, n_sets), one cell each."""
    return np.log1p(set_counts * (np.median(totals) / totals)[:, None])


def order_signatures(
    names: Sequence[str], levels: FloatArray, graph: SpatialGraph, pairs: PairWeights, places_um: FloatArray,
    scale: SectionScale, seed: int,
) -> list[Signature]:
    """Moran's I and Geary's C of each set; the note says z, p and the rate of false discoveries over the sets.

    The interval is that of the statistic (squares drawn anew), not of what chance alone would give.

    Args:
        names: of the sets.
        levels: (n_cells, n_sets) finite.
        graph, pairs: of the section, its pairs with binary weights.
        places_um: (n_cells, 2).
        scale: of the section.
        seed: of the draws.
    """
    found = autocorrelation(sums_of_block(levels, pairs.block(0, pairs.n_cells), shift_of(levels)), pairs)
    notes = []
    for one in found:
        z, p = one.z(), one.p()
        q = adjusted(p)
        notes.append([f"z {z[at]:.2f}, p {p[at]:.2g}, q {q[at]:.2g}" for at in range(len(names))])
    spread = levels.std(axis=0)
    own = np.divide(levels - levels.mean(axis=0), spread, out=np.zeros_like(levels), where=spread > 0)
    weights = csr_matrix((np.ones(graph.n_edges), graph.neighbours, graph.offsets), shape=(graph.n_cells,) * 2)
    degree = np.diff(graph.offsets).astype(np.float64)
    near = np.asarray(weights @ own)
    gap = degree[:, None] * own**2 - 2 * own * near + np.asarray(weights @ own**2)
    columns = np.hstack([own, own**2, degree[:, None] * own, own * near, gap, degree[:, None]])
    sums = profile_sums(places_um, np.zeros(len(places_um)), columns, np.array([-1.0, 1.0]), scale.square_um)
    drawn = bootstrap(sums, _order, seed)
    made = []
    for at, name in enumerate(names):
        for k, (what, source) in enumerate((("moran_i", _MORAN), ("geary_c", _GEARY))):
            signature = signature_of(f"{name}.{what}", drawn, (k, at), "1", source, note=notes[k][at])
            # The value itself has n - 1 where the draws have n, and no rounding.
            made.append(replace(signature, value=float(found[k].statistic[at])))
    return made


def _order(counts: FloatArray, sums: FloatArray) -> FloatArray:
    """Moran's I and Geary's C (2, n_sets) of a draw, about the draw's own mean and spread."""
    degree = sums[0, -1]
    mean, square, ends, product, gap = sums[0, :-1].reshape(5, -1)
    mean, n = mean / counts[0], counts[0]
    spread = square / n - mean**2
    together = (product - 2 * mean * ends + mean**2 * degree) / degree
    found = np.full((2, len(mean)), math.nan)
    varies = spread > 1e-9
    found[0, varies], found[1, varies] = together[varies] / spread[varies], gap[varies] / (2 * degree) / spread[varies]
    return found


def hotspot_signatures(
    names: Sequence[str], levels: FloatArray, graph: SpatialGraph, places_um: FloatArray, scale: SectionScale,
    alpha: float, seed: int,
) -> tuple[list[Signature], BoolArray]:
    """Hotspots of each set: area, number, connectivity, share at the edge of the tissue.

    Args:
        alpha: rate of false discoveries over the cells, for each set.
        names, levels, graph, places_um, scale, seed: as of `order_signatures`.
    Returns:
        signatures, and which cells (n_cells, n_sets) are hot.
    """
    rows, n = graph.rows(0, graph.n_cells), graph.n_cells
    z = g_star(rows, np.arange(n), levels, value_sums(levels, shift_of(levels)))
    degree = np.diff(graph.offsets)
    edge = at_edge(rows, math.ceil(_EDGE_SHARE * float(np.median(degree))))
    hot, ratios, counted = np.zeros(z.shape, dtype=np.bool_), [], []
    neighbours = csr_matrix((np.ones(graph.n_edges), graph.neighbours, graph.offsets), shape=(n, n))
    every = np.ones(n)
    for at, name in enumerate(names):
        hot[:, at] = hotspot_mask(z[:, at], alpha)
        own = hot[:, at].astype(np.float64)
        to_hot, from_hot = own * np.asarray(neighbours @ own), own * degree
        labels = hotspot_labels([hot_links(rows, hot[:, at])], hot[:, at])
        found = summary(labels, np.full(n, scale.cell_um2), (int(to_hot.sum()), int(from_hot.sum())), edge)
        area = f"at a false discovery rate of {alpha}; each cell stands for {scale.cell_um2:.0f} um2"
        none = "" if own.any() else "no cell is hot"
        ratios.append(Ratio(f"{name}.hotspot_area", own, every, "um2", _HOT, n * scale.cell_um2, area))
        ratios.append(Ratio(f"{name}.hotspot_connectivity", to_hot, from_hot, "1", _HOT, note=none))
        ratios.append(Ratio(f"{name}.hotspot_edge_share", own * edge, own, "1", _HOT, note=none))
        sets = "sets of hot cells that touch; counted, so it has no interval"
        number = float(found.n_hotspots)
        counted.append(Signature(f"{name}.hotspot_number", number, "1", math.nan, math.nan, _HOT, sets))
        share = none or "of the hot cells, in the largest set"
        counted.append(
            Signature(f"{name}.hotspot_largest_share", found.largest_share, "1", math.nan, math.nan, _HOT, share)
        )
    return ratio_signatures(ratios, places_um, scale.square_um, seed) + counted, hot
