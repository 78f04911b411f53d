"""Whether a tumour is hot, excluded or cold, with the probability of each and what it rests on.

Two shares decide: of the counts inside the tumour, and of those in its outer margin, how many belong to the immune
set (or, of labelled cells, how many cells are immune). With a threshold t from a reference,

    hot        the share inside lies above t;
    excluded   the share inside lies below t, that in the margin above it: immune cells came and did not enter;
    cold       both lie below t.

Each share is uncertain, and far more than its many counts suggest, since counts of one place are alike. So counts are
brought to their effective number: the variance of the share over squares of tissue (of a whole tumour) or over spots
(of a window) says how many independent counts would be as uncertain. The share then has a beta posterior, and with
inside and margin independent the three probabilities are products of its distribution functions; they add up to one.

A spot is a mixture of cells, and its class is that of its window: "hot" says that immune counts prevail there beyond
the threshold among the tumour's own spots, not that each cell is or has an immune neighbour.

Blocks: a tumour's sums by square are whole numbers and add up; a spot's sums run over its window in increasing id.

Source:
    Classes: Chen & Mellman 2017, doi:10.1038/nature21349 (inflamed, excluded, desert); Galon & Bruni 2019,
    doi:10.1038/s41573-018-0007-y (hot, altered, cold: core against invasive margin). Variance of a ratio over
    clusters: Cochran 1977, Sampling Techniques, section 3.12; effective counts in a binomial interval: Korn & Graubard
    1998, Survey Methodology 24, 193-201. Prior: Jeffreys 1946, doi:10.1098/rspa.1946.0056.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, stdtrit

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.profiles import STEP, ProfileSums, profile_sums
from oncotwin.spatial.set_fractions import check_counts, make_windows
from oncotwin.spatial.signature import Signature

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MARGIN_UM = 500.0
"""Depth of the outer margin."""
HOT_SHARE = 0.025
"""Of the counts of a whole transcriptome: the median of the spots' immune share, median over the patients A to E of
Andersson et al. 2021, doi:10.1038/s41467-021-26271-2; another platform needs its own. Of cells `HOT_CELLS`."""
HOT_CELLS = 0.10
"""Of the cells that are labelled: tumours with at least a tenth of lymphocytes are not low (Salgado et al. 2015,
doi:10.1093/annonc/mdu450)."""
WINDOW_UM = 250.0
"""Bandwidth of a spot's window."""
LEAST_CLUSTERS = 2.0
_EDGES_UM = np.array([-np.inf, 0.0, MARGIN_UM])
_INSIDE, _MARGIN = 0, 1
_CLASSES = "Chen & Mellman 2017, doi:10.1038/nature21349; Galon & Bruni 2019, doi:10.1038/s41573-018-0007-y"
_SHARE = "Korn & Graubard 1998, Survey Methodology 24, 193-201 (effective counts)"
_N_LEVELS = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """Beta posterior of a share of counts; numbers or arrays of one shape.

    Attributes:
        value: of the counts as they are.
        n_effective: independent counts that would be as uncertain.
    """

    value: FloatArray
    n_effective: FloatArray

    def below(self, threshold: float | FloatArray) -> FloatArray:
        """Probability that the share lies below a threshold."""
        return np.asarray(betainc(*self._shape(), threshold))

    def quantile(self, level: float | FloatArray) -> FloatArray:
        """Where the posterior's distribution function reaches a level."""
        return np.asarray(betaincinv(*self._shape(), level))

    def _shape(self) -> tuple[FloatArray, FloatArray]:
        return 0.5 + self.value * self.n_effective, 0.5 + (1.0 - self.value) * self.n_effective


@dataclass(frozen=True, slots=True)
class ImmuneClass:
    """Probabilities of the classes, which add up to one; numbers or arrays of one shape, NaN where nothing is said."""

    hot: FloatArray
    excluded: FloatArray
    cold: FloatArray


def region_sums(
    places_um: FloatArray, distance_um: FloatArray, immune: IntArray, totals: IntArray, square_um: float
) -> ProfileSums:
    """Immune and all counts of a block's own cells, inside the tumour and in its margin, by square; sums add up.

    Squares must be several times as wide as the patches over which shares are alike: with patches of nearly their
    own size 90 % intervals covered only three times in four.

    Args:
        places_um: (n, 2).
        distance_um: (n,) signed distance to the tumour's border, negative inside; NaN is no part of the question.
        immune: (n,) counts of the immune set; of labelled cells 1 where it is immune.
        totals: (n,) counts of all genes; of labelled cells 1.
        square_um: side of the squares.
    Raises:
        ConfigurationError: more immune counts than counts, or see `profile_sums`.
    """
    check_counts(np.arange(len(immune)), immune, totals)
    return profile_sums(places_um, distance_um, np.column_stack([immune, totals]), _EDGES_UM, square_um)


def region_shares(sums: ProfileSums) -> tuple[Share, Share]:
    """Immune shares inside the tumour and in its margin, from the sums of the whole section.

    Raises:
        ConfigurationError: a region has counts in fewer than two squares: its uncertainty cannot be told.
    """
    found = []
    for layer, region in ((_INSIDE, "inside the tumour"), (_MARGIN, f"within {MARGIN_UM:.0f} um outside the tumour")):
        immune, totals = (sums.sums[:, layer, at] * STEP for at in (0, 1))
        used = totals > 0
        if used.sum() < LEAST_CLUSTERS:
            raise ConfigurationError(
                f"{int(used.sum())} squares of tissue hold counts {region}; at least two are needed to say how far the "
                "immune share can be trusted"
            )
        whole = totals[used].sum()
        share = immune[used].sum() / whole
        gaps = ((immune[used] - share * totals[used]) ** 2).sum()
        found.append(_share(share, whole, gaps / whole**2, np.asarray(used.sum(), dtype=np.float64)))
    return found[0], found[1]


