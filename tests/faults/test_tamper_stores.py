"""Real stores under attack: whatever is changed in their chains, `oncotwin audit verify` finds it and names it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from tests.faults.audit_stores import NORTH, checkpoints, commit, judge, open_sealed

from oncotwin.adapters.signing import SigningKeys
from oncotwin.adapters.sql_store.audit import AuditWriter, SqlAuditTrail
from oncotwin.adapters.sql_store.backup import write_backup
from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.adapters.sql_store.restore import restore_backup
from oncotwin.domain.audit_verify import Flaw, StoredCheckpoint
from oncotwin.testing.twin_store_conformance import NOW
from oncotwin_flows.audit import as_stored, export_checkpoints, read_checkpoints, verify

ENTRY_COLUMNS = {
    "institution": "text", "seq": "integer", "kind": "text", "ref": "text", "at": "integer", "body": "bytes",
    "previous": "bytes", "hash": "bytes",
}
CHECKPOINT_COLUMNS = {"institution": "text", "seq": "integer", "body": "bytes", "signature": "bytes", "key": "bytes"}
N_FLIPS_IN_THE_FILE = 1_500

Change = tuple[str, tuple[Any, ...]]
"""A statement and its values."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite"
    return str(request.getfixturevalue("postgres_database"))


def write(url: str, folder: Path, event_ids: Sequence[str]) -> None:
    """For each event its entry, that of the belief, a checkpoint over all so far, and the entry that tells of it."""
    with open_sealed(url, folder) as store:
        signing = checkpoints(store.audit, folder)
        for event_id in event_ids:
            commit(store, [event_id])
            signing.make([NORTH])


class Attack:
    """One connection whose changes are seen by whoever verifies over it, and undone afterwards."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        self._connection = connection
        self._sqlite = connection.dialect.name == "sqlite"
        self._keys = SigningKeys(folder / "keys")
        self._trail = SqlAuditTrail(self._same, AuditWriter(_NoKeys()))

    def _same(self, *, write: bool) -> AbstractContextManager[Connection]:
        del write
        return nullcontext(self._connection)

    def rows(self, table: str) -> list[Any]:
        """A chain's rows, or its checkpoints."""
        return list(self._connection.exec_driver_sql(f"SELECT * FROM {table} WHERE institution = 'north' ORDER BY seq"))

    def flaws(self, *changes: Change, more: Sequence[StoredCheckpoint] = ()) -> list[Flaw] | None:
        """What verification says after changes; None where the database itself refused one."""
        try:
            with self._connection.begin_nested() as savepoint:
                for statement, values in changes:
                    self._connection.exec_driver_sql(
                        statement if self._sqlite else statement.replace("?", "%s"), values
                    )
                found = verify(self._trail, self._keys, more=more).all_flaws
                savepoint.rollback()
                return found
        except SQLAlchemyError:
            return None

    def set_text(self, table: str, column: str, seq: int, value: bytes) -> Change:
        """Text of any bytes."""
        turned = "CAST(? AS TEXT)" if self._sqlite else "convert_from(?, 'UTF8')"
        return f'UPDATE {table} SET "{column}" = {turned} WHERE institution = \'north\' AND seq = ?', (value, seq)


class _NoKeys:
    """Verifying needs no patient's key."""

    def commitment(self, twin_id: str, data: bytes) -> bytes:
        """Nobody asks."""
        raise AssertionError((twin_id, data))

    def committer(self, twin_id: str) -> Callable[[bytes], bytes]:
        """Nobody asks."""
        raise AssertionError(twin_id)


@contextmanager
def attacking(url: str, folder: Path) -> Iterator[Attack]:
    """An attacker with a connection of its own."""
    engine = open_engine(url)
    try:
        with engine.connect().execution_options(write=True) as connection:
            yield Attack(connection, folder)
    finally:
        engine.dispose()


