"""Ratios of sums over a section's cells, with intervals by drawing its squares anew, as signatures.

Cells side by side are alike: an interval comes from drawing whole squares of tissue (`oncotwin.spatial.profiles`), and
every ratio of a section is read off the same draws.

Source:
    Lahiri 2003, doi:10.1007/978-1-4757-3803-2, chapter 12 (bootstrap by spatial blocks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from oncotwin.spatial.profiles import AT_ONCE, Estimate, ProfileSums, bootstrap, profile_sums
from oncotwin.spatial.signature import Signature

FloatArray = NDArray[np.float64]

_EVERYWHERE = np.array([-1.0, 1.0])
FEW_SQUARES = 8
"""With fewer squares than this an interval is too narrow, and a signature says so."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A signature that is a sum over cells, over another one.

    Attributes:
        name, unit, source, note: of the signature.
        part, whole: (n_cells,) what each cell adds above and below; finite, absolute values up to 2^20.
        factor: what the ratio is multiplied by.
    """

    name: str
    part: FloatArray
    whole: FloatArray
    unit: str
    source: str
    factor: float = 1.0
    note: str = ""


def ratio_signatures(ratios: list[Ratio], places_um: FloatArray, square_um: float, seed: int) -> list[Signature]:
    """Signatures with 90 % intervals.

    Args:
        ratios: of sums over the same cells.
        places_um: (n_cells, 2).
        square_um: side of the squares.
        seed: of the draws.
    """
    if not ratios:
        return []
    n = len(ratios)
    columns = [*(one.part for one in ratios), *(one.whole for one in ratios)]
    pieces = [slice(first, first + AT_ONCE) for first in range(0, max(len(places_um), 1), AT_ONCE)]
    sums = reduce(add, (_sums(places_um[at], [column[at] for column in columns], square_um) for at in pieces))
    found = bootstrap(sums, lambda _, total: _divided(total[0, :n], total[0, n:]), seed)
    return [
        signature_of(one.name, found, at, one.unit, one.source, one.factor, one.note) for at, one in enumerate(ratios)
    ]


def _sums(places_um: FloatArray, columns: list[FloatArray], square_um: float) -> ProfileSums:
    """Of some cells: side by side the columns of all would be several times as large as a map."""
    stacked = np.column_stack(columns).astype(np.float64)
    return profile_sums(places_um, np.zeros(len(places_um)), stacked, _EVERYWHERE, square_um)


def signature_of(
    name: str, found: Estimate, at: int | tuple[int, ...], unit: str, source: str, factor: float = 1.0, note: str = ""
) -> Signature:
    """One entry of an estimate as a signature; ``factor`` brings it into the unit."""
    value, ends = float(found.value[at]) * factor, sorted(float(end[at]) * factor for end in (found.low, found.high))
    low, high = ends if all(not math.isnan(end) for end in ends) else (math.nan, math.nan)
    if found.n_squares < FEW_SQUARES:
        note = "; ".join(filter(None, (note, f"interval from {found.n_squares} squares only, too narrow")))
    return Signature(name, value, unit, low, high, source, note)


def _divided(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole != 0.0))
