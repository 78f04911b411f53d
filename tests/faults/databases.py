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


class Databases:
    """Stores for simulations.

    Args:
        postgres_url: an empty database that may be emptied again and again; without it all stores are SQLite's.
    """

    def __init__(self, postgres_url: str | None = None) -> None:
        place = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix="oncotwin-simulation-", dir=place))
        template = self._folder / "template.sqlite"
        open_twin_store(f"sqlite:///{template}").close()
        self._template = template
        self._n = 0
        self._postgres: Engine | None = None
        if postgres_url is not None:
            open_twin_store(postgres_url).close()
            self._postgres = open_engine(postgres_url)

    @property
    def has_postgres(self) -> bool:
        """Whether there is a PostgreSQL database."""
        return self._postgres is not None

    def sqlite(self) -> Engine:
        """An empty store in a file of its own."""
        self._n += 1
        path = self._folder / f"{self._n}.sqlite"
        shutil.copyfile(self._template, path)
        return open_engine(f"sqlite:///{path}")

    def postgres(self) -> Engine:
        """The PostgreSQL store, emptied."""
        assert self._postgres is not None
        engine = open_engine(self._postgres.url.render_as_string(hide_password=False))
        with engine.connect() as connection, connection.begin():
            for table in metadata.sorted_tables:
                connection.execute(table.delete())
                for column in table.columns:
                    if column.autoincrement is True:
                        connection.execute(text(f'ALTER SEQUENCE "{table.name}_{column.name}_seq" RESTART'))
        return engine

    def drop(self, engine: Engine) -> None:
        """Close a store; a file is removed."""
        engine.dispose()
        if engine.dialect.name == "sqlite" and engine.url.database:
            for suffix in ("", "-wal", "-shm"):
                Path(engine.url.database + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove everything."""
        if self._postgres is not None:
            self._postgres.dispose()
        shutil.rmtree(self._folder, ignore_errors=True)


def guard_writes(engine: Engine, lock: Callable[[], None], unlock: Callable[[], None]) -> None:
    """Have every writing transaction take a lock before it begins and give it back as it ends.

    The databases let one writer in at a time; in one process the second would wait for ever for the first.
    """

    is_sqlite = engine.dialect.name == "sqlite"

    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("write", False):
            lock()
        if is_sqlite:
            _begin_sqlite(connection)

    def end(connection: Connection) -> None:
        if connection.get_execution_options().get("write", False):
            unlock()

    if is_sqlite:
        # Listeners of this event are called in the order in which they came, and ours must be the first.
        event.remove(engine, "begin", _begin_sqlite)
    event.listen(engine, "begin", begin)
    event.listen(engine, "commit", end)
    event.listen(engine, "rollback", end)
