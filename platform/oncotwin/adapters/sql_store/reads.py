"""The reading half of the SQL store. Rows of erased patients are passed over, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Select, Table, and_, func, or_, select
from sqlalchemy.exc import SQLAlchemyError

from oncotwin.adapters.sealing import Sealer
from oncotwin.adapters.sql_store import line_queries, records, schema, statements
from oncotwin.adapters.sql_store.commit import champion_of
from oncotwin.adapters.sql_store.database import among
from oncotwin.adapters.sql_store.migrate import schema_version
from oncotwin.adapters.sql_store.sealed_rows import RowSealer
from oncotwin.adapters.sql_store.told_alerts import told
from oncotwin.domain.errors import StoreUnavailableError
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.ports.key_store import INSTALLATION
from oncotwin.ports.twin_rows import (
    AlertRow,
    BeliefRow,
    DeadLetter,
    EstimateRow,
    JournalEntry,
    OutboxRow,
    SnapshotRow,
    TwinHead,
)

_TWINS_AT_ONCE = 200
"""Twins whose estimates are read together when all are read: no transaction stays open while they are used."""
_COUNTED = ("twins", "journal", "snapshots", "estimates", "alerts", "dead_letters", "outbox", "commits", "gaps")


class SqlReads:
    """What a store answers without changing anything."""

    def __init__(self, engine: Engine, sealer: Sealer) -> None:
        self._engine = engine
        self._sealer = sealer
        self._rows = RowSealer(sealer)

    @property
    def schema_version(self) -> str:
        """Revision of the database's schema."""
        with self._transaction(write=False) as connection:
            return schema_version(connection) or ""

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        """One transaction; the database's errors become ours."""
        with (
            self._errors(), self._engine.connect().execution_options(write=write) as connection, connection.begin()
        ):
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            url = self._engine.url.render_as_string(hide_password=True)
            raise StoreUnavailableError(
                f"store {url}: {str(error).splitlines()[0]}; nothing was written. See that the database answers and "
                "its disk is not full"
            ) from error

    @contextmanager
    def _statement(self) -> Iterator[Connection]:
        """For one statement that reads: PostgreSQL needs no transaction around it, which is two journeys fewer."""
        if self._engine.dialect.name == "postgresql":
            with self._errors(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                yield connection
        else:
            with self._transaction(write=False) as connection:
                yield connection

    def offsets(self, log_name: str) -> dict[int, int]:
        """Next offset wanted of each partition that was ever committed."""
        table = schema.offsets
        with self._transaction(write=False) as connection:
            rows = connection.execute(select(table).where(table.c.log_name == log_name))
            return {row.log_partition: row.next_offset for row in rows}

    def _hashes(self, table: Table, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        by_source: dict[str, list[str]] = {}
        for source, event_id in keys:
            by_source.setdefault(source, []).append(event_id)
        found: dict[EventKey, str] = {}
        with self._transaction(write=False) as connection:
            for source, ids in by_source.items():
                query = select(table.c.event_id, table.c.content_hash, table.c.twin_id).where(
                    table.c.source == source, among(connection, table.c.event_id, ids)
                )
                for row in connection.execute(query):
                    found[source, row.event_id] = self._rows.open_hash(row.twin_id, row.content_hash)
        return found

    def known(self, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        """Content hash of those keys that are in the journal; `ERASED_HASH` where the patient was erased."""
        return self._hashes(schema.journal, keys)

    def intake_known(self, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        """Content hash of those keys that an intake has appended to the log."""
        return self._hashes(schema.intake, keys)

    def erased(self, twin_ids: Sequence[TwinId]) -> frozenset[TwinId]:
        """Those of the patients who were erased, by a tombstone here or by a destroyed key."""
        column = schema.tombstones.c.twin_id
        with self._transaction(write=False) as connection:
            found = set(connection.scalars(select(column).where(among(connection, column, twin_ids))))
        return frozenset(found | {twin_id for twin_id in twin_ids if self._rows.erased(twin_id)})

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
            rows = [row for row in connection.execute(query) if not self._rows.erased(row.twin_id)]
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
        return int(connection.scalar(statements.POSITION_AT, {"moment": schema.to_us(known_at)}) or 0)

    @staticmethod
    def _as_known(
        ever: Select[Any], then: Select[Any], values: dict[str, Any], known_at: datetime | None
    ) -> Select[Any]:
        """The statement for all that is known or for what was known at a moment, whose value is added."""
        if known_at is None:
            return ever
        values["moment"] = schema.to_us(known_at)
        return then

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
        with self._transaction(write=False) if model_version is None else self._statement() as connection:
            line = model_version if model_version is not None else champion_of(connection) or ""
            if len(twin_ids) == 1:
                moment = statements.EVER if before is None else schema.to_us(before)
                values = {"twin_id": twin_ids[0], "line": line, "before": moment}
                found = connection.execute(statements.NEWEST_SNAPSHOT, values).all()
            else:
                found = connection.execute(line_queries.latest_snapshots(connection, line, twin_ids, before)).all()
        rows = map(records.snapshot_row, found)
        return {row.twin_id: row for row in self._rows.opened(rows, self._rows.open_snapshot, _twin)}

    def beliefs(self, twin_id: TwinId, *, known_at: datetime | None = None) -> list[BeliefRow]:
        """What each commit made of a twin, oldest first."""
        values: dict[str, Any] = {"twin_id": twin_id}
        statement = self._as_known(statements.BELIEFS, statements.BELIEFS_KNOWN, values, known_at)
        with self._statement() as connection:
            rows = [records.belief_row(row) for row in connection.execute(statement, values)]
        return list(self._rows.opened(rows, self._rows.open_belief, _twin))

    def journal(
        self, twin_id: TwinId, *, since: datetime | None = None, known_at: datetime | None = None
    ) -> list[JournalEntry]:
        """A twin's journal by clinical time, source, id: from a clinical time on, as known at a moment."""
        values: dict[str, Any] = {
            "twin_id": twin_id, "since": -statements.EVER if since is None else schema.to_us(since)
        }
        statement = self._as_known(statements.JOURNAL, statements.JOURNAL_KNOWN, values, known_at)
        with self._statement() as connection:
            rows = [records.journal_entry(row) for row in connection.execute(statement, values)]
        entries = self._rows.opened(rows, self._rows.open_entry, _twin)
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
                rows = [records.journal_entry(row) for row in connection.execute(query)]
                for entry in self._rows.opened(rows, self._rows.open_entry, _twin):
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
        ever = table.c.model_version.in_(select(schema.champions.c.model_version))
        with self._transaction(write=False) as connection:
            # Said once for all twins: a version that is promoted meanwhile does not mix with the one before.
            condition = ever if superseded else self._in_force(connection, table, known_at)
        for begin in range(0, len(twin_ids), _TWINS_AT_ONCE):
            with self._transaction(write=False) as connection:
                chosen = among(connection, table.c.twin_id, twin_ids[begin : begin + _TWINS_AT_ONCE])
                rows = connection.execute(query.where(chosen, condition)).all()
            yield from self._rows.opened(map(records.estimate_row, rows), self._rows.open_estimate, _twin)

    def alerts(
        self, twins: TwinId | Sequence[TwinId] | None = None, *, superseded: bool = False,
        known_at: datetime | None = None,
    ) -> list[AlertRow]:
        """Alerts by clinical time, as they stood at a moment; with ``superseded`` also those explained away by then."""
        table = schema.alerts
        query = select(table).order_by(table.c.time, table.c.twin_id, table.c.alert_id)
        with self._transaction(write=False) as connection:
            if twins is not None:
                ids = [twins] if isinstance(twins, str) else twins
                query = query.where(among(connection, table.c.twin_id, ids))
            position = statements.EVER if known_at is None else self._position(connection, known_at)
            stands = or_(table.c.superseded_at.is_(None), table.c.superseded_at > position)
            query = query.where(table.c.position <= position)
            if superseded:
                columns = schema.champions.c
                ever = table.c.model_version.in_(select(columns.model_version).where(columns.position <= position))
                # Rows that nothing explained away were replaced: the same alert, with the figures of its day.
                query = query.where(or_(stands, table.c.superseded_by != ""), or_(table.c.model_version == "", ever))
            else:
                query = query.where(stands, table.c.model_version.in_(("", champion_of(connection, position) or "")))
            found = connection.execute(query.add_columns(stands.label("stands"))).all()
            rows = told(connection, found, position)
        return list(self._rows.opened(rows, self._rows.open_alert, _twin))

    def dead_letters(self, state: str | None = "open") -> list[DeadLetter]:
        """What was refused, in order of arrival; None for every state."""
        table = schema.dead_letters
        query = select(table).order_by(table.c.number)
        if state is not None:
            query = query.where(table.c.state == state)
        with self._transaction(write=False) as connection:
            rows = [records.letter_row(row) for row in connection.execute(query)]
        return list(self._rows.opened(rows, self._rows.open_letter, lambda letter: letter.twin_id or INSTALLATION))

    def pending_outbox(self, limit: int) -> list[tuple[int, OutboxRow]]:
        """Rows not published yet, oldest first, with their ids."""
        table = schema.outbox
        query = select(table).where(table.c.published == 0).order_by(table.c.id).limit(limit)
        with self._transaction(write=False) as connection:
            rows = [(row.id, records.outbox_row(row)) for row in connection.execute(query)]
        return list(self._rows.opened(rows, lambda pair: (pair[0], self._rows.open_message(pair[1])), _addressee))

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
        """Release connections, those of the keys too."""
        self._engine.dispose()
        self._sealer.close()


def _twin(row: JournalEntry | SnapshotRow | EstimateRow | AlertRow | BeliefRow) -> TwinId:
    return row.twin_id


def _addressee(pair: tuple[int, OutboxRow]) -> TwinId:
    return pair[1].key
