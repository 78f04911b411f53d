"""What a section or slide says of a tumour's hidden state: a few of its signatures as observables, with intervals.

========================  ===============================================================  ===========================
observable                read off                                                         what it stands for
========================  ===============================================================  ===========================
``resistant_fraction``    area of stemness hotspots over the tumour's                      cells that a drug spares
``hypoxic_fraction``      area of hypoxia hotspots over the tissue's                       cells short of oxygen
``immune_effect``         immune share of counts inside the tumour; of slides, share of    kill by the immune system
                          tissue that looks lymphocytic
``cell_density``          nuclei per area of tissue                                        tumour cells per volume
========================  ===============================================================  ===========================

The first three are stand-ins, not measurements: the observation operators of the models add the error of the stand-in
(`oncotwin.models.spatial_observation`). An interval is that of the signature (squares of tissue drawn anew), divided by
what it is a share of, whose own error is small beside it.

Source:
    Stem-like cells and resistance: Shibue & Weinberg 2017, doi:10.1038/nrclinonc.2017.44. Immune cells inside the
    tumour: Chen & Mellman 2017, doi:10.1038/nature21349. None seen among n: at most 3 / n (Hanley & Lippman-Hand 1983,
    doi:10.1001/jama.1983.03330370053031; the 95 % bound is the upper end of a 90 % interval).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.signature import Signature

_RULE_OF_THREE = 3.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One observable as read off a section.

    Attributes:
        observable: as in `oncotwin.domain.units.OBSERVABLES`.
        value, low, high: in `unit`, the ends of the 90 % interval with low <= value <= high.
        unit: UCUM.
        read_off: names of the signatures that it rests on.
    """

    observable: str
    value: float
    low: float
    high: float
    unit: str
    read_off: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Operator:
    """How one observable is read off signatures.

    Attributes:
        signature: whose value and interval are taken.
        unit: UCUM of the observable.
        whole: of which signatures the value is a share, as their quotient; none for the value itself.
    """

    observable: str
    signature: str
    unit: str
    whole: Callable[[Mapping[str, Signature]], float] | None = None
    rests_on: tuple[str, ...] = ()


def _tissue_area(known: Mapping[str, Signature]) -> float:
    """Area of all tissue: that of the tumour over its share."""
    return known["tumour.area"].value / known["tumour.share"].value


def _tumour_area(known: Mapping[str, Signature]) -> float:
    return known["tumour.area"].value


_OPERATORS = (
    _Operator("resistant_fraction", "stemness.hotspot_area", "1", _tumour_area, ("tumour.area",)),
    _Operator("hypoxic_fraction", "hypoxia.hotspot_area", "1", _tissue_area, ("tumour.area", "tumour.share")),
    _Operator("immune_effect", "immune.share_inside", "1"),
    _Operator("immune_effect", "class_immune_like.share", "1"),
    _Operator("cell_density", "nuclei.density", "/mm2"),
)
"""In order of preference."""


def read_evidence(
    signatures: Iterable[Signature], n_independent: float
) -> tuple[list[Reading], dict[str, str]]:
    """Observables of a section or slide, and why others cannot be said.

    Args:
        signatures: all of one section or slide.
        n_independent: pieces of tissue that are not alike, such as the squares that intervals are drawn from.
    Returns:
        readings, one an observable, and the reason for each observable without one.
    Raises:
        ConfigurationError: there is less than one piece, or a signature occurs twice.
    """
    if not n_independent >= 1.0:
        raise ConfigurationError(f"{n_independent} independent pieces of tissue; a section is at least one")
    known: dict[str, Signature] = {}
    for one in signatures:
        if one.name in known:
            raise ConfigurationError(f"signature {one.name} occurs twice; give those of one section or slide")
        known[one.name] = one
    readings: dict[str, Reading] = {}
    abstained: dict[str, str] = {}
    for operator in _OPERATORS:
        if operator.observable in readings:
            continue
        found = _read(operator, known, n_independent)
        if isinstance(found, Reading):
            readings[operator.observable] = found
            abstained.pop(operator.observable, None)
        else:
            abstained.setdefault(operator.observable, found)
    return list(readings.values()), abstained


def _read(operator: _Operator, known: Mapping[str, Signature], n: float) -> Reading | str:
    """One observable, or why there is none."""
    missing = [name for name in (operator.signature, *operator.rests_on) if name not in known]
    if missing:
        return f"there is no {', '.join(missing)}"
    one, whole = known[operator.signature], 1.0
    if operator.whole is not None:
        parts = [known[name].value for name in operator.rests_on]
        if not all(math.isfinite(part) and part > 0.0 for part in parts):
            return f"{', '.join(operator.rests_on)} is nothing, so it has no share"
        whole = operator.whole(known)
    if not math.isfinite(one.value):
        return f"{one.name} cannot be said: {one.note or 'no reason was given'}"
    # A share of a tumour whose outline is uncertain may come out above one.
    largest = 1.0 if operator.unit == "1" else math.inf
    value, low, high = (min(max(part / whole, 0.0), largest) for part in (one.value, one.low, one.high))
    if operator.unit == "1" and min(value, 1.0 - value) == 0.0:
        # Drawing anew what was never seen gives nothing: how little it may be depends on how much was looked at.
        rare = min(1.0, _RULE_OF_THREE / n)
        low, high = (0.0, rare) if value == 0.0 else (1.0 - rare, 1.0)
    if not (math.isfinite(low) and math.isfinite(high)) or low == high:
        return f"{one.name} has no interval, so nobody could say how much to believe it"
    # Percentiles of a skewed statistic may miss the statistic itself.
    low, high = min(low, value), max(high, value)
    if (low, high) == (0.0, 1.0):
        return f"{one.name} may be anything between nil and one"
    return Reading(operator.observable, value, low, high, operator.unit, (one.name, *operator.rests_on))
