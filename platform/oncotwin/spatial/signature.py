"""A signature: one number read off a section or slide, with its unit, interval and source."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
