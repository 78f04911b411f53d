"""Leases on partitions: who may commit what was read from them, under an epoch that only rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from oncotwin.adapters.sql_store.database import bulk_insert
from oncotwin.adapters.sql_store.schema import leases as table
from oncotwin.adapters.sql_store.schema import to_us, workers

FREE = ""
"""Worker of a lease that was given back."""


def acquire(
    connection: Connection, log_name: str, worker: str, partitions: Sequence[int], ttl_s: float, now: datetime,
    max_partitions: int | None,
) -> dict[int, int]:
    """Renew one's own leases and take free or expired ones, lowest partition first, up to a number.

    Without a number that is a fair share: so many partitions for each worker that announced itself in this way and
    whose announcement has not run out.

    What one holds beyond that number is given back, so that a worker can make room for another.

    A lease that changes hands gets the next epoch, so that whatever the old holder still tries to commit is fenced. A
    lease that ran out and that nobody took goes on under its epoch.
    """
    if not partitions:
        return {}
    bulk_insert(
        connection, table, ("log_name", "log_partition", "worker", "epoch", "expires_at"),
        [(log_name, partition, FREE, 0, 0) for partition in sorted(partitions)], new_only=True,
    )
    moment, until = to_us(now), to_us(now + timedelta(seconds=ttl_s))
    if max_partitions is None:
        max_partitions = -(-len(partitions) // _announce(connection, log_name, worker, moment, until))
    query = (
        select(table)
        .where(table.c.log_name == log_name, table.c.log_partition.in_(list(partitions)))
        .order_by(table.c.log_partition)
        .with_for_update()
    )
    rows = connection.execute(query).all()
    mine = [row for row in rows if row.worker == worker]
    free = [row for row in rows if row.worker != worker and (row.expires_at <= moment or row.worker == FREE)]
    surplus = mine[max_partitions:]
    release(connection, log_name, worker, {row.log_partition: row.epoch for row in surplus})
    held: dict[int, int] = {row.log_partition: row.epoch for row in mine[:max_partitions]}
    held.update({row.log_partition: row.epoch + 1 for row in free[: max_partitions - len(held)]})
    for partition, epoch in held.items():
        connection.execute(
            update(table)
            .where(table.c.log_name == log_name, table.c.log_partition == partition)
            .values(worker=worker, epoch=epoch, expires_at=until)
        )
    return held


def _announce(connection: Connection, log_name: str, worker: str, moment: int, until: int) -> int:
    """Say that a worker lives, and count those that do."""
    own = and_(workers.c.log_name == log_name, workers.c.worker == worker)
    if connection.execute(update(workers).where(own).values(expires_at=until)).rowcount == 0:
        connection.execute(insert(workers).values(log_name=log_name, worker=worker, expires_at=until))
    living = select(func.count()).select_from(workers)
    return connection.scalar(living.where(workers.c.log_name == log_name, workers.c.expires_at > moment)) or 1


def leave(connection: Connection, log_name: str, worker: str) -> None:
    """Count a worker no longer when partitions are shared."""
    connection.execute(delete(workers).where(workers.c.log_name == log_name, workers.c.worker == worker))


def release(connection: Connection, log_name: str, worker: str, epochs: Mapping[int, int]) -> None:
    """Give leases back that are still one's own; the epoch stays, so the next holder gets a higher one."""
    for partition, epoch in epochs.items():
        connection.execute(
            update(table)
            .where(
                table.c.log_name == log_name, table.c.log_partition == partition, table.c.worker == worker,
                table.c.epoch == epoch,
            )
            .values(worker=FREE, expires_at=0)
        )
