"""Which of a patient's events are in force, and in which order they are folded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta

from oncotwin.domain.amendment import Accepted, Consent, Correction, Rejection
from oncotwin.domain.errors import StoreError
from oncotwin.domain.header import EventHeader, is_later_status
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Plan, Treatment
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.twin_store import JournalEntry
from oncotwin.twin.timeline import Item

FoldKey = tuple[datetime, str, str]
"""Clinical time, source, id: the order of a fold, whatever the order of arrival."""

NOT_FOLDED = frozenset({"assessment", "omics.section", "pathology.wsi", "imaging.study", "patient.erased"})
"""Kinds that are kept and shown and move no twin."""

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
    policy = Policy(now=row.received_at, clock_skew=_ANY_TIME)
    _, item = admit(row.payload, (), policy)
    if isinstance(item, Rejection):
        raise StoreError(f"journal row {row.source} {row.event_id} cannot be read: {item.reason}; restore the store")
    return item


def in_force(accepted: Iterable[Accepted], twin_id: TwinId) -> list[Item]:
    """The events that a twin folds, in fold order: corrections applied, superseded results and withdrawn spans out.

    A correction is itself an event that a later correction may supersede. Of two corrections that supersede each
    other the one recorded (then named) last stands. A result that is reported again with a later status
    replaces the earlier report. While consent is withdrawn nothing is folded.
    """
    events: dict[EventKey, Accepted] = {event.header.key: event for event in accepted}
    corrections = sorted(
        (e for e in events.values() if isinstance(e, Correction)),
        key=lambda c: (c.header.recorded_at or c.header.time, c.header.source, c.header.event_id),
        reverse=True,
    )
    superseded: set[EventKey] = set()
    standing: list[Correction] = []
    for correction in corrections:
        if correction.header.key not in superseded:
            standing.append(correction)
            superseded.add(correction.supersedes)
    items: list[Item] = [
        e
        for e in events.values()
        if isinstance(e, Observation | Treatment | Plan)
        and e.header.key not in superseded
        and e.header.twin_id == twin_id
    ]
    # The last standing word on one event counts; earlier replacements of it were superseded by key above.
    replaced: set[EventKey] = set()
    for correction in standing:
        item = correction.replacement
        first = correction.supersedes not in replaced
        if first and correction.action == "replace" and isinstance(item, Observation | Treatment | Plan):
            items.append(item)
        replaced.add(correction.supersedes)
    items = _latest_reports(items)
    items = [item for item in items if item.header.status != "entered-in-error"]
    items.sort(key=fold_key)
    return _consented(items, events.values())


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


def _consented(items: list[Item], events: Iterable[Accepted]) -> list[Item]:
    """Drop what lies in a span of withdrawn consent to the use in care: the twin is frozen for that while."""
    changes = sorted(
        (e.effective, e.header.source, e.header.event_id, e.granted)
        for e in events
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
    last: dict[str, bool] = {}
    changes = [(e.effective, e.header.source, e.header.event_id, e) for e in accepted if isinstance(e, Consent)]
    for _, _, _, change in sorted(changes, key=lambda entry: entry[:3]):
        last[change.scope] = change.granted
    return all(last.values())


def rewind_time(new: Iterable[Accepted], journal: Iterable[Accepted]) -> datetime:
    """Earliest clinical time that new events touch: their own, and that of what they correct or report again."""
    known: dict[EventKey, Accepted] = {}
    reports: dict[tuple[str, str], datetime] = {}
    new = list(new)
    for event in (*journal, *new):
        known[event.header.key] = event
        if (result := event.header.result_id) is not None:
            name = (event.header.source, result)
            reports[name] = min(event.header.time, reports.get(name, event.header.time))
    times: list[datetime] = []
    for event in new:
        times.append(event.header.time)
        if isinstance(event, Correction):
            if event.replacement is not None:
                times.append(event.replacement.header.time)
            target: Accepted | None = known.get(event.supersedes)
            seen: set[EventKey] = set()
            while target is not None and target.header.key not in seen:
                seen.add(target.header.key)
                times.append(target.header.time)
                if not isinstance(target, Correction):
                    break
                if target.replacement is not None:
                    times.append(target.replacement.header.time)
                target = known.get(target.supersedes)
        if isinstance(event, Consent):
            times.append(event.effective)
        if (result := event.header.result_id) is not None:
            times.append(reports[event.header.source, result])
    # An event that waited for its correction to arrive first: what names it was already in the journal.
    for event in journal:
        if isinstance(event, Correction) and event.supersedes in {e.header.key for e in new}:
            times.append(event.header.time)
            if event.replacement is not None:
                times.append(event.replacement.header.time)
    return min(times)


def needs_guard(accepted: Iterable[Accepted]) -> bool:
    """Whether the next event cannot be folded without the whole journal in view.

    So it is after any change of consent, while a correction waits for the event that it corrects, and where a result
    was entered in error: no state remembers a report that was never folded.
    """
    events = {event.header.key: event for event in accepted}
    return any(
        isinstance(e, Consent)
        or (isinstance(e, Correction) and e.supersedes not in events)
        or (e.header.result_id is not None and e.header.status == "entered-in-error")
        for e in events.values()
    )
