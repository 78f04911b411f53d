"""A store that an earlier release wrote is brought to this one, snapshots included; one of a later release is not."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from oncotwin.adapters.sql_store import open_twin_store, schema
from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.adapters.sql_store.migrate import HEAD, migrate
from oncotwin.domain.errors import ConfigurationError, StoreError
from oncotwin.ports.twin_rows import SequenceGap
from oncotwin.testing.twin_store_conformance import LOG, NOW, TWIN, day, entry, estimate, group, snapshot, twin

_OLD_ROWS: dict[str, dict[str, Any]] = {
    "commits": {"position": 1, "committed_at": schema.to_us(NOW), "log_name": LOG, "n_events": 1},
    "twins": {"ordinal": 1, "twin_id": TWIN, "version": 1, "model_version": "1", "last_time": schema.to_us(day(2))},
    "journal": {
        "source": "urn:lab", "event_id": "e1", "twin_id": TWIN, "kind": "lab.result", "time": schema.to_us(day(2)),
        "time_precision": "instant", "recorded_at": schema.to_us(day(2.5)), "received_at": schema.to_us(NOW),
        "status": "final", "content_hash": "hash-e1", "payload": b'{"id": "e1"}', "position": 1, "log_partition": 3,
        "log_offset": 1 << 40,
    },
    "snapshots": {
        "twin_id": TWIN, "time": schema.to_us(day(2)), "position": 1, "n_folded": 1, "model_version": "1",
        "state": bytes(range(256)), "digest": "digest-2-1",
    },
    "estimates": {
        "twin_id": TWIN, "time": schema.to_us(day(2)), "position": 1, "source": "urn:lab", "event_id": "e1", "row": 0,
        "model_version": "1", "body": b"{}",
    },
    "alerts": {
        "alert_id": "a1", "position": 1, "twin_id": TWIN, "time": schema.to_us(day(2)), "observable": "psa",
        "kind": "drift", "severity": "warning", "message": "PSA rises", "recommended": "measure again",
        "since": schema.to_us(day(1)), "body": b"{}",
    },
    "outbox": {
        "id": 1, "topic": "twin.estimated", "key": TWIN, "message_key": "k1", "value": b"v",
        "headers": b'[["ce_id", "k1"]]', "published": 0,
    },
    "offsets": {"log_name": LOG, "log_partition": 3, "next_offset": 8},
    "leases": {"log_name": LOG, "log_partition": 3, "worker": "old", "epoch": 5, "expires_at": 0},
    "dead_letters": {
        "number": 1, "rejection_id": "r1", "reason_code": "wrong_unit", "reason": "why", "place": "data.unit",
        "remedy": "send mm", "raw": b"\x00", "twin_id": None, "source": None, "event_id": None,
        "received_at": schema.to_us(NOW), "state": "open",
    },
    "sources": {"source": "urn:lab", "institution": "north"},
    "intake": {"source": "urn:lab", "event_id": "e1", "content_hash": "hash-e1"},
}


def write_first_release(url: str) -> None:
    """A store as release 0001 left it, one row in each table."""
    engine = open_engine(url)
    migrate(engine, "0001")
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        for table, row in _OLD_ROWS.items():
            names = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)
        if connection.dialect.name == "postgresql":
            # The release's own inserts would have moved these on.
            for table, column in (("commits", "position"), ("twins", "ordinal"), ("dead_letters", "number")):
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), 1)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite"
    return str(request.getfixturevalue("postgres_database"))


def test_running_numbers_are_taken_from_the_events_kept(url: str) -> None:
    write_first_release(url)
    engine = open_engine(url)
    kept = {"e4": b'{"id": "e4", "sequence": 4}', "e7": b'{"data": {"sequence": 99}, "id": "e7", "sequence": 7}',
            "e8": b'{"data": {"sequence": 98}, "id": "e8"}', "e9": b'{"id": "no \\u0000 number"}'}
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        for event_id, payload in kept.items():
            row = {**_OLD_ROWS["journal"], "event_id": event_id, "payload": payload}
            names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO journal ({names}) VALUES ({values})"), row)
    engine.dispose()
    store = open_twin_store(url)
    assert {row.event_id: row.sequence for row in store.journal(TWIN)} == {
        "e1": None, "e4": 4, "e7": 7, "e8": None, "e9": None
    }
    assert store.look_for_gaps(NOW) == [SequenceGap("urn:lab", "north", 5, 6, NOW)]
    store.close()


def test_a_store_of_the_first_release_is_read_and_written_on(url: str) -> None:
    write_first_release(url)
    store = open_twin_store(url)
    assert store.schema_version == HEAD
    assert store.journal(TWIN) == [entry("e1", 2, position=1)]
    [found] = store.latest_snapshots([TWIN]).values()
    assert (found.state, found.digest, found.time) == (bytes(range(256)), "digest-2-1", day(2))
    [old] = store.estimates()
    assert (old.body, old.nis, old.position) == (b"{}", None, 1)
    assert [(row.alert_id, row.superseded_by) for row in store.alerts()] == [("a1", "")]
    assert [row.headers for _, row in store.pending_outbox(9)] == [(("ce_id", b"k1"),)]
    assert store.offsets(LOG) == {3: 8}
    assert store.acquire_leases(LOG, "new", [3], 30, NOW, 1) == {3: 6}
    assert [row.rejection_id for row in store.dead_letters()] == ["r1"]
    assert store.sources() == {"urn:lab": "north"}
    assert store.intake_known([("urn:lab", "e1")]) == {("urn:lab", "e1"): "hash-e1"}
    assert store.twin_heads()[TWIN].version == 1
    store.commit(
        group(
            twin(
                1, journal=(entry("e0", 1),), snapshots=(snapshot(2, 2),), rewound_to=day(1), rewound_by="urn:lab e0",
                estimates=(estimate("e0", 1), estimate("e1", 2)),
            )
        )
    )
    assert [row.superseded_by for row in store.alerts(superseded=True)] == ["urn:lab e0"]
    assert store.latest_snapshots([TWIN])[TWIN].n_folded == 2
    assert store.register_twins(["north/next"]) == {"north/next": 1}
    store.close()


def test_the_migrations_make_the_tables_that_the_code_reads(url: str) -> None:
    open_twin_store(url).close()
    engine = open_engine(url)
    found = inspect(engine)
    for table in schema.metadata.sorted_tables:
        assert {column["name"] for column in found.get_columns(table.name)} == {column.name for column in table.columns}
        assert found.get_pk_constraint(table.name)["constrained_columns"] == [c.name for c in table.primary_key]
        assert {index.name for index in table.indexes} <= {index["name"] for index in found.get_indexes(table.name)}
    assert set(found.get_table_names()) == {*schema.metadata.tables, "alembic_version"}
    engine.dispose()


def test_a_store_of_a_later_release_is_left_alone(url: str) -> None:
    open_twin_store(url).close()
    engine = open_engine(url)
    _execute(engine, "UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(ConfigurationError, match="0999"):
        open_twin_store(url)
    engine.dispose()


def test_a_database_of_somebody_else_is_left_alone(url: str) -> None:
    engine = open_engine(url)
    _execute(engine, "CREATE TABLE journal (headline TEXT)")
    with pytest.raises(ConfigurationError, match="database of its own"):
        open_twin_store(url)
    assert inspect(engine).get_table_names() == ["journal"]
    engine.dispose()


_OPEN = """
import sys
from oncotwin.adapters.sql_store import open_twin_store
sys.stdin.readline()
store = open_twin_store(sys.argv[1])
print(store.register_twins(["north/a", "north/b", "north/" + sys.argv[2]])["north/" + sys.argv[2]])
"""


def test_processes_that_open_a_new_store_at_once(url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN, url, str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for i in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    assert len({int(out) for out, _ in said}) == 3


@pytest.mark.parametrize("address", ["", "mysql://host/db", "sqlite://", "sqlite:///:memory:", "no address"])
def test_an_address_of_no_store_says_what_to_write(address: str) -> None:
    with pytest.raises(ConfigurationError, match="store"):
        open_twin_store(address)


def test_a_store_that_does_not_answer_says_so_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="check the address") as failed:
        open_twin_store(f"postgresql://user:secret-word@/db?host={tmp_path}")
    assert "secret-word" not in str(failed.value)
    (tmp_path / "store.sqlite").write_bytes(b"This is no database." * 500)
    with pytest.raises(StoreError, match="check the address"):
        open_twin_store(f"sqlite:///{tmp_path}/store.sqlite")


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = open_twin_store(f"sqlite:///{path}")
    store.register_twins([TWIN])
    with sqlite3.connect(path) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON offsets BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    before = store.counts()
    with pytest.raises(StoreError, match="disk is full"):
        store.commit(group(twin(0, journal=(entry("e1", 0),)), offsets={0: 1}))
    assert store.counts() == before
    store.close()


def _execute(engine: Engine, statement: str) -> None:
    """One statement in a transaction of its own."""
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        connection.execute(text(statement))
