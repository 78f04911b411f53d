"""Which of a patient's events are in force, and in which order they are folded."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from oncotwin.domain.amendment import Accepted, Arrival, Consent, Correction, Rejection
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.errors import StoreError
from oncotwin.domain.header import EventHeader, is_later_status
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.domain.moments import write_moment
from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Plan, Treatment
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.twin_rows import JournalEntry
from oncotwin.twin.amendments import MOVED, arrivals, as_patient, settle
from oncotwin.twin.timeline import Item

FoldKey = tuple[datetime, str, str]
"""Clinical time, source, id: the order of a fold, whatever the order of arrival."""

NOT_FOLDED = frozenset({"patient.erased"})
"""Kinds that a fold need not see. An assessment or an array moves no twin; what a correction puts in its place may."""

_ANY_TIME = timedelta(days=100 * 366)


def fold_key(item: Accepted) -> FoldKey:
    """Where an item stands in the fold."""
    return (item.header.time, item.header.source, item.header.event_id)


def event_seed(twin_id: TwinId, key: EventKey) -> int:
    """64-bit seed of the generator that one event of one twin uses, the same in every replay."""
    text = "\x1f".join((twin_id, *key)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def twin_seed(twin_id: TwinId) -> int:
    """64-bit name of a twin to the random generator, the same in every replay."""
    return event_seed(twin_id, ("", ""))


def report_name(header: EventHeader) -> int | None:
    """64-bit name of the result that an event reports, None where it names none; the same for each of its reports."""
    if header.result_id is None:
        return None
    text = "\x1f".join((header.source, header.kind, header.result_id)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def decode(row: JournalEntry) -> Accepted:
    """A journal row as the item that it was validated to; the gate's rules of time and source were kept then.

    Raises:
        StoreError: the row cannot be read any more: it was damaged, or written by a later release.
    """
    if row.kind == MOVED:
        return _arrival(row)
    return _admitted(row, row.payload)


def _admitted(row: JournalEntry, line: bytes) -> Accepted:
    stores = (json.loads(line)["dataref"].rpartition("/")[0],) if b'"dataref"' in line else ()
    policy = Policy(now=row.received_at, clock_skew=_ANY_TIME, array_stores=stores)
    _, item = admit(line, (), policy)
    if isinstance(item, Rejection):
        raise StoreError(f"journal row {row.source} {row.event_id} cannot be read: {item.reason}; restore the store")
    return item


def encode_arrival(arrival: Arrival, line: bytes, replacement: bytes | None) -> bytes:
    """The payload of a journal row: what `decode` makes an arrival of.

    Args:
        line: the event as it was posted; replacement: the correction that replaced its content before it was moved.
    """
    recorded, source, event_id = arrival.moved_by
    content: dict[str, object] = {
        "key": list(arrival.key), "from": arrival.origin, "number": arrival.number, "present": arrival.item is not None,
        "by": [write_moment(recorded), source, event_id], "event": json.loads(line),
    }
    if replacement is not None:
        content["replacement"] = json.loads(replacement)
    return canonical_json(content)


def moved_lines(payload: bytes) -> tuple[bytes, bytes | None]:
    """The lines that `encode_arrival` was given."""
    content = json.loads(payload)
    replacement = content.get("replacement")
    return canonical_json(content["event"]), None if replacement is None else canonical_json(replacement)


def _arrival(row: JournalEntry) -> Arrival:
    try:
        content = json.loads(row.payload)
        line, replacement = moved_lines(row.payload)
        recorded, source, event_id = content["by"]
        posted = _admitted(row, line)
        if replacement is not None:
            correction = _admitted(row, replacement)
            assert isinstance(correction, Correction) and correction.replacement is not None
            posted = correction.replacement
        key_source, key_id = content["key"]
        item: Any = as_patient(posted, row.twin_id)
        header = replace(
            item.header, source=row.source, event_id=row.event_id, kind=MOVED, sequence=None, result_id=None,
            content_hash=row.content_hash,
        )
        return Arrival(
            header, (key_source, key_id), content["from"], content["number"],
            (datetime.fromisoformat(recorded).astimezone(UTC), source, event_id),
            item if content["present"] else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, AssertionError) as error:
        raise StoreError(
            f"journal row {row.source} {row.event_id} cannot be read: {error!r}; restore the store"
        ) from error


def in_force(accepted: Iterable[Accepted], twin_id: TwinId, *, whole: bool = True) -> list[Item]:
    """The events that a twin folds, in fold order: corrections applied, superseded results and withdrawn spans out.

    See `amendments.settle` for corrections and for events posted to the wrong patient. A result that is reported again
    with a later status replaces the earlier report. While consent is withdrawn nothing is folded.
    """
    effective, _ = settle(accepted, whole=whole)
    items: list[Item] = [
        event
        for event in effective
        if isinstance(event, Observation | Treatment | Plan) and event.header.twin_id == twin_id
    ]
    items = _latest_reports(items)
    items = [item for item in items if item.header.status != "entered-in-error"]
    items.sort(key=fold_key)
    return _consented(items, effective)


def _latest_reports(items: list[Item]) -> list[Item]:
    """Of several states of one result keep the one that stands (`is_later_status`)."""
    last: dict[tuple[str, str, str], Item] = {}
    kept: list[Item] = []
    for item in items:
        header = item.header
        if header.result_id is None:
            kept.append(item)
            continue
        name = (header.source, header.kind, header.result_id)
        other = last.get(name)
        if other is None or is_later_status(header, other.header):
            last[name] = item
    return kept + list(last.values())


def _consented(items: list[Item], effective: Iterable[Accepted]) -> list[Item]:
    """Drop what lies in a span of withdrawn consent to the use in care: the twin is frozen for that while."""
    changes = sorted(
        (e.effective, e.header.source, e.header.event_id, e.granted)
        for e in effective
        if isinstance(e, Consent) and e.scope == "care"
    )
    if not changes:
        return items
    kept: list[Item] = []
    for item in items:
        before = [granted for effective, _, _, granted in changes if effective <= item.header.time]
        if not before or before[-1]:
            kept.append(item)
    return kept


def may_be_learnt_from(accepted: Iterable[Accepted]) -> bool:
    """Whether a patient's events may train a model: no consent, to care or to research, stands withdrawn at last."""
    effective, _ = settle(accepted)
    last: dict[str, bool] = {}
    changes = [(e.effective, e.header.source, e.header.event_id, e) for e in effective if isinstance(e, Consent)]
    for _, _, _, change in sorted(changes, key=lambda entry: entry[:3]):
        last[change.scope] = change.granted
    return all(last.values())


