"""The sources' running numbers: which have not come, and which alert tells of them.

Between the first and the last number looked at, every number of a source is in the journal or in one open gap. So a
look reads the index of numbers beyond these marks and within the open gaps, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise

from sqlalchemy import ColumnElement, Connection, ScalarSelect, bindparam, delete, func, select, text, update

from oncotwin.adapters.sql_store import records, schema
from oncotwin.adapters.sql_store.commit import upsert, write_group
from oncotwin.adapters.sql_store.database import bulk_insert, is_postgres
from oncotwin.ports.twin_rows import AlertRow, CommitGroup, OutboxRow, SequenceGap

# One number for "somebody is looking for gaps"; whoever commits does not wait for it.
_LOCK = 7_405_003

_GAP = ("source", "first", "last", "opened_at", "alert_id")
_NO_ALERT = ""


def look(connection: Connection, now: datetime) -> list[SequenceGap]:
    """See `TwinStore.look_for_gaps`; the caller's transaction makes it one."""
    _alone(connection)
    _close(connection, now)
    _open(connection)
    gaps, marks = schema.gaps, schema.sequences
    query = (
        select(gaps, marks.c.institution, marks.c.alerted_at)
        .join(marks, marks.c.source == gaps.c.source)
        .where(gaps.c.alert_id == _NO_ALERT)
    )
    found = [
        SequenceGap(
            row.source, row.institution, row.first, row.last, schema.from_us(row.opened_at),
            None if row.alerted_at is None else schema.from_us(row.alerted_at),
        )
        for row in connection.execute(query)
    ]
    return sorted(found, key=lambda gap: (gap.source, gap.first))


def raise_alert(
    connection: Connection, alert: AlertRow, gaps: Sequence[SequenceGap], message: OutboxRow, now: datetime
) -> bool:
    """See `TwinStore.raise_gap_alert`; the caller's transaction makes it one."""
    _alone(connection)
    table = schema.gaps
    silent = select(table.c.source, table.c.first, table.c.last).where(table.c.alert_id == _NO_ALERT)
    if not {(gap.source, gap.first, gap.last) for gap in gaps} <= {tuple(row) for row in connection.execute(silent)}:
        return False
    position = _commit(connection, now, message)
    bulk_insert(connection, schema.alerts, records.ALERT, [records.alert_record(alert, "", position)])
    told = update(table).where(table.c.source == bindparam("of"), table.c.first == bindparam("at"))
    connection.execute(
        told.values(alert_id=alert.alert_id), [{"of": gap.source, "at": gap.first} for gap in gaps]
    )
    marks = schema.sequences
    connection.execute(
        update(marks)
        .where(marks.c.source.in_({gap.source for gap in gaps}))
        .values(alerted_at=schema.to_us(now))
    )
    return True


