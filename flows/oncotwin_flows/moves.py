"""Events posted to the wrong patient: what the journals of the right patients are given, in the same transaction."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from oncotwin.domain.amendment import Accepted, Arrival, Correction
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.ports.twin_rows import JournalEntry
from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.amendments import MOST_ROUNDS, MOVED, Move, due_arrivals, settle
from oncotwin.twin.journal import decode, encode_arrival, moved_lines

_AFTER_ALL = datetime(9999, 12, 31, tzinfo=UTC)
"""Of a journal from here on only the corrections are left, whatever their own time."""


@dataclass(frozen=True, slots=True)
class MovedRow:
    """A word in the right patient's journal, and its row."""

    item: Arrival
    entry: JournalEntry


class _Journals:
    """What is known of patients: committed, under way, and made here."""

    def __init__(self, store: TwinStore, under_way: Mapping[TwinId, Sequence[JournalEntry]]) -> None:
        self._store = store
        self._under_way = {twin_id: list(rows) for twin_id, rows in under_way.items()}
        self._committed: dict[TwinId, list[JournalEntry]] = {}

    def rows(self, twin_id: TwinId) -> list[JournalEntry]:
        """The whole journal of a patient."""
        if twin_id not in self._committed:
            self._committed[twin_id] = self._store.journal(twin_id)
        # A group under way may have been committed since it was listed.
        rows = {row.key: row for row in (*self._committed[twin_id], *self._under_way.get(twin_id, ()))}
        return list(rows.values())

    def moves(self, twin_id: TwinId) -> bool:
        """Whether any of a patient's events was ever said to be another's; told without the whole journal."""
        rows = [*self._store.journal(twin_id, since=_AFTER_ALL), *self._under_way.get(twin_id, ())]
        corrections = (decode(row) for row in rows if row.supersedes is not None and row.kind != MOVED)
        return any(isinstance(one, Correction) and one.action == "wrong_patient" for one in corrections)

    def words_on(self, keys: Iterable[EventKey]) -> dict[EventKey, list[JournalEntry]]:
        """Corrections of events, and the words on them that other patients were given."""
        wanted = set(keys)
        found: dict[EventKey, dict[EventKey, JournalEntry]] = defaultdict(dict)
        for key, rows in self._store.corrections_of(sorted(wanted)).items():
            found[key].update({row.key: row for row in rows})
        for rows in self._under_way.values():
            for row in rows:
                if row.supersedes in wanted:
                    found[row.supersedes][row.key] = row
        return {key: list(rows.values()) for key, rows in found.items()}

    def add(self, entry: JournalEntry) -> None:
        """Know a row that is made here."""
        self._under_way.setdefault(entry.twin_id, []).append(entry)


def moved_rows(
    fresh: Mapping[TwinId, Sequence[Accepted]], under_way: Mapping[TwinId, Sequence[JournalEntry]], store: TwinStore,
    received_at: datetime, meet: Callable[[Iterable[TwinId]], None] = lambda twin_ids: None,
    may_receive: Callable[[TwinId], bool] = lambda twin_id: True,
) -> list[MovedRow]:
    """What new events mean for the journals of other patients.

    A correction ``wrong_patient`` moves an event, now or when the event comes; whatever takes the correction back, or
    outdoes it, takes the event back. Each is a word in the right patient's journal, which may be on another worker's
    partition: the version of its twin is the fence.

    Args:
        under_way: rows that the store may not have yet, those of the new events among them.
        meet: told of patients before their journals are read, so that a later change of them is noticed.
        may_receive: whether a patient may be given anything (not where the patient was erased).
    """
    journals = _Journals(store, under_way)
    corrected = {event.supersedes for events in fresh.values() for event in events if isinstance(event, Correction)}
    concerned = {
        twin_id for twin_id, events in fresh.items() if any(isinstance(event, Correction) for event in events)
    }
    # An event that comes after its correction.
    keys = {event.header.key: twin_id for twin_id, events in fresh.items() for event in events}
    for key, rows in journals.words_on(keys.keys() - corrected).items():
        if any(row.twin_id == keys[key] for row in rows):
            concerned.add(keys[key])
    made: list[MovedRow] = []
    for _ in range(MOST_ROUNDS):
        touched: set[TwinId] = set()
        meet(concerned)
        for twin_id in sorted(concerned):
            for row in _told_by(twin_id, journals, received_at):
                if may_receive(row.entry.twin_id):
                    journals.add(row.entry)
                    made.append(row)
                    touched.add(row.entry.twin_id)
        concerned = touched
        if not concerned:
            break
    return made


def _told_by(twin_id: TwinId, journals: _Journals, received_at: datetime) -> list[MovedRow]:
    """Words that others must be given on one patient's events."""
    if not journals.moves(twin_id):
        # Nobody was given a word either: each has such a correction behind it, which stays in the journal.
        return []
    rows = journals.rows(twin_id)
    accepted = [decode(row) for row in rows]
    _, moves = settle(accepted)
    given: dict[tuple[TwinId, EventKey], Arrival] = {}
    last_row: dict[tuple[TwinId, EventKey], JournalEntry] = {}
    for key, words in journals.words_on(row.supersedes for row in rows if row.supersedes is not None).items():
        for word in words:
            if word.kind != MOVED:
                continue
            arrival = decode(word)
            assert isinstance(arrival, Arrival)
            before = given.get((word.twin_id, key))
            if arrival.origin == twin_id and (before is None or arrival.number > before.number):
                given[word.twin_id, key] = arrival
                last_row[word.twin_id, key] = word
    by_key = {row.key: row for row in rows}
    found = []
    for arrival, right, move in due_arrivals(twin_id, moves, given):
        if move is None:
            line, replacement = moved_lines(last_row[right, arrival.key].payload)
        else:
            line, replacement = _lines(move, by_key)
        found.append(MovedRow(arrival, _entry(arrival, right, line, replacement, received_at)))
    return found


def _lines(move: Move, by_key: Mapping[EventKey, JournalEntry]) -> tuple[bytes, bytes | None]:
    """The event as it was posted, and the correction that had replaced its content."""
    instance = by_key[move.instance.header.key]
    if isinstance(move.instance, Arrival):
        line, replacement = moved_lines(instance.payload)
    else:
        line, replacement = instance.payload, None
    if move.replacement is not None:
        replacement = by_key[move.replacement.header.key].payload
    return line, replacement


def _entry(
    arrival: Arrival, right: TwinId, line: bytes, replacement: bytes | None, received_at: datetime
) -> JournalEntry:
    """The row; it was read nowhere in the log, so it has no place there."""
    header = arrival.header
    payload = encode_arrival(arrival, line, replacement)
    return JournalEntry(
        source=header.source, event_id=header.event_id, twin_id=right, kind=MOVED, time=header.time,
        time_precision=header.time_precision, recorded_at=arrival.moved_by[0], received_at=received_at,
        status=header.status, content_hash=hashlib.sha256(payload).hexdigest(), payload=payload, partition=-1,
        offset=-1, supersedes=arrival.key,
    )
