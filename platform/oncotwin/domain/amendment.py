"""What changes the record itself: corrections, consent, erasure, and what was refused."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from oncotwin.domain.header import EventHeader
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.domain.observation import ArrayReference, Assessment, Observation
from oncotwin.domain.treatment import Plan, Treatment

Amendable = Observation | Treatment | Plan | Assessment
"""What the replacement of a correction may be."""


@dataclass(frozen=True, slots=True)
class Correction:
    """An earlier event of this patient was wrong."""

    header: EventHeader
    supersedes: EventKey
    """(source, id) of the wrong event."""
    action: Literal["replace", "retract", "wrong_patient"]
    replacement: Amendable | None
    """What should have been sent (action "replace"). Its header has the superseded event's source and id and
    its own clinical time, so in the fold it stands where it belongs."""
    right_patient: TwinId | None
    """Where the event belongs (action "wrong_patient")."""
    reason: str


@dataclass(frozen=True, slots=True)
class Consent:
    """The patient agreed to a use, or took it back."""

    header: EventHeader
    scope: str
    granted: bool
    effective: datetime
    """UTC."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """The patient's data are to be made unreadable for good."""

    header: EventHeader
    scope: str
    reason: str


Standing = tuple[datetime, str, str]
"""When a correction was recorded, its source and id: of two on one event the later stands."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that was posted to another patient and belongs to this one, or did for a while.

    The platform's own word, written into the right patient's journal with the correction that moves the event; of
    several on one event from one patient the last counts.
    """

    header: EventHeader
    """Of this word; the moved event has its own, with its own source and id, in `item`."""
    key: EventKey
    """(source, id) of the moved event."""
    origin: TwinId
    """The patient in whose journal it stood."""
    number: int
    """1 for the first word on this event from that patient, and so on."""
    moved_by: Standing
    """Standing of the correction that moved it: only later ones of this journal apply to what arrived."""
    item: "Observation | Treatment | Plan | Assessment | ArrayReference | Consent | None"
    """The event as this patient's; None where it was taken back."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that was refused: kept with its bytes, so it can be mended and sent again."""

    reason_code: str
    """Stable and machine-readable, e.g. ``wrong_unit``."""
    reason: str
    """A sentence: kind and id, what was wrong."""
    where: str
    """Attribute or path, e.g. ``data.unit``; "" where the whole is meant."""
    remedy: str
    """What the sender should do."""
    raw: bytes
    """The bytes as they came."""
    key: EventKey | None = None
    """(source, id) where they could be read."""
    twin_id: TwinId | None = None
    """The subject where it could be read."""


Accepted = Observation | Treatment | Plan | Correction | Assessment | Consent | ArrayReference | Erasure | Arrival
"""What `validate` makes of a good event."""
