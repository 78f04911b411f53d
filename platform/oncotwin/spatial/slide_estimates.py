"""Signatures of a slide from its map: tissue, nuclei, classes and what was kept out, each with its interval.

Cells of tissue side by side are alike: an interval comes from drawing squares of half a millimetre anew
(`oncotwin.spatial.profiles`). It speaks of this slide, not of the whole tumour.

Source:
    Lahiri 2003, doi:10.1007/978-1-4757-3803-2, chapter 12 (bootstrap by spatial blocks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.profiles import STEP, ProfileSums, bootstrap
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.slide_grid import SlideGrid
from oncotwin.spatial.slide_maps import (
    ADIPOSE,
    BLURRED,
    ECCENTRICITY_STEPS,
    FIELDS,
    FOLDED,
    IMMUNE,
    PEN_MARKS,
    STROMA,
    TUMOUR,
    USABLE,
    CellRule,
    tissue_share,
)
from oncotwin.spatial.slide_tissue import OD_STEPS
from oncotwin.spatial.square_draws import signature_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]

SQUARE_UM = 500.0
CLASS_NAMES = {ADIPOSE: "adipose", STROMA: "stroma", TUMOUR: "tumour_like", IMMUNE: "immune_like"}
"""Classes that have a share, in the order of their codes on the map."""
QUALITY_NAMES = {PEN_MARKS: "pen_marks", BLURRED: "blurred", FOLDED: "folded"}

_STAINS = "Ruifrok & Johnston 2001, PMID 11531144; Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250"
_NUCLEI = "Lindeberg 1998, doi:10.1023/A:1008045108935; Couprie & Bertrand 1997, doi:10.1117/12.292778"
_TISSUE = "Otsu 1979, doi:10.1109/TSMC.1979.4310076"
_CLASSES = "cellularity and nuclear size by the thresholds of CellRule"
_QUALITY = "Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548; Kothari et al. 2013, doi:10.4103/2153-3539.117448"
_BY_RULE = "by cellularity and size of nuclei alone: normal epithelium counts as tumour-like"
_OD = "optical density"
_KEPT_OUT = "of map cells with tissue or ink; they count in no other signature"


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums of a slide, or of a draw of its squares.

    Attributes:
        fields: by name of `FIELDS`, over usable cells.
        cells: by class name and by name of quality, numbers of cells that hold tissue or ink.
        pixel_um: side of a working pixel.
    """

    fields: Mapping[str, float]
    cells: Mapping[str, float]
    pixel_um: float

    def ratio(self, part: str, whole: str) -> float:
        return _divided(self.fields[part], self.fields[whole])

    def share(self, names: Sequence[str], among: Iterable[str]) -> float:
        """Share of cells of some kinds among those of several."""
        return _divided(sum(self.cells[name] for name in names), sum(self.cells[name] for name in among))

    def area_sd_um2(self) -> float:
        spread = self.ratio("sum_nucleus_pixels2", "n_nuclei") - self.ratio("sum_nucleus_pixels", "n_nuclei") ** 2
        return math.sqrt(max(spread, 0.0)) * self.pixel_um**2


@dataclass(frozen=True, slots=True)
class _Reading:
    """One signature, read off totals."""

    name: str
    unit: str
    source: str
    read: Callable[[_Totals], float]
    note: str = ""


def _readings() -> list[_Reading]:
    classes, quality = tuple(CLASS_NAMES.values()), tuple(QUALITY_NAMES.values())
    everything = (*classes, *quality)
    found = [
        _Reading("tissue.area", "um2", _TISSUE, lambda t: t.fields["n_tissue"] * t.pixel_um**2),
        _Reading(
            "tissue.haematoxylin", "1", _STAINS, lambda t: t.ratio("sum_haematoxylin", "n_tissue") / OD_STEPS, _OD
        ),
        _Reading("tissue.eosin", "1", _STAINS, lambda t: t.ratio("sum_eosin", "n_tissue") / OD_STEPS, _OD),
        _Reading("nuclei.number", "1", _NUCLEI, lambda t: t.fields["n_nuclei"]),
        _Reading("nuclei.density", "/mm2", _NUCLEI, lambda t: t.ratio("n_nuclei", "n_tissue") * 1e6 / t.pixel_um**2),
        _Reading("nuclei.area", "um2", _NUCLEI, lambda t: t.ratio("sum_nucleus_pixels", "n_nuclei") * t.pixel_um**2),
        _Reading("nuclei.area_sd", "um2", _NUCLEI, _Totals.area_sd_um2),
        _Reading(
            "nuclei.eccentricity", "1", _NUCLEI,
            lambda t: t.ratio("sum_nucleus_eccentricity", "n_nuclei") / ECCENTRICITY_STEPS,
        ),
        _Reading(
            "nuclei.intensity", "1", _STAINS, lambda t: t.ratio("sum_nucleus_stain", "sum_nucleus_pixels") / OD_STEPS,
            f"{_OD}, over the pixels of nuclei",
        ),
        _Reading("nuclei.share_of_tissue", "1", _NUCLEI, lambda t: t.ratio("sum_nucleus_pixels", "n_tissue")),
    ]  # fmt: skip
    found += [
        _Reading(f"class_{name}.share", "1", _CLASSES, partial(_Totals.share, names=(name,), among=classes), _BY_RULE)
        for name in classes
    ]
    found.append(
        _Reading("quality.kept_out", "1", _QUALITY, partial(_Totals.share, names=quality, among=everything), _KEPT_OUT)
    )
    return found + [
        _Reading(f"quality.{name}", "1", _QUALITY, partial(_Totals.share, names=(name,), among=everything), _KEPT_OUT)
        for name in quality
    ]