def _alone(connection: Connection) -> None:
    """Looks and alerts go one after the other; on SQLite all writers do."""
    if is_postgres(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _commit(connection: Connection, now: datetime, *messages: OutboxRow) -> int:
    """A commit of no log's, so that alerts raised and superseded here have a position in what was known when."""
    return write_group(connection, CommitGroup("", {}, {}, (), now, outbox=messages))


def _close(connection: Connection, now: datetime) -> None:
    """Take the numbers that have come out of the gaps, and supersede alerts that have none left."""
    gaps, journal = schema.gaps, schema.journal.c
    # One step in the index for each gap; as a join, PostgreSQL may compare all numbers with all gaps.
    first_come = (
        select(func.min(journal.sequence))
        .where(journal.source == gaps.c.source, journal.sequence.between(gaps.c.first, gaps.c.last))
        .scalar_subquery()
    )
    numbers: dict[tuple[str, int, int, int, str], list[int]] = {}
    latest: dict[str, tuple[int, str]] = {}
    for gap in connection.execute(select(gaps).where(first_come.is_not(None))).all():
        came = connection.execute(
            select(journal.sequence, journal.event_id, journal.received_at)
            .where(journal.source == gap.source, journal.sequence.between(gap.first, gap.last))
            .order_by(journal.sequence)
        ).all()
        numbers[gap.source, gap.first, gap.last, gap.opened_at, gap.alert_id] = [row.sequence for row in came]
        brought = max((row.received_at, f"{gap.source} {row.event_id}") for row in came)
        latest[gap.alert_id] = max(latest.get(gap.alert_id, brought), brought)
    if not numbers:
        return
    connection.execute(
        delete(gaps).where(gaps.c.source == bindparam("of"), gaps.c.first == bindparam("at")),
        [{"of": source, "at": first} for source, first, *_ in numbers],
    )
    bulk_insert(
        connection, gaps, _GAP,
        [
            (source, before + 1, after - 1, opened_at, alert_id)
            for (source, first, last, opened_at, alert_id), inside in numbers.items()
            for before, after in pairwise((first - 1, *inside, last + 1))
            if after > before + 1
        ],
    )
    latest.pop(_NO_ALERT, None)
    still = set(connection.scalars(select(gaps.c.alert_id).where(gaps.c.alert_id.in_(latest))))
    if explained := sorted(latest.keys() - still):
        position, alerts = _commit(connection, now), schema.alerts
        for alert_id in explained:
            connection.execute(
                update(alerts)
                .where(alerts.c.alert_id == alert_id, alerts.c.superseded_at.is_(None))
                .values(superseded_at=position, superseded_by=latest[alert_id][1])
            )


def _open(connection: Connection) -> None:
    """Note the gaps among numbers beyond the marks, and move the marks on."""
    journal, marks = schema.journal.c, schema.sequences
    known = {row.source: row for row in connection.execute(select(marks))}
    statement = upsert(connection, marks)
    statement = statement.on_conflict_do_update(
        index_elements=["source"], set_={"first": statement.excluded.first, "last": statement.excluded.last}
    )
    for source in _numbered_sources(connection):
        numbers = journal.source == source, journal.sequence.is_not(None)
        first = connection.scalar(select(func.min(journal.sequence)).where(*numbers))
        last = connection.scalar(select(func.max(journal.sequence)).where(*numbers))
        assert first is not None and last is not None
        mark = known.get(source)
        if mark is None:
            earliest = select(journal.twin_id).where(*numbers).order_by(journal.position).limit(1)
            institution = str(connection.scalar(earliest)).partition("/")[0]
            new = [*_missing(connection, source, first, last)]
        elif (mark.first, mark.last) != (first, last):
            institution = mark.institution
            new = [
                *_missing(connection, source, first, mark.first), *_missing(connection, source, mark.last, last)
            ]
        else:
            continue
        bulk_insert(connection, schema.gaps, _GAP, new)
        connection.execute(
            statement, {"source": source, "institution": institution, "first": first, "last": last}
        )


def _numbered_sources(connection: Connection) -> Iterator[str]:
    """Sources that number their events, by one step in the index for each."""
    table = schema.journal.c
    query = select(func.min(table.source)).where(table.sequence.is_not(None))
    source = connection.scalar(query)
    while source is not None:
        yield source
        source = connection.scalar(query.where(table.source > source))


def _missing(connection: Connection, source: str, first: int, last: int) -> Iterator[tuple[str, int, int, int, str]]:
    """Rows of the gaps between two numbers that have come; the database passes over the numbers without gaps."""
    if first >= last:
        return
    journal = schema.journal.c
    before = func.lag(journal.sequence).over(order_by=journal.sequence).label("before")
    steps = (
        select(journal.sequence.label("after"), before)
        .where(journal.source == source, journal.sequence.between(first, last))
        .subquery()
    )
    query = (
        select(
            steps.c.before, steps.c.after, _received(source, steps.c.before).label("one"),
            _received(source, steps.c.after).label("other"),
        )
        .where(steps.c.after > steps.c.before + 1)
        .order_by(steps.c.after)
    )
    for row in connection.execute(query):
        yield source, row.before + 1, row.after - 1, max(row.one, row.other), _NO_ALERT


def _received(source: str, number: ColumnElement[int]) -> ScalarSelect[int]:
    """When a number was received first."""
    journal = schema.journal.alias()
    query = select(func.min(journal.c.received_at)).where(journal.c.source == source, journal.c.sequence == number)
    return query.scalar_subquery()
