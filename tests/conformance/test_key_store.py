"""Both key stores, an SQLite file and a real PostgreSQL server, keep the port's laws, and hold no destroyed key."""

from __future__ import annotations

import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from oncotwin.adapters.keys import SqlKeyStore, open_key_store
from oncotwin.domain.errors import ConfigurationError, StoreError
from oncotwin.testing.key_store_conformance import NOW, HandClock, KeyStoreConformance, OpenKeys
from oncotwin.testing.postgres_server import PostgresServer


def opener(url: str, clock: HandClock, master: Path | None = None) -> Iterator[OpenKeys]:
    """Opens one key store again and again, and closes what it opened."""
    opened: list[SqlKeyStore] = []

    def open_keys() -> SqlKeyStore:
        opened.append(open_key_store(url, master, clock))
        return opened[-1]

    yield open_keys
    for store in opened:
        store.close()


@pytest.fixture
def clock() -> HandClock:
    """Stands still until the test moves it."""
    return HandClock()


class TestSqliteKeyStore(KeyStoreConformance):
    """One file."""

    @pytest.fixture
    def open_keys(self, tmp_path: Path, clock: HandClock) -> Iterator[OpenKeys]:
        """A key store in this test's folder, which is made with it."""
        yield from opener(f"sqlite:///{tmp_path}/keys/keys.sqlite", clock)


class TestMasteredKeyStore(KeyStoreConformance):
    """One file whose keys are wrapped under a master key."""

    @pytest.fixture
    def open_keys(self, tmp_path: Path, clock: HandClock) -> Iterator[OpenKeys]:
        """A key store in this test's folder, its master key in another."""
        yield from opener(f"sqlite:///{tmp_path}/keys/keys.sqlite", clock, _master(tmp_path))


class TestPostgresKeyStore(KeyStoreConformance):
    """A real server."""

    @pytest.fixture
    def open_keys(self, postgres_database: str, clock: HandClock) -> Iterator[OpenKeys]:
        """A database of its own on the server of the whole run."""
        yield from opener(postgres_database, clock)


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    open_key_store(f"sqlite:///{tmp_path}/keys/keys.sqlite").close()
    assert stat.S_IMODE((tmp_path / "keys/keys.sqlite").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_no_file_holds_a_destroyed_key_of_sqlite(tmp_path: Path) -> None:
    keys = open_key_store(f"sqlite:///{tmp_path}/keys.sqlite")
    names = [f"north/p{i}" for i in range(20_000)]
    random.Random(4).shuffle(names)
    values = {name: keys.key(name) for name in names[:50]} | keys.keys(names)
    gone = names[::1_000]
    for name in gone:
        keys.destroy(name, NOW, "asked for")
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert [name for name in gone if values[name] in held] == []
    assert all(values[name] in held for name in names if name not in set(gone))
    assert {path.name for path in tmp_path.iterdir()} == {"keys.sqlite"}
    keys.close()


def test_no_table_file_holds_a_destroyed_key_of_postgres(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        keys = open_key_store(url)
        values = keys.keys(f"north/p{i}" for i in range(2_000))
        gone = [f"north/p{i}" for i in range(0, 2_000, 100)]
        for name in gone:
            keys.destroy(name, NOW, "asked for")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CHECKPOINT"))
            folder = Path(connection.execute(text("SELECT current_setting('data_directory')")).scalar_one())
        engine.dispose()
        held = b"".join(path.read_bytes() for path in (folder / "base").rglob("*") if path.is_file())
        assert [name for name in gone if values[name] in held] == []
        assert values["north/p1"] in held
        keys.close()


def test_processes_that_ask_first_at_once_are_given_the_same_key(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/keys/keys.sqlite"
    script = (
        "import sys; from oncotwin.adapters.keys import open_key_store; keys = open_key_store(sys.argv[1]);"
        "print([keys.key(f'north/p{i}').hex() for i in range(20)])"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert answers[0].count("'") == 40
    assert len(set(answers)) == 1


def test_a_wrapped_key_is_nowhere_in_the_file_and_needs_its_master(tmp_path: Path) -> None:
    url, master = f"sqlite:///{tmp_path}/keys/keys.sqlite", _master(tmp_path)
    keys = open_key_store(url, master)
    key = keys.key("north/p1")
    keys.close()
    assert key not in (tmp_path / "keys/keys.sqlite").read_bytes()
    for other in (None, _master(tmp_path, 9)):
        without = open_key_store(url, other)
        with pytest.raises(ConfigurationError, match="keys_master"):
            without.key("north/p1")
        without.close()


def test_keys_from_before_the_master_key_stay_readable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/keys/keys.sqlite"
    bare = open_key_store(url)
    key = bare.key("north/p1")
    bare.close()
    mastered = open_key_store(url, _master(tmp_path))
    assert mastered.key("north/p1") == key
    mastered.close()


def test_a_wrapped_key_that_was_moved_to_another_patient_is_refused(tmp_path: Path) -> None:
    url, master = f"sqlite:///{tmp_path}/keys.sqlite", _master(tmp_path)
    keys = open_key_store(url, master)
    keys.keys(["north/p1", "north/p2"])
    keys.close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE patient_keys SET key = (SELECT key FROM patient_keys WHERE twin_id = 'north/p2') "
                "WHERE twin_id = 'north/p1'"
            )
        )
    engine.dispose()
    altered = open_key_store(url, master)
    with pytest.raises(StoreError, match="altered"):
        altered.key("north/p1")
    altered.close()


@pytest.mark.parametrize("n_bytes", [0, 31, 33])
def test_a_master_key_of_another_length_is_refused(tmp_path: Path, n_bytes: int) -> None:
    (tmp_path / "master").write_bytes(bytes(n_bytes))
    with pytest.raises(ConfigurationError, match="32"):
        open_key_store(f"sqlite:///{tmp_path}/keys.sqlite", tmp_path / "master")


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///:memory:", "mysql://host/db", "no address"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="key store"):
        open_key_store(url)


def test_a_missing_master_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="keys_master"):
        open_key_store(f"sqlite:///{tmp_path}/keys.sqlite", tmp_path / "nowhere")


def _master(folder: Path, salt: int = 0) -> Path:
    path = folder / f"master{salt}"
    path.write_bytes(random.Random(salt).randbytes(32))
    return path
