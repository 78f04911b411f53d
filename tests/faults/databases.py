"""Fresh stores by the thousand: a file that was migrated once and is copied, a PostgreSQL database that is emptied."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, Engine, event, text

from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.adapters.sql_store.database import _begin_sqlite, open_engine
from oncotwin.adapters.sql_store.schema import metadata

_SHARED_MEMORY = Path("/dev/shm")
"""A process that dies in a simulation is an exception: what reached the file is there, synced or not."""


def _nothing() -> None:
    """No lock is needed."""


class Database:
    """One store, emptied for each seed; its engine is kept, for what it has learnt of the statements.

    Every writing transaction takes a lock before it begins and gives it back as it ends: the databases let one writer
    in at a time, and in one process the second would wait for ever for the first.

    Attributes:
        lock, unlock: of whoever uses it now.
    """

    def __init__(self, engine: Engine, empty: Callable[[Engine], None]) -> None:
        self.engine = engine
        self.lock: Callable[[], None] = _nothing
        self.unlock: Callable[[], None] = _nothing
        self._empty = empty
        is_sqlite = engine.dialect.name == "sqlite"

        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get("write", False):
                self.lock()
            if is_sqlite:
                _begin_sqlite(connection)

        def end(connection: Connection) -> None:
            if connection.get_execution_options().get("write", False):
                self.unlock()

        if is_sqlite:
            # Listeners of this event are called in the order in which they came, and ours must be the first.
            event.remove(engine, "begin", _begin_sqlite)
        event.listen(engine, "begin", begin)
        event.listen(engine, "commit", end)
        event.listen(engine, "rollback", end)

    def emptied(self) -> Database:
        """Itself, empty."""
        self.lock = self.unlock = _nothing
        self._empty(self.engine)
        return self


class Databases:
    """Stores for simulations.

    Attributes:
        disturbed, undisturbed: SQLite's. postgres: where a server was given.

    Args:
        postgres_url: an empty database that may be emptied again and again.
    """

    def __init__(self, postgres_url: str | None = None) -> None:
        place = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix="oncotwin-simulation-", dir=place))
        self._template = self._folder / "template.sqlite"
        open_twin_store(f"sqlite:///{self._template}").close()
        self.disturbed = self._sqlite("disturbed")
        self.undisturbed = self._sqlite("undisturbed")
        self.postgres: Database | None = None
        if postgres_url is not None:
            open_twin_store(postgres_url).close()
            self.postgres = Database(open_engine(postgres_url), _empty_postgres)

    def _sqlite(self, name: str) -> Database:
        path = self._folder / f"{name}.sqlite"

        def empty(engine: Engine) -> None:
            engine.dispose()
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            shutil.copyfile(self._template, path)

        return Database(open_engine(f"sqlite:///{path}"), empty)

    def close(self) -> None:
        """Remove everything."""
        for database in (self.disturbed, self.undisturbed, self.postgres):
            if database is not None:
                database.engine.dispose()
        shutil.rmtree(self._folder, ignore_errors=True)


def _empty_postgres(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
            for column in table.columns:
                if column.autoincrement is True:
                    connection.execute(text(f'ALTER SEQUENCE "{table.name}_{column.name}_seq" RESTART'))
