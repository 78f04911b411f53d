"""A signature: one number read off a section or slide, with its unit, interval and source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oncotwin.domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Signature:
    """One scalar signature.

    Attributes:
        name: dotted, such as ``hypoxia.hotspot_area``; the first part is the gene set, class or part of the slide.
        value: in `unit`; NaN where it cannot be said, and `note` says why.
        unit: UCUM, such as ``um``, ``um2``, ``/mm2`` or ``1``.
        low, high: ends of the 90 % interval; NaN where none can be given.
        source: author, year, DOI, equation or section.
        note: what a reader must know; "" where nothing.
    """

    name: str
    value: float
    unit: str
    low: float
    high: float
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse an interval the wrong way round.

        Raises:
            ConfigurationError: low above high.
        """
        if self.low > self.high:
            raise ConfigurationError(f"signature {self.name}: interval from {self.low} to {self.high} is reversed")

    @property
    def se(self) -> float:
        """Standard deviation of a normal distribution with the same 90 % interval; NaN without one."""
        return (self.high - self.low) / (2.0 * 1.6448536269514722)

    def as_json(self) -> dict[str, str | float | None]:
        """As an entry of ``summary.json``; JSON knows no NaN and no infinity, they become null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        return {"name": self.name, **finite, "unit": self.unit, "source": self.source, "note": self.note}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Signature:
        """Read an entry of ``summary.json``; null becomes NaN.

        Raises:
            ConfigurationError: it is not what `as_json` writes.
        """
        try:
            value, low, high = (
                math.nan if entry[name] is None else float(entry[name]) for name in ("value", "low", "high")
            )
            return cls(
                str(entry["name"]), value, str(entry["unit"]), low, high, str(entry["source"]), str(entry["note"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"this is no signature ({error!r}): {str(entry)[:80]}; compute it anew") from error
