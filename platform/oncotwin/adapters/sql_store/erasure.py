"""Erasure in the store: what goes, what stays, and what an erasure that was cut short must find again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from sqlalchemy import Connection, Engine, delete, insert, select, update

from oncotwin.adapters.sql_store import audit, records, schema
from oncotwin.adapters.sql_store.commit import upsert
from oncotwin.adapters.sql_store.database import alone, among, is_postgres
from oncotwin.adapters.sql_store.sealed_rows import ERASED_KIND, RowSealer
from oncotwin.domain.audit import AuditDraft
from oncotwin.domain.ids import TwinId
from oncotwin.ports.erasure import ErasureOrder, ExportRow, Tombstone
from oncotwin.ports.key_store import INSTALLATION

ERASED_VERSION = -1
"""Version of a twin that was erased: no commit ever expects it."""
ORDER_KIND = "patient.erased"

_OF_TWIN = ("snapshots", "estimates", "alerts", "beliefs", "lines", "intake", "dead_letters")
_UNKNOWN = "unknown"

Transaction = Callable[..., AbstractContextManager[Connection]]


class SqlErasures:
    """See `Erasures`."""

    def __init__(self, engine: Engine, transaction: Transaction, rows: RowSealer) -> None:
        self._engine = engine
        self._transaction = transaction
        self._rows = rows

    def erase(self, tombstone: Tombstone, drafts: Sequence[AuditDraft] = ()) -> bool:
        """Take a patient's rows away and set the tombstone; see the port."""
        twin_id = tombstone.twin_id
        with self._transaction(write=True) as connection:
            alone(connection)
            before = _overwrite(connection, "ON")
            statement = upsert(connection, schema.tombstones).on_conflict_do_nothing(index_elements=["twin_id"])
            new = connection.execute(statement.returning(schema.tombstones.c.twin_id), _tombstone(tombstone)).first()
            self._take_away(connection, twin_id)
            _overwrite(connection, before)
            if new is not None:
                audit.append(connection, drafts, tombstone.erased_at)
        self._leave_no_page()
        return new is not None

    def _take_away(self, connection: Connection, twin_id: TwinId) -> None:
        twins, journal, outbox, reports = schema.twins, schema.journal, schema.outbox, schema.reports
        gone = {"version": ERASED_VERSION, "model_version": "", "last_time": None}
        if connection.execute(update(twins).where(twins.c.twin_id == twin_id).values(**gone)).rowcount == 0:
            connection.execute(insert(twins).values(twin_id=twin_id, **gone))
        connection.execute(
            update(journal)
            .where(journal.c.twin_id == twin_id, journal.c.kind != ERASED_KIND)
            .values(
                kind=ERASED_KIND, time=0, time_precision="day", recorded_at=None, status="final", content_hash="",
                payload=b"", supersedes_source=None, supersedes_id=None,
            )
        )
        for name in _OF_TWIN:
            table = schema.metadata.tables[name]
            connection.execute(delete(table).where(table.c.twin_id == twin_id))
        connection.execute(delete(outbox).where(outbox.c.key == twin_id))
        # Where the files are must be known until they are gone.
        connection.execute(update(reports).where(reports.c.twin_id == twin_id).values(body=b"", verdict=""))
        self._take_away_mentions(connection, twin_id)

    def _take_away_mentions(self, connection: Connection, twin_id: TwinId) -> None:
        """What was refused before anybody could say whose it was, and names the patient all the same."""
        letters, outbox = schema.dead_letters, schema.outbox
        name = twin_id.encode()
        of_nobody = connection.execute(select(letters).where(letters.c.twin_id.is_(None)).order_by(letters.c.number))
        kept = self._rows.opened(map(records.letter_row, of_nobody), self._rows.open_letter, lambda _: INSTALLATION)
        ids = [
            letter.rejection_id
            for letter in kept
            if name in letter.raw or twin_id in letter.reason or twin_id in letter.where
        ]
        if ids:
            connection.execute(delete(letters).where(among(connection, letters.c.rejection_id, ids)))
        pending = select(outbox).where(outbox.c.published == 0, outbox.c.key.like(f"{_UNKNOWN}/%"))
        for row in connection.execute(pending).all():
            if name in self._rows.open_message(records.outbox_row(row)).value:
                connection.execute(delete(outbox).where(outbox.c.id == row.id))

    def _leave_no_page(self) -> None:
        """SQLite's write-ahead log holds pages as they were; with readers about it is emptied at another time."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not is_postgres(connection):
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()

    def finish(self, twin_id: TwinId, at: datetime) -> None:
        """All that lies outside the store was dealt with."""
        table = schema.tombstones
        with self._transaction(write=True) as connection:
            connection.execute(
                update(table)
                .where(table.c.twin_id == twin_id, table.c.finished_at.is_(None))
                .values(finished_at=schema.to_us(at))
            )
            connection.execute(delete(schema.reports).where(schema.reports.c.twin_id == twin_id))

    def tombstones(self) -> dict[TwinId, Tombstone]:
        """Every patient erased here."""
        table = schema.tombstones
        with self._transaction(write=False) as connection:
            rows = connection.execute(select(table).order_by(table.c.twin_id)).all()
        return {
            row.twin_id: Tombstone(
                row.twin_id, schema.from_us(row.erased_at), row.reason, row.source, row.event_id,
                None if row.finished_at is None else schema.from_us(row.finished_at),
            )
            for row in rows
        }

    def orders(self) -> list[ErasureOrder]:
        """Erasures that events in the journal order and that were not carried out."""
        table = schema.journal
        with self._transaction(write=False) as connection:
            query = select(table.c.twin_id, table.c.source, table.c.event_id).where(table.c.kind == ORDER_KIND)
            rows = connection.execute(query.order_by(table.c.twin_id, table.c.position)).all()
        return [ErasureOrder(*row) for row in rows]

    def report_paths(self, twin_id: TwinId) -> list[str]:
        """Files of the reports that were made of a patient."""
        table = schema.reports.c
        with self._transaction(write=False) as connection:
            query = select(table.path).where(table.twin_id == twin_id, table.path != "").order_by(table.path)
            return list(dict.fromkeys(connection.scalars(query)))

    def record_export(self, folder: str, tables: Sequence[str], at: datetime) -> None:
        """Patients' data are being written to a folder."""
        with self._transaction(write=True) as connection:
            statement = upsert(connection, schema.exports)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["folder"],
                    set_={"written_at": statement.excluded.written_at, "tables": statement.excluded.tables},
                ),
                {"folder": folder, "written_at": schema.to_us(at), "tables": json.dumps(list(tables))},
            )

    def forget_export(self, folder: str) -> None:
        """The folder holds none any more."""
        table = schema.exports
        with self._transaction(write=True) as connection:
            connection.execute(delete(table).where(table.c.folder == folder))

    def exports(self) -> list[ExportRow]:
        """Folders that patients' data were written to."""
        table = schema.exports
        with self._transaction(write=False) as connection:
            rows = connection.execute(select(table).order_by(table.c.folder)).all()
        return [ExportRow(row.folder, schema.from_us(row.written_at), tuple(json.loads(row.tables))) for row in rows]


def _overwrite(connection: Connection, wish: str) -> str:
    """Have SQLite overwrite what it deletes, or not; returns how it was.

    Rows of an earlier release lie open, so their bytes must not stay in the file's free pages.
    """
    if is_postgres(connection):
        return wish
    before = connection.exec_driver_sql("PRAGMA secure_delete").scalar()
    connection.exec_driver_sql(f"PRAGMA secure_delete = {wish}").all()
    return str(before)


def _tombstone(one: Tombstone) -> dict[str, object]:
    return {
        "twin_id": one.twin_id, "erased_at": schema.to_us(one.erased_at), "reason": one.reason, "source": one.source,
        "event_id": one.event_id, "finished_at": None,
    }
