"""What was refused, as rows of the dead-letter store: with its bytes, the reason, and what to do."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

from oncotwin.domain.amendment import Accepted, Rejection
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import EventError
from oncotwin.domain.events import encode_line
from oncotwin.domain.ids import NAME_PATTERN, EventKey, TwinId, split_twin_id
from oncotwin.ports.twin_rows import DeadLetter, JournalEntry

_SUBJECT = re.compile(rb"""subject["']?\s*[:=]\s*["']?(%b/%b)""" % ((NAME_PATTERN.encode(),) * 2))


def dead_letter(rejection: Rejection, received_at: datetime) -> DeadLetter:
    """A refused event as a row.

    Its id is a hash of reason and bytes, so the same bad line sent twice is one letter, whichever worker reads it.
    """
    raw = rejection.raw
    key = rejection.key
    return DeadLetter(
        rejection_id=hashlib.sha256(rejection.reason_code.encode() + b"\x00" + raw).hexdigest()[:32],
        reason_code=rejection.reason_code, reason=rejection.reason, where=rejection.where, remedy=rejection.remedy,
        raw=raw, twin_id=subject_of(rejection), source=None if key is None else key[0],
        event_id=None if key is None else key[1], received_at=received_at, state="open",
    )


def _named(raw: bytes) -> TwinId | None:
    """The patient whom bytes name that cannot be read as an event: they are kept under that patient's key."""
    found = _SUBJECT.search(raw)
    if found is None:
        return None
    try:
        split_twin_id(name := found[1].decode("ascii"))
    except EventError:
        return None
    return name


def subject_of(item: Accepted | Rejection) -> TwinId | None:
    """The patient of an event, where one could be read, or is named at least."""
    return item.twin_id or _named(item.raw) if isinstance(item, Rejection) else item.header.twin_id


def key_of(item: Accepted | Rejection) -> EventKey | None:
    """(source, id) of an event, where they could be read."""
    return item.key if isinstance(item, Rejection) else item.header.key


def of_erased(key: EventKey | None, raw: bytes, received_at: datetime) -> DeadLetter:
    """The refusal of an event whose patient was erased: without its bytes, and without the patient.

    Args:
        key: (source, id), where they could be read; raw: tells letters apart where they could not.
    """
    code = "patient_erased"
    source, event_id = key or (None, None)
    name = raw if key is None else "\x00".join(key).encode()
    return DeadLetter(
        rejection_id=hashlib.sha256(code.encode() + b"\x00" + name).hexdigest()[:32],
        reason_code=code, reason="the patient was erased; nothing of the event was kept", where="subject",
        remedy="send nothing more of this patient", raw=b"", twin_id=None, source=source, event_id=event_id,
        received_at=received_at,
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
