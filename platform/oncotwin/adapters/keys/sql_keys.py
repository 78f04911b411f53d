"""`KeyStore` on SQLAlchemy: an SQLite file, or a PostgreSQL database.

One row a patient for ever: it holds the key, or says that the key was destroyed and when. So a key that is being
destroyed cannot be made anew by a process that asks at the same moment.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import RLock
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    create_engine,
    event,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from oncotwin.adapters.keys.wrapping import Wrapping, read_master
from oncotwin.adapters.sql_store.database import among, is_postgres
from oncotwin.adapters.sql_store.schema import from_us, to_us
from oncotwin.domain.errors import ConfigurationError, ErasedError, StoreError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.key_store import FORGET_S, INSTALLATION, KEY_BYTES

_LOCK_WAIT_S = 60.0
_LOCK = 7_405_010
"""One number for "somebody is making the key store's table"; PostgreSQL's advisory locks are named by numbers."""
_MAX_CACHED = 200_000
"""Keys remembered by a process: about 40 MB."""

metadata = MetaData()

patient_keys = Table(
    "patient_keys", metadata,
    # Rows are only ever added at the end: SQLite moves none of them to another page, where a copy might stay behind.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("twin_id", Text, nullable=False, unique=True),
    Column("key", LargeBinary),
    Column("master", Text, nullable=False),
    Column("destroyed_at", BigInteger),
    Column("reason", Text, nullable=False),
    Index(
        "patient_keys_destroyed", "destroyed_at", sqlite_where=text("destroyed_at IS NOT NULL"),
        postgresql_where=text("destroyed_at IS NOT NULL"),
    ),
)


def open_key_store(
    url: str, master: str | Path | None = None, monotonic: Callable[[], float] = time.monotonic
) -> SqlKeyStore:
    """Open a key store, making it where there is none.

    Args:
        url: ``sqlite:///PATH`` (a file that only its owner may read) or ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        master: file of the master key; None where keys are kept as they are.
        monotonic: seconds that never step back; decides when to ask again which keys were destroyed.
    Raises:
        ConfigurationError: no such address or master key. StoreError: the database does not answer.
    """
    wrapping = read_master(master)
    engine = _open_engine(url)
    store = SqlKeyStore(engine, wrapping, monotonic)
    try:
        store.create()
    except BaseException:
        store.close()
        raise
    return store


