"""Spots of several sections in one embedding, before and after their batches are aligned, and what that did.

Features are logarithms of the gene sets' shares, each brought to unit spread over all spots; principal components of
them are aligned by `harmony`. Whether it helped is said by two figures: iLISI, the effective number of sections around
a spot (more is better mixed), and cLISI, the effective number of tissue classes there (one is biology kept).

Source:
    Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0 (Harmony, iLISI and cLISI).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.harmony import HarmonySettings, align
from oncotwin.spatial.lisi import NEIGHBOURS_PER_PERPLEXITY, PERPLEXITY, Neighbourhood, lisi
from oncotwin.spatial.signature import Signature

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SOURCE = "Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0, online methods"
MOST_COMPONENTS = 10
_LEAST_SPREAD = 1e-9
LEAST_SHARE = 1e-5
"""Added to shares before their logarithm: a count in a hundred thousand."""


@dataclass(frozen=True)
class SectionAlignment:
    """An embedding and its alignment.

    Attributes:
        before, after: (n, n_components) coordinates.
        ilisi_before, ilisi_after, clisi_before, clisi_after: (n,) of each spot; cLISI is NaN of spots without a class.
        converged: whether the alignment came to rest.
        signatures: medians over the spots with the middle nine tenths of them.
    """

    before: FloatArray
    after: FloatArray
    ilisi_before: FloatArray
    ilisi_after: FloatArray
    clisi_before: FloatArray
    clisi_after: FloatArray
    converged: bool
    signatures: tuple[Signature, ...]


def embedding(shares: FloatArray, n_components: int = MOST_COMPONENTS) -> FloatArray:
    """Leading components (n, n_components or fewer) of the logarithms of shares, each set weighing the same.

    Args:
        shares: (n, n_sets) not negative and finite.
    Raises:
        ConfigurationError: fewer than two sets differ between spots, or a share is not finite.
    """
    if shares.ndim != 2 or not np.isfinite(shares).all() or (shares < 0.0).any():
        raise ConfigurationError("shares must be finite and not negative; leave out spots that were not kept")
    levels = np.log(shares + LEAST_SHARE)
    spread = levels.std(axis=0)
    levels = levels[:, spread > _LEAST_SPREAD]
    if levels.shape[1] < 2:
        raise ConfigurationError(f"{levels.shape[1]} gene sets differ between spots; an embedding needs at least 2")
    scaled = (levels - levels.mean(axis=0)) / levels.std(axis=0)
    _, axes = np.linalg.eigh(scaled.T @ scaled)
    axes = axes[:, ::-1][:, : min(n_components, scaled.shape[1])]
    # An axis may point either way: the largest loading is positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return np.asarray(scaled @ axes)


def align_sections(
    shares: FloatArray, sections: IntArray, classes: IntArray, seed: int, settings: HarmonySettings | None = None
) -> SectionAlignment:
    """Align the spots of several sections.

    Args:
        shares: (n, n_sets) of gene sets that all sections have.
        sections: (n,) from nil on.
        classes: (n,) of tissue from nil on, the same in all sections; -1 where none is known.
        seed: of the alignment.
        settings: of it; the paper's by default.
    Raises:
        ConfigurationError: fewer than two sections, too few spots, or as `embedding` and `align` raise.
    """
    n_sections = int(sections.max()) + 1 if len(sections) else 0
    if n_sections < 2:
        raise ConfigurationError(f"{n_sections} sections have nothing to be aligned with; give at least 2")
    before = embedding(shares)
    aligned = align(before, sections, seed, settings)
    found = [lisi(_near(points), sections) for points in (before, aligned.points)]
    known = classes >= 0
    kept = [np.full(len(sections), np.nan) for _ in range(2)]
    enough = int(known.sum()) > math.ceil(NEIGHBOURS_PER_PERPLEXITY * PERPLEXITY)
    if enough:
        for values, points in zip(kept, (before, aligned.points), strict=True):
            values[known] = lisi(_near(points[known]), classes[known])
    note = "" if enough else "too few spots with a class of tissue"
    signatures = (
        _middle("ilisi.before", found[0], f"of {n_sections} sections"),
        _middle("ilisi.after", found[1], f"of {n_sections} sections"),
        _middle("clisi.before", kept[0], note), _middle("clisi.after", kept[1], note),
    )  # fmt: skip
    return SectionAlignment(
        before, aligned.points, found[0], found[1], kept[0], kept[1], aligned.converged, signatures
    )


def _near(points: FloatArray) -> Neighbourhood:
    return Neighbourhood(np.ascontiguousarray(points))


def _middle(name: str, values: FloatArray, note: str) -> Signature:
    seen = values[np.isfinite(values)]
    middle, low, high = np.quantile(seen, [0.5, 0.05, 0.95]).tolist() if len(seen) else (math.nan,) * 3
    said = "median and middle nine tenths of the spots" + (f"; {note}" if note else "")
    return Signature(name, middle, "1", low, high, SOURCE, said)
