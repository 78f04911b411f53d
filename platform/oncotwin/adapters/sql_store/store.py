"""`TwinStore` on SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Table,
    and_,
    bindparam,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from oncotwin.adapters.sql_store import gaps, leases, records, schema
from oncotwin.adapters.sql_store.commit import champion_of, write_group, write_letters
from oncotwin.adapters.sql_store.database import among, bulk_insert, open_engine
from oncotwin.adapters.sql_store.migrate import migrate, schema_version
from oncotwin.domain.errors import ConfigurationError, StoreError
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_store import (
    AlertRow,
    BeliefRow,
    CommitGroup,
    DeadLetter,
    EstimateRow,
    JournalEntry,
    OutboxRow,
    SequenceGap,
    SnapshotRow,
    TwinHead,
)

_TWINS_AT_ONCE = 200
"""Twins whose estimates are read together when all are read: no transaction stays open while they are used."""
_COUNTED = ("twins", "journal", "snapshots", "estimates", "alerts", "dead_letters", "outbox", "commits", "gaps")


def open_twin_store(url: str, *, on_step: OnStep = no_step) -> SqlTwinStore:
    """Open a store and bring it to this release's schema.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        on_step: told of each named step of a commit (`COMMIT_STEPS`).
    Raises:
        ConfigurationError: no such address, or a store of a later release. StoreError: the database does not answer.
    """
    engine = open_engine(url)
    try:
        migrate(engine)
    except ConfigurationError:
        engine.dispose()
        raise
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(
            f"store {engine.url.render_as_string(hide_password=True)} cannot be opened ({error.__class__.__name__}: "
            f"{str(error).splitlines()[0]}); check the address and that the database runs"
        ) from error
    return SqlTwinStore(engine, on_step)


class SqlTwinStore:
    """See `TwinStore`. One thread at a time; any number of processes."""

    def __init__(self, engine: Engine, on_step: OnStep = no_step) -> None:
        self._engine = engine
        self._on_step = on_step

    @property
    def schema_version(self) -> str:
        """Revision of the database's schema."""
        with self._transaction(write=False) as connection:
            return schema_version(connection) or ""

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        """One transaction; the database's errors become ours."""
        try:
            with self._engine.connect().execution_options(write=write) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            url = self._engine.url.render_as_string(hide_password=True)
            raise StoreError(
                f"store {url}: {str(error).splitlines()[0]}; nothing was written. See that the database answers and "
                "its disk is not full"
            ) from error

    def commit(self, group: CommitGroup) -> int:
        """Write a group in one transaction."""
        with self._transaction(write=True) as connection:
            return write_group(connection, group, self._on_step)

    def offsets(self, log_name: str) -> dict[int, int]:
        """Next offset wanted of each partition that was ever committed."""
        table = schema.offsets
        with self._transaction(write=False) as connection:
            rows = connection.execute(select(table).where(table.c.log_name == log_name))
            return {row.log_partition: row.next_offset for row in rows}

    def acquire_leases(
        self, log_name: str, worker: str, partitions: Iterable[int], ttl_s: float, now: datetime,
        max_partitions: int | None = None,
    ) -> dict[int, int]:
        """Take free or expired partitions up to a number or a fair share, and renew one's own."""
        with self._transaction(write=True) as connection:
            return leases.acquire(connection, log_name, worker, list(partitions), ttl_s, now, max_partitions)

    def release_leases(self, log_name: str, worker: str, epochs: Mapping[int, int]) -> None:
        """Give partitions back and leave the circle of workers."""
        with self._transaction(write=True) as connection:
            leases.release(connection, log_name, worker, epochs)
            leases.leave(connection, log_name, worker)

    def _hashes(self, table: Table, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        by_source: dict[str, list[str]] = {}
        for source, event_id in keys:
            by_source.setdefault(source, []).append(event_id)
        found: dict[EventKey, str] = {}
        with self._transaction(write=False) as connection:
            for source, ids in by_source.items():
                query = select(table.c.event_id, table.c.content_hash).where(
                    table.c.source == source, among(connection, table.c.event_id, ids)
                )
                found.update({(source, row.event_id): row.content_hash for row in connection.execute(query)})
        return found

    def known(self, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        """Content hash of those keys that are in the journal."""
        return self._hashes(schema.journal, keys)

    def intake_known(self, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        """Content hash of those keys that an intake has appended to the log."""
        return self._hashes(schema.intake, keys)

    def intake_record(self, hashes: Mapping[EventKey, str]) -> None:
        """Remember what was appended to the log."""
        rows = [(source, event_id, content_hash) for (source, event_id), content_hash in sorted(hashes.items())]
        with self._transaction(write=True) as connection:
            bulk_insert(connection, schema.intake, ("source", "event_id", "content_hash"), rows, new_only=True)

    def register_twins(self, twin_ids: Sequence[TwinId]) -> dict[TwinId, int]:
        """Ordinal of each twin from 0, given at its first registration and kept."""
        found = self._ordinals(twin_ids)
        missing = sorted(set(twin_ids) - found.keys())
        if missing:
            rows = [(twin_id, 0, "") for twin_id in missing]
            with self._transaction(write=True) as connection:
                bulk_insert(
                    connection, schema.twins, ("twin_id", "version", "model_version"), rows, new_only=True
                )
            found.update(self._ordinals(missing))
        return found

    def _ordinals(self, twin_ids: Sequence[TwinId]) -> dict[TwinId, int]:
        columns = schema.twins.c
        with self._transaction(write=False) as connection:
            query = select(columns.twin_id, columns.ordinal).where(among(connection, columns.twin_id, twin_ids))
            return {row.twin_id: row.ordinal - 1 for row in connection.execute(query)}

    def twin_heads(self, twin_ids: Sequence[TwinId] | None = None) -> dict[TwinId, TwinHead]:
        """Where these twins stand (all, for None); twins never committed are left out."""
        table = schema.twins
        query = select(table).where(table.c.version > 0).order_by(table.c.ordinal)
        with self._transaction(write=False) as connection:
            if twin_ids is not None:
                query = query.where(among(connection, table.c.twin_id, twin_ids))
            rows = connection.execute(query).all()
        return {
            row.twin_id: TwinHead(
                row.twin_id, row.version, row.ordinal - 1, row.model_version,
                None if row.last_time is None else schema.from_us(row.last_time),
            )
            for row in rows
        }

    @staticmethod
    def _position(connection: Connection, known_at: datetime) -> int:
        """The last commit at or before a moment."""
        query = select(func.max(schema.commits.c.position)).where(
            schema.commits.c.committed_at <= schema.to_us(known_at)
        )
        return int(connection.scalar(query) or 0)

    def position_at(self, moment: datetime) -> int:
        """The last commit at or before a moment; 0 before the first."""
        with self._transaction(write=False) as connection:
            return self._position(connection, moment)

    def champion(self, known_at: datetime | None = None) -> str | None:
        """The model version that is believed, now or as of a moment."""
        with self._transaction(write=False) as connection:
            return champion_of(connection, None if known_at is None else self._position(connection, known_at))

    def _in_force(
        self, connection: Connection, table: FromClause, known_at: datetime | None
    ) -> ColumnElement[bool]:
        """The condition that a belief of the champion's was in force: now, or as known at a moment."""
        if known_at is None:
            line = table.c.model_version == (champion_of(connection) or "")
            return and_(table.c.superseded_at.is_(None), line)
        position = self._position(connection, known_at)
        return and_(
            table.c.position <= position,
            or_(table.c.superseded_at.is_(None), table.c.superseded_at > position),
            table.c.model_version == (champion_of(connection, position) or ""),
        )

    def latest_snapshots(
        self, twin_ids: Sequence[TwinId], before: datetime | None = None, *, model_version: str | None = None
    ) -> dict[TwinId, SnapshotRow]:
        """The latest snapshot of each twin, strictly before a clinical time."""
        table = schema.snapshots
        inner = table.alias("newest")
        newest = select(inner.c.time, inner.c.n_folded, inner.c.position).where(
            inner.c.twin_id == schema.twins.c.twin_id, inner.c.superseded_at.is_(None)
        )
        if before is not None:
            newest = newest.where(inner.c.time < schema.to_us(before))
        with self._transaction(write=False) as connection:
            line = model_version if model_version is not None else champion_of(connection) or ""
            newest = (
                newest.where(inner.c.model_version == line)
                .order_by(inner.c.time.desc(), inner.c.n_folded.desc(), inner.c.position.desc())
                .limit(1)
            )
            key = tuple_(table.c.time, table.c.n_folded, table.c.position)
            query = (
                select(table)
                .join(schema.twins, schema.twins.c.twin_id == table.c.twin_id)
                .where(
                    among(connection, schema.twins.c.twin_id, twin_ids), key == newest.scalar_subquery(),
                    table.c.model_version == line,
                )
            )
            return {row.twin_id: records.snapshot_row(row) for row in connection.execute(query)}

    def beliefs(self, twin_id: TwinId, *, known_at: datetime | None = None) -> list[BeliefRow]:
        """What each commit made of a twin, oldest first."""
        table, commits = schema.beliefs, schema.commits
        query = (
            select(table, commits.c.committed_at)
            .join(commits, commits.c.position == table.c.position)
            .where(table.c.twin_id == twin_id)
            .order_by(table.c.version)
        )
        with self._transaction(write=False) as connection:
            if known_at is not None:
                query = query.where(table.c.position <= self._position(connection, known_at))
            return [records.belief_row(row) for row in connection.execute(query)]

    def journal(
        self, twin_id: TwinId, *, since: datetime | None = None, known_at: datetime | None = None
    ) -> list[JournalEntry]:
        """A twin's journal by clinical time, source, id: from a clinical time on, as known at a moment."""
        table = schema.journal
        query = select(table).where(table.c.twin_id == twin_id)
        if since is not None:
            query = query.where(or_(table.c.time >= schema.to_us(since), table.c.supersedes_source.is_not(None)))
        with self._transaction(write=False) as connection:
            if known_at is not None:
                query = query.where(table.c.position <= self._position(connection, known_at))
            entries = [records.journal_entry(row) for row in connection.execute(query)]
        # Databases collate text each in its own way; the fold's order is Python's.
        return sorted(entries, key=lambda entry: (entry.time, entry.source, entry.event_id))

    def corrections_of(self, keys: Sequence[EventKey]) -> dict[EventKey, list[JournalEntry]]:
        """Corrections in any journal of those events that have some."""
        by_source: dict[str, list[str]] = {}
        for source, event_id in keys:
            by_source.setdefault(source, []).append(event_id)
        table = schema.journal
        found: dict[EventKey, list[JournalEntry]] = {}
        with self._transaction(write=False) as connection:
            for source, ids in by_source.items():
                query = select(table).where(
                    table.c.supersedes_source == source, among(connection, table.c.supersedes_id, ids)
                )
                for row in connection.execute(query):
                    entry = records.journal_entry(row)
                    assert entry.supersedes is not None
                    found.setdefault(entry.supersedes, []).append(entry)
        return found

    def estimates(
        self, twin_id: TwinId | None = None, *, known_at: datetime | None = None, superseded: bool = False
    ) -> Iterator[EstimateRow]:
        """Estimates by twin and clinical time; of each event the latest as known, or all with ``superseded``."""
        table = schema.estimates
        twin_ids = [twin_id] if twin_id is not None else sorted(self.twin_heads())
        query = select(table).order_by(table.c.twin_id, table.c.time, table.c.position, table.c.row)
        for begin in range(0, len(twin_ids), _TWINS_AT_ONCE):
            with self._transaction(write=False) as connection:
                chosen = among(connection, table.c.twin_id, twin_ids[begin : begin + _TWINS_AT_ONCE])
                ever = table.c.model_version.in_(select(schema.champions.c.model_version))
                condition = ever if superseded else self._in_force(connection, table, known_at)
                rows = connection.execute(query.where(chosen, condition)).all()
            yield from map(records.estimate_row, rows)

    def alerts(self, twin_id: TwinId | None = None, *, superseded: bool = False) -> list[AlertRow]:
        """Alerts by clinical time; with ``superseded`` also those that were explained away."""
        table = schema.alerts
        query = select(table).order_by(table.c.time, table.c.twin_id, table.c.alert_id)
        if twin_id is not None:
            query = query.where(table.c.twin_id == twin_id)
        with self._transaction(write=False) as connection:
            if superseded:
                ever = table.c.model_version.in_(select(schema.champions.c.model_version))
                query = query.where(or_(table.c.model_version == "", ever))
            else:
                query = query.where(
                    table.c.superseded_at.is_(None),
                    table.c.model_version.in_(("", champion_of(connection) or "")),
                )
            return [records.alert_row(row) for row in connection.execute(query)]

    def look_for_gaps(self, now: datetime) -> list[SequenceGap]:
        """Note gaps that opened in the sources' numbers and close what has come; returns those not told of yet."""
        with self._transaction(write=True) as connection:
            return gaps.look(connection, now)

    def raise_gap_alert(
        self, alert: AlertRow, missing: Sequence[SequenceGap], message: OutboxRow, now: datetime
    ) -> bool:
        """Keep an alert that tells of these gaps, and its message; False where they are not as given any more."""
        with self._transaction(write=True) as connection:
            return gaps.raise_alert(connection, alert, missing, message, now)

    def dead_letters(self, state: str | None = "open") -> list[DeadLetter]:
        """What was refused, in order of arrival; None for every state."""
        table = schema.dead_letters
        query = select(table).order_by(table.c.number)
        if state is not None:
            query = query.where(table.c.state == state)
        with self._transaction(write=False) as connection:
            return [records.letter_row(row) for row in connection.execute(query)]

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Keep what an intake refused; returns how many were not known yet."""
        table = schema.dead_letters
        count = select(func.count()).select_from(table)
        with self._transaction(write=True) as connection:
            before = connection.scalar(count) or 0
            write_letters(connection, tuple(letters))
            return int(connection.scalar(count) or 0) - int(before)

    def mark_resubmitted(self, rejection_ids: Sequence[str]) -> None:
        """The letters' events were sent again."""
        table = schema.dead_letters
        with self._transaction(write=True) as connection:
            chosen = among(connection, table.c.rejection_id, rejection_ids)
            connection.execute(update(table).where(chosen).values(state="resubmitted"))

    def pending_outbox(self, limit: int) -> list[tuple[int, OutboxRow]]:
        """Rows not published yet, oldest first, with their ids."""
        table = schema.outbox
        query = select(table).where(table.c.published == 0).order_by(table.c.id).limit(limit)
        with self._transaction(write=False) as connection:
            return [(row.id, records.outbox_row(row)) for row in connection.execute(query)]

    def mark_published(self, ids: Sequence[int]) -> None:
        """The rows are in their topics; their keys stay, so that none is sent again, their content goes."""
        table = schema.outbox
        done = update(table).where(table.c.id == bindparam("done")).values(published=1, value=b"", headers=b"[]")
        if ids:
            with self._transaction(write=True) as connection:
                connection.execute(done, [{"done": number} for number in ids])

    def sources(self) -> dict[str, str]:
        """Sources and the institution that each is bound to."""
        with self._transaction(write=False) as connection:
            return {row.source: row.institution for row in connection.execute(select(schema.sources))}

    def counts(self) -> dict[str, int]:
        """Rows of each table, refused events still open, and messages not published yet."""
        found: dict[str, int] = {}
        with self._transaction(write=False) as connection:
            for name in _COUNTED:
                rows = select(func.count()).select_from(schema.metadata.tables[name])
                found[name] = int(connection.scalar(rows) or 0)
            for name, table, condition in (
                ("rejected_open", schema.dead_letters, schema.dead_letters.c.state == "open"),
                ("outbox_pending", schema.outbox, schema.outbox.c.published == 0),
            ):
                found[name] = int(connection.scalar(select(func.count()).select_from(table).where(condition)) or 0)
        return found

    def close(self) -> None:
        """Release connections."""
        self._engine.dispose()

