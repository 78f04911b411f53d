"""What promotion and shadow folds ask of the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    LargeBinary,
    Select,
    Table,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
)

from oncotwin.adapters.sql_store import schema
from oncotwin.adapters.sql_store.database import among, is_postgres
from oncotwin.domain.ids import TwinId


def folded_twins() -> ColumnElement[bool]:
    """Twins that were ever committed and are not erased."""
    columns = schema.twins.c
    return and_(columns.version > 0, columns.twin_id.not_in(select(schema.tombstones.c.twin_id)))


def lagging(model_version: str, champion: str | None) -> Select[Any]:
    """Twins that a line lags behind; one statement, so that versions and positions are of one moment."""
    twins, lines, beliefs = schema.twins, schema.lines, schema.beliefs
    until = select(func.max(schema.commits.c.position)).scalar_subquery().label("until")
    columns = (twins.c.twin_id, twins.c.ordinal, twins.c.version, until)
    if model_version == champion:
        strays = select(*columns, literal(0).label("folded"), literal(0).label("since"))
        return strays.where(folded_twins(), twins.c.model_version != model_version)
    line = and_(lines.c.model_version == model_version, lines.c.twin_id == twins.c.twin_id)
    belief = and_(beliefs.c.twin_id == twins.c.twin_id, beliefs.c.version == lines.c.twin_version)
    return (
        select(*columns, lines.c.twin_version.label("folded"), beliefs.c.position.label("since"))
        .select_from(twins.outerjoin(lines, line).outerjoin(beliefs, belief))
        .where(folded_twins(), or_(lines.c.twin_version.is_(None), lines.c.twin_version < twins.c.version))
    )


def presents(connection: Connection, model_version: str) -> Select[Any]:
    """The latest snapshot of every twin in a line beside the twin's version; the state only where no digest is kept."""
    twins, table = schema.twins, schema.snapshots
    found, source = _newest_of_twins(
        connection, table, ("time", "n_folded", "position"), lambda rows: rows.c.model_version == model_version
    )
    return (
        select(
            twins.c.twin_id, twins.c.version, found.c.time, found.c.n_folded, found.c.model_version, found.c.digest,
            case((found.c.digest == "", found.c.state), else_=literal(b"", LargeBinary)).label("state"),
        )
        .select_from(source)
        .where(folded_twins())
        .order_by(twins.c.twin_id)
    )


def line_estimates(connection: Connection, model_version: str, twin_ids: Sequence[TwinId]) -> Select[Any]:
    """Estimates in force of these twins in a line."""
    table = schema.estimates
    return (
        select(table)
        .where(
            among(connection, table.c.twin_id, twin_ids), table.c.model_version == model_version,
            table.c.superseded_at.is_(None),
        )
        .order_by(table.c.twin_id, table.c.time, table.c.position, table.c.row)
    )


def latest_estimates(connection: Connection, model_version: str, twin_ids: Sequence[TwinId]) -> Select[Any]:
    """The last estimate in force of each of these twins in a line."""
    found, source = _newest_of_twins(
        connection, schema.estimates, ("time", "position", "row"),
        lambda rows: and_(rows.c.model_version == model_version, rows.c.superseded_at.is_(None)),
    )
    return select(*found.c).select_from(source).where(among(connection, schema.twins.c.twin_id, twin_ids))


def latest_snapshots(
    connection: Connection, model_version: str, twin_ids: Sequence[TwinId], before: datetime | None
) -> Select[Any]:
    """The latest snapshot in force of each of these twins in a line, strictly before a clinical time."""

    def in_force(rows: FromClause) -> ColumnElement[bool]:
        condition = and_(rows.c.model_version == model_version, rows.c.superseded_at.is_(None))
        return condition if before is None else and_(condition, rows.c.time < schema.to_us(before))

    found, source = _newest_of_twins(connection, schema.snapshots, ("time", "n_folded", "position"), in_force)
    return select(*found.c).select_from(source).where(among(connection, schema.twins.c.twin_id, twin_ids))


def _newest_of_twins(
    connection: Connection, table: Table, order: Sequence[str], condition: Callable[[FromClause], ColumnElement[bool]]
) -> tuple[FromClause, FromClause]:
    """Of every twin the row that comes last: where its columns are found, and that joined with the twins.

    Each database walks its index from the end, once a twin, if asked in its own way.
    """
    twins = schema.twins
    if is_postgres(connection):
        one = select(table).where(table.c.twin_id == twins.c.twin_id, condition(table))
        newest = one.order_by(*(table.c[name].desc() for name in order)).limit(1).lateral("newest")
        return newest, twins.join(newest, true())
    inner = table.alias("newest")
    key = (
        select(*(inner.c[name] for name in order))
        .where(inner.c.twin_id == twins.c.twin_id, condition(inner))
        .order_by(*(inner.c[name].desc() for name in order))
        .limit(1)
        .scalar_subquery()
    )
    here = and_(table.c.twin_id == twins.c.twin_id, tuple_(*(table.c[name] for name in order)) == key, condition(table))
    return table, twins.join(table, here)


def alerts_only_of(
    connection: Connection, model_version: str, other_version: str, twin_ids: Sequence[TwinId]
) -> Select[Any]:
    """Alerts of these twins that stand in a line and not in another."""
    table, other = schema.alerts, schema.alerts.alias("other")
    there_too = (
        select(other.c.alert_id)
        .where(
            other.c.alert_id == table.c.alert_id, other.c.model_version == other_version,
            other.c.superseded_at.is_(None),
        )
        .exists()
    )
    return (
        select(table)
        .where(
            among(connection, table.c.twin_id, twin_ids), table.c.model_version == model_version,
            table.c.superseded_at.is_(None), ~there_too,
        )
        .order_by(table.c.twin_id, table.c.time, table.c.alert_id)
    )
