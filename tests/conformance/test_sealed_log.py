"""The embedded log under seal keeps the laws of every log, and its files hold no payload."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oncotwin.adapters.embedded_log import EmbeddedEventLog
from oncotwin.adapters.keys import SqlKeyStore, open_key_store
from oncotwin.adapters.sealed_log import SealedLog
from oncotwin.adapters.sealing import Sealer, owner
from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.domain.errors import ErasedError, LogError
from oncotwin.ports.event_log import ERASED_HEADER, LogRecord, NewRecord
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.event_log_conformance import N_PARTITIONS, EventLogConformance, OpenLog, read_all

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MARKER = b"distinctive-marker-81923"


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[SqlKeyStore]:
    """The keys of this test's log."""
    with closing(open_key_store(f"sqlite:///{tmp_path}/keys/keys.sqlite")) as keys:
        yield keys


@pytest.fixture
def open_log(tmp_path: Path, keys: SqlKeyStore) -> Iterator[OpenLog]:
    """A topic in this test's folder."""
    opened: list[SealedLog] = []

    def open_sealed(n_partitions: int = N_PARTITIONS) -> SealedLog:
        opened.append(SealedLog(EmbeddedEventLog(tmp_path / "log", "events", n_partitions), Sealer(keys)))
        return opened[-1]

    yield open_sealed
    for log in opened:
        log.close()


class TestSealedEventLog(EventLogConformance):
    """SQLite files in a folder, under seal."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TwinStore]:
        """The store that goes with it."""
        with closing(open_twin_store(f"sqlite:///{tmp_path}/store.sqlite")) as store:
            yield store


def test_the_files_hold_neither_value_nor_headers(tmp_path: Path, open_log: OpenLog) -> None:
    record = NewRecord("north/p1", b'{"value": "' + MARKER + b'"}', (("ce_id", MARKER),))
    log = open_log()
    log.append([record, NewRecord("no patient", MARKER)])
    log.close()
    held = b"".join(path.read_bytes() for path in (tmp_path / "log").iterdir())
    assert b"north/p1" in held
    assert MARKER not in held
    assert {(found.key, found.value, found.headers) for found in read_all(open_log())} == {
        (record.key, record.value, record.headers), ("no patient", MARKER, ()),
    }


def test_records_of_an_erased_patient_are_told_by_their_header(open_log: OpenLog, keys: SqlKeyStore) -> None:
    log = open_log()
    log.append([NewRecord(key, key.encode()) for key in ("north/p1", "north/p2", "north/p1", "no patient")])
    keys.destroy("north/p1", NOW, "asked for")
    found: dict[str, list[LogRecord]] = {}
    for record in read_all(log):
        found.setdefault(record.key, []).append(record)
    assert [(one.value, one.headers) for one in found["north/p1"]] == [(b"", ((ERASED_HEADER, b"1"),))] * 2
    assert [one.value for key in ("north/p2", "no patient") for one in found[key]] == [b"north/p2", b"no patient"]


def test_nothing_is_appended_for_an_erased_patient(open_log: OpenLog, keys: SqlKeyStore) -> None:
    log = open_log()
    keys.destroy("north/p1", NOW, "asked for")
    with pytest.raises(ErasedError, match="north/p1"):
        log.append([NewRecord("north/p2", b"x"), NewRecord("north/p1", b"x")])
    assert sum(log.end_offsets().values()) == 0


def test_records_of_an_earlier_release_are_read_until_their_patient_is_erased(
    tmp_path: Path, open_log: OpenLog, keys: SqlKeyStore
) -> None:
    with closing(EmbeddedEventLog(tmp_path / "log", "events", N_PARTITIONS)) as plain:
        plain.append([NewRecord("north/p1", b"old", (("ce_id", b"1"),)), NewRecord("north/p2", b"old")])
    assert {(one.key, one.value) for one in read_all(open_log())} == {("north/p1", b"old"), ("north/p2", b"old")}
    keys.destroy("north/p1", NOW, "asked for")
    assert {(one.key, one.value) for one in read_all(open_log())} == {("north/p1", b""), ("north/p2", b"old")}


def test_an_altered_record_is_refused_and_located(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log()
    log.append([NewRecord("north/p1", b"x"), NewRecord("north/p1", b"y")])
    with closing(sqlite3.connect(tmp_path / "log/events.sqlite")) as connection, connection:
        connection.execute('UPDATE record SET value = CAST(value || x\'00\' AS BLOB) WHERE "offset" = 1')
    with pytest.raises(LogError, match="offset 1"):
        read_all(log)


@pytest.mark.parametrize(
    ("key", "whose"),
    [("north/p1", "north/p1"), ("süd/p1", ""), ("north", ""), ("north/../p1", ""), ("a.b/c_d-1", "a.b/c_d-1")],
)
def test_whose_key_seals_a_record(key: str, whose: str) -> None:
    assert owner(key) == whose
