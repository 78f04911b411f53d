"""A backup of a store: one file a table and a manifest, read in one transaction while the stream goes on.

The folder is portable: what one of the two databases wrote is restored to either. A table is a file of JSON lines
(zstd), one array a row in the order of the manifest's columns; bytes are base64. The rows are whatever the store
keeps, so what is sealed in the store is sealed in the backup, and the keys are not in it.

It is written under another name and renamed once every byte is on the disk, so that a backup cut short is never taken
for one.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from sqlalchemy import Column, Connection, Integer, LargeBinary, Table, Text, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from oncotwin.adapters.sql_store import schema
from oncotwin.adapters.sql_store.database import is_postgres, open_engine
from oncotwin.adapters.sql_store.migrate import HEAD, schema_version
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.errors import StoreError

FORMAT = 1
"""Version of the folder's layout; a later release reads the earlier ones."""

MANIFEST = "manifest.json"
SUFFIX = ".ndjson.zst"

_KIND = "oncotwin backup"
_ROWS_AT_ONCE = 2_000

Bar = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar from a description and a total; the function given moves it on."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One table of a backup.

    Attributes:
        columns: name and kind (``text``, ``integer``, ``number`` or ``bytes``) in the order of each row's values.
        n_rows: rows; n_bytes and sha256 (hex): of the file.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    n_rows: int
    n_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Its file within the folder."""
        return f"{self.name}{SUFFIX}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds.

    Attributes:
        release, schema: of the program and of the store that wrote it.
        written_at: when its transaction began.
        position: last commit in it, 0 for none.
        offsets: next offset wanted, by log and partition.
        model_versions: versions that the states rest on, which the model registry must still have.
    """

    release: str
    schema: str
    written_at: datetime
    position: int
    offsets: Mapping[str, Mapping[int, int]]
    model_versions: tuple[str, ...]
    tables: tuple[TableFile, ...]

    @property
    def n_rows(self) -> int:
        """Rows of all tables."""
        return sum(table.n_rows for table in self.tables)

    @property
    def n_bytes(self) -> int:
        """Bytes of all tables' files."""
        return sum(table.n_bytes for table in self.tables)

    def to_json(self) -> bytes:
        """As it is written, with a digest of itself as its last field."""
        content: dict[str, Any] = {
            "kind": _KIND, "format": FORMAT, "release": self.release, "schema": self.schema,
            "written_at": self.written_at.isoformat(), "position": self.position,
            "offsets": {log: {str(p): n for p, n in by.items()} for log, by in self.offsets.items()},
            "model_versions": list(self.model_versions),
            "tables": {
                table.name: {
                    "columns": [list(column) for column in table.columns], "rows": table.n_rows,
                    "bytes": table.n_bytes, "sha256": table.sha256,
                }
                for table in self.tables
            },
        }
        return orjson.dumps({**content, "digest": manifest_digest(content)}, option=orjson.OPT_INDENT_2) + b"\n"


def manifest_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a manifest's content without its own digest."""
    return hashlib.sha256(canonical_json({k: v for k, v in content.items() if k != "digest"})).hexdigest()


def no_bar(description: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """Progress that nobody watches."""
    del description, total
    return nullcontext(lambda n: None)


def write_backup(url: str, folder: Path, release: str, written_at: datetime, bar: Bar = no_bar) -> Manifest:
    """Write a backup of the store as it is at this moment; commits go on meanwhile.

    Args:
        url: of a store that has this release's schema.
        folder: must not exist yet, or be empty.
    Raises:
        StoreError: there is no such store, the folder is in use or cannot be written, or the database failed; no
            folder is left behind.
    """
    _refuse_missing(url)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"backup {folder} is there already; name a new folder")
    engine = open_engine(url)
    part: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        with engine.connect() as connection:
            if is_postgres(connection):
                # One snapshot for all statements, and the database itself refuses to write.
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            with connection.begin():
                if (found := schema_version(connection)) != HEAD:
                    raise StoreError(
                        f"store {engine.url.render_as_string(hide_password=True)} has schema {found}, this release "
                        f"backs up {HEAD}; open it once with this release (`oncotwin status`)"
                    )
                manifest = _write_all(connection, part, release, written_at, bar)
        with _new_file(part / MANIFEST) as file:
            file.write(manifest.to_json())
        _sync_folder(part)
        part.rename(folder)
        _sync_folder(folder.parent)
    except SQLAlchemyError as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise StoreError(
            f"backup of {shown}: {str(error).splitlines()[0]}; nothing was kept. See that the database answers"
        ) from error
    except OSError as error:
        raise StoreError(
            f"backup {folder} cannot be written: {error}; nothing was kept. Free space, or name another folder"
        ) from error
    finally:
        engine.dispose()
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return manifest


