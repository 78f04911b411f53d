"""What was refused, as rows of the dead-letter store: with its bytes, the reason, and what to do."""

from __future__ import annotations

import hashlib
from datetime import datetime

from oncotwin.domain.amendment import Rejection
from oncotwin.domain.envelope import Event
from oncotwin.domain.events import encode_line
from oncotwin.domain.ids import EventKey
from oncotwin.ports.twin_store import DeadLetter, JournalEntry


def dead_letter(rejection: Rejection, received_at: datetime) -> DeadLetter:
    """A refused event as a row.

    Its id is a hash of reason and bytes, so the same bad line sent twice is one letter, whichever worker reads it.
    """
    raw = rejection.raw
    key = rejection.key
    return DeadLetter(
        rejection_id=hashlib.sha256(rejection.reason_code.encode() + b"\x00" + raw).hexdigest()[:32],
        reason_code=rejection.reason_code, reason=rejection.reason, where=rejection.where, remedy=rejection.remedy,
        raw=raw, twin_id=rejection.twin_id, source=None if key is None else key[0],
        event_id=None if key is None else key[1], received_at=received_at, state="open",
    )


def conflict(key: EventKey, event: Event) -> Rejection:
    """The refusal of an event whose (source, id) is known with other content."""
    source, event_id = key
    return Rejection(
        "conflicting_duplicate",
        f"{event.kind} {event_id}: source {source} has sent this id before with other content",
        "id",
        "send it under a new id, or send a record.corrected that supersedes the first",
        encode_line(event), key, event.subject,
    )


def poisoned(entry: JournalEntry, trace: str, received_at: datetime) -> DeadLetter:
    """An event that broke the twin's fold: kept with its stack trace, the twin goes on without it."""
    rejection = Rejection(
        "fold_failed", f"{entry.kind} {entry.event_id} could not be folded:\n{trace}", "",
        "report the trace; after mending, `oncotwin rejected --resubmit`", entry.payload,
        (entry.source, entry.event_id), entry.twin_id,
    )
    return dead_letter(rejection, received_at)
