"""The one transaction of a commit group, step by step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, and_, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from oncotwin.adapters.sql_store import audit, records, schema
from oncotwin.adapters.sql_store.database import alone, among, bulk_insert, is_postgres
from oncotwin.domain.audit import AuditDraft
from oncotwin.domain.audit_drafts import model_promoted
from oncotwin.domain.errors import ChampionChangedError, FencedError, StaleVersionError
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_rows import CommitGroup, DeadLetter, TwinCommit
from oncotwin.twin.snapshots import is_kept

COMMIT_STEPS = (
    "lock", "leases fenced", "model fenced", "versions swapped", "position", "taken back", "journal", "snapshots",
    "estimates", "alerts", "beliefs", "thinned", "outbox", "dead letters", "sources", "audit", "offsets",
)
"""The steps in their order; a hook is told of each once it is done. A test holds every statement to one of them."""

_UPDATE_TWIN = 'UPDATE twins SET version = ?, model_version = ?, last_time = ? WHERE twin_id = ?'
_UPDATE_TWINS = (
    "UPDATE twins SET version = n.version, model_version = n.model_version, last_time = n.last_time "
    "FROM unnest(%s::int8[], %s::text[], %s::int8[], %s::text[]) AS n (version, model_version, last_time, twin_id) "
    "WHERE twins.twin_id = n.twin_id"
)
_THIN_EVERY = 4
"""Events after which a twin's snapshots are looked through again; so many more than the rule keeps may be there."""


def write_group(
    connection: Connection, group: CommitGroup, on_step: OnStep = no_step, drafts: Sequence[AuditDraft] = ()
) -> int:
    """Fence, then write everything; the caller's transaction makes it one.

    Args:
        drafts: what the audit trail is to tell of this group.
        on_step: told of each of `COMMIT_STEPS` once it is done; what it raises undoes the whole.
    Returns:
        The commit position.
    """
    alone(connection)
    on_step("lock")
    _fence_leases(connection, group)
    on_step("leases fenced")
    # Fixed order, so that commits of one group are the same wherever they run.
    twins = sorted(group.twins, key=lambda twin: twin.twin_id)
    champion = _fence_model(connection, twins)
    on_step("model fenced")
    _swap_versions(connection, twins)
    on_step("versions swapped")
    position = _position(connection, group, champion, twins)
    on_step("position")
    silent: set[str] = set()
    for twin in twins:
        if twin.rewound_to is not None:
            silent |= take_back(connection, twin, schema.to_us(twin.rewound_to), position)
    on_step("taken back")
    _write_journal(connection, twins, position)
    on_step("journal")
    silent |= write_line(connection, twins, position, on_step)
    _write_beliefs(connection, twins, position)
    on_step("beliefs")
    thin_snapshots(connection, twins)
    on_step("thinned")
    messages = {row.message_key: row for row in group.outbox if row.alert_id not in silent}
    new = _not_there(connection, schema.outbox.c.message_key, messages)
    bulk_insert(connection, schema.outbox, records.OUTBOX, [records.outbox_record(messages[key]) for key in new])
    on_step("outbox")
    write_letters(connection, group.dead_letters)
    on_step("dead letters")
    bulk_insert(connection, schema.sources, ("source", "institution"), list(group.sources.items()), new_only=True)
    on_step("sources")
    if champion is None and twins:
        drafts = [*drafts, model_promoted(twins[0].model_version, None, "first commit", position)]
    audit.append(connection, drafts, group.committed_at)
    on_step("audit")
    _write_offsets(connection, group)
    on_step("offsets")
    return position


def _write_journal(connection: Connection, twins: Sequence[TwinCommit], position: int) -> None:
    entries = [records.journal_record(entry, position) for twin in twins for entry in twin.journal]
    try:
        bulk_insert(connection, schema.journal, records.JOURNAL, entries)
    except IntegrityError as error:
        raise StaleVersionError(
            f"an event is in the journal already ({str(error.orig).splitlines()[0]}): another worker committed it "
            "since we looked; read again from the store"
        ) from error


def write_line(
    connection: Connection, twins: Sequence[TwinCommit], position: int, on_step: OnStep = no_step
) -> frozenset[str]:
    """Snapshots, estimates and alerts of the twins' model versions.

    Returns:
        Alerts that stand already: raised again by a replay, they stay and are not told of again.
    """
    bulk_insert(
        connection, schema.snapshots, records.SNAPSHOT,
        [records.snapshot_record(row, position) for twin in twins for row in twin.snapshots],
    )
    on_step("snapshots")
    bulk_insert(
        connection, schema.estimates, records.ESTIMATE,
        [
            records.estimate_record(row, position, number)
            for twin in twins
            for number, row in enumerate(twin.estimates)
        ],
    )
    on_step("estimates")
    alerts = {alert.alert_id: (alert, twin.model_version) for twin in twins for alert in twin.alerts}
    table = schema.alerts.c
    lines = {twin.model_version for twin in twins}
    new = _not_there(connection, table.alert_id, alerts, table.superseded_at.is_(None), table.model_version.in_(lines))
    bulk_insert(
        connection, schema.alerts, records.ALERT, [records.alert_record(*alerts[key], position) for key in new]
    )
    on_step("alerts")
    return frozenset(alerts) - frozenset(new)


def _write_beliefs(connection: Connection, twins: Sequence[TwinCommit], position: int) -> None:
    """What this commit made of each twin, to be kept for ever."""
    bulk_insert(
        connection, schema.beliefs, records.BELIEF,
        [records.belief_record(twin, position) for twin in twins if twin.snapshots],
    )


