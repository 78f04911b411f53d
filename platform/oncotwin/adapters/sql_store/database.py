"""Engines that behave alike: transactions that begin when they say so, and bulk rows at full speed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    Table,
    Text,
    any_,
    create_engine,
    event,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, IntegrityError, OperationalError

from oncotwin.adapters.sqlite_files import turn_on_write_ahead_log
from oncotwin.domain.errors import ConfigurationError

_LOCK_WAIT_S = 60.0
"""How long a writer waits for another process's transaction on SQLite; the largest takes well under a second."""

_IDLE_S = 1.0
"""A question whether a connection still is one costs as much as a short statement, so busy ones are not asked."""

# One number for "somebody is committing". Commits of several workers go one after the other, as they do on SQLite, so
# that positions rise in the order in which they become visible and "as known at" has one answer for ever.
_COMMIT_LOCK = 7_405_002

Record = tuple[Any, ...]
"""One row, in the order of the columns that `bulk_insert` is given."""


def open_engine(url: str) -> Engine:
    """An engine for a store's address.

    Raises:
        ConfigurationError: no address of SQLite or PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"store {url!r} is no database address ({error})") from error
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigurationError(f"store {url!r} names no file; use sqlite:///PATH")
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": _LOCK_WAIT_S})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "postgresql":
        engine = create_engine(parsed.set(drivername="postgresql+psycopg"))
        _look_after_idle(engine)
        return engine
    raise ConfigurationError(f"store {url!r}: use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE")


def _look_after_idle(engine: Engine) -> None:
    """See whether a connection that lay idle is still one, as `pool_pre_ping` does before every use."""

    def returned(connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    def taken(connection: Any, record: Any, proxy: Any) -> None:
        idle_since = record.info.get("idle_since")
        if idle_since is not None and time.monotonic() - idle_since > _IDLE_S:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError("the database closed the connection") from error

    event.listen(engine, "checkin", returned)
    event.listen(engine, "checkout", taken)


def is_postgres(connection: Connection) -> bool:
    """Whether this is PostgreSQL; else it is SQLite."""
    return connection.dialect.name == "postgresql"


def alone(connection: Connection) -> None:
    """Wait until nobody else commits, and keep others from it until this transaction ends."""
    if is_postgres(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _COMMIT_LOCK})


def among(connection: Connection, column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    """The condition that a text column holds one of many values, as one parameter whatever their number."""
    if is_postgres(connection):
        return column == any_(literal(list(values), ARRAY(Text)))
    return column.in_(select(func.json_each(json.dumps(list(values))).table_valued("value").c.value))


def bulk_insert(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Record], *, new_only: bool = False
) -> None:
    """Insert many rows past SQLAlchemy's handling of single values, which costs more than the databases themselves.

    Args:
        columns: of `table`; each row has their values in this order, as the driver takes them.
        new_only: pass over rows whose key is there already; without it they fail.
    Raises:
        IntegrityError: a key is there already. OperationalError: the database failed otherwise.
    """
    if not rows:
        return
    if not is_postgres(connection):
        connection.exec_driver_sql(_sqlite_insert(table, tuple(columns), new_only), list(rows))
    elif new_only:
        arrays = tuple(list(values) for values in zip(*rows, strict=True))
        connection.exec_driver_sql(_postgres_insert(table, tuple(columns)), arrays)
    else:
        _copy(connection, table, columns, rows)


def _copy(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Record]) -> None:
    """COPY in PostgreSQL's binary format; psycopg's errors are given SQLAlchemy's names, as it goes around that."""
    import psycopg

    names = ", ".join(f'"{name}"' for name in columns)
    statement = f'COPY "{table.name}" ({names}) FROM STDIN (FORMAT BINARY)'
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([_postgres_type(table, name) for name in columns])
            for row in rows:
                copy.write_row(row)
    except psycopg.errors.UniqueViolation as error:
        raise IntegrityError(statement, None, error) from error
    except psycopg.Error as error:
        raise OperationalError(statement, None, error) from error


@lru_cache(maxsize=64)
def _sqlite_insert(table: Table, columns: tuple[str, ...], new_only: bool) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    marks = ", ".join("?" * len(columns))
    conflict = " ON CONFLICT DO NOTHING" if new_only else ""
    return f'INSERT INTO "{table.name}" ({names}) VALUES ({marks}){conflict}'


@lru_cache(maxsize=64)
def _postgres_insert(table: Table, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    arrays = ", ".join(f"%s::{_postgres_type(table, name)}[]" for name in columns)
    return f'INSERT INTO "{table.name}" ({names}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING'


def _postgres_type(table: Table, name: str) -> str:
    kind = table.c[name].type
    if isinstance(kind, BigInteger):
        return "int8"
    if isinstance(kind, Integer):
        return "int4"
    if isinstance(kind, LargeBinary):
        return "bytea"
    return "text" if isinstance(kind, Text) else "float8"


def _configure_sqlite(connection: Any, record: Any) -> None:
    """Write-ahead log, so that readers never block the stream; every commit reaches the disk before it counts."""
    del record
    # The driver must not begin transactions of its own: `_begin_sqlite` does, and says of which kind.
    connection.isolation_level = None
    turn_on_write_ahead_log(connection, _LOCK_WAIT_S)
    # A commit touches some pages of each of its twins, more of them the longer the histories are. The write-ahead log
    # takes several commits (40 MB) before they are copied into the file: a page that many touch is copied once.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-65536", "wal_autocheckpoint=10000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: one that reads first and writes later could fail in between."""
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
