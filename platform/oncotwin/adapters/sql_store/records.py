"""The port's values as rows of the tables, and back."""

from __future__ import annotations

import json
from typing import Any, cast

from sqlalchemy import Row

from oncotwin.adapters.sealing import is_sealed
from oncotwin.adapters.sql_store.database import Record
from oncotwin.adapters.sql_store.schema import from_us, to_us
from oncotwin.domain.header import Status, TimePrecision
from oncotwin.ports.twin_rows import (
    AlertRow,
    BeliefRow,
    DeadLetter,
    EstimateRow,
    JournalEntry,
    OutboxRow,
    SnapshotRow,
    TwinCommit,
)

# Columns in the order of the functions' values.
JOURNAL = (
    "source", "event_id", "twin_id", "kind", "time", "time_precision", "recorded_at", "received_at", "status",
    "content_hash", "payload", "position", "log_partition", "log_offset", "sequence",
    "supersedes_source", "supersedes_id",
)
SNAPSHOT = ("twin_id", "time", "position", "n_folded", "model_version", "state", "digest")
ESTIMATE = ("twin_id", "time", "position", "row", "source", "event_id", "model_version", "body", "nis")
ALERT = (
    "alert_id", "position", "twin_id", "time", "observable", "kind", "severity", "message", "recommended", "since",
    "body", "superseded_by", "model_version",
)
BELIEF = (
    "twin_id", "version", "position", "model_version", "time", "n_folded", "digest", "rewound_to", "cause",
)
OUTBOX = ("topic", "key", "message_key", "value", "headers", "published")
LETTER = (
    "rejection_id", "reason_code", "reason", "place", "remedy", "raw", "twin_id", "source", "event_id", "received_at",
    "state",
)


def journal_record(entry: JournalEntry, position: int) -> Record:
    """A journal entry as a row."""
    recorded_at = None if entry.recorded_at is None else to_us(entry.recorded_at)
    return (
        entry.source, entry.event_id, entry.twin_id, entry.kind, to_us(entry.time), entry.time_precision, recorded_at,
        to_us(entry.received_at), entry.status, entry.content_hash, entry.payload, position, entry.partition,
        entry.offset, entry.sequence, *(entry.supersedes or (None, None)),
    )


def journal_entry(row: Row[Any]) -> JournalEntry:
    """A row as a journal entry."""
    return JournalEntry(
        row.source, row.event_id, row.twin_id, row.kind, from_us(row.time),
        cast("TimePrecision", row.time_precision), None if row.recorded_at is None else from_us(row.recorded_at),
        from_us(row.received_at), cast("Status", row.status), row.content_hash, row.payload, row.position,
        row.log_partition, row.log_offset, row.sequence,
        None if row.supersedes_source is None else (row.supersedes_source, row.supersedes_id),
    )


def snapshot_record(snapshot: SnapshotRow, position: int) -> Record:
    """A snapshot as a row."""
    return (
        snapshot.twin_id, to_us(snapshot.time), position, snapshot.n_folded, snapshot.model_version, snapshot.state,
        # A plain hash of what is sealed would help to guess it.
        "" if is_sealed(snapshot.state) else snapshot.digest,
    )


def snapshot_row(row: Row[Any]) -> SnapshotRow:
    """A row as a snapshot."""
    return SnapshotRow(
        row.twin_id, from_us(row.time), row.n_folded, row.model_version, row.state, row.digest, row.position
    )


def estimate_record(estimate: EstimateRow, position: int, number: int) -> Record:
    """An estimate as a row; ``number`` keeps the order of a twin's estimates within a commit."""
    return (
        estimate.twin_id, to_us(estimate.time), position, number, estimate.source, estimate.event_id,
        estimate.model_version, estimate.body, estimate.nis,
    )


def estimate_row(row: Row[Any]) -> EstimateRow:
    """A row as an estimate."""
    return EstimateRow(
        row.twin_id, from_us(row.time), row.source, row.event_id, row.model_version, row.body, row.nis, row.position
    )


def alert_record(alert: AlertRow, model_version: str, position: int) -> Record:
    """An alert as a row; it stands until a later commit takes it back."""
    return (
        alert.alert_id, position, alert.twin_id, to_us(alert.time), alert.observable, alert.kind, alert.severity,
        alert.message, alert.recommended, to_us(alert.since), alert.body, "", model_version,
    )


def alert_row(row: Row[Any]) -> AlertRow:
    """A row as an alert."""
    return AlertRow(
        row.twin_id, row.alert_id, from_us(row.time), row.observable, row.kind, row.severity, row.message,
        row.recommended, from_us(row.since), row.body, row.superseded_by, row.position,
    )


def belief_record(twin: TwinCommit, position: int) -> Record:
    """What a commit made of a twin, as a row."""
    present = twin.snapshots[-1]
    return (
        twin.twin_id, twin.new_version, position, twin.model_version, to_us(present.time), present.n_folded,
        present.digest.encode("latin-1"), None if twin.rewound_to is None else to_us(twin.rewound_to), twin.rewound_by,
    )


def belief_row(row: Row[Any]) -> BeliefRow:
    """A row, joined with its commit, as a belief."""
    return BeliefRow(
        row.twin_id, row.version, row.position, row.model_version, from_us(row.time), row.n_folded,
        row.digest.decode("latin-1"), None if row.rewound_to is None else from_us(row.rewound_to), row.cause,
        from_us(row.committed_at),
    )


def outbox_record(message: OutboxRow) -> Record:
    """A message as a row; Latin-1 maps every byte of a header to one character and back."""
    headers = json.dumps([[name, value.decode("latin-1")] for name, value in message.headers]).encode()
    return (message.topic, message.key, message.message_key, message.value, headers, 0)


def outbox_row(row: Row[Any]) -> OutboxRow:
    """A row as a message."""
    headers = tuple((name, value.encode("latin-1")) for name, value in json.loads(row.headers))
    return OutboxRow(row.topic, row.key, row.message_key, row.value, headers)


def letter_record(letter: DeadLetter) -> Record:
    """A dead letter as a row; whatever broke the event must not break its keeping."""
    return (
        letter.rejection_id, letter.reason_code, storable(letter.reason), storable(letter.where),
        storable(letter.remedy), letter.raw, *map(_optional, (letter.twin_id, letter.source, letter.event_id)),
        to_us(letter.received_at), letter.state,
    )


def letter_row(row: Row[Any]) -> DeadLetter:
    """A row as a dead letter."""
    return DeadLetter(
        row.rejection_id, row.reason_code, row.reason, row.place, row.remedy, row.raw, row.twin_id, row.source,
        row.event_id, from_us(row.received_at), row.state,
    )


def storable(text: str) -> str:
    """Text without what databases refuse: PostgreSQL holds no NUL, neither holds half a surrogate pair."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode("utf-8")


def _optional(text: str | None) -> str | None:
    return None if text is None else storable(text)
