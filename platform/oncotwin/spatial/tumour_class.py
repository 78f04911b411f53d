"""Probability that a spot is tumour: a logistic model of what its neighbourhood's counts are made of.

Features of a spot: for each set of the model and each of its windows (the spot alone, its next neighbours, and wider)
the logarithm of the set's share of all counts, and for each window the logarithm of the counts a spot; and of the spot
itself how many genes were seen. Each feature is brought to mean nil and standard deviation one over its own section,
which takes away what differs between sections (depth, panel, tissue) at a price: the probability is relative to the
section, and a section that is all tumour, or has none, is divided all the same.

A spot is a mixture of cells. The model was taught a pathologist's regions, so "tumour" means that the spot lies in a
region of invasive or in-situ carcinoma, not that all its cells are cancer cells.

Blocks: features of a spot come from its window alone; their sums over the section are exact and add up in any order.

Source:
    Berkson 1944, doi:10.1080/01621459.1944.10500699 (logistic model); Hoerl & Kennard 1970,
    doi:10.1080/00401706.1970.10488634 (penalty on squared coefficients). Taught on the labelled sections of Andersson
    et al. 2021, doi:10.1038/s41467-021-26271-2; `TumourModel.taught_on` says which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.exact_sums import exact_sums, rounded
from oncotwin.spatial.set_fractions import make_windows

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

SETS = (
    "adipose", "breast_ducts", "emt", "endothelium", "her2_amplicon", "hypoxia", "immune", "proliferation", "stroma",
    "tumour_epithelium",
)
BANDWIDTHS = (0.1, 0.8, 1.5)
"""In pitches; the window of the first holds the spot alone."""
WIDEST_BANDWIDTH = max(BANDWIDTHS)
_PER = 1e4


@dataclass(frozen=True, slots=True)
class FeatureSums:
    """Exact sums of some blocks.

    Attributes:
        n_spots: that went in.
        sums, squares: (n_features, n_digits) of the features and of their squares, see `exact_sums`.
    """

    n_spots: int
    sums: IntArray
    squares: IntArray


@dataclass(frozen=True, slots=True)
class TumourModel:
    """Coefficients of the logistic model.

    Attributes:
        taught_on: what the coefficients were learnt from.
        intercept: of the linear predictor.
        coefficients: (n_features,) of the standardised features, in the order of `feature_names`.
    """

    taught_on: str
    intercept: float
    coefficients: Array


def feature_names() -> list[str]:
    """Names of the features, in the order of their columns."""
    return [*(f"{what}.{width}" for width in BANDWIDTHS for what in ("depth", *SETS)), "genes_seen"]


def shipped_model() -> TumourModel:
    """The model that is shipped.

    Raises:
        ConfigurationError: the file does not fit the features.
    """
    raw = json.loads(files("oncotwin.spatial").joinpath("data/tumour_class.json").read_text(encoding="utf-8"))
    if list(raw["coefficients"]) != feature_names():
        raise ConfigurationError(
            "data/tumour_class.json has coefficients of other features than feature_names(); teach the model anew"
        )
    return TumourModel(raw["taught_on"], raw["intercept"], np.array(list(raw["coefficients"].values())))


def spot_features(
    ids: IntArray, points: Array, own: IntArray, set_counts: Mapping[str, IntArray], totals: IntArray,
    genes_seen: IntArray,
) -> Array:
    """Features (n_own, n_features) of a block's own spots.

    Args:
        ids, points, own: as of `oncotwin.spatial.set_fractions.make_windows`; the halo reaches three times
            `WIDEST_BANDWIDTH`.
        set_counts: (n_held,) counts of each of `SETS`; a set that the panel does not cover is left out, and its
            features are nil everywhere.
        totals: (n_held,) counts of all genes, positive.
        genes_seen: (n_held,) genes with a count.
    Raises:
        ConfigurationError: a spot has no counts, or see `make_windows`.
    """
    if (totals <= 0).any():
        raise ConfigurationError(f"spot {ids[int(np.argmax(totals <= 0))]} has no counts; keep out what fails quality")
    nothing = np.zeros(len(ids), dtype=np.int64)
    columns = np.column_stack([np.ones(len(ids)), totals, *(set_counts.get(name, nothing) for name in SETS)])
    made = []
    for width in BANDWIDTHS:
        sums = make_windows(ids, points, own, width).sums(columns)
        made.append(np.log(sums[:, 1] / sums[:, 0])[:, None])
        made.append(np.log1p(_PER * sums[:, 2:] / sums[:, 1:2]))
    return np.hstack([*made, np.log(genes_seen[own])[:, None]])


def feature_sums(features: Array) -> FeatureSums:
    """Sums of one block's own spots."""
    return FeatureSums(len(features), exact_sums(features), exact_sums(features**2))


def merge_feature_sums(parts: Sequence[FeatureSums]) -> FeatureSums:
    """Sums of some blocks from those of each, in any order.

    Raises:
        ConfigurationError: none given.
    """
    if not parts:
        raise ConfigurationError("no block of the section was summed; hand in at least one")
    return FeatureSums(
        sum(part.n_spots for part in parts), np.sum([part.sums for part in parts], axis=0),
        np.sum([part.squares for part in parts], axis=0),
    )


def standardised(features: Array, sums: FeatureSums) -> Array:
    """Features of a block with the section's mean taken off and over its standard deviation; nil where that is nil."""
    mean = rounded(sums.sums) / sums.n_spots
    variance = rounded(sums.squares) / sums.n_spots - mean**2
    # What is left of the squares of a constant is rounding.
    varies = variance > 1e-12 * np.maximum(mean**2, 1.0)
    spread = np.sqrt(np.where(varies, variance, 1.0))
    return np.asarray(np.where(varies, (features - mean) / spread, 0.0))


def tumour_probability(features: Array, sums: FeatureSums, model: TumourModel) -> Array:
    """Probability (n_own,) that each of a block's own spots is tumour.

    Regions were weighted alike when the model was taught, so a half is where tumour and the rest are equally likely
    if both were equally frequent.

    Args:
        features: (n_own, n_features) from `spot_features`.
        sums: of the whole section.
        model: such as `shipped_model`.
    """
    scaled = standardised(features, sums)
    linear = np.full(len(scaled), model.intercept)
    # Column by column: a product of matrices may add up in another order for another number of rows.
    for at, coefficient in enumerate(model.coefficients):
        linear += coefficient * scaled[:, at]
    return np.asarray(1.0 / (1.0 + np.exp(-linear)))
