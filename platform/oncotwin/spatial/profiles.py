"""Scores as profiles over signed distance (to the interface, to vessels): means, slopes and depths with intervals.

Blocks leave sums of whole numbers by square of tissue and layer of distance (`profile_sums`); those add up. Cells side
by side are alike, so uncertainty comes from drawing whole squares anew, not cells (`bootstrap`): whatever is read off
the sums of a section is read off those of each draw.

Source:
    Künsch 1989, doi:10.1214/aos/1176347265, and Lahiri 2003, doi:10.1007/978-1-4757-3803-2 (chapter 12: bootstrap by
    spatial blocks); Hendry et al. 2017, doi:10.1097/PAP.0000000000000161 (the invasive margin: 500 um to either side).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import erf

from oncotwin.domain.errors import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

STEP = 2.0**-20
"""What one stands for in a sum of scores."""
LARGEST = 2.0**20
LAYERS_UM = np.array([-np.inf, -500.0, -100.0, 100.0, 500.0, np.inf])
"""Five layers: core, inner margin, interface, outer margin, far stroma. The margin's 500 um are the field's; the
interface's 100 um are the half pitch of the coarsest platform served, 200 um."""
LAYER_NAMES = ("core", "inner margin", "interface", "outer margin", "far stroma")
AT_ONCE = 1 << 16
"""Cells whose sums are made at once."""
_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class ProfileSums:
    """Cells and scores by square of tissue and layer; sums of blocks add up.

    Args:
        squares: (n_squares, 2) row and column of each square on the section's own grid, sorted.
        counts: (n_squares, n_layers) cells.
        sums: (n_squares, n_layers, n_scores) of their scores, in steps.
    """

    squares: IntArray
    counts: IntArray
    sums: IntArray

    def __add__(self, other: ProfileSums) -> ProfileSums:
        squares, place = np.unique(np.vstack([self.squares, other.squares]), axis=0, return_inverse=True)
        counts = np.zeros((len(squares), *self.counts.shape[1:]), dtype=np.int64)
        sums = np.zeros((len(squares), *self.sums.shape[1:]), dtype=np.int64)
        np.add.at(counts, place.ravel(), np.vstack([self.counts, other.counts]))
        np.add.at(sums, place.ravel(), np.vstack([self.sums, other.sums]))
        return ProfileSums(squares, counts, sums)


@dataclass(frozen=True)
class Estimate:
    """A value read off a section, with its uncertainty; each of the same shape.

    Args:
        value: of the section.
        se: standard deviation over the draws.
        low, high: ends of the 90 % interval, by percentile.
        n_squares: squares that were drawn from: with few of them the interval is too narrow, with one it is NaN.
    """

    value: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    n_squares: int


def profile_sums(
    places_um: FloatArray, distance_um: FloatArray, scores: FloatArray, edges_um: FloatArray, square_um: float
) -> ProfileSums:
    """Sums of the cells that a block owns; cells without a distance (NaN) or beyond the edges are left out.

    Args:
        places_um: (n, 2) in micrometres.
        distance_um: (n,) signed distance to the interface, or distance to the nearest vessel.
        scores: (n, n_scores); a class is a score of nil or one, its profile a share.
        edges_um: (n_layers + 1,) increasing; a layer holds its lower edge.
        square_um: side of the squares: several times the length over which scores are alike.
    Raises:
        ConfigurationError: a score or place is not finite, edges do not increase, or the side is not positive.
    """
    if not (np.isfinite(scores).all() and np.isfinite(places_um).all()) or (np.abs(scores) > LARGEST).any():
        raise ConfigurationError("a score or place is not finite, or beyond 2^20; leave such cells out, or rescale")
    if len(edges_um) < 2 or not (np.diff(edges_um) > 0).all() or not 0.0 < square_um < math.inf:
        raise ConfigurationError(
            f"edges {np.asarray(edges_um).tolist()} must increase, and a square's side ({square_um} um) be positive"
        )
    pieces = [slice(first, first + AT_ONCE) for first in range(0, max(len(places_um), 1), AT_ONCE)]
    return reduce(
        add, (_piece_sums(places_um[at], distance_um[at], scores[at], edges_um, square_um) for at in pieces)
    )


def _piece_sums(
    places_um: FloatArray, distance_um: FloatArray, scores: FloatArray, edges_um: FloatArray, square_um: float
) -> ProfileSums:
    """Sums of some cells: what is made on the way is several times as large as they."""
    layer = np.searchsorted(edges_um, distance_um, side="right") - 1
    # The outermost edges may be infinite: what has no other class at all lies in no layer.
    used = np.isfinite(distance_um) & (layer >= 0) & (layer < len(edges_um) - 1)
    cell = np.floor(places_um[used] / square_um).astype(np.int64)
    squares, place = np.unique(cell, axis=0, return_inverse=True)
    counts = np.zeros((len(squares), len(edges_um) - 1), dtype=np.int64)
    sums = np.zeros((*counts.shape, scores.shape[1]), dtype=np.int64)
    at = (place.ravel(), layer[used])
    np.add.at(counts, at, 1)
    np.add.at(sums, at, np.rint(scores[used] / STEP).astype(np.int64))
    return ProfileSums(squares, counts, sums)


def layer_means(counts: FloatArray, sums: FloatArray) -> FloatArray:
    """Mean score of each layer: (n_layers, n_scores); NaN where no cell lies.

    Args:
        counts: (n_layers,) cells.
        sums: (n_layers, n_scores) of the scores.
    """
    many = np.broadcast_to(counts[:, None], sums.shape)
    means: FloatArray = np.divide(sums, many, out=np.full(sums.shape, math.nan), where=many > 0)
    return means


