"""A backup read back into an empty store of either database, in one transaction."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import (
    Connection,
    Integer,
    MetaData,
    Table,
    delete,
    func,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from oncotwin.adapters.sql_store import schema
from oncotwin.adapters.sql_store.backup import (
    FORMAT,
    MANIFEST,
    Bar,
    Manifest,
    TableFile,
    kind_of,
    manifest_digest,
    no_bar,
)
from oncotwin.adapters.sql_store.database import Record, bulk_insert, is_postgres, open_engine
from oncotwin.adapters.sql_store.leases import FREE
from oncotwin.adapters.sql_store.migrate import HEAD, MIGRATION_LOCK, revisions, schema_version, upgrade
from oncotwin.domain.errors import StoreError

AHEAD = 1_000_000
"""How far the epochs of leases and the versions of twins are raised: what came after the backup is set apart.

A worker that held a lease then can write nothing to the restored store. And a message of a twin's version is new: the
log is folded again in groups of other sizes, so a version that came after the backup may come to mean another state,
and consumers drop what has an id that they have seen.
"""

_FILLED_BY_OPENING = ("installation", "lag_watch")
"""Tables that an empty store has rows in once it was opened, or its status looked at; the backup's take their place."""
_MAX_MANIFEST_BYTES = 16 * 1024 * 1024
_MAX_ROW_BYTES = 64 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_ROWS_AT_ONCE = 2_000
_INT64 = 1 << 63
_KINDS = ("text", "integer", "number", "bytes")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_manifest(folder: Path) -> Manifest:
    """What a backup says it holds.

    Raises:
        StoreError: no backup, one that was cut short or changed, or one of a later release.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"{folder} is no backup: {MANIFEST} cannot be read ({error.strerror}); name a folder that "
            "`oncotwin backup` wrote to its end"
        ) from error
    return parse_manifest(data, path)


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """A manifest's bytes, checked.

    Args:
        path: named in what is raised.
    Raises:
        StoreError: it is damaged, changed, or of a later release.
    """
    damaged = f"{path} is damaged or was changed"
    remedy = "take another backup"
    if len(data) > _MAX_MANIFEST_BYTES:
        raise StoreError(f"{damaged}: more than {_MAX_MANIFEST_BYTES} bytes; {remedy}")
    try:
        content: Any = orjson.loads(data)
        if not isinstance(content, dict) or content.get("kind") != "oncotwin backup":
            raise StoreError(f"{path} is no manifest of a backup; name a folder that `oncotwin backup` wrote")
        if content["format"] != FORMAT:
            raise StoreError(
                f"{path} has format {content['format']!r}, this release reads {FORMAT}; use the release that wrote it"
            )
        if content["digest"] != manifest_digest(content):
            raise StoreError(f"{damaged}: its digest does not fit; {remedy}")
        return _manifest(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise StoreError(f"{damaged} ({type(error).__name__}: {error}); {remedy}") from error


def _manifest(content: dict[str, Any]) -> Manifest:
    """A manifest from its JSON; ValueError and its like where a field is not what it must be."""
    files = []
    for name, one in content["tables"].items():
        columns = tuple((str(column), str(kind)) for column, kind in one["columns"])
        names = [column for column, _ in columns]
        if not all(map(_NAME.fullmatch, [name, *names])) or len(set(names)) != len(names):
            raise ValueError(f"table {name!r} or a column of it has a name that cannot be")
        if any(kind not in _KINDS for _, kind in columns) or not columns:
            raise ValueError(f"table {name}: a column is of no known kind")
        if not _SHA256.fullmatch(one["sha256"]):
            raise ValueError(f"table {name}: sha256 is none")
        files.append(TableFile(name, columns, _count(one["rows"]), _count(one["bytes"]), one["sha256"]))
    if not re.fullmatch(r"[0-9]{4}", content["schema"]):
        raise ValueError(f"schema {content['schema']!r} is none")
    written_at = datetime.fromisoformat(content["written_at"])
    if written_at.tzinfo is None:
        raise ValueError("written_at has no zone")
    return Manifest(
        str(content["release"]), content["schema"], written_at, _count(content["position"]),
        {
            str(log): {int(partition): _count(offset) for partition, offset in by.items()}
            for log, by in content["offsets"].items()
        },
        tuple(str(version) for version in content["model_versions"]), tuple(files),
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _INT64:
        raise ValueError(f"{value!r} is no count")
    return value


def verify(folder: Path, manifest: Manifest, bar: Bar = no_bar) -> None:
    """Hash every file of a backup.

    Raises:
        StoreError: one is missing or has other bytes than those that were written.
    """
    with bar("verifying bytes", manifest.n_bytes) as advance:
        for table in manifest.tables:
            path = folder / table.file_name
            found, n_bytes = hashlib.sha256(), 0
            try:
                with path.open("rb") as file:
                    while data := file.read(_READ_BYTES):
                        found.update(data)
                        n_bytes += len(data)
                        advance(len(data))
            except OSError as error:
                raise StoreError(
                    f"backup {folder}: {path.name} cannot be read ({error.strerror}); take another backup"
                ) from error
            if (n_bytes, found.hexdigest()) != (table.n_bytes, table.sha256):
                raise StoreError(
                    f"backup {folder}: {path.name} has other content ({n_bytes} bytes) than was written "
                    f"({table.n_bytes} bytes); it is damaged or was changed, take another backup"
                )


def restore_backup(url: str, folder: Path, bar: Bar = no_bar) -> Manifest:
    """Load a backup into an empty store; a backup of an earlier schema is brought to this release's.

    Leases are given back, and epochs and versions raised (`AHEAD`).

    Raises:
        StoreError: the folder is no whole backup, the store is not empty, or the database failed; nothing was written.
    """
    manifest = read_manifest(folder)
    if manifest.schema not in revisions():
        raise StoreError(
            f"backup {folder} has schema {manifest.schema}, this release knows up to {HEAD}; restore it with release "
            f"{manifest.release} or a later one"
        )
    verify(folder, manifest, bar)
    engine = open_engine(url)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.connect().execution_options(write=True) as connection, connection.begin():
            if is_postgres(connection):
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            _make_empty(connection, manifest.schema, shown)
            with bar("restoring rows", manifest.n_rows) as advance:
                _load(connection, folder, manifest, advance)
            _set_apart(connection)
            if schema_version(connection) != HEAD:
                upgrade(connection, HEAD)
            if is_postgres(connection):
                _reset_sequences(connection)
    except SQLAlchemyError as error:
        raise StoreError(
            f"restore to {shown}: {str(error).splitlines()[0]}; nothing was written. See that the database answers and "
            "its disk is not full"
        ) from error
    finally:
        engine.dispose()
    return manifest


def _make_empty(connection: Connection, revision: str, shown: str) -> None:
    """Tables of the backup's schema, all empty, from a database that has none or has no rows in them."""
    there = set(inspect(connection).get_table_names())
    ours = [table for table in schema.metadata.sorted_tables if table.name in there]
    if is_postgres(connection) and ours:
        # Nobody writes between the look and the load; SQLite's transaction has the lock already.
        names = ", ".join(f'"{table.name}"' for table in ours)
        connection.execute(text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"))
    for table in ours:
        if table.name in _FILLED_BY_OPENING:
            connection.execute(delete(table))
            continue
        n_rows = connection.scalar(select(func.count()).select_from(table)) or 0
        if n_rows:
            raise StoreError(
                f"store {shown} is not empty: table {table.name} has {n_rows} rows; restore to a new file or database, "
                "and point the setting `store` to it"
            )
    if schema_version(connection) == revision:
        return
    # An empty store of another schema is made anew.
    for table in reversed(ours):
        table.drop(connection)
    connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    upgrade(connection, revision)


def _load(connection: Connection, folder: Path, manifest: Manifest, advance: Callable[[int], None]) -> None:
    """Every table's rows, into the tables as that schema had them."""
    found = MetaData()
    names = set(inspect(connection).get_table_names())
    for part in manifest.tables:
        if part.name not in names:
            raise StoreError(
                f"backup {folder}: schema {manifest.schema} has no table {part.name}; the manifest is not of this "
                "program, take another backup"
            )
        table = Table(part.name, found, autoload_with=connection)
        wanted = {column.name: kind_of(column) for column in table.columns}
        if wanted != dict(part.columns):
            raise StoreError(
                f"backup {folder}: table {part.name} has other columns than schema {manifest.schema}; the manifest is "
                "not of this program, take another backup"
            )
        n_rows = 0
        for rows in row_chunks(folder / part.file_name, part):
            bulk_insert(connection, table, [name for name, _ in part.columns], rows)
            n_rows += len(rows)
            advance(len(rows))
        if n_rows != part.n_rows:
            raise StoreError(
                f"backup {folder}: {part.file_name} has {n_rows} rows, its manifest says {part.n_rows}; take another "
                "backup"
            )


def row_chunks(path: Path, part: TableFile) -> Iterator[list[Record]]:
    """A file's rows as the database takes them, some at a time.

    Raises:
        StoreError: it cannot be unpacked, or holds what is no row of this table.
    """
    chunk: list[Record] = []
    for number, line in enumerate(_lines(path), 1):
        try:
            chunk.append(decode_row(line, part.columns))
        except ValueError as error:
            raise StoreError(f"backup: {path.name}, row {number}: {error}; take another backup") from error
        if len(chunk) == _ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a compressed file; no more than one line and one block are held."""
    import pyarrow as pa

    rest = b""
    # A buffer of our own: the reader loses the one that it makes where the bytes cannot be unpacked.
    buffer = bytearray(_READ_BYTES)
    try:
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            while n_read := stream.readinto(buffer):
                *lines, rest = (rest + buffer[:n_read]).split(b"\n")
                yield from lines
                if len(rest) > _MAX_ROW_BYTES:
                    raise StoreError(f"backup: {path.name}: a row of more than {_MAX_ROW_BYTES} bytes; take another")
    except (OSError, pa.ArrowException, MemoryError) as error:
        # A frame may ask for 128 MiB to be unpacked in; zstd says by words alone that it does not get them.
        short = isinstance(error, MemoryError) or "not enough memory" in str(error)
        advice = "give the process more memory, or, if it has plenty, take another" if short else "take another"
        reason = str(error) or "no memory"
        raise StoreError(f"backup: {path.name} cannot be unpacked ({reason}); {advice} backup") from error
    if rest:
        raise StoreError(f"backup: {path.name} ends within a row; take another backup")


def decode_row(line: bytes, columns: Sequence[tuple[str, str]]) -> Record:
    """One line as the database takes it.

    Raises:
        ValueError: it has other values than its columns.
    """
    values = orjson.loads(line)
    if not isinstance(values, list) or len(values) != len(columns):
        raise ValueError(f"not {len(columns)} values")
    return tuple(
        None if value is None else _value(value, kind) for value, (_, kind) in zip(values, columns, strict=True)
    )


def _value(value: Any, kind: str) -> Any:
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "integer" and type(value) is int and -_INT64 <= value < _INT64:
        return value
    if kind == "bytes" and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64 ({error})") from error
    if kind == "number" and (type(value) in (int, float) or value in ("inf", "-inf", "nan")):
        return float(value)
    raise ValueError(f"a value is no {kind}")


def _set_apart(connection: Connection) -> None:
    """Nobody works on this store yet, and nothing of it is what came after the backup."""
    found = MetaData()
    there = set(inspect(connection).get_table_names())
    leases, twins = schema.leases, schema.twins
    connection.execute(update(leases).values(worker=FREE, expires_at=0, epoch=leases.c.epoch + AHEAD))
    connection.execute(update(twins).where(twins.c.version > 0).values(version=twins.c.version + AHEAD))
    for name in ("workers", "lag_watch"):
        if name in there:
            connection.execute(delete(Table(name, found, autoload_with=connection)))


def _reset_sequences(connection: Connection) -> None:
    """PostgreSQL's running numbers go on after the greatest restored one."""
    for table in schema.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None or not isinstance(column.type, Integer):
            continue
        sequence = connection.scalar(
            text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
        )
        if sequence is None:
            continue
        last = connection.scalar(select(func.max(column)))
        connection.execute(
            text("SELECT setval(CAST(:sequence AS regclass), :number, :used)"),
            {"sequence": sequence, "number": last or 1, "used": last is not None},
        )