def thin_snapshots(connection: Connection, twins: Sequence[TwinCommit]) -> None:
    """Drop snapshots that the rule does not keep any more (`is_kept`), every few events of a twin."""
    heads = {
        twin.twin_id: twin.snapshots[-1].n_folded
        for twin in twins
        if twin.snapshots and _is_due(twin.snapshots[-1].n_folded, max(len(twin.journal), len(twin.snapshots)))
    }
    if not heads:
        return
    table = schema.snapshots
    lines = {twin.twin_id: twin.model_version for twin in twins}
    query = select(table.c.twin_id, table.c.time, table.c.position, table.c.n_folded, table.c.model_version).where(
        among(connection, table.c.twin_id, list(heads))
    )
    dropped = [
        {"of": row.twin_id, "at": row.time, "by": row.position, "n": row.n_folded}
        for row in connection.execute(query)
        if row.model_version == lines[row.twin_id] and not is_kept(row.n_folded, heads[row.twin_id])
    ]
    if dropped:
        one = delete(table).where(
            table.c.twin_id == bindparam("of"), table.c.time == bindparam("at"),
            table.c.position == bindparam("by"), table.c.n_folded == bindparam("n"),
        )
        connection.execute(one, dropped)


def _is_due(n_folded: int, n_new: int) -> bool:
    return n_folded // _THIN_EVERY != (n_folded - n_new) // _THIN_EVERY


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


def champion_of(connection: Connection, position: int | None = None) -> str | None:
    """The model version that is believed, now or as of a commit position."""
    table = schema.champions.c
    query = select(table.model_version).order_by(table.position.desc()).limit(1)
    if position is not None:
        query = query.where(table.position <= position)
    found = connection.scalar(query)
    return None if found is None else str(found)


def _fence_model(connection: Connection, twins: Sequence[TwinCommit]) -> str | None:
    """What is committed must be the champion's; the first commit of a store makes its version the champion."""
    champion = champion_of(connection)
    for twin in twins if champion is not None else ():
        if twin.model_version != champion:
            raise ChampionChangedError(
                f"twin {twin.twin_id} was folded under model version {twin.model_version}, the champion is {champion}; "
                "fold again under the champion"
            )
    return champion


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


def _position(
    connection: Connection, group: CommitGroup, champion: str | None, twins: Sequence[TwinCommit]
) -> int:
    """Number this commit; the first one chooses the champion."""
    n_events = sum(len(twin.journal) for twin in group.twins)
    position, moment = next_position(connection, schema.to_us(group.committed_at), group.log_name, n_events)
    if champion is None and twins:
        choose_champion(connection, position, twins[0].model_version, moment, "first commit")
    return position


def next_position(connection: Connection, at_us: int, log_name: str, n_events: int) -> tuple[int, int]:
    """Number a commit: its position and its moment, never before the last one's, though clocks differ."""
    last = connection.scalar(select(func.max(schema.commits.c.committed_at)))
    moment = at_us if last is None else max(at_us, last)
    result = connection.execute(
        insert(schema.commits).values(committed_at=moment, log_name=log_name, n_events=n_events)
    )
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0]), moment


def choose_champion(connection: Connection, position: int, model_version: str, at_us: int, chosen_by: str) -> None:
    """From this position on a model version is believed."""
    row = {"position": position, "model_version": model_version, "at": at_us, "chosen_by": chosen_by}
    connection.execute(insert(schema.champions).values(**row))


def take_back(connection: Connection, twin: TwinCommit, since: int, position: int) -> set[str]:
    """Mark beliefs that this commit supersedes; they stay readable by position. Snapshots are only a means: they go.

    Returns:
        Alerts that stand on: raised again alike, with the figures of what is known now, and not to be told of again.
    """
    snapshots, estimates, alerts = schema.snapshots, schema.estimates, schema.alerts
    connection.execute(delete(snapshots).where(_of_line(snapshots, twin), snapshots.c.time >= since))
    connection.execute(
        update(estimates)
        .where(_of_line(estimates, twin), estimates.c.time >= since, estimates.c.superseded_at.is_(None))
        .values(superseded_at=position)
    )
    query = update(alerts).where(
        _of_line(alerts, twin), alerts.c.time >= since, alerts.c.superseded_at.is_(None)
    )
    alike = _raised_alike(connection, twin) if twin.alerts else []
    if alike:
        # Nothing explained these away: the commit's own rows take their place.
        connection.execute(
            query.where(among(connection, alerts.c.alert_id, alike)).values(superseded_at=position, superseded_by="")
        )
    connection.execute(query.values(superseded_at=position, superseded_by=twin.rewound_by))
    return set(alike)


def _raised_alike(connection: Connection, twin: TwinCommit) -> list[str]:
    """Alerts that stand and are raised again as they were; one whose event was moved in time is another alert."""
    alerts = schema.alerts
    raised = {
        alert.alert_id: (schema.to_us(alert.time), schema.to_us(alert.since), alert.severity) for alert in twin.alerts
    }
    query = select(alerts.c.alert_id, alerts.c.time, alerts.c.since, alerts.c.severity).where(
        _of_line(alerts, twin), alerts.c.superseded_at.is_(None),
        among(connection, alerts.c.alert_id, list(raised)),
    )
    return [
        row.alert_id
        for row in connection.execute(query)
        if raised[row.alert_id] == (row.time, row.since, row.severity)
    ]


def _of_line(table: Any, twin: TwinCommit) -> ColumnElement[bool]:
    """Rows of a twin under its model version."""
    return and_(table.c.twin_id == twin.twin_id, table.c.model_version == twin.model_version)


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
