"""What every validated item keeps of the envelope it came in."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from oncotwin.domain.ids import EventKey, TwinId

TimePrecision = Literal["instant", "day"]
Status = Literal["preliminary", "final", "corrected", "entered-in-error"]


@dataclass(frozen=True, slots=True)
class EventHeader:
    """Identity, times and standing of one event."""

    source: str
    """URI of the sending system; registered to one institution."""
    event_id: str
    """Unique within the source."""
    kind: str
    """The short kind, e.g. ``lesion.measured``."""
    institution: str
    patient: str
    """Pseudonym, scoped by the institution."""
    time: datetime
    """Clinical time, UTC; with precision "day" the start of the calendar day as the sender wrote it."""
    time_precision: TimePrecision
    """"day": the moment lies anywhere in the 24 hours that begin at `time`."""
    recorded_at: datetime | None
    """When the source system recorded it, UTC."""
    sequence: int | None
    """Running number within the source, where the source keeps one."""
    status: Status
    content_hash: str
    """SHA-256 (hex) of the canonical content, see `events.content_hash`."""
    traceparent: str | None
    """W3C trace context."""
    result_id: str | None = None
    """The source's own number of the result; events of one source that share it are states of one result."""

    @property
    def twin_id(self) -> TwinId:
        """The twin that this event belongs to."""
        return f"{self.institution}/{self.patient}"

    @property
    def key(self) -> EventKey:
        """The idempotency key (source, id)."""
        return (self.source, self.event_id)


STATUS_RANK: dict[Status, int] = {"preliminary": 0, "final": 1, "corrected": 2, "entered-in-error": 3}
"""The order in which a laboratory moves a result on."""


def is_later_status(new: EventHeader, old: EventHeader) -> bool:
    """Whether `new` replaces `old` as the state of one and the same result.

    It does where both name the same result of the same source and patient and `new` has the higher status;
    among equals the later recorded, then the greater id, so that the order of arrival never decides.
    """
    if new.result_id is None or (new.source, new.twin_id, new.kind, new.result_id) != (
        old.source,
        old.twin_id,
        old.kind,
        old.result_id,
    ):
        return False
    return _standing(new) > _standing(old)


def _standing(header: EventHeader) -> tuple[int, float, str]:
    recorded = header.recorded_at or header.time
    return (STATUS_RANK[header.status], recorded.timestamp(), header.event_id)