class SqlKeyStore:
    """See `KeyStore`."""

    def __init__(self, engine: Engine, wrapping: Wrapping, monotonic: Callable[[], float]) -> None:
        self._engine = engine
        self._wrapping = wrapping
        self._monotonic = monotonic
        self._lock = RLock()
        self._cached: dict[TwinId, bytes] = {}
        self._destroyed: dict[TwinId, datetime] = {}
        self._looked_at = float("-inf")

    def create(self) -> None:
        """Make the table unless it is there."""
        with self._transaction(write=True) as connection:
            if is_postgres(connection):
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            metadata.create_all(connection)

    def key(self, twin_id: TwinId, *, make: bool = True) -> bytes:
        """A patient's key; see the port."""
        with self._lock:
            self._look()
            found = self._cached.get(twin_id)
            if found is not None:
                return found
            if twin_id not in self._destroyed:
                self._fetch([twin_id], make=make)
                found = self._cached.get(twin_id)
                if found is not None:
                    return found
            if twin_id in self._destroyed:
                raise ErasedError(
                    f"patient {twin_id!r} was erased on {self._destroyed[twin_id]:%Y-%m-%d}: the key is destroyed"
                )
            raise StoreError(
                f"key store {self._address} holds no key of {twin_id or 'the installation'!r}: what is read was sealed "
                "with another key store; see the setting `keys`"
            )

    def keys(self, twin_ids: Iterable[TwinId]) -> dict[TwinId, bytes]:
        """Keys of many patients; see the port."""
        wanted = list(dict.fromkeys(twin_ids))
        with self._lock:
            self._look()
            missing = [one for one in wanted if one not in self._cached and one not in self._destroyed]
            if missing:
                self._fetch(missing, make=True)
            return {one: self._cached[one] for one in wanted if one in self._cached}

    def destroy(self, twin_id: TwinId, at: datetime, reason: str) -> bool:
        """Overwrite a patient's key; see the port."""
        if twin_id == INSTALLATION:
            raise ConfigurationError("the installation's own key seals what belongs to no patient and stays")
        table = patient_keys
        with self._lock:
            with self._transaction(write=True) as connection:
                row = {
                    "twin_id": twin_id, "key": None, "master": "", "destroyed_at": to_us(at), "reason": reason,
                }
                made = connection.execute(_insert(connection).returning(table.c.number), row).first() is not None
                changed = connection.execute(
                    update(table)
                    .where(table.c.twin_id == twin_id, table.c.destroyed_at.is_(None))
                    .values(key=None, destroyed_at=to_us(at), reason=reason)
                ).rowcount
            self._cached.pop(twin_id, None)
            # Every time: a process that died between the two leaves the row's former version in the files.
            self._scrub()
            self._look(now=True)
            return made or changed > 0

    def destroyed(self) -> Mapping[TwinId, datetime]:
        """Patients whose keys were destroyed; at most `FORGET_S` old."""
        with self._lock:
            self._look()
            return self._destroyed

    def close(self) -> None:
        """Release connections and forget keys."""
        with self._lock:
            self._cached.clear()
            self._looked_at = float("-inf")
        self._engine.dispose()

    @property
    def _address(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    def _look(self, *, now: bool = False) -> None:
        """Learn what other processes destroyed, every `FORGET_S` seconds: one count of an index, mostly."""
        moment = self._monotonic()
        if not now and moment - self._looked_at < FORGET_S:
            return
        table = patient_keys.c
        with self._transaction(write=False) as connection:
            n = connection.scalar(select(func.count()).where(table.destroyed_at.is_not(None)))
            if n != len(self._destroyed):
                rows = connection.execute(
                    select(table.twin_id, table.destroyed_at).where(table.destroyed_at.is_not(None))
                )
                # A new mapping: what was handed out stays as it was.
                self._destroyed = {row.twin_id: from_us(row.destroyed_at) for row in rows}
                for twin_id in self._destroyed:
                    self._cached.pop(twin_id, None)
        self._looked_at = moment

    def _fetch(self, twin_ids: list[TwinId], *, make: bool) -> None:
        """Read keys into memory, making those that are missing."""
        with self._transaction(write=False) as connection:
            rows = self._rows(connection, twin_ids)
        if make and (missing := sorted(set(twin_ids) - {row.twin_id for row in rows})):
            fresh = [
                {
                    "twin_id": one, "key": self._wrapping.wrap(one, secrets.token_bytes(KEY_BYTES)),
                    "master": self._wrapping.name, "destroyed_at": None, "reason": "",
                }
                for one in missing
            ]
            with self._transaction(write=True) as connection:
                # Of several processes one wins, row by row; what stands afterwards is everybody's.
                connection.execute(_insert(connection), fresh)
                rows += self._rows(connection, missing)
        if len(self._cached) + len(rows) > _MAX_CACHED:
            self._cached.clear()
        for row in rows:
            if row.destroyed_at is None:
                self._cached[row.twin_id] = self._unwrap(row)
            else:
                self._destroyed = {**self._destroyed, row.twin_id: from_us(row.destroyed_at)}

    @staticmethod
    def _rows(connection: Connection, twin_ids: list[TwinId]) -> list[Row[Any]]:
        chosen = among(connection, patient_keys.c.twin_id, twin_ids)
        return list(connection.execute(select(patient_keys).where(chosen)))

    def _unwrap(self, row: Row[Any]) -> bytes:
        if row.master == self._wrapping.name:
            return self._wrapping.unwrap(row.twin_id, row.key)
        if row.master == "":
            # Made before the installation had a master key.
            return bytes(row.key)
        raise ConfigurationError(
            f"key store {self._address}: keys are wrapped under master key {row.master}, the setting `keys_master` "
            f"gives {self._wrapping.name or 'none'}; name the file that holds it"
        )

    def _scrub(self) -> None:
        """Let no file hold what a destroyed row held before.

        SQLite overwrites what is deleted with zeros, and its rollback journal is gone when the transaction ends.
        PostgreSQL keeps a row's former versions until the table is written anew; what its write-ahead log still holds
        goes as the server recycles it.
        """
        if self._engine.dialect.name != "postgresql":
            return
        with self._errors(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (FULL) patient_keys"))

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        with (
            self._errors(),
            self._engine.connect().execution_options(write=write) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StoreError(
                f"key store {self._address}: {str(error).splitlines()[0]}; see that it answers and may be written. "
                "Without keys nothing of a patient can be read or kept"
            ) from error


def _insert(connection: Connection) -> Any:
    """Insert those rows whose patient has none yet."""
    dialect = postgresql if is_postgres(connection) else sqlite
    return dialect.insert(patient_keys).on_conflict_do_nothing(index_elements=["twin_id"])


def _open_engine(url: str) -> Engine:
    """An engine on a key store's address; an SQLite file is made readable by its owner alone."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"key store {url!r} is no database address ({error})") from error
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise ConfigurationError(f"key store {url!r}: use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE")
    path = Path(parsed.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(
            f"key store {path} cannot be made ({error.strerror}); see that its folder is writable"
        ) from error
    engine = create_engine(parsed, connect_args={"timeout": _LOCK_WAIT_S})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, record: Any) -> None:
    """What is deleted is overwritten at once, and no second file outlives a transaction."""
    del record
    connection.isolation_level = None
    for pragma in ("journal_mode=DELETE", "secure_delete=ON", "synchronous=FULL", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: one that reads first and writes later could fail in between."""
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
