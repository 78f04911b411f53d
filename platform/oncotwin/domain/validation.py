"""The one gate: an event becomes something the platform may act on, or a `Rejection` with a reason.

Nothing is guessed or rescaled silently: a unit outside its list, a value outside what can be true, or a time
in the future is refused, kept with its bytes, and can be mended and sent again.
"""

from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

from oncotwin.domain.amendment import Accepted, Rejection
from oncotwin.domain.claim import ArrayError, segments_below
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import EventError
from oncotwin.domain.events import Headers, as_structured, content_hash, decode_record, encode_line
from oncotwin.domain.header import EventHeader
from oncotwin.domain.ids import EventKey, split_twin_id
from oncotwin.domain.judgement import JUDGES, ZONES, check_time
from oncotwin.domain.observation import ArrayReference
from oncotwin.domain.policy import Policy
from oncotwin.domain.strict_json import check_string, skim

__all__ = ["Policy", "admit", "institution_of", "validate"]

_OUR_URN = "urn:oncotwin:"


def admit(value: bytes | None, headers: Headers, policy: Policy) -> tuple[Event | None, Accepted | Rejection]:
    """Read and judge one log record; bad input never raises.

    Args:
        value: the record's value.
        headers: its headers; empty for a JSON line.
        policy: what is known of the world.
    Returns:
        (the event, what became of it), or (None, the rejection) where it could not even be read. The
        rejection's `raw` are the bytes as they came; of a record in binary mode the attributes joined with the
        data, see `as_structured`.
    """
    headers = tuple(headers) if headers else ()
    try:
        event = decode_record(value, headers)
    except EventError as error:
        raw = as_structured(value, headers)
        key, subject = _identity(raw)
        return None, _rejected(error, f"event {key[1]}" if key else "event", raw, key, subject)
    item = validate(event, policy)
    if isinstance(item, Rejection):
        item = replace(item, raw=as_structured(value, headers))
    return event, item


def validate(event: Event, policy: Policy) -> Accepted | Rejection:
    """Judge an event that has been read.

    Args:
        event: of the right shape.
        policy: what is known of the world.
    Returns:
        The observation, treatment, plan ... in canonical units, or a `Rejection` whose `raw` is the event's
        JSON line.
    """
    try:
        header = _header(event, policy)
        judge = JUDGES.get(type(event.data))
        if judge is None:
            return _array_reference(event, header, policy)
        if event.dataref is not None or event.datahash is not None or event.datasize is not None:
            raise EventError(
                "unexpected_dataref", f"{event.kind} carries no array", "dataref", "leave the claim check out"
            )
        return judge(event.data, header, policy)
    except EventError as error:
        return _rejected(error, f"{event.kind} {event.id}", encode_line(event), event.key, event.subject)


@lru_cache(maxsize=1024)
def institution_of(source: str) -> str | None:
    """Return the institution that a source of ours names: ``urn:oncotwin:<institution>:<feed>``, else None."""
    if not source.startswith(_OUR_URN):
        return None
    return source[len(_OUR_URN) :].partition(":")[0] or None


def _header(event: Event, policy: Policy) -> EventHeader:
    institution, patient = split_twin_id(event.subject)
    owner = policy.sources.get(event.source) or institution_of(event.source) or institution
    if owner != institution:
        raise EventError(
            "other_institution",
            f"source '{event.source}' belongs to institution '{owner}', the patient to '{institution}'",
            "source",
            "send it from a source of the patient's institution",
        )
    by_day = event.timeprecision == "day"
    check_time(event.time, "time", policy, by_day=by_day)
    recorded = event.recordedtime
    if recorded is not None:
        # A bare date is the start of its day, so it has a zone's leeway ahead as `time` has.
        check_time(recorded, "recordedtime", policy, by_day=by_day)
        # Nothing can be recorded before it happened; a plan's `time` is when it was ordered.
        if recorded < event.time and recorded < event.time - policy.clock_skew - (ZONES if by_day else timedelta(0)):
            raise EventError(
                "recorded_before_time",
                f"recordedtime {recorded:%Y-%m-%dT%H:%MZ} lies before time {event.time:%Y-%m-%dT%H:%MZ}",
                "recordedtime",
                "send when it was recorded, or leave it out",
            )
    return EventHeader(
        event.source,
        event.id,
        event.kind,
        institution,
        patient,
        event.time,
        event.timeprecision,
        recorded,
        event.sequence,
        event.status,
        content_hash(event),
        event.traceparent,
        getattr(event.data, "result", None),
    )


def _array_reference(event: Event, header: EventHeader, policy: Policy) -> ArrayReference:
    if event.dataref is None or event.datahash is None or event.datasize is None:
        missing = "dataref" if event.dataref is None else "datahash" if event.datahash is None else "datasize"
        raise EventError("missing", f"no {missing}", missing, "send reference, SHA-256 and size of the array")
    if not any(_is_below(event.dataref, store) for store in policy.array_stores):
        raise EventError(
            "dataref_not_allowed",
            f"dataref '{event.dataref[:200]}' is in none of the allowed array stores",
            "dataref",
            "put the array in an allowed store, or have the store added to the settings",
        )
    detail: dict[str, Any] = event.data.model_dump(exclude_none=True)
    return ArrayReference(header, event.dataref, event.datahash, event.datasize, detail)


def _is_below(reference: str, store: str) -> bool:
    """Whether a URI lies below a store's, by a path that leads nowhere but down."""
    try:
        return segments_below(reference, store) is not None
    except ArrayError:
        return False


def _identity(raw: bytes) -> tuple[EventKey | None, str | None]:
    """Return what can be read of (source, id) and subject in bytes that are no good event."""
    content = skim(raw)
    if not isinstance(content, dict):
        return None, None
    source, identifier, subject = (_readable(content.get(name)) for name in ("source", "id", "subject"))
    return None if source is None or identifier is None else (source, identifier), subject


def _readable(value: Any) -> str | None:
    """Return a text that can be stored and shown as it is, else None."""
    if not isinstance(value, str):
        return None
    try:
        check_string(value, "")
    except EventError:
        return None
    return value


def _rejected(error: EventError, what: str, raw: bytes, key: EventKey | None, subject: str | None) -> Rejection:
    try:
        twin = subject if subject is not None and split_twin_id(subject) else None
    except EventError:
        twin = None
    return Rejection(error.reason_code, f"{what}: {error.reason}", error.where, error.remedy, raw, key, twin)