def slope_over(centres_um: FloatArray) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """The statistic "slope of each score per micrometre": least squares over cells set to their layer's centre.

    Args:
        centres_um: (n_layers,); NaN leaves a layer out, so that a slope can be that of one side alone.
    """
    kept = np.isfinite(centres_um)

    def slopes(counts: FloatArray, sums: FloatArray) -> FloatArray:
        n, x = counts[kept], centres_um[kept]
        total = n.sum()
        if total == 0:
            return np.full(sums.shape[1], math.nan)
        gaps = x - (n @ x) / total
        spread = n @ gaps**2
        found: FloatArray = gaps @ sums[kept] / spread if spread > 0 else np.full(sums.shape[1], math.nan)
        return found

    return slopes


def half_depth_over(centres_um: FloatArray) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """The statistic "depth in micrometres at which a score has fallen to half of what it is at the first layer".

    Args:
        centres_um: (n_layers,) depths, increasing from the interface or the vessel on.
    Returns:
        a function of counts and sums to (n_scores,): interpolated between layers; infinite where the score does not
        fall so far, NaN where it is not positive at the first layer.
    """

    def depths(counts: FloatArray, sums: FloatArray) -> FloatArray:
        means = layer_means(counts, sums)
        found = np.full(sums.shape[1], math.nan)
        for score in range(sums.shape[1]):
            seen = np.isfinite(means[:, score])
            x, y = centres_um[seen] - centres_um[0], means[seen, score]
            if not seen[0] or y[0] <= 0:
                continue
            below = np.nonzero(y <= y[0] / 2)[0]
            found[score] = math.inf
            if below.size:
                k = int(below[0])
                found[score] = x[k - 1] + (x[k] - x[k - 1]) * (y[k - 1] - y[0] / 2) / (y[k - 1] - y[k])
        return found

    return depths


def width_over(centres_um: FloatArray) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """The statistic "width of the interface in micrometres": from 10 to 90 % of a score's way across.

    The profile is fitted by a cumulative normal distribution between two levels (layers weighted by their cells), of
    which 10 to 90 % are 2.5631 standard deviations; a width below the layers' own cannot be resolved. NaN where fewer
    than five layers hold cells.
    """

    def widths(counts: FloatArray, sums: FloatArray) -> FloatArray:
        means, found = layer_means(counts, sums), np.full(sums.shape[1], math.nan)
        seen = np.isfinite(centres_um) & (counts > 0)
        if seen.sum() < 5:
            return found
        x, root = centres_um[seen], np.sqrt(counts[seen])
        span = float(x[-1] - x[0])
        for score in range(sums.shape[1]):
            found[score] = _transition_width(x / span, means[seen, score], root) * span
        return found

    return widths


def _transition_width(x: FloatArray, y: FloatArray, root: FloatArray) -> float:
    """Width of the transition of a profile over a span of one, by variable projection."""
    if np.ptp(y) == 0.0:
        return math.nan

    def residuals(guess: FloatArray) -> FloatArray:
        rise = 0.5 * (1 + erf((x - guess[0]) / (math.sqrt(2) * math.exp(guess[1]))))
        design = np.column_stack([np.ones_like(x), rise]) * root[:, None]
        levels = np.linalg.lstsq(design, y * root, rcond=None)[0]
        left: FloatArray = design @ levels - y * root
        return left

    middle = float(x.mean())
    tries = [
        least_squares(residuals, [middle, math.log(s)], bounds=([x[0], math.log(1e-3)], [x[-1], 0.0]))
        for s in (0.03, 0.15)
    ]
    best = min(tries, key=lambda found: float(found.cost))
    return 2.0 * 1.2815515655446004 * math.exp(float(best.x[1]))


def bootstrap(
    sums: ProfileSums, statistic: Callable[[FloatArray, FloatArray], FloatArray], seed: int, n_draws: int = 500
) -> Estimate:
    """Read a statistic off the section and off draws of its squares.

    Args:
        sums: of the whole section.
        statistic: of counts (n_layers,) and sums of scores (n_layers, n_scores), such as `layer_means`.
        seed: of the draws; the squares are in order of their place, so that the cut into blocks changes nothing.
        n_draws: how many.
    Raises:
        ConfigurationError: the section has no cell with a distance.
    """
    n = len(sums.squares)
    if not n:
        raise ConfigurationError("no cell has a finite distance; a section without both classes has no profile")
    value = statistic(sums.counts.sum(axis=0).astype(np.float64), sums.sums.sum(axis=0) * STEP)
    blank = np.full_like(value, math.nan)
    if n < 2:
        return Estimate(value, blank, blank, blank, n)
    # Whole numbers below 2^53 add without rounding, in floating point as well.
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_draws)
    drawn = np.stack([
        statistic(
            np.tensordot(row, sums.counts, 1).astype(np.float64), np.tensordot(row, sums.sums, 1) * STEP
        )
        for row in weights
    ])
    # A draw may miss a layer: the others say what is known of it. An infinite depth is an answer, and is counted.
    some, endless = (~np.isnan(drawn)).sum(axis=0) > 1, np.isinf(drawn).any(axis=0)
    drawn[:, ~some] = 0.0
    low, high = np.nanquantile(drawn, _QUANTILES, axis=0, method="inverted_cdf")
    se = np.where(endless, math.inf, np.nanstd(np.where(endless, 0.0, drawn), axis=0, ddof=1))
    return Estimate(value, np.where(some, se, blank), np.where(some, low, blank), np.where(some, high, blank), n)


def centres_of(edges_um: FloatArray) -> FloatArray:
    """Middle of each layer; NaN for a layer without an end."""
    middle = (edges_um[:-1] + edges_um[1:]) / 2
    return np.where(np.isfinite(middle), middle, math.nan)