def _refuse_missing(url: str) -> None:
    """SQLite would make a store that is not there, and its backup would look like one."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise StoreError(f"store {url} is not there; see the setting `store`")


def _write_all(connection: Connection, part: Path, release: str, written_at: datetime, bar: Bar) -> Manifest:
    """Every table of the schema, and what the manifest says of them."""
    tables = schema.metadata.sorted_tables
    total = sum(connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables)
    files = []
    with bar("backing up rows", total) as advance:
        for table in tables:
            files.append(_write_table(connection, table, part, advance))
    offsets: dict[str, dict[int, int]] = {}
    for row in connection.execute(select(schema.offsets)):
        offsets.setdefault(row.log_name, {})[row.log_partition] = row.next_offset
    versions = connection.scalars(select(schema.twins.c.model_version).distinct().where(schema.twins.c.version > 0))
    return Manifest(
        release, schema_version(connection) or "", written_at,
        int(connection.scalar(select(func.max(schema.commits.c.position))) or 0), offsets,
        tuple(sorted(versions)), tuple(files),
    )


def _write_table(connection: Connection, table: Table, part: Path, advance: Callable[[int], None]) -> TableFile:
    """One table as a file; rows stream through, the table is never held in memory."""
    # Imported where it is needed: it takes a fifth of a second.
    import pyarrow as pa

    columns = tuple((str(column.name), kind_of(column)) for column in table.columns)
    convert: dict[str, Callable[[Any], Any]] = {"bytes": _text_of_bytes, "number": _json_of_number}
    changed = [(place, convert[kind]) for place, (_, kind) in enumerate(columns) if kind in convert]
    n_rows = 0
    path = part / f"{table.name}{SUFFIX}"
    with _new_file(path) as file:
        hashed = _Hashed(file)
        with pa.CompressedOutputStream(pa.PythonFile(hashed, mode="w"), "zstd") as stream:
            for rows in _chunks(connection, table):
                lines = []
                for row in rows:
                    values = list(row)
                    for place, change in changed:
                        values[place] = change(values[place])
                    lines.append(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))
                stream.write(b"".join(lines))
                n_rows += len(rows)
                advance(len(rows))
        return TableFile(str(table.name), columns, n_rows, hashed.n_bytes, hashed.sha256.hexdigest())


def _chunks(connection: Connection, table: Table) -> Iterator[Sequence[Any]]:
    """A table's rows, some at a time, from a cursor of the database's."""
    streamed = connection.execution_options(stream_results=True, max_row_buffer=_ROWS_AT_ONCE)
    with streamed.execute(select(table)) as result:
        yield from result.partitions(_ROWS_AT_ONCE)


def kind_of(column: Column[Any]) -> str:
    """Kind of a column's values in a backup."""
    kind = column.type
    if isinstance(kind, LargeBinary):
        return "bytes"
    if isinstance(kind, Integer):
        return "integer"
    return "text" if isinstance(kind, Text) else "number"


def _text_of_bytes(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode("ascii")


def _json_of_number(value: float | None) -> float | str | None:
    """JSON has no infinities and no NaN; they are written as words."""
    return value if value is None or math.isfinite(value) else str(value)


class _Hashed:
    """A file that hashes what goes through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.n_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """The file itself is closed by whoever opened it."""


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file for its owner's eyes alone, on the disk when the block ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Names in a folder reach the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
