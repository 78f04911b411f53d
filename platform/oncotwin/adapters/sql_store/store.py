"""`TwinStore` on SQLAlchemy: opening it, and what changes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Engine, bindparam, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from oncotwin.adapters.sealing import PlainSealer, Sealer, owner
from oncotwin.adapters.sql_store import gaps, leases, schema
from oncotwin.adapters.sql_store.audit import AuditWriter, SqlAuditTrail, append
from oncotwin.adapters.sql_store.commit import write_group, write_letters
from oncotwin.adapters.sql_store.database import alone, among, bulk_insert, open_engine
from oncotwin.adapters.sql_store.erasure import SqlErasures
from oncotwin.adapters.sql_store.installation import bind_keys
from oncotwin.adapters.sql_store.lines import SqlLines
from oncotwin.adapters.sql_store.migrate import migrate
from oncotwin.adapters.sql_store.reports import SqlReports
from oncotwin.domain.errors import ConfigurationError, ErasedError, StaleVersionError, StoreError
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_rows import AlertRow, CommitGroup, DeadLetter, OutboxRow, SequenceGap


def open_twin_store(url: str, *, sealer: Sealer | None = None, on_step: OnStep = no_step) -> SqlTwinStore:
    """Open a store and bring it to this release's schema.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        sealer: seals what is kept of patients' data, and is closed with the store; without one data lie open.
        on_step: told of each named step of a commit (`COMMIT_STEPS`, `LINE_STEPS`, `PROMOTE_STEPS`).
    Raises:
        ConfigurationError: no such address, a store of a later release, or one that is sealed under another key store.
            StoreError: the database does not answer.
    """
    engine = open_engine(url)
    try:
        migrate(engine)
        if sealer is not None:
            bind_keys(engine, sealer)
    except ConfigurationError:
        engine.dispose()
        raise
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(
            f"store {engine.url.render_as_string(hide_password=True)} cannot be opened ({error.__class__.__name__}: "
            f"{str(error).splitlines()[0]}); check the address and that the database runs"
        ) from error
    return SqlTwinStore(engine, sealer or PlainSealer(), on_step)


class SqlTwinStore(SqlLines):
    """See `TwinStore`. One thread at a time; any number of processes."""

    def __init__(self, engine: Engine, sealer: Sealer, on_step: OnStep = no_step) -> None:
        super().__init__(engine, sealer)
        self._on_step = on_step
        self._drafts = AuditWriter(sealer)
        self.erasures = SqlErasures(engine, self._transaction, self._rows)
        self.audit = SqlAuditTrail(self._transaction, self._drafts)
        self.reports = SqlReports(self._transaction, sealer, self._rows, self._drafts)

    def commit(self, group: CommitGroup) -> int:
        """Seal a group and write it in one transaction."""
        try:
            kept = self._rows.group(group)
        except ErasedError as error:
            raise StaleVersionError(f"{error}; read again and refuse what is the patient's") from error
        drafts = self._drafts.of_group(group, kept)
        with self._transaction(write=True) as connection:
            return write_group(connection, kept, self._on_step, drafts)

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

    def intake_record(self, hashes: Mapping[EventKey, str], twin_ids: Mapping[EventKey, TwinId]) -> None:
        """Remember what was appended to the log, and whose it is."""
        self._sealer.prepare({owner(twin_ids[key]) for key in hashes})
        rows = [
            (*key, self._rows.kept_hash(twin_ids[key], content_hash), twin_ids[key])
            for key, content_hash in sorted(hashes.items())
        ]
        with self._transaction(write=True) as connection:
            bulk_insert(
                connection, schema.intake, ("source", "event_id", "content_hash", "twin_id"), rows, new_only=True
            )

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

    def look_for_gaps(self, now: datetime) -> list[SequenceGap]:
        """Note gaps that opened in the sources' numbers and close what has come; returns those not told of yet."""
        with self._transaction(write=True) as connection:
            return gaps.look(connection, now)

    def raise_gap_alert(
        self, alert: AlertRow, missing: Sequence[SequenceGap], message: OutboxRow, now: datetime
    ) -> bool:
        """Keep an alert that tells of these gaps, and its message; False where they are not as given any more."""
        kept, sent = self._rows.alert(alert), self._rows.message(message)
        with self._transaction(write=True) as connection:
            return gaps.raise_alert(connection, kept, missing, sent, now)

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Keep what an intake refused; returns how many were not known yet."""
        table = schema.dead_letters
        count = select(func.count()).select_from(table)
        kept = tuple(map(self._rows.letter, letters))
        drafts = list(self._drafts.of_letters(letters, kept))
        with self._transaction(write=True) as connection:
            alone(connection)
            before = connection.scalar(count) or 0
            write_letters(connection, kept)
            if letters:
                append(connection, drafts, max(letter.received_at for letter in letters))
            return int(connection.scalar(count) or 0) - int(before)

    def mark_resubmitted(self, rejection_ids: Sequence[str]) -> None:
        """The letters' events were sent again."""
        table = schema.dead_letters
        with self._transaction(write=True) as connection:
            chosen = among(connection, table.c.rejection_id, rejection_ids)
            connection.execute(update(table).where(chosen).values(state="resubmitted"))

    def mark_published(self, ids: Sequence[int]) -> None:
        """The rows are in their topics; their keys stay, so that none is sent again, their content goes."""
        table = schema.outbox
        done = update(table).where(table.c.id == bindparam("done")).values(published=1, value=b"", headers=b"[]")
        if ids:
            with self._transaction(write=True) as connection:
                connection.execute(done, [{"done": number} for number in ids])
