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


Accepted = Observation | Treatment | Plan | Correction | Assessment | Consent | ArrayReference | Erasure
"""What `validate` makes of a good event."""