def _share(share: FloatArray, n_counts: FloatArray, variance: FloatArray, n_clusters: FloatArray) -> Share:
    """Posterior of a share from its variance over clusters.

    Args:
        share: of the counts.
        n_counts: at most the effective number.
        variance: sum of squared gaps of the clusters over the squared counts, without the factor n / (n - 1).
        n_clusters: above one; few of them make the variance itself uncertain (Student instead of the normal).
    """
    corrected = variance * n_clusters / (n_clusters - 1.0)
    independent = np.divide(share * (1.0 - share), corrected, out=np.array(n_counts, float), where=corrected > 0.0)
    trust = (1.6448536269514722 / stdtrit(n_clusters - 1.0, 0.95)) ** 2
    return Share(np.asarray(share), np.minimum(independent * trust, n_counts))


def classify(inside: Share, margin: Share, threshold: float) -> ImmuneClass:
    """Probabilities of the three classes.

    Args:
        inside, margin: shares; the margin's may be one number for many insides.
        threshold: share above which a region counts as rich in immune cells: `HOT_SHARE` or `HOT_CELLS`.
    Raises:
        ConfigurationError: a threshold that is no share.
    """
    if not 0.0 < threshold < 1.0:
        raise ConfigurationError(f"a threshold of {threshold} is no share; give a number between nil and one")
    poor, poor_margin = inside.below(threshold), margin.below(threshold)
    return ImmuneClass(1.0 - poor, poor * (1.0 - poor_margin), poor * poor_margin)


def margin_above_inside(inside: Share, margin: Share) -> float:
    """Probability that the margin's share is the larger: the integral of one distribution over the other."""
    levels = (np.arange(_N_LEVELS) + 0.5) / _N_LEVELS
    return float(np.mean(inside.below(margin.quantile(levels))))


def immune_signatures(sums: ProfileSums, threshold: float) -> list[Signature]:
    """Class of a whole tumour, and what it rests on.

    Args:
        sums: of the whole section.
        threshold: as of `classify`.
    Raises:
        ConfigurationError: see `region_shares` and `classify`.
    """
    inside, margin = region_shares(sums)
    found = classify(inside, margin, threshold)
    made = [
        Signature(
            f"immune.share_{name}", float(share.value), "1", float(share.quantile(0.05)), float(share.quantile(0.95)),
            _SHARE, f"as uncertain as {float(share.n_effective):.0f} independent counts",
        )
        for name, share in (("inside", inside), ("margin", margin))
    ]
    note = f"probability that it is so; threshold {threshold:g} of the counts, margin {MARGIN_UM:.0f} um"
    said = {"hot": found.hot, "excluded": found.excluded, "cold": found.cold}
    made += [
        Signature(f"immune.{name}", float(value), "1", math.nan, math.nan, _CLASSES, note)
        for name, value in said.items()
    ]
    above = "probability that the margin holds a larger immune share than the inside"
    made.append(
        Signature(
            "immune.margin_above_inside", margin_above_inside(inside, margin), "1", math.nan, math.nan, _CLASSES, above
        )
    )
    return made


def spot_shares(
    ids: IntArray, points: FloatArray, own: IntArray, immune: IntArray, totals: IntArray, inside: BoolArray,
    bandwidth: float,
) -> Share:
    """Immune share among the tumour's spots in the window of each of a block's own spots.

    Args:
        ids, points, own: as of `oncotwin.spatial.set_fractions.make_windows`.
        immune, totals: (n_held,) counts as of `region_sums`.
        inside: (n_held,) whether a spot is tumour.
        bandwidth: in pitches: `WINDOW_UM`, but no more than the section's widest window.
    Returns:
        shares (n_own,); NaN where the spot is not tumour, or fewer than `LEAST_CLUSTERS` spots tell of it.
    Raises:
        ConfigurationError: see `make_windows` and `check_counts`.
    """
    check_counts(ids, immune, totals)
    windows = make_windows(ids, points, own, bandwidth)
    part, whole = (np.where(inside, column, 0).astype(np.float64) for column in (immune, totals))
    sums = windows.sums(np.column_stack([part, whole]))
    square = windows.sums(np.column_stack([part**2, part * whole, whole**2, whole]), power=2)
    told = inside[own] & (sums[:, 1] > 0.0)
    clusters = np.divide(sums[:, 1] ** 2, square[:, 2], out=np.zeros(len(sums)), where=told)
    told &= clusters >= LEAST_CLUSTERS
    made = Share(np.full(len(sums), np.nan), np.full(len(sums), np.nan))
    share = sums[told, 0] / sums[told, 1]
    gaps = np.maximum(square[told, 0] - 2.0 * share * square[told, 1] + share**2 * square[told, 2], 0.0)
    n_counts = sums[told, 1] ** 2 / square[told, 3]
    found = _share(share, n_counts, gaps / sums[told, 1] ** 2, clusters[told])
    made.value[told], made.n_effective[told] = found.value, found.n_effective
    return made
