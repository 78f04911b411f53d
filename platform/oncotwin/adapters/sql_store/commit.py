"""The one transaction of a commit group, step by step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from oncotwin.adapters.sql_store import records, schema
from oncotwin.adapters.sql_store.database import among, bulk_insert, is_postgres
from oncotwin.domain.errors import FencedError, StaleVersionError
from oncotwin.ports.twin_store import CommitGroup, DeadLetter, TwinCommit

# One number for "somebody is committing". Commits of several workers go one after the other, as they do on SQLite, so
# that positions rise in the order in which they become visible and "as known at" has one answer for ever.
_LOCK = 7_405_002

_UPDATE_TWIN = 'UPDATE twins SET version = ?, model_version = ?, last_time = ? WHERE twin_id = ?'
_UPDATE_TWINS = (
    "UPDATE twins SET version = n.version, model_version = n.model_version, last_time = n.last_time "
    "FROM unnest(%s::int8[], %s::text[], %s::int8[], %s::text[]) AS n (version, model_version, last_time, twin_id) "
    "WHERE twins.twin_id = n.twin_id"
)


def write_group(connection: Connection, group: CommitGroup) -> int:
    """Fence, then write everything; the caller's transaction makes it one.

    Returns:
        The commit position.
    """
    if is_postgres(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    _fence_leases(connection, group)
    # Fixed order, so that commits of one group are the same wherever they run.
    twins = sorted(group.twins, key=lambda twin: twin.twin_id)
    _swap_versions(connection, twins)
    position = _position(connection, group)
    for twin in twins:
        if twin.rewound_to is not None:
            _take_back(connection, twin, schema.to_us(twin.rewound_to), position)
    _write_twins(connection, twins, position)
    messages = {row.message_key: row for row in group.outbox}
    new = _not_there(connection, schema.outbox.c.message_key, messages)
    bulk_insert(connection, schema.outbox, records.OUTBOX, [records.outbox_record(messages[key]) for key in new])
    write_letters(connection, group.dead_letters)
    bulk_insert(connection, schema.sources, ("source", "institution"), list(group.sources.items()), new_only=True)
    _write_offsets(connection, group)
    return position


def _write_twins(connection: Connection, twins: Sequence[TwinCommit], position: int) -> None:
    """Journal, snapshots, estimates and alerts."""
    entries = [records.journal_record(entry, position) for twin in twins for entry in twin.journal]
    try:
        bulk_insert(connection, schema.journal, records.JOURNAL, entries)
    except IntegrityError as error:
        raise StaleVersionError(
            f"an event is in the journal already ({str(error.orig).splitlines()[0]}): another worker committed it "
            "since we looked; read again from the store"
        ) from error
    bulk_insert(
        connection, schema.snapshots, records.SNAPSHOT,
        [records.snapshot_record(row, position) for twin in twins for row in twin.snapshots],
    )
    bulk_insert(
        connection, schema.estimates, records.ESTIMATE,
        [
            records.estimate_record(row, position, number)
            for twin in twins
            for number, row in enumerate(twin.estimates)
        ],
    )
    # An alert that stands already and is raised again by a replay stays as it was.
    alerts = {alert.alert_id: alert for twin in twins for alert in twin.alerts}
    new = _not_there(connection, schema.alerts.c.alert_id, alerts, schema.alerts.c.superseded_at.is_(None))
    bulk_insert(connection, schema.alerts, records.ALERT, [records.alert_record(alerts[key], position) for key in new])


def _not_there(
    connection: Connection, column: Column[str], keys: Collection[str], *conditions: ColumnElement[bool]
) -> list[str]:
    """Those of the keys that no row has; commits go one after the other, so none can come in between."""
    if not keys:
        return []
    there = set(connection.scalars(select(column).where(among(connection, column, list(keys)), *conditions)))
    return [key for key in keys if key not in there]


def _fence_leases(connection: Connection, group: CommitGroup) -> None:
    """Every partition must still be leased to us under the epoch that we know."""
    if not group.lease_epochs:
        return
    query = select(schema.leases.c.log_partition, schema.leases.c.epoch).where(
        schema.leases.c.log_name == group.log_name,
        schema.leases.c.log_partition.in_(list(group.lease_epochs)),
    )
    held = {row.log_partition: row.epoch for row in connection.execute(query.with_for_update(read=True))}
    for partition, epoch in group.lease_epochs.items():
        if held.get(partition) != epoch:
            raise FencedError(
                f"partition {partition} of {group.log_name} is leased under epoch {held.get(partition)}, "
                f"this worker holds {epoch}; it must acquire a lease and read again"
            )


def _swap_versions(connection: Connection, twins: Sequence[TwinCommit]) -> None:
    """Compare and swap the version of every twin; only commits change it, and they go one after the other."""
    if not twins:
        return
    columns = schema.twins.c
    ids = [twin.twin_id for twin in twins]
    query = select(columns.twin_id, columns.version).where(among(connection, columns.twin_id, ids))
    versions = {found.twin_id: found.version for found in connection.execute(query)}
    for twin in twins:
        if versions.get(twin.twin_id) != twin.expected_version:
            raise StaleVersionError(
                f"twin {twin.twin_id} is at version {versions.get(twin.twin_id)}, the commit was built on "
                f"{twin.expected_version}; fold again from the store"
            )
    rows = [
        (
            twin.new_version, twin.model_version,
            schema.to_us(twin.snapshots[-1].time) if twin.snapshots else None, twin.twin_id,
        )
        for twin in twins
    ]
    if is_postgres(connection):
        connection.exec_driver_sql(_UPDATE_TWINS, tuple(list(column) for column in zip(*rows, strict=True)))
    else:
        connection.exec_driver_sql(_UPDATE_TWIN, rows)


def _position(connection: Connection, group: CommitGroup) -> int:
    """Number this commit; its moment is never before the last one's, though workers' clocks differ."""
    last = connection.scalar(select(func.max(schema.commits.c.committed_at)))
    moment = schema.to_us(group.committed_at)
    result = connection.execute(
        insert(schema.commits).values(
            committed_at=moment if last is None else max(moment, last), log_name=group.log_name,
            n_events=sum(len(twin.journal) for twin in group.twins),
        )
    )
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def _take_back(connection: Connection, twin: TwinCommit, since: int, position: int) -> None:
    """Mark beliefs that this commit supersedes; they stay readable by position."""
    for table in (schema.snapshots, schema.estimates):
        connection.execute(
            update(table)
            .where(table.c.twin_id == twin.twin_id, table.c.time >= since, table.c.superseded_at.is_(None))
            .values(superseded_at=position)
        )
    alerts = schema.alerts
    query = update(alerts).where(
        alerts.c.twin_id == twin.twin_id, alerts.c.time >= since, alerts.c.superseded_at.is_(None)
    )
    if twin.alerts:
        raised_again = among(connection, alerts.c.alert_id, [alert.alert_id for alert in twin.alerts])
        query = query.where(~raised_again)
    connection.execute(query.values(superseded_at=position, superseded_by=twin.rewound_by))


def write_letters(connection: Connection, letters: Sequence[DeadLetter]) -> None:
    """Keep refused events; one that was sent again and refused again is open again."""
    if not letters:
        return
    statement = upsert(connection, schema.dead_letters)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["rejection_id"], set_={"state": statement.excluded.state}),
        [dict(zip(records.LETTER, records.letter_record(letter), strict=True)) for letter in letters],
    )


def _write_offsets(connection: Connection, group: CommitGroup) -> None:
    if not group.offsets:
        return
    statement = upsert(connection, schema.offsets)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["log_name", "log_partition"], set_={"next_offset": statement.excluded.next_offset}
        ),
        [
            {"log_name": group.log_name, "log_partition": partition, "next_offset": offset}
            for partition, offset in sorted(group.offsets.items())
        ],
    )


def upsert(connection: Connection, table: Any) -> Any:
    """An insert that can be told what to do where the key is there already."""
    return postgresql.insert(table) if is_postgres(connection) else sqlite.insert(table)