def changes(
    attack: Attack, table: str, columns: dict[str, str], row: Any
) -> Iterator[tuple[str, int, Change]]:
    """(column, its new value where it is a number, the statement) for each bit of a row."""
    seq = row[1]
    for column, kind in columns.items():
        value = getattr(row, column)
        if kind == "integer":
            for bit in range(64):
                number = value ^ (1 << bit)
                number = number - 2**64 if number >= 2**63 else number
                yield column, number, (
                    f'UPDATE {table} SET "{column}" = ? WHERE institution = \'north\' AND seq = ?', (number, seq)
                )
            continue
        raw = value.encode() if kind == "text" else bytes(value)
        for bit in range(8 * len(raw)):
            damaged = bytearray(raw)
            damaged[bit // 8] ^= 1 << bit % 8
            if kind == "text":
                yield column, 0, attack.set_text(table, column, seq, bytes(damaged))
            else:
                yield column, 0, (
                    f'UPDATE {table} SET "{column}" = ? WHERE institution = \'north\' AND seq = ?',
                    (bytes(damaged), seq),
                )


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_every_bit_of_every_entry_and_checkpoint(url: str, tmp_path: Path) -> None:
    write(url, tmp_path, ["a"])
    with attacking(url, tmp_path) as attack:
        assert attack.flaws() == []
        entries, signed = attack.rows("audit_entries"), attack.rows("audit_checkpoints")
        assert (len(entries), len(signed)) == (3, 1)
        n = n_refused = 0
        for row in entries:
            for column, number, change in changes(attack, "audit_entries", ENTRY_COLUMNS, row):
                found = attack.flaws(change)
                n += 1
                if found is None:
                    # A number that another entry has, and on PostgreSQL text that is none.
                    assert column in ("institution", "seq", "kind", "ref"), change
                    n_refused += 1
                    continue
                assert found, f"not detected: {change}"
                assert _names(found, row.seq), f"{change}: {found[0].message}"
                assert number == 0 or column in ("seq", "at")
        for row in signed:
            for _, _, change in changes(attack, "audit_checkpoints", CHECKPOINT_COLUMNS, row):
                found = attack.flaws(change)
                n += 1
                if found is None:
                    n_refused += 1
                    continue
                assert found, f"not detected: {change}"
                assert {flaw.problem for flaw in found} == {"checkpoint"}
        print(f"{n} bits flipped, {n_refused} refused by the database, all others detected")
        assert n > 8_000
        assert n_refused < n / 20


def test_entries_dropped_swapped_and_cut_off(url: str, tmp_path: Path) -> None:
    delete = "DELETE FROM audit_entries WHERE institution = 'north' AND seq = ?"
    move = "UPDATE audit_entries SET seq = ? WHERE institution = 'north' AND seq = ?"
    write(url, tmp_path, ["a", "b"])
    with attacking(url, tmp_path) as attack, open_sealed(url, tmp_path) as store:
        held = as_stored(read_checkpoints(export_checkpoints(store.audit, SigningKeys(tmp_path / "keys")), ""), "south")
        for seq in range(1, 6):
            (flaw, *_) = _some(attack.flaws((delete, (seq,))))
            assert (flaw.problem, flaw.first, flaw.last) == ("missing", seq, seq)
            (flaw, *_) = _some(attack.flaws((move, (99, seq)), (move, (seq, seq + 1)), (move, (seq + 1, 99))))
            assert (flaw.problem, flaw.first) == ("changed", seq)
            (flaw, *_) = _some(attack.flaws((delete, (seq,)), *((move, (n, n + 1)) for n in range(seq, 6))))
            assert (flaw.problem, flaw.first) == ("changed", seq)
        for left in range(5):
            cut = ("DELETE FROM audit_entries WHERE institution = 'north' AND seq > ?", (left,))
            # Even with the checkpoints that tell of it gone, one that is held elsewhere does.
            gone = ("DELETE FROM audit_checkpoints WHERE institution = 'north' AND seq > ?", (left,))
            (flaw, *_) = _some(attack.flaws(cut))
            assert (flaw.problem, flaw.first, flaw.last) == ("cut off", left + 1, 5)
            assert attack.flaws(cut, gone) == []
            (flaw, *_) = _some(attack.flaws(cut, gone, more=held))
            assert (flaw.problem, flaw.first, flaw.last) == ("cut off", left + 1, 5)
        for size in (2, 5):
            gone = ("DELETE FROM audit_checkpoints WHERE institution = 'north' AND seq = ?", (size,))
            (flaw,) = _some(attack.flaws(gone))
            assert (flaw.problem, flaw.first) == ("checkpoint", size)


def _names(found: list[Flaw], seq: int) -> bool:
    """Whether an entry is named; one that went to another chain leaves a hole before it there."""
    ours = [flaw for flaw in found if flaw.institution == NORTH]
    if ours:
        return ours[0].first == seq
    return [(flaw.problem, flaw.last) for flaw in found] == [("missing", seq - 1)]


def _some(flaws: list[Flaw] | None) -> list[Flaw]:
    assert flaws, "not detected"
    return flaws


@pytest.mark.slow
def test_bits_of_the_file_itself(tmp_path: Path) -> None:
    """A bit anywhere in the pages that hold the chain: found, or in none of their values."""
    store_file = tmp_path / "store.sqlite"
    write(f"sqlite:///{store_file}", tmp_path, ["a", "b"])
    plain = sqlite3.connect(store_file)
    plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    plain.execute("PRAGMA journal_mode=DELETE")
    seen = "SELECT hash FROM audit_entries UNION ALL SELECT signature FROM audit_checkpoints"
    hashes = [row[0] for row in plain.execute(seen)]
    (page_bytes,) = plain.execute("PRAGMA page_size").fetchone()
    plain.close()
    whole = store_file.read_bytes()
    before = _values(store_file)
    pages = sorted({whole.index(one) // page_bytes for one in hashes})
    draw = random.Random(1)
    n_found = n_failed = n_nowhere = 0
    for _ in range(N_FLIPS_IN_THE_FILE):
        place = draw.choice(pages) * page_bytes + draw.randrange(page_bytes)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        target = tmp_path / "damaged.sqlite"
        target.write_bytes(damaged)
        try:
            with attacking(f"sqlite:///{target}", tmp_path) as attack:
                found = attack.flaws()
        except (SQLAlchemyError, sqlite3.Error):
            found = None
        for rest in tmp_path.glob("damaged.sqlite*"):
            rest.unlink()
        if found is None:
            n_failed += 1
        elif found:
            n_found += 1
        else:
            target.write_bytes(damaged)
            assert _values(target) == before, f"byte {place} was not detected"
            n_nowhere += 1
    print(f"{n_found} found, {n_failed} made the file unreadable, {n_nowhere} changed no value")
    assert n_found > N_FLIPS_IN_THE_FILE / 4


def _values(file: Path) -> list[Any]:
    """Everything in the two tables, as SQLite reads it."""
    connection = sqlite3.connect(file)
    connection.text_factory = bytes
    try:
        return [
            row
            for table in ("audit_entries", "audit_checkpoints")
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY institution, seq")
        ]
    finally:
        connection.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_store_restored_from_an_older_backup_is_missing_its_tail(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Restoring is no crime, but whoever holds a later checkpoint sees that entries are gone."""
    address = f"sqlite:///{tmp_path}/store.sqlite"
    write(address, tmp_path, ["a"])
    restored = _restore(tmp_path, address, database, request)
    with open_sealed(address, tmp_path) as store:
        commit(store, ["b"])
        signing = checkpoints(store.audit, tmp_path)
        signing.make([NORTH])
        keys = SigningKeys(tmp_path / "keys")
        held = as_stored(read_checkpoints(export_checkpoints(store.audit, keys), "south"), "south")
    with open_sealed(restored, tmp_path) as store:
        assert not judge(store, tmp_path).all_flaws
        (flaw,) = verify(store.audit, keys, more=held).all_flaws
        assert (flaw.problem, flaw.first, flaw.last) == ("cut off", 4, 5)


def _restore(folder: Path, address: str, database: str, request: pytest.FixtureRequest) -> str:
    """A copy of a store as it is now, by backup and restore; returns its address."""
    target = f"sqlite:///{folder}/restored.sqlite"
    if database == "postgresql":
        target = str(request.getfixturevalue("postgres_database"))
    write_backup(address, folder / "backup", "test", NOW)
    restore_backup(target, folder / "backup")
    return target
