"""Which spots or cells are tumour: a section's own threshold on a score, or classes that are named as tumour.

A spot of a low-resolution platform is a mixture: "tumour" means that tumour cells' counts prevail in its window, not
that every cell in it is one.

Blocks: scores are counted in bins of whole numbers between bounds of the whole section; the threshold is read off the
counts, so no cut and no order of the cells changes it.

Source:
    Otsu 1979, doi:10.1109/TSMC.1979.4310076 (equations 12 to 18: threshold and separability).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.distance import INSIDE, NOT_TISSUE, OUTSIDE

FloatArray = NDArray[np.float64]
ClassArray = NDArray[np.int8]

N_BINS = 512
_LEAST_PROBABILITY = 1e-6
SMALLEST_SHARE = 0.02
"""Of the cells; a region smaller than this is an outlier of the other, not a region."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold between two groups of values.

    Attributes:
        value: values at or above belong to the upper group.
        separability: share of the variance that lies between the groups, 0 to 1; a normal distribution cut in the
            middle has 0.64, two groups far apart near 1.
        upper_share: share of the values in the upper group.
    """

    value: float
    separability: float
    upper_share: float


def otsu(values: FloatArray) -> Threshold:
    """The threshold that leaves the least variance within the two groups; of equals the lowest.

    Args:
        values: (n,) finite.
    Raises:
        ConfigurationError: no values, one that is not finite, or all alike.
    """
    if not values.size or not np.isfinite(values).all():
        raise ConfigurationError(f"{values.size} values must be finite and at least one; leave out cells without score")
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise ConfigurationError(f"all values are {low}: one group cannot be told from another")
    bins = np.minimum(((values - low) / (high - low) * N_BINS).astype(np.int64), N_BINS - 1)
    counts = np.bincount(bins, minlength=N_BINS)
    n, first = np.cumsum(counts), np.cumsum(counts * np.arange(N_BINS))
    below, mean = n[:-1] / n[-1], first[-1] / n[-1]
    variance = counts @ (np.arange(N_BINS) - mean) ** 2 / n[-1]
    spread = below * (1 - below)
    apart = np.divide(
        (mean * below - first[:-1] / n[-1]) ** 2, spread, out=np.zeros(N_BINS - 1), where=spread > 0
    )
    best = int(np.argmax(apart))
    return Threshold(low + (best + 1) * (high - low) / N_BINS, float(apart[best] / variance), float(1 - below[best]))


def tumour_from_score(scores: FloatArray) -> tuple[ClassArray, Threshold]:
    """Tumour and the tissue around it, by a section's own threshold on the logarithm of a share.

    Args:
        scores: (n,) smoothed share of counts of the tumour set; NaN is no part of the question.
    Returns:
        classes (n,): INSIDE, OUTSIDE, NOT_TISSUE; and the threshold on the shares.
    Raises:
        ConfigurationError: no finite score, all alike, or a group below `SMALLEST_SHARE`: there are not two regions.
    """
    known = np.isfinite(scores)
    # A share is a ratio: twice as much is as far up as half is down. What has no count at all is set beside the least.
    positive = scores[known & (scores > 0)]
    floor = float(positive.min()) if positive.size else 1.0
    found = otsu(np.log(np.maximum(scores[known], floor)))
    if not SMALLEST_SHARE <= found.upper_share <= 1 - SMALLEST_SHARE:
        raise ConfigurationError(
            f"{found.upper_share:.1%} of the cells lie above the threshold: tumour and the tissue around it cannot be "
            "told apart; name the classes that are tumour, or send a section that holds both"
        )
    inside = np.zeros(len(scores), dtype=np.bool_)
    inside[known] = np.log(np.maximum(scores[known], floor)) >= found.value
    classes = np.where(known, np.where(inside, INSIDE, OUTSIDE), NOT_TISSUE).astype(np.int8)
    return classes, Threshold(float(np.exp(found.value)), found.separability, found.upper_share)


def odds(probability: FloatArray) -> FloatArray:
    """Odds (n,) of a probability that is relative to its section, as a score for `tumour_from_score`.

    A model that was taught on sections of one share of tumour puts its half elsewhere on a section of another share;
    the gap between the two groups is the section's own.
    """
    held = np.clip(probability, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
    return np.asarray(held / (1.0 - held))


def tumour_from_names(names: Sequence[str], tumour: Collection[str]) -> ClassArray:
    """Classes (n,) from a column of names; a cell without a name ("") is no part of the question.

    Args:
        names: (n,) of each cell.
        tumour: those that are tumour.
    Raises:
        ConfigurationError: a name of ``tumour`` does not occur.
    """
    seen = set(names)
    unknown = sorted(set(tumour) - seen)
    if unknown:
        raise ConfigurationError(
            f"no cell is of class '{unknown[0]}', which was named as tumour; the section has {sorted(seen - {''})[:20]}"
        )
    return np.array([NOT_TISSUE if not name else INSIDE if name in tumour else OUTSIDE for name in names], np.int8)
