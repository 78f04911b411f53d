"""Tables of the store. Times are whole microseconds since 1970-01-01 UTC: exact, and alike on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData()

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# SQLite numbers rows by itself only in a column of exactly this type.
Serial = BigInteger().with_variant(Integer, "sqlite")


def to_us(moment: datetime) -> int:
    """An aware datetime as whole microseconds."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """Whole microseconds as an aware datetime, UTC."""
    return _EPOCH + microseconds * _MICROSECOND


commits = Table(
    "commits", metadata,
    Column("position", Serial, primary_key=True, autoincrement=True),
    Column("committed_at", BigInteger, nullable=False),
    Column("log_name", Text, nullable=False),
    Column("n_events", Integer, nullable=False),
    Index("commits_committed_at", "committed_at"),
)

twins = Table(
    "twins", metadata,
    Column("ordinal", Serial, primary_key=True, autoincrement=True),
    Column("twin_id", Text, nullable=False, unique=True),
    Column("version", BigInteger, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("last_time", BigInteger),
)

journal = Table(
    "journal", metadata,
    Column("source", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("twin_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("time_precision", Text, nullable=False),
    Column("recorded_at", BigInteger),
    Column("received_at", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("log_partition", Integer, nullable=False),
    Column("log_offset", BigInteger, nullable=False),
    Column("sequence", BigInteger),
    # What a correction corrects, so that whatever comes after its correction is told so.
    Column("supersedes_source", Text),
    Column("supersedes_id", Text),
    Index("journal_of_twin", "twin_id", "time"),
    Index(
        "journal_of_supersedes", "supersedes_source", "supersedes_id",
        sqlite_where=text("supersedes_source IS NOT NULL"), postgresql_where=text("supersedes_source IS NOT NULL"),
    ),
    # Sources that do not number their events pay nothing for it.
    Index(
        "journal_of_sequence", "source", "sequence", sqlite_where=text("sequence IS NOT NULL"),
        postgresql_where=text("sequence IS NOT NULL"),
    ),
    Index(
        "journal_of_erasures", "twin_id", "kind", sqlite_where=text("kind = 'patient.erased'"),
        postgresql_where=text("kind = 'patient.erased'"),
    ),
)

snapshots = Table(
    "snapshots", metadata,
    Column("twin_id", Text, primary_key=True),
    Column("time", BigInteger, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("n_folded", BigInteger, primary_key=True),
    Column("model_version", Text, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("digest", Text, nullable=False),
    Column("superseded_at", BigInteger),
)

estimates = Table(
    "estimates", metadata,
    Column("twin_id", Text, primary_key=True),
    Column("time", BigInteger, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("nis", Double),
    Column("superseded_at", BigInteger),
)

# What each commit made of a twin. Kept for ever, while snapshots thin out: whoever folds the past again compares.
beliefs = Table(
    "beliefs", metadata,
    Column("twin_id", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("n_folded", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("rewound_to", BigInteger),
    Column("cause", Text, nullable=False),
    Index("beliefs_of_position", "position"),
)

# Which model version is believed from which commit on.
champions = Table(
    "champions", metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("model_version", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("chosen_by", Text, nullable=False),
)

# Up to which version of a twin a model version that is not the champion has folded it.
lines = Table(
    "lines", metadata,
    Column("model_version", Text, primary_key=True),
    Column("twin_id", Text, primary_key=True),
    Column("twin_version", BigInteger, nullable=False),
)

alerts = Table(
    "alerts", metadata,
    Column("alert_id", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("twin_id", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("observable", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("recommended", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("superseded_by", Text, nullable=False),
    Column("superseded_at", BigInteger),
    # "" for an alert that no model raised.
    Column("model_version", Text, nullable=False),
    Index("alerts_of_twin", "twin_id", "time"),
)

outbox = Table(
    "outbox", metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("topic", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("message_key", Text, nullable=False, unique=True),
    Column("value", LargeBinary, nullable=False),
    Column("headers", LargeBinary, nullable=False),
    Column("published", Integer, nullable=False),
    Index("outbox_pending", "id", sqlite_where=text("published = 0"), postgresql_where=text("published = 0")),
)

offsets = Table(
    "offsets", metadata,
    Column("log_name", Text, primary_key=True),
    Column("log_partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
)

leases = Table(
    "leases", metadata,
    Column("log_name", Text, primary_key=True),
    Column("log_partition", Integer, primary_key=True),
    Column("worker", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# Who asked for a fair share of a log's partitions, and until when that counts.
workers = Table(
    "workers", metadata,
    Column("log_name", Text, primary_key=True),
    Column("worker", Text, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
)

dead_letters = Table(
    "dead_letters", metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("rejection_id", Text, nullable=False, unique=True),
    Column("reason_code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("remedy", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("twin_id", Text),
    Column("source", Text),
    Column("event_id", Text),
    Column("received_at", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
)

sources = Table(
    "sources", metadata,
    Column("source", Text, primary_key=True),
    Column("institution", Text, nullable=False),
)

# Up to where the numbers of each source have been looked at: all between the two are in the journal or in a gap.
sequences = Table(
    "sequences", metadata,
    Column("source", Text, primary_key=True),
    Column("institution", Text, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("alerted_at", BigInteger),
)

# A gap that is filled in part leaves the parts that stay open in its place; `alert_id` is "" until an alert tells of
# it.
gaps = Table(
    "gaps", metadata,
    Column("source", Text, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("alert_id", Text, nullable=False),
    Index("gaps_of_alert", "alert_id"),
)

intake = Table(
    "intake", metadata,
    Column("source", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("content_hash", Text, nullable=False),
    Column("twin_id", Text, nullable=False),
)

# One hash chain for each institution. An index by `ref` would double the cost of an entry, and only proofs look for it.
# SQLite keeps one copy of every value, the key included, so that whatever is changed in the file is seen by who reads.
audit_entries = Table(
    "audit_entries", metadata,
    Column("institution", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

audit_checkpoints = Table(
    "audit_checkpoints", metadata,
    Column("institution", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("key", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# Patients who were erased; their events are refused for ever.
tombstones = Table(
    "tombstones", metadata,
    Column("twin_id", Text, primary_key=True),
    Column("erased_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("finished_at", BigInteger),
)

# Folders that patients' data were written to, so that an erasure finds them.
exports = Table(
    "exports", metadata,
    Column("folder", Text, primary_key=True),
    Column("written_at", BigInteger, nullable=False),
    Column("tables", Text, nullable=False),
)

# Reports and decisions made for people, and the belief that each rests on.
reports = Table(
    "reports", metadata,
    Column("report_id", Text, primary_key=True),
    Column("twin_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("signed_at", BigInteger),
    Column("signed_by", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Index("reports_of_twin", "twin_id", "made_at"),
)

# Since when a log's lag has not shrunk.
lag_watch = Table(
    "lag_watch", metadata,
    Column("log_name", Text, primary_key=True),
    Column("lag", BigInteger, nullable=False),
    Column("smallest", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("measured_at", BigInteger, nullable=False),
)

# What a store must find again whenever it is opened.
installation = Table(
    "installation", metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
