"""What was done to the tumour, and what is planned."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from oncotwin.domain.header import EventHeader

Action = Literal["given", "on", "off"]


@dataclass(frozen=True, slots=True)
class Treatment:
    """A dose given, or a treatment switched on or off where only that is known."""

    header: EventHeader
    agent: str
    """Drug, combination, radiation, or a trial's arm where only the arm is known."""
    action: Action
    dose: float | None
    """In `unit`; None where only on/off is known or the dose was free text."""
    unit: str | None
    """Canonical: mg, mg/m2, mg/kg, [IU] or Gy."""
    route: str | None
    start: datetime
    """UTC."""
    stop: datetime | None
    """UTC; None where open or a single dose."""
    line_of_therapy: int | None
    """1-based."""
    note: str = ""
    """A dose as the source wrote it, where it was free text."""


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """One entry of an ordered schedule."""

    agent: str
    action: Action
    dose: float | None
    unit: str | None
    start: datetime
    stop: datetime | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The schedule as ordered; the latest plan by clinical time replaces the earlier ones."""

    header: EventHeader
    items: tuple[PlannedItem, ...]