def estimate_slide(
    values: IntArray, classes: ByteArray, quality: ByteArray, grid: SlideGrid, cell: int, rule: CellRule, seed: int
) -> list[Signature]:
    """All scalar signatures of a slide; cells that cannot be used count in what was kept out and nowhere else.

    Args:
        values: (rows, columns, n_fields) map of the whole slide.
        classes: (rows, columns) by `classify_cells`.
        quality: (rows, columns) by `cell_quality`.
        grid: of the slide.
        cell: side of a map's cell in working pixels.
        rule: by which cells were judged.
        seed: of the draws.
    Raises:
        ConfigurationError: there is no usable tissue.
    """
    tissue = np.nan_to_num(tissue_share(values)) >= rule.least_tissue
    usable = tissue & (quality == USABLE)
    if not usable.any():
        kept_out = {name: int(np.count_nonzero(quality == code)) for code, name in QUALITY_NAMES.items()}
        raise ConfigurationError(
            f"no usable tissue among {usable.size} map cells ({kept_out} kept out); scan it again"
        )
    readings, names = _readings(), (*CLASS_NAMES.values(), *QUALITY_NAMES.values())

    def read(_: FloatArray, sums: FloatArray) -> FloatArray:
        numbers = [float(one) for one in sums[0] / STEP]
        fields = dict(zip(FIELDS, numbers, strict=False))
        totals = _Totals(fields, dict(zip(names, numbers[len(FIELDS) :], strict=True)), grid.pixel_um)
        return np.array([one.read(totals) for one in readings])

    side = max(1, round(SQUARE_UM / (cell * grid.pixel_um)))
    parts = []
    # Whole rows of squares at a time: all columns of a large map at once would be several maps.
    for first in range(0, len(values), side):
        rows = slice(first, first + side)
        columns = _columns(values[rows], classes[rows], quality[rows], usable[rows])
        parts.append(_by_square(columns, (usable | (quality != USABLE))[rows], first, side))
    found = bootstrap(
        ProfileSums(*(np.concatenate([getattr(part, one) for part in parts]) for one in ("squares", "counts", "sums"))),
        read, seed,
    )  # fmt: skip
    return [
        signature_of(
            one.name, found, at, one.unit, one.source,
            note=one.note if math.isfinite(found.value[at]) else "there is nothing to read it off",
        )
        for at, one in enumerate(readings)
    ]  # fmt: skip


def _columns(values: IntArray, classes: ByteArray, quality: ByteArray, usable: NDArray[np.bool_]) -> IntArray:
    """Fields of usable cells, and of all cells whether they are of each class and quality."""
    kinds = [classes[..., None] == np.array(list(CLASS_NAMES)), quality[..., None] == np.array(list(QUALITY_NAMES))]
    kinds[0] &= usable[..., None]
    return np.concatenate([np.where(usable[..., None], values, 0), *kinds], axis=2, dtype=np.int64)


def _by_square(columns: IntArray, held: NDArray[np.bool_], first: int, side: int) -> ProfileSums:
    """Sums over squares of so many cells, of one row of squares; squares without a held cell are left out."""
    row, column = np.nonzero(held)
    numbers, place = np.unique(column // side, return_inverse=True)
    counts, sums = np.zeros((len(numbers), 1), np.int64), np.zeros((len(numbers), 1, columns.shape[2]), np.int64)
    np.add.at(counts[:, 0], place, 1)
    np.add.at(sums[:, 0], place, columns[row, column])
    return ProfileSums(np.column_stack([np.full(len(numbers), first // side), numbers]), counts, sums)


def _divided(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
