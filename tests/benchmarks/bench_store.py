"""How fast the store commits, on SQLite and PostgreSQL, beside the database's own bulk insert of the same bytes.

Each group carries 2,000 events of as many patients, each with its journal row, a snapshot, an estimate and a message
of about a kilobyte. The yardstick writes the same rows into four tables with the same keys, one transaction a group:
`executemany` of sqlite3, COPY of psycopg; it fences nothing, knows no versions and no offsets.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import psycopg
from tests.benchmarks.record import record

from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.ports.twin_rows import CommitGroup, EstimateRow, JournalEntry, OutboxRow, SnapshotRow, TwinCommit
from oncotwin.testing.postgres_server import PostgresServer

N_EVENTS = 2_000
N_GROUPS = 10
COMMAND = "python -m tests.benchmarks.bench_store"
START = datetime(2024, 1, 1, tzinfo=UTC)

_RAW_SCHEMA = (
    "CREATE TABLE j (source TEXT, event_id TEXT, twin_id TEXT, t BIGINT, body {blob}, PRIMARY KEY (source, event_id))",
    "CREATE TABLE s (twin_id TEXT, t BIGINT, position BIGINT, body {blob}, PRIMARY KEY (twin_id, t, position))",
    "CREATE TABLE e (twin_id TEXT, t BIGINT, position BIGINT, body {blob}, PRIMARY KEY (twin_id, t, position))",
    "CREATE TABLE o (message_key TEXT, twin_id TEXT, t BIGINT, body {blob}, PRIMARY KEY (message_key))",
)
RawGroup = list[tuple[str, list[tuple[object, ...]]]]


def make_groups(n_groups: int = N_GROUPS) -> list[CommitGroup]:
    """Groups of one new event for each of N_EVENTS patients; bytes that do not compress, as states do not."""
    noise = np.random.default_rng(1).bytes(2_000_000)
    groups = []
    for g in range(n_groups):
        moment = START + timedelta(days=g)
        twins = []
        outbox = []
        for i in range(N_EVENTS):
            twin_id, event_id = f"north/patient-{i:05d}", f"result-{g}-{i}"
            state, body = noise[i * 7 : i * 7 + 1_000], noise[i * 11 : i * 11 + 1_000]
            entry = JournalEntry(
                "urn:north:lab",
                event_id,
                twin_id,
                "lab.result",
                moment,
                "instant",
                moment,
                moment,
                "final",
                "0" * 64,
                noise[i * 13 : i * 13 + 400],
                0,
                i % 8,
                g * N_EVENTS + i,
            )
            twins.append(
                TwinCommit(
                    twin_id,
                    g,
                    g + 1,
                    "1",
                    (SnapshotRow(twin_id, moment, g + 1, "1", state, f"{g:032x}{i:032x}"),),
                    (entry,),
                    (EstimateRow(twin_id, moment, entry.source, event_id, "1", body, 1.0),),
                )
            )
            outbox.append(OutboxRow("twin.estimated", twin_id, f"twin.estimated:{twin_id}:{g}", body))
        groups.append(CommitGroup("bench", dict.fromkeys(range(8), g + 1), {}, tuple(twins), moment, (), tuple(outbox)))
    return groups


def raw_groups(groups: list[CommitGroup]) -> list[RawGroup]:
    """The same bytes as tuples for the yardstick."""
    return [
        [
            ("j", [(e.source, e.event_id, e.twin_id, g, e.payload) for t in group.twins for e in t.journal]),
            ("s", [(s.twin_id, g, g, s.state) for t in group.twins for s in t.snapshots]),
            ("e", [(s.twin_id, g, g, s.body) for t in group.twins for s in t.estimates]),
            ("o", [(m.message_key, m.key, g, m.value) for m in group.outbox]),
        ]
        for g, group in enumerate(groups)
    ]


Write = Callable[[int], object]
"""Writes the group of a number."""


@contextmanager
def ours(url: str, groups: list[CommitGroup]) -> Iterator[Write]:
    """The store's commits."""
    store = open_twin_store(url)
    store.register_twins([twin.twin_id for twin in groups[0].twins])
    epochs = store.acquire_leases("bench", "bench", range(8), 3_600.0, START, 8)
    yield lambda g: store.commit(replace(groups[g], lease_epochs=epochs))
    store.close()


@contextmanager
def raw_sqlite(path: Path, groups: list[RawGroup]) -> Iterator[Write]:
    """executemany, as durable as the store."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"):
        connection.execute(statement)
    for statement in _RAW_SCHEMA:
        connection.execute(statement.format(blob="BLOB"))

    def write(g: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for table, rows in groups[g]:
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        connection.execute("COMMIT")

    yield write
    connection.close()


@contextmanager
def raw_postgres(url: str, groups: list[RawGroup]) -> Iterator[Write]:
    """COPY."""
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql")) as connection:
        for statement in _RAW_SCHEMA:
            connection.execute(statement.format(blob="BYTEA").encode())
        connection.commit()

        def write(g: int) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                for table, rows in groups[g]:
                    with cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
                        for row in rows:
                            copy.write_row(row)

        yield write


def rates(one: Write, other: Write) -> tuple[float, float]:
    """Events per second of both by their median groups, taken in turns; the first turn warms up."""
    durations: tuple[list[float], list[float]] = ([], [])
    for g in range(N_GROUPS):
        for write, taken in zip((one, other), durations, strict=True):
            begun = time.perf_counter()
            write(g)
            taken.append(time.perf_counter() - begun)
    first, second = (N_EVENTS / median(taken[1:]) for taken in durations)
    return first, second


def main() -> None:
    """Measure, print a table, record."""
    groups = make_groups()
    rows = raw_groups(groups)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        with ours(f"sqlite:///{folder}/store.sqlite", groups) as own, raw_sqlite(Path(folder) / "raw", rows) as raw:
            results["SQLite"] = rates(own, raw)
        with (
            PostgresServer() as server, server.database() as url, server.database() as raw_url,
            ours(url, groups) as own, raw_postgres(raw_url, rows) as raw,
        ):
            results["PostgreSQL"] = rates(own, raw)
    print(f"{'commit groups of 2,000 events':30s} {'events/s':>10s} {'bulk insert':>12s} {'ratio':>6s}")
    for name, (rate, bulk) in results.items():
        print(f"{name:30s} {rate:10,.0f} {bulk:12,.0f} {rate / bulk:6.2f}")
        record(
            f"store/{name.lower()}/commit", rate, "1/s", reference=bulk, ratio=rate / bulk,
            bar="at least 10,000" if name == "SQLite" else None, command=COMMAND,
            note=f"events per second into {name}, one fenced transaction for 2,000 events, each with journal row, "
            "snapshot, estimate and message; reference: the driver's bulk insert of the same bytes, in turns",
        )


if __name__ == "__main__":
    main()