def rewind_time(new: Iterable[Accepted], journal: Iterable[Accepted]) -> datetime:
    """Earliest clinical time that new events touch: their own, and that of whatever hangs together with them.

    What corrects or is corrected hangs together, however long the chain and whichever came first; so do the reports of
    one result.
    """
    new = list(new)
    everything = [*journal, *new]
    partners: dict[EventKey, set[EventKey]] = defaultdict(set)
    for event in everything:
        if isinstance(event, Correction):
            partners[event.header.key].add(event.supersedes)
            partners[event.supersedes].add(event.header.key)
        elif isinstance(event, Arrival):
            partners[event.header.key].add(event.key)
            partners[event.key].add(event.header.key)
    concerned: set[EventKey] = set()
    waiting = [event.header.key for event in new]
    while waiting:
        key = waiting.pop()
        if key not in concerned:
            concerned.add(key)
            waiting.extend(partners.get(key, ()))
    touched = [header for event in everything if event.header.key in concerned for header in _headers(event)]
    reports = {name for header in touched if (name := report_name(header)) is not None}
    times = [header.time for header in touched]
    times += [e.effective for e in everything if isinstance(e, Consent) and e.header.key in concerned]
    times += [e.item.effective for e in everything if isinstance(e, Arrival) and isinstance(e.item, Consent)]
    if reports:
        times += [
            header.time
            for event in everything
            for header in _headers(event)
            if header.result_id is not None and report_name(header) in reports
        ]
    return min(times)


def _headers(event: Accepted) -> list[EventHeader]:
    """Of an event and of what it puts in another's place."""
    if isinstance(event, Correction) and event.replacement is not None:
        return [event.header, event.replacement.header]
    if isinstance(event, Arrival) and event.item is not None:
        return [event.header, event.item.header]
    return [event.header]


def needs_guard(accepted: Iterable[Accepted]) -> bool:
    """Whether the next event cannot be folded without the whole journal in view.

    So it is after any change of consent, where an event came from another patient, while a correction waits for the
    event that it corrects, and where a result was entered in error: no state remembers a report that was never folded.
    """
    events = {event.header.key: event for event in accepted}
    # What came and was taken back leaves no mark: whether it ever came depends on the order of arrival.
    came = arrivals(events.values())
    return bool(came) or any(
        isinstance(e, Consent)
        or (isinstance(e, Correction) and e.supersedes not in events)
        or any(header.result_id is not None and header.status == "entered-in-error" for header in _headers(e))
        for e in events.values()
        if not isinstance(e, Arrival)
    )
